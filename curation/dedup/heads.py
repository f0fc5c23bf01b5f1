"""A bound on the product of two vectors from a few numbers of each, where most pairs are far from alike."""

import numpy as np
from numpy.typing import NDArray

from curation.dedup.vectors import Vectors

_DIMENSIONS = 32
_SAMPLES = 2**15
_ROWS_AT_ONCE = 8192
_ROUNDING = 1e-6  # more than float32 makes a sum of squares wrong by: no rest is taken for shorter than it is

Heads = NDArray[np.float32]  # shape (num_vectors, head_size)


def head_size(dimensions: int) -> int:
    """Numbers of a head of vectors with so many dimensions."""
    return min(dimensions, _DIMENSIONS) + 1


def head_axes(vectors: Vectors, *, seed: int) -> NDArray[np.float32]:
    """The axes along which the vectors' squares are largest, found on a sample, shape (dimensions, head_size - 1)."""
    chosen = np.random.default_rng([seed, 2]).choice(len(vectors), min(len(vectors), _SAMPLES), replace=False)
    sample = vectors[np.sort(chosen)].astype(np.float64)
    _, axes = np.linalg.eigh(sample.T @ sample)
    largest: NDArray[np.float32] = axes[:, ::-1][:, : head_size(vectors.shape[1]) - 1].astype(np.float32)
    return largest


def fill_heads(vectors: Vectors, axes: NDArray[np.float32], heads: Heads) -> None:
    """Of each vector what lies along the axes, and the length of the rest.

    By Cauchy and Schwarz the product of two heads is at least that of their vectors.
    """
    for begin in range(0, len(vectors), _ROWS_AT_ONCE):
        rows = np.asarray(vectors[begin : begin + _ROWS_AT_ONCE])
        along = rows @ axes
        rest = _squares(rows) - _squares(along)
        heads[begin : begin + len(rows), :-1] = along
        heads[begin : begin + len(rows), -1] = np.sqrt(np.maximum(rest, 0) + _ROUNDING)


def _squares(rows: Vectors) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    return found
