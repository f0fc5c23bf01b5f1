"""Search in an output at a real S3 server: the index is in the user's cache, and made once."""

import json
from pathlib import Path

import numpy as np
import pytest

from curation import layout
from curation.search import cache_folders, nearest, open_index
from curation.storage.s3 import S3Storage
from jobs import exits
from tests.local_runs import clipmill
from tests.s3.conftest import Counted, storage_at
from tests.s3.server import S3Server
from tests.search.tables import NAME, random_ids, random_units, write_table

NUM_CLIPS, PER_TABLE = 3000, 1000


@pytest.fixture
def output(s3_env: S3Server, tmp_path: Path) -> S3Storage:
    """Three tables of vectors, the largest of several blocks that are read by themselves."""
    storage = storage_at(s3_env.endpoint_url)
    ids, vectors = random_ids(NUM_CLIPS), random_units(NUM_CLIPS, 64)
    for number in range(NUM_CLIPS // PER_TABLE):
        part = slice(number * PER_TABLE, (number + 1) * PER_TABLE)
        path = write_table(tmp_path, number, ids[part], vectors[part])
        storage.write(layout.embedding_table(NAME, number), path.read_bytes())
    return storage


def test_an_index_that_is_there_costs_a_listing_and_a_look_at_each_table(
    output: S3Storage, counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    vectors = random_units(NUM_CLIPS, 64)
    index = open_index(output, NAME, cache_folders(output))
    assert np.array_equal(index.vectors, vectors)
    before = counted()
    again = open_index(output, NAME, cache_folders(output))
    assert counted() - before == {"ListObjectsV2": 1, "GetObject": 3}
    assert np.array_equal(again.vectors, vectors)
    assert nearest(again, vectors[5], top=2) == nearest(index, vectors[5], top=2)
    (file,) = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert file.name == f"{NAME}.vectors"


def test_the_command_reads_metas_and_shows_clips_from_there(
    output: S3Storage, s3_env: S3Server, tmp_path: Path
) -> None:
    ids, vectors = random_ids(NUM_CLIPS), random_units(NUM_CLIPS, 64)
    cosines = vectors @ vectors[7]
    best = [ids[k] for k in np.argsort(-cosines)[1:3]]
    for number, uuid in enumerate(best):
        said = {"source_video": f"v{number}.mp4", "duration_span": [1.0, 2.5], "clip_location": f"clips/{uuid}.mp4"}
        windows = [{"start_frame": 0, "end_frame": 44, "qwen_caption": f"caption {number}"}]
        output.write(f"metas/v0/{uuid}.json", json.dumps({**said, "windows": windows}).encode())
    output.write(f"previews/{best[0]}/0_44.webp", b"RIFF")
    output.write(f"clips/{best[1]}.mp4", b"the clip")
    server = ["--set", f"s3.endpoint_url={s3_env.endpoint_url}"]
    arguments = [output.root, "--like", ids[7], "--top", "2", *server, "--json", "--open"]
    folder = str(tmp_path)
    done = clipmill("search", *arguments, PATH="", TMPDIR=folder, XDG_CACHE_HOME=folder)
    assert done.returncode == exits.DONE, done.stderr
    found = json.loads(done.stdout)["results"]
    assert [each["uuid"] for each in found] == best
    assert [each["source_video"] for each in found] == ["v0.mp4", "v1.mp4"]
    assert [each["captions"][0]["caption"] for each in found] == ["caption 0", "caption 1"]
    assert found[0]["clip"] == f"{output.root}/clips/{best[0]}.mp4"
    (page,) = tmp_path.glob("clipmill-search-*/index.html")
    assert f"nothing here opens {page}" in done.stderr
    assert "data:image/webp;base64,UklGRg==" in page.read_text()
    assert (page.parent / f"{best[1]}.mp4").read_bytes() == b"the clip"
