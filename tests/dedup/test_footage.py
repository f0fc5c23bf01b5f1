"""Copies of real footage are found: encoded again, scaled, cut elsewhere; different shots are not."""

import json
import shutil
import subprocess
from pathlib import Path

import imageio_ffmpeg
import pyarrow.parquet as pq
import pytest

from jobs import exits
from tests.footage import footage, small_footage
from tests.local_runs import clipmill, clipmill_here, write_config
from tests.patience import PATIENCE_S

# cosines of copies were 0.954 to 0.999 with this embedder, those of different shots up to 0.86
EPS = 0.1
CLIP_S = 3
EVEN = "crop=trunc(iw/2)*2:trunc(ih/2)*2"
COPIES = {
    "encoded": ["-crf", "30", "-vf", EVEN],
    "scaled": ["-crf", "26", "-vf", "scale=trunc(iw/4)*2:trunc(ih/4)*2"],
    "recut": ["-crf", "26", "-vf", EVEN, "-ss", "0.2"],
}


def ffmpeg(source: Path, target: Path, *arguments: str) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-i", str(source), *arguments, str(target)]
    subprocess.run(command, check=True, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over four videos, each beside three copies of it."""
    folder = tmp_path_factory.mktemp("copies")
    raw = folder / "raw"
    raw.mkdir()
    for name in ("big_buck_bunny_1.mp4", "big_buck_bunny_2.mp4"):
        shutil.copy(small_footage(name), raw / name)
    shutil.copy(footage("bikes.mp4"), raw)
    # the first half: the second shows the same street from the same place, and is like it at once
    ffmpeg(footage("cityCC0.mpg"), raw / "cityCC0.mpg", "-t", "3.5", "-c", "copy")
    for source in sorted(raw.iterdir()):
        for kind, arguments in COPIES.items():
            quick = ["-t", "9.2", "-an", "-c:v", "libx264", "-preset", "ultrafast", "-threads", "1"]
            ffmpeg(source, raw / f"{source.stem}.{kind}.mp4", *arguments, *quick)
    split = {"splitting_algorithm": "fixed-stride", "fixed_stride_split_duration": CLIP_S}
    config = write_config(
        folder,
        raw,
        split={**split, "fixed_stride_min_clip_length_s": 2.5},
        clips={"preset": "ultrafast"},  # vectors are made of the source's pictures
        previews={"generate_previews": False},
        embeddings={"embedding_algorithm": "efficientnet-lite0"},
    )
    done = clipmill("run", str(config))
    assert done.returncode == exits.DONE, done.stderr
    return folder


def shots(run: Path) -> dict[str, tuple[str, float]]:
    """Of each clip the video that it comes from, in whatever copy, and where there."""
    metas = [json.loads(path.read_text()) for path in (run / "out/metas/v0").glob("*.json")]
    names = {meta["span_uuid"]: Path(meta["source_video"]).name.partition(".")[0] for meta in metas}
    return {meta["span_uuid"]: (names[meta["span_uuid"]], round(meta["duration_span"][0])) for meta in metas}


def test_of_each_shot_one_copy_is_kept(run: Path) -> None:
    found = clipmill_here("dedup", str(run / "run"), "--eps", str(EPS))
    assert found.returncode == exits.DONE, found.stderr
    table = pq.read_table(run / "out/enl0_embd_duplicates/duplicates.parquet")
    kept_as = dict(zip(table["id"].to_pylist(), table["max_id"].to_pylist(), strict=True))
    of = shots(run)
    assert len(set(of.values())) == 14
    assert len(of) == 14 + 3 * (3 * 3 + 1)
    assert {each: of[each] for each in kept_as} == {each: of[kept] for each, kept in kept_as.items()}
    kept = [shot for each, shot in of.items() if each not in kept_as]
    assert sorted(kept) == sorted(set(of.values()))
