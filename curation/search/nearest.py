"""The rows of a matrix nearest to a vector: all are compared, so that none is missed."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from curation.search.index import LENGTH_OFF, VectorIndex

_ROWS_OF_A_THREAD = 65_536
_NUMBERS_AT_ONCE = 2**18
_ROUNDING = 2.0**-24  # of float32, relative


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A clip, the row of its vector, and the cosine of the angle between that and what was looked for."""

    clip: UUID
    row: int
    cosine: float


def nearest(
    index: VectorIndex, vector: NDArray[np.floating], *, top: int, without: int | None = None
) -> list[Neighbour]:
    """The ``top`` clips with the greatest cosines, the greatest first; of equal ones in the order of their ids.

    The result is that of comparing in float64: rows are compared in float32, and those that may be among the first,
    whichever way that was rounded, once more.

    Args:
        vector: shape (dimensions,), of any length but 0.
        without: a row that is left out.

    Raises:
        ValueError: the vector has another number of dimensions or no direction, or ``top`` is not positive.
    """
    unit = _unit(vector, index.vectors.shape[1])
    if top < 1:
        raise ValueError(f"need at least one clip to look for, got {top}")
    if not len(index.vectors):
        return []
    rows = _possible(index.vectors, unit, top=top + (without is not None))
    rows = rows[rows != without] if without is not None else rows
    cosines = _cosines(index.vectors, rows, unit)
    ids = np.ascontiguousarray(index.ids[rows]).view(">u8")
    order = np.lexsort((ids[:, 1], ids[:, 0], -cosines))[:top]
    return [Neighbour(index.clip(int(rows[k])), int(rows[k]), float(cosines[k])) for k in order]


def _unit(vector: NDArray[np.floating], dimensions: int) -> NDArray[np.float64]:
    wide = np.asarray(vector, dtype=np.float64)
    length = float(np.linalg.norm(wide))
    if wide.shape != (dimensions,) or not 0 < length < np.inf:
        raise ValueError(f"need a vector of {dimensions} numbers with a direction, got shape {wide.shape}, {length}")
    return wide / length


def _possible(vectors: NDArray[np.float32], unit: NDArray[np.float64], *, top: int) -> NDArray[np.int64]:
    """Rows that may be among the first, int64, rising."""
    query = unit.astype(np.float32)
    # Source: Higham, "Accuracy and Stability of Numerical Algorithms", 3.1: a sum of n products is off by n roundings
    margin = np.float32(2.02 * ((vectors.shape[1] + 2) * _ROUNDING + LENGTH_OFF))

    def compare(start: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        cosines = _products(vectors[start : start + _ROWS_OF_A_THREAD], query)
        inside = _first(cosines, top, margin)
        return inside + start, cosines[inside]

    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="compare") as pool:
        found = list(pool.map(compare, range(0, len(vectors), _ROWS_OF_A_THREAD)))
    rows, cosines = (np.concatenate([each[k] for each in found]) for k in range(2))
    return rows[_first(cosines, top, margin)]


def _products(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """``vectors @ query``, in blocks that BLAS does not share out among threads of its own.

    Where other programs are at work, too, its threads wait for each other at the end of every call.
    """
    products = np.empty(len(vectors), dtype=np.float32)
    step = max(1, _NUMBERS_AT_ONCE // vectors.shape[1])
    for start in range(0, len(vectors), step):
        np.matmul(vectors[start : start + step], query, out=products[start : start + step])
    return products


def _first(cosines: NDArray[np.float32], top: int, margin: np.float32) -> NDArray[np.int64]:
    """Where the ``top`` greatest are, and what is below the least of them by no more than the margin."""
    if len(cosines) <= top:
        return np.arange(len(cosines), dtype=np.int64)
    least = np.partition(cosines, -top)[-top]
    return np.flatnonzero(cosines >= least - margin)


def _cosines(vectors: NDArray[np.float32], rows: NDArray[np.int64], unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row by itself, so that equal vectors have equal cosines wherever they stand."""
    step = max(1, _NUMBERS_AT_ONCE // vectors.shape[1])
    cosines = np.empty(len(rows))
    for start in range(0, len(rows), step):
        wide = vectors[rows[start : start + step]].astype(np.float64)
        cosines[start : start + step] = (wide * unit).sum(axis=1) / np.sqrt((wide * wide).sum(axis=1))
    return cosines
