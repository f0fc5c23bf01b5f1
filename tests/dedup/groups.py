"""Vectors with near-copies among them, and what comparing all with all says of them, in float64."""

import numpy as np
from numpy.typing import NDArray


def units(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows of length 1."""
    wide = rows.astype(np.float64)
    found: NDArray[np.float32] = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    return found


def topics(number: int, dimensions: int, *, spread: float, num_topics: int, seed: int = 0) -> NDArray[np.float32]:
    """Directions around those of some topics, the nearer the smaller ``spread``."""
    chance = np.random.default_rng(seed)
    centres = units(chance.standard_normal((num_topics, dimensions)))
    noise = chance.standard_normal((number, dimensions)) * spread / np.sqrt(dimensions)
    return units(centres[chance.integers(num_topics, size=number)] + noise)


def at_cosine(vectors: NDArray[np.float32], cosine: float, *, seed: int = 0) -> NDArray[np.float32]:
    """Of each vector one that has this cosine to it, in a direction by chance."""
    wide = vectors.astype(np.float64)
    aside = np.random.default_rng(seed).standard_normal(wide.shape)
    aside -= (aside * wide).sum(axis=1, keepdims=True) * wide
    return units(cosine * wide + np.sqrt(1 - cosine**2) * units(aside))


def alike(vectors: NDArray[np.float32], eps: float) -> set[tuple[int, int]]:
    """All pairs (lower, higher) whose cosine is >= 1 - eps."""
    wide = vectors.astype(np.float64)
    cosines = np.triu(wide @ wide.T, 1)
    np.fill_diagonal(cosines, -1)
    first, second = np.nonzero(np.triu(cosines >= 1 - eps, 1))
    return set(zip(first.tolist(), second.tolist(), strict=True))


def kept_by_brute_force(vectors: NDArray[np.float32], eps: float) -> dict[int, int]:
    """Each in turn with all that are kept before it: of a duplicate, which kept one is most like it."""
    wide = vectors.astype(np.float64)
    kept: list[int] = []
    found: dict[int, int] = {}
    for index, vector in enumerate(wide):
        cosines = wide[kept] @ vector
        if len(kept) and cosines.max() >= 1 - eps:
            found[index] = kept[int(cosines.argmax())]
        else:
            kept.append(index)
    return found
