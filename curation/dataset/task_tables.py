"""Writing what is planned: what each task packs, and what is left out."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curation import layout
from curation.clip_ids import format_ids, hex_texts
from curation.dataset.assignment import Tars
from curation.dataset.folder import DatasetFolder
from curation.dataset.plan_files import (
    LEFT_OUT_SCHEMA,
    PLANNED_LEFT_OUT,
    TASK_SCHEMA,
    DatasetPlan,
    task_file,
    task_identity,
    task_writer,
)
from curation.dataset.selection import Selection
from curation.dataset.windows import DUPLICATE, WANTED
from curation.storage import read_ahead

_META_BYTES_AT_ONCE = 64 * 2**20
_ROWS_AT_ONCE = 2**16
_WRITERS = 2
_BEFORE, _AFTER = layout.clip(UUID(int=0)).split(str(UUID(int=0)))


def write_tasks(folder: DatasetFolder, plan: DatasetPlan, selection: Selection, tars: Tars) -> None:
    """Write the file of each task: a row group for each of its tars, in the order of ``plan.tars``."""
    packed = np.flatnonzero(tars.kept < 0)
    task_of = np.array([tar.task for tar in plan.tars], np.int64)

    def write(task: int) -> None:
        identity = task_identity(plan.plan_id, plan.num_tasks, task)
        with folder.writing(task_file(task)) as stream, task_writer(stream, identity) as writer:
            for batch in _batches(selection, tars, packed[task_of == task]):
                for rows in _by_tar(_rows(selection, tars, batch)):
                    writer.write_table(rows)

    for _ in read_ahead(write, range(plan.num_tasks), num_threads=_WRITERS, at_most=_WRITERS):
        pass


def _by_tar(table: "pa.Table") -> Iterator["pa.Table"]:
    """The rows of one tar after the other."""
    keys = [table["bucket"].combine_chunks().dictionary_encode().indices.to_numpy(), table["tar"].to_numpy()]
    is_next = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    bounds = [0, *(np.flatnonzero(is_next) + 1).tolist(), table.num_rows]
    return (table.slice(begin, end - begin) for begin, end in pairwise(bounds))


def _batches(selection: Selection, tars: Tars, numbers: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Some tars at once, as many as memory is meant for: the more, the nearer to each other their metas are read."""
    windows = selection.windows
    sizes = windows.clips["meta_size"]
    begin, num_rows, num_bytes = 0, 0, 0
    for place, number in enumerate(numbers.tolist()):
        if num_rows >= _ROWS_AT_ONCE or num_bytes >= _META_BYTES_AT_ONCE:
            yield numbers[begin:place]
            begin, num_rows, num_bytes = place, 0, 0
        samples = tars.samples[tars.begins[number] : tars.begins[number + 1]]
        num_bytes += int(sizes[windows.windows["clip"][selection.chosen[samples]]].sum())
        num_rows += len(samples)
    if begin < len(numbers):
        yield numbers[begin:]


def _rows(selection: Selection, tars: Tars, numbers: NDArray[np.int64]) -> "pa.Table":
    """The samples of some tars as a task's file has them."""
    pieces = [np.arange(tars.begins[number], tars.begins[number + 1]) for number in numbers]
    tar_of = np.repeat(numbers, [len(piece) for piece in pieces])
    samples = tars.samples[np.concatenate(pieces)]
    windows, buckets = selection.windows.windows[selection.chosen[samples]], tars.buckets[tar_of]
    clips = selection.windows.clips[windows["clip"]]
    ids = format_ids(clips["id"])
    starts, ends = pa.array(windows["start"]), pa.array(windows["end"])
    columns = {
        "bucket": _named([bucket.folder for bucket in selection.buckets], buckets),
        "tar": tars.numbers[tar_of],
        "key": pc.binary_join_element_wise(ids, starts.cast(pa.string()), ends.cast(pa.string()), "_"),
        "clip_uuid": ids,
        "video_id": selection.windows.videos.take(pa.array(clips["video"])).cast(pa.string()),
        "split": _named([bucket.split for bucket in selection.buckets], buckets),
        "start_frame": starts,
        "end_frame": ends,
        "clip_path": pc.binary_join_element_wise(_BEFORE, ids, _AFTER, ""),
        "clip_sha256": hex_texts(clips["sha256"]),
        "clip_bytes": clips["num_bytes"],
        "clip_num_frames": clips["num_frames"],
        "content": selection.contents[samples],
        "meta": selection.windows.metas.read(clips["meta_place"], clips["meta_size"]),
        **_t5_columns(selection, windows, clips),
    }
    return pa.table(columns, schema=TASK_SCHEMA)


def _t5_columns(selection: Selection, windows: NDArray[Any], clips: NDArray[Any]) -> dict[str, Any]:
    if not selection.with_t5:
        return {name: pa.nulls(len(windows)) for name in ("t5_path", "t5_first_row", "t5_num_rows")}
    return {
        "t5_path": _named(selection.windows.t5_paths, clips["t5_path"]),
        "t5_first_row": windows["t5_first"],
        "t5_num_rows": windows["t5_num"],
    }


def _named(names: Sequence[str], numbers: NDArray[Any]) -> "pa.StringArray":
    return pa.array(names, pa.string()).take(pa.array(numbers))


def write_left_out(folder: DatasetFolder, selection: Selection) -> None:
    """Write which windows, and which clips without any, are left out, by id of clip and start."""
    clips, windows = selection.windows.clips, selection.windows.windows
    left = np.flatnonzero(selection.why != WANTED)
    bare = np.setdiff1d(np.flatnonzero(clips["reason"] != WANTED), windows["clip"][left])
    rows = np.empty(len(left) + len(bare), [("clip", "i4"), ("start", "i4"), ("why", "i4")])
    rows["clip"] = np.concatenate([windows["clip"][left], bare])
    rows["start"] = np.concatenate([windows["start"][left], np.full(len(bare), -1, np.int32)])
    rows["why"] = np.concatenate([selection.why[left], clips["reason"][bare]])
    rows = rows[np.argsort(rows["clip"], kind="stable")]
    with folder.writing(PLANNED_LEFT_OUT) as stream, pq.ParquetWriter(stream, LEFT_OUT_SCHEMA) as writer:
        for begin in range(0, len(rows), _ROWS_AT_ONCE):
            writer.write_table(_left_out_rows(selection, rows[begin : begin + _ROWS_AT_ONCE]))


def _left_out_rows(selection: Selection, rows: NDArray[Any]) -> "pa.Table":
    windows = selection.windows
    clips = windows.clips[rows["clip"]]
    columns = {
        "clip_uuid": format_ids(clips["id"]),
        "video_id": windows.videos.take(pa.array(clips["video"])).cast(pa.string()),
        "start_frame": pa.array(rows["start"], mask=rows["start"] < 0),
        "reason": _reasons(selection, rows),
    }
    return pa.table(columns, schema=LEFT_OUT_SCHEMA)


def _reasons(selection: Selection, rows: NDArray[Any]) -> "pa.StringArray":
    """The reason of each row; for a duplicate, with what is kept in its stead."""
    texts = _named(selection.reasons, rows["why"])
    is_duplicate = rows["why"] == DUPLICATE
    if not is_duplicate.any():
        return texts
    duplicates = np.flatnonzero(selection.windows.clips["reason"] == DUPLICATE)
    kept = selection.windows.kept_ids[np.searchsorted(duplicates, rows["clip"][is_duplicate])]
    named = pc.binary_join_element_wise("duplicate of", format_ids(kept), " ")
    return pc.replace_with_mask(texts, pa.array(is_duplicate), named)
