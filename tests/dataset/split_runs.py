"""A small split run of real footage and numbered frames, and how its datasets are built and read in tests."""

import glob
import io
import json
import tarfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import webdataset as wds

from curation.clipping.fixed_stride import FixedStrideExtractorStage
from curation.clipping.reader import VideoReaderStage
from curation.clipping.transcoding import ClipTranscodingStage
from curation.dataset import DatasetReport, DatasetSettings, build_dataset
from curation.model import Video, VideoTask
from curation.pipeline import Pipeline
from curation.storage.local import LocalStorage
from curation.writing.clip_writer import ClipWriterStage
from tests.footage import MEDIA
from tests.synthetic import make_video

NUMBERED = "numbered"  # 1003 frames in clips of 500 with windows 0..255 and 256..499; the last has 3 frames
SHORT = "short"  # 3 frames: no window
BUNNY = "bunny"
RATE = Fraction(25)
SETTINGS = DatasetSettings(target_tar_size_mb=0.5, max_tars_per_part=2, shuffle_seed=7)
ONE_EACH = replace(SETTINGS, target_tar_size_mb=0.001, max_tars_per_part=100)  # tars of one sample


def make_split_run(folder: Path, *, clip_s: float = 20.0) -> Path:
    """The output folder of a split run over three videos."""
    sources = {
        BUNNY: MEDIA / "big_buck_bunny_1.mp4",
        NUMBERED: make_video(folder / "numbered.mp4", num_frames=1003, rate=RATE, width=128, height=96, audio="clicks"),
        SHORT: make_video(folder / "short.mp4", num_frames=3, width=128, height=96),
    }
    pipeline = Pipeline("split")
    for stage in (
        VideoReaderStage(),
        FixedStrideExtractorStage(clip_s, min_clip_length_s=0.05),
        ClipTranscodingStage("libx264", preset="ultrafast", crf=30, num_clips_per_chunk=2),
        ClipWriterStage(str(folder / "out")),
    ):
        pipeline.add_stage(stage)
    videos = [Video(path, id=name, end_s=5.0 if name == BUNNY else None) for name, path in sources.items()]
    pipeline.run([VideoTask(video.id, "test", video) for video in videos])
    return folder / "out"


def chunks_of(run: Path, *, with_metas: bool = False) -> list[dict[str, Any]]:
    """The lists of clips. Without their metas these are read from the run, as those of other annotation versions."""
    chunks = [json.loads(path.read_bytes()) for path in sorted((run / "processed_clip_chunks").iterdir())]
    for entry in (entry for chunk in chunks for entry in chunk["clips"] if not with_metas):
        del entry["metas"]
    return chunks


def build(run: Path, output: Path, settings: DatasetSettings = SETTINGS) -> DatasetReport:
    return build_dataset(
        chunks_of(run), clips=LocalStorage(str(run)), output=LocalStorage(str(output)), settings=settings
    )


def windows_of(run: Path) -> set[str]:
    """The keys of all windows that the split run lists."""
    entries = [entry for chunk in chunks_of(run) for entry in chunk["clips"]]
    return {f"{entry['uuid']}_{start}_{end}" for entry in entries for start, end in entry["windows"]}


def tars_of(dataset: Path, tree: str) -> list[str]:
    """The tars of a tree in order."""
    return sorted(glob.glob(f"{dataset}/**/{tree}/part_*/*.tar", recursive=True))


def samples_in(dataset: Path, tree: str) -> list[dict[str, Any]]:
    """All samples of a tree as webdataset reads them, in the order of the tars."""
    return list(wds.WebDataset(tars_of(dataset, tree), shardshuffle=False, empty_check=False))


def keys_in(dataset: Path, tree: str) -> list[str]:
    return [sample["__key__"] for sample in samples_in(dataset, tree)]


def members_of(tar: bytes) -> list[str]:
    """The names in a tar, in order."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as read:
        return read.getnames()


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_json(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document


def rows_in(path: Path) -> list[dict[str, Any]]:
    """The rows of a table."""
    return list(pq.read_table(io.BytesIO(path.read_bytes())).to_pylist())
