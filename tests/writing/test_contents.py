"""A list says what is in the metas that were written beside it."""

import hashlib
import json
from pathlib import Path

from curation.writing.clip_writer import ClipWriterStage
from tests.splitting import splitting, task_of
from tests.synthetic import make_video


def test_a_list_has_the_beginning_of_the_sha256_of_each_meta(tmp_path: Path) -> None:
    source = make_video(tmp_path / "v.mp4", num_frames=60, width=96, height=64)
    splitting().add_stage(ClipWriterStage(str(tmp_path / "out"))).run([task_of(source)])
    (path,) = (tmp_path / "out/processed_clip_chunks").rglob("*.json")
    entries = json.loads(path.read_bytes())["clips"]
    assert len(entries) == 2
    for entry in entries:
        meta = (tmp_path / f"out/metas/v0/{entry['uuid']}.json").read_bytes()
        assert entry["content"] == {"v0": hashlib.sha256(meta).hexdigest()[:16]}
