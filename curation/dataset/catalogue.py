"""The dataset's table: one row a sample, so that it can be chosen from without opening a tar."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from curation.dataset.content import SampleContent
from curation.dataset.packing import WindowSample
from curation.dataset.tars import Member

ROWS_PER_GROUP = 10_000

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("clip_uuid", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("start_frame", pa.int64(), nullable=False),
        pa.field("end_frame", pa.int64(), nullable=False),
        pa.field("bucket", pa.string(), nullable=False),
        pa.field("tar", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("width", pa.int64(), nullable=False),
        pa.field("height", pa.int64(), nullable=False),
        pa.field("num_frames", pa.int64(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("aesthetic_score", pa.float64()),
        pa.field("motion_score", pa.float64()),
    ]
)


class CatalogueWriter:
    """Collects rows and writes them in groups, so that memory does not grow with the dataset."""

    def __init__(self, parquet: "pq.ParquetWriter", *, rows_per_group: int) -> None:
        self._parquet = parquet
        self._rows_per_group = rows_per_group
        self._rows: list[dict[str, Any]] = []

    def add(self, sample: WindowSample, content: SampleContent, *, tar: str, member: Member) -> None:
        """One row; ``tar`` is the video tar relative to the version's folder, ``member`` the mp4 in it."""
        self._rows.append(_row(sample, content, tar=tar, member=member))
        if len(self._rows) == self._rows_per_group:
            self.flush()

    def flush(self) -> None:
        """Write what was collected as one group."""
        if self._rows:
            self._parquet.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
            self._rows = []


@contextmanager
def catalogue_writer(stream: BinaryIO, *, rows_per_group: int = ROWS_PER_GROUP) -> Iterator[CatalogueWriter]:
    """A catalogue that is complete when the block ends; the stream is left open."""
    with pq.ParquetWriter(stream, SCHEMA, compression="zstd") as parquet:
        writer = CatalogueWriter(parquet, rows_per_group=rows_per_group)
        yield writer
        writer.flush()


def _row(sample: WindowSample, content: SampleContent, *, tar: str, member: Member) -> dict[str, Any]:
    meta = content.meta
    return {
        "key": sample.key,
        "clip_uuid": sample.clip_uuid,
        "video_id": sample.video_id,
        "start_frame": sample.start_frame,
        "end_frame": sample.end_frame,
        "bucket": sample.bucket.folder,
        "tar": tar,
        "offset": member.offset,
        "size": member.size,
        "width": meta["width"],
        "height": meta["height"],
        "num_frames": sample.num_frames,
        "caption": caption_of(content.window),
        "aesthetic_score": meta.get("aesthetic_score"),
        "motion_score": meta.get("motion_score", {}).get("global_mean"),
    }


def caption_of(window: Mapping[str, Any]) -> str | None:
    """The window's caption to train on: an enhanced one where there is one, else the first, None without any.

    What stands beside an error is no caption.
    """
    captions = {
        name: text
        for name, text in window.items()
        if name.endswith("_caption") and text and _status(window, name) != "error"
    }
    enhanced = [text for name, text in captions.items() if name.endswith("_enhanced_caption")]
    return next(iter([*enhanced, *captions.values()]), None)


def _status(window: Mapping[str, Any], caption: str) -> str | None:
    key = caption.removesuffix("_caption").removesuffix("_enhanced")
    status: str | None = window.get(f"{key}_status")
    return status
