"""Vectors in files that have no name, mapped into memory: as many as the disk holds."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curation.clip_ids import Ids
from curation.dedup.ids import ascending, ids_of
from curation.storage import Storage
from curation.vector_tables import VectorRows, VectorTable, read_ids, read_rows

Vectors = NDArray[np.float32]  # shape (num_vectors, dimensions), each of length 1

_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class ClipVectors:
    """Clips in the order of their ids.

    Attributes:
        vectors: of each clip; zeros where it has no direction (zeros, infinite, or what is no number).
        num_without_direction: so many of those.
    """

    ids: Ids
    vectors: Vectors
    num_without_direction: int


@contextmanager
def vector_file(num_rows: int, dimensions: int, folder: Path | None) -> Iterator[Vectors]:
    """An array of zeros in a file that is gone when the block ends.

    Args:
        folder: None: where temporary files go.

    Raises:
        OSError: the disk has no room for it.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        # a full disk is an error here, and a signal that kills the process (SIGBUS) where a mapped page finds no room
        os.posix_fallocate(file.fileno(), 0, 4 * num_rows * dimensions)
        yield np.asarray(np.memmap(file, np.float32, mode="r+", shape=(num_rows, dimensions)))


@contextmanager
def clips_by_id(storage: Storage, tables: Sequence[VectorTable], folder: Path | None) -> Iterator[ClipVectors]:
    """What the tables hold, whatever the order of their rows; of rows with the same id the first counts.

    Args:
        folder: see ``vector_file``.

    Raises:
        ValueError: there are no vectors, see ``read_rows``, or the tables change while they are read.
    """
    all_ids = np.concatenate([read_ids(storage, table) for table in tables])
    pieces = read_rows(storage, tables)
    first = next(pieces, None)
    if first is None:
        raise ValueError(f"no vectors in {storage.root}/{tables[0].path}")
    order = ascending(ids_of(all_ids))
    places = np.full(len(all_ids), -1)
    places[order] = np.arange(len(order))
    with vector_file(len(order), first.vectors.shape[1], folder) as vectors:
        begin = num_without = 0
        piece: VectorRows | None = first
        while piece is not None:
            rows = slice(begin, begin + len(piece.ids))
            if not np.array_equal(all_ids[rows], piece.ids):
                raise ValueError(f"the tables of vectors in {storage.root} change while they are read; try again")
            is_first = places[rows] >= 0
            units, has_direction = _units(piece.vectors[is_first])
            vectors[places[rows][is_first]] = units
            num_without += len(units) - int(has_direction.sum())
            begin, piece = rows.stop, next(pieces, None)
        yield ClipVectors(ids_of(all_ids[order]), vectors, num_without)


def _units(vectors: NDArray[np.float32]) -> tuple[Vectors, NDArray[np.bool_]]:
    """Rows made as long as 1, and which of them have a direction; the others are zeros."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    has_direction = np.isfinite(lengths) & (lengths > 0)
    units = np.zeros_like(vectors)
    units[has_direction] = vectors[has_direction] / lengths[has_direction, None]
    return units, has_direction


def reorder(vectors: Vectors, order: NDArray[np.int64], target: Vectors) -> None:
    """``target[i] = vectors[order[i]]``, a piece at a time."""
    for begin in range(0, len(order), _ROWS_AT_ONCE):
        target[begin : begin + _ROWS_AT_ONCE] = vectors[order[begin : begin + _ROWS_AT_ONCE]]
