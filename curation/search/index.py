"""The vectors of all clips in one file that is mapped into memory: what is not compared is not read.

The file: vectors (float32, row by row), ids (16 bytes each), a JSON document, its length (8 bytes) and a mark. So it is
written in one go, and vectors begin at a page.
"""

import json
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from curation.storage import Storage
from curation.vector_tables import ID_BYTES, VectorTable, read_ids, read_rows

_MARK = b"clipvec1"
_END_BYTES = 8 + len(_MARK)
LENGTH_OFF = 1e-6
"""A vector whose length is so near to 1 stays as it is."""


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """Vectors of length 1 and whose they are.

    Attributes:
        vectors: float32, shape (num_clips, dimensions), in memory only while they are read.
        ids: uint8, shape (num_clips, 16), the bytes of each clip's UUID; no two alike.
        metadata: how the vectors came to be, as their tables say.
        num_left_out: rows of the tables without a direction (zeros, or what is no number).
    """

    vectors: NDArray[np.float32]
    ids: NDArray[np.uint8]
    metadata: Mapping[str, str]
    num_left_out: int

    def row_of(self, clip: UUID) -> int | None:
        """Where a clip's vector is; None where there is none of it."""
        wanted = np.frombuffer(clip.bytes, dtype=np.uint8)
        rows = np.flatnonzero(self.ids[:, 0] == wanted[0])  # one in 256 is looked at further
        found = rows[(self.ids[rows] == wanted).all(axis=1)]
        return int(found[0]) if len(found) else None

    def clip(self, row: int) -> UUID:
        """Whose vector is in a row."""
        return UUID(bytes=self.ids[row].tobytes())


def write_index(file: BinaryIO, storage: Storage, tables: Sequence[VectorTable], *, fingerprint: str) -> None:
    """Read tables into an index. Memory: 16 bytes a row, and some thousand vectors.

    Of rows with the same id the first counts: a table that is left from an earlier, longer list stands behind.

    Raises:
        ValueError, StorageError: as ``read_rows``.
    """
    all_ids = [read_ids(storage, table) for table in tables]
    is_first = _first_of_each(np.concatenate(all_ids))
    num_rows = dimensions = begin = 0
    ids = []
    for rows in read_rows(storage, tables):
        end = begin + len(rows.ids)
        units, has_direction = _units(rows.vectors)
        kept = is_first[begin:end] & has_direction
        file.write(np.ascontiguousarray(units[kept], dtype="<f4").data)
        ids.append(rows.ids[kept])
        num_rows, dimensions, begin = num_rows + int(kept.sum()), units.shape[1], end
    file.write(np.concatenate(ids).data if num_rows else b"")
    described = {
        "fingerprint": fingerprint,
        "num_rows": num_rows,
        "dimensions": dimensions,
        "num_left_out": int(is_first.sum()) - num_rows,
        "metadata": dict(tables[0].metadata),
    }
    document = json.dumps(described).encode()
    file.write(document + len(document).to_bytes(8, "little") + _MARK)


def _first_of_each(ids: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether no row before has the same id, shape (num_rows,)."""
    halves = np.ascontiguousarray(ids).view(np.uint64)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # keeps the order of equal ones
    is_again = (halves[order[1:]] == halves[order[:-1]]).all(axis=1)
    is_first = np.ones(len(ids), dtype=np.bool_)
    is_first[order[1:][is_again]] = False
    return is_first


def _units(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Rows of length 1, and which of them have a direction at all; those of length 1 keep every bit."""
    wide = vectors.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    has_direction = np.isfinite(lengths) & (lengths > 0)
    is_off = has_direction & (np.abs(lengths - 1) > LENGTH_OFF)
    if not is_off.any():
        return vectors, has_direction
    units = vectors.copy()
    units[is_off] = (wide[is_off] / lengths[is_off, np.newaxis]).astype(np.float32)
    return units, has_direction


def map_index(path: Path, *, fingerprint: str) -> VectorIndex | None:
    """The index in a file, where it is whole and has this fingerprint; else None."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            described = _described(file, size)
            if described is None or described["fingerprint"] != fingerprint:
                return None
            num_rows, dimensions = described["num_rows"], described["dimensions"]
            num_bytes = num_rows * (4 * dimensions + ID_BYTES)
            mapped = mmap.mmap(file.fileno(), num_bytes, access=mmap.ACCESS_READ) if num_bytes else b""
    except FileNotFoundError:
        return None
    vectors = np.frombuffer(mapped, dtype="<f4", count=num_rows * dimensions).reshape(num_rows, dimensions)
    ids = np.frombuffer(mapped, dtype=np.uint8, offset=vectors.nbytes).reshape(num_rows, ID_BYTES)
    return VectorIndex(vectors, ids, described["metadata"], described["num_left_out"])


def _described(file: BinaryIO, size: int) -> dict[str, Any] | None:
    """What stands behind vectors and ids; None where the file is no whole index."""
    file.seek(max(0, size - _END_BYTES))
    end = file.read(_END_BYTES)
    length = int.from_bytes(end[:8], "little")
    if not end.endswith(_MARK) or length + _END_BYTES > size:
        return None
    file.seek(size - _END_BYTES - length)
    found: dict[str, Any] = json.loads(file.read(length))
    num_bytes = found["num_rows"] * (4 * found["dimensions"] + ID_BYTES)
    return found if num_bytes + length + _END_BYTES == size else None
