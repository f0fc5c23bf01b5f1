"""What a search for duplicates writes, and how a dataset build reads it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curation.clip_ids import Ids, format_ids, parse_id_column
from curation.dedup.ids import ascending
from curation.storage import Storage

_TABLE: Final = "duplicates.parquet"
_SUMMARY: Final = "summary.json"  # written last: where it is, the table is whole
_ROWS_AT_ONCE: Final = 65_536
_ENDING: Final = 6  # last digits of an id
_SCHEMA: Final = pa.schema([("id", pa.string()), ("max_id", pa.string()), ("cosine_sim_score", pa.float32())])


class Duplicates(Mapping[str, str]):
    """The kept clip of each duplicate, by uuid; 40 bytes a duplicate, and 16 MB."""

    def __init__(self, ids: Ids, kept: Ids) -> None:
        """The ids of duplicates, in any order, and of what is kept instead of each."""
        order = ascending(ids)
        self._ids, self._kept = ids[order], kept[order]
        self._upper = np.ascontiguousarray(self._ids[:, 0])
        has_ending = np.zeros(16**_ENDING, np.bool_)
        has_ending[self._ids[:, 1] % np.uint64(16**_ENDING)] = True
        self._has_ending = has_ending.tobytes()  # most clips are no duplicates, and this says so at once

    def __getitem__(self, uuid: str) -> str:
        found = self.lookup(uuid)
        if found is None:
            raise KeyError(uuid)
        return found

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, len(self), _ROWS_AT_ONCE):
            yield from format_ids(self._ids[begin : begin + _ROWS_AT_ONCE]).to_pylist()

    def __len__(self) -> int:
        return len(self._ids)

    def lookup(self, uuid: str) -> str | None:
        """The clip that is kept instead of this one; None where this one is kept."""
        if not self._has_ending[int(uuid[-_ENDING:], 16)]:
            return None
        upper, lower = divmod(int(uuid.replace("-", ""), 16), 2**64)
        index = int(self._upper.searchsorted(np.uint64(upper)))
        while index < len(self) and int(self._upper[index]) == upper:
            if int(self._ids[index, 1]) == lower:
                return str(UUID(int=(int(self._kept[index, 0]) << 64) + int(self._kept[index, 1])))
            index += 1
        return None


def write_duplicates(
    storage: Storage, ids: Ids, kept: Ids, cosines: NDArray[np.float64], summary: Mapping[str, Any]
) -> None:
    """The table of duplicates and, last, the summary. What an earlier search left is no longer valid at once.

    Args:
        kept: of each duplicate, what is kept instead.
        cosines: of the two.
    """
    storage.delete(_SUMMARY)
    with storage.writing(_TABLE) as stream, pq.ParquetWriter(stream, _SCHEMA, compression="zstd") as writer:
        for begin in range(0, len(ids), _ROWS_AT_ONCE):
            piece = slice(begin, begin + _ROWS_AT_ONCE)
            texts = [format_ids(each[piece]) for each in (ids, kept)]
            scores = pa.array(cosines[piece].astype(np.float32))
            writer.write_batch(pa.record_batch([*texts, scores], schema=_SCHEMA))
    storage.write(_SUMMARY, json.dumps(summary, indent=1).encode() + b"\n")


def load_duplicates(storage: Storage) -> Duplicates:
    """The duplicates that ``clipmill dedup`` found, from the folder of its output.

    Raises:
        ValueError: there is no whole output.
    """
    if not storage.exists(_SUMMARY):
        raise ValueError(f"{storage.root}: no {_SUMMARY}; expected the output of a finished clipmill dedup")
    columns: tuple[list[Ids], list[Ids]] = ([], [])
    with storage.reading(_TABLE) as stream, pq.ParquetFile(stream) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=["id", "max_id"]):
            for ids, column in zip(columns, batch.columns, strict=True):
                ids.append(parse_id_column(column))
    empty = np.empty((0, 2), np.uint64)
    return Duplicates(*(np.concatenate([empty, *each]) for each in columns))
