"""Hashes of samples, computed for all at once: the order they are shuffled into, and what they are made from. Pure."""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.uint64]

_GAMMA = 0x9E3779B97F4A7C15


def mix64(numbers: Numbers) -> Numbers:
    """What the generator SplitMix64 gives next in each of these states: a bijection that changes half of the bits.

    Source:
        Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", with the constants of Vigna's
        splitmix64.c.
    """
    mixed = numbers + np.uint64(_GAMMA)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: Numbers = mixed ^ (mixed >> np.uint64(31))
    return found


def hash64(*columns: NDArray[np.generic], seed: int = 0) -> Numbers:
    """One hash of each row of some columns of whole numbers of up to 64 bits.

    Args:
        seed: rows get other hashes with another one; its lowest 64 bits count.
    """
    found = np.full(len(columns[0]), seed % 2**64, np.uint64)
    for column in columns:
        found = mix64(mix64(found) ^ column.astype(np.uint64))
    return found
