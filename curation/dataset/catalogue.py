"""The dataset's table: one row a sample, so that it can be chosen from without opening a tar."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.dataset.content import SampleContent
from curation.dataset.plan_files import PlannedSample
from curation.dataset.tars import Member
from curation.training_caption import caption_of

ROWS_PER_GROUP = 50_000

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("clip_uuid", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("start_frame", pa.int64(), nullable=False),
        pa.field("end_frame", pa.int64(), nullable=False),  # inclusive
        pa.field("bucket", pa.string(), nullable=False),
        pa.field("tar", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("width", pa.int64(), nullable=False),
        pa.field("height", pa.int64(), nullable=False),
        pa.field("num_frames", pa.int64(), nullable=False),
        pa.field("duration_s", pa.float64(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("aesthetic_score", pa.float64()),
        pa.field("motion_score", pa.float64()),
        pa.field("motion_per_patch_min_256", pa.float64()),
        pa.field("text_match", pa.string()),
        pa.field("text_match_probability", pa.float64()),
        pa.field("content", pa.uint64(), nullable=False),  # of what the sample was made from: equal, equal sample
    ]
)

_DATASET_ID = b"dataset_id"


def catalogue_row(sample: PlannedSample, content: SampleContent, *, tar: str, member: Member) -> dict[str, Any]:
    """A sample's row; ``tar`` is the video tar relative to the dataset's folder, ``member`` the mp4 in it."""
    meta = content.meta
    motion, match = meta.get("motion_score") or {}, meta.get("text_match") or {}
    return {
        "key": sample.key,
        "clip_uuid": sample.clip_uuid,
        "video_id": sample.video_id,
        "split": sample.split,
        "start_frame": sample.start_frame,
        "end_frame": sample.end_frame,
        "bucket": sample.bucket,
        "tar": tar,
        "offset": member.offset,
        "size": member.size,
        "width": meta["width"],
        "height": meta["height"],
        "num_frames": sample.end_frame - sample.start_frame + 1,
        "duration_s": _duration_s(sample, meta),
        "caption": caption_of(content.window),
        "aesthetic_score": meta.get("aesthetic_score"),
        "motion_score": motion.get("global_mean"),
        "motion_per_patch_min_256": motion.get("per_patch_min_256"),
        "text_match": match.get("text"),
        "text_match_probability": match.get("probability"),
        "content": sample.content,
    }


def _duration_s(sample: PlannedSample, meta: Mapping[str, Any]) -> float:
    """The window's share of its clip's time, by frames."""
    start_s, end_s = meta["duration_span"]
    return float((end_s - start_s) * (sample.end_frame - sample.start_frame + 1) / sample.clip_num_frames)


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as a table."""
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def write_catalogue(
    stream: BinaryIO, tables: Iterable[pa.Table], *, dataset_id: str, rows_per_group: int = ROWS_PER_GROUP
) -> None:
    """Write rows in groups of one size, however they come: the same rows, the same bytes. The stream is left open.

    Memory: the rows of a group, and of a table.
    """
    schema = SCHEMA.with_metadata({_DATASET_ID: dataset_id})
    with pq.ParquetWriter(stream, schema, compression="zstd") as parquet:
        for group in regrouped(tables, rows_per_group):
            parquet.write_table(group.replace_schema_metadata(schema.metadata))


def regrouped(tables: Iterable[pa.Table], num_rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of ``num_rows``, but for the last."""
    waiting: list[pa.Table] = []
    num_waiting = 0
    for table in tables:
        waiting.append(table)
        num_waiting += table.num_rows
        while num_waiting >= num_rows:
            rows = pa.concat_tables(waiting)
            yield rows.slice(0, num_rows).combine_chunks()
            waiting, num_waiting = [rows.slice(num_rows)], num_waiting - num_rows
    if num_waiting:
        yield pa.concat_tables(waiting).combine_chunks()


class Catalogue:
    """A catalogue that is there, read piece by piece.

    Args:
        stream: seekable, open as long as this is used.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._parquet = pq.ParquetFile(stream)
        self._first_rows = [0]
        for group in range(self._parquet.num_row_groups):
            self._first_rows.append(self._first_rows[-1] + self._parquet.metadata.row_group(group).num_rows)
        self._spans: dict[str, tuple[int, int]] | None = None
        self._held: tuple[int, pa.Table] | None = None

    @property
    def dataset_id(self) -> str:
        """Which dataset it describes (``report.dataset_id``); empty where it does not say so."""
        has_all = self._parquet.schema_arrow.remove_metadata().equals(SCHEMA)
        return (self._parquet.schema_arrow.metadata or {}).get(_DATASET_ID, b"").decode() if has_all else ""

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """All rows, or some columns of them, in order."""
        for group in range(self._parquet.num_row_groups):
            yield self._parquet.read_row_group(group, columns=columns)

    def rows_of(self, tar: str) -> Iterator[pa.Table]:
        """The rows of a tar, in order; none where there is no such tar. Quick for tars in the catalogue's order."""
        if self._spans is None:
            self._spans = self._find_spans()
        start, end = self._spans.get(tar, (0, 0))
        group = bisect_right(self._first_rows, start) - 1
        while start < end:
            first, stop = start - self._first_rows[group], min(end, self._first_rows[group + 1]) - start
            yield self._group(group).slice(first, stop)
            start, group = start + stop, group + 1

    def _group(self, group: int) -> pa.Table:
        if self._held is None or self._held[0] != group:
            self._held = (group, self._parquet.read_row_group(group))
        return self._held[1]

    def _find_spans(self) -> dict[str, tuple[int, int]]:
        """Where each tar's rows begin and end: they follow each other."""
        spans: dict[str, tuple[int, int]] = {}
        row = 0
        for table in self.tables(["tar"]):
            for chunk in table["tar"].chunks:
                runs = pc.run_end_encode(chunk)
                start = row
                for tar, run_end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
                    spans[tar] = (spans[tar][0] if tar in spans else start, row + run_end)
                    start = row + run_end
                row += len(chunk)
        return spans
