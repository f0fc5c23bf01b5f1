"""The hash that shuffles samples, against its published implementation."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from curation.dataset.order import hash64, mix64

GAMMA = 0x9E3779B97F4A7C15


def test_a_stream_of_states_gives_the_numbers_of_splitmix64() -> None:
    # of seed 1234567, as Rosetta Code and Vigna's splitmix64.c have them
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    states = [(1234567 + turn * GAMMA) % 2**64 for turn in range(5)]
    assert mix64(np.array(states, np.uint64)).tolist() == expected


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50, unique=True))
def test_mixing_keeps_different_numbers_different(numbers: list[int]) -> None:
    assert len(set(mix64(np.array(numbers, np.uint64)).tolist())) == len(numbers)


def test_each_column_and_the_seed_count() -> None:
    ones = np.ones(1, np.uint64)
    found = [hash64(ones, ones), hash64(ones, ones * 2), hash64(ones * 2, ones), hash64(ones, ones, seed=1)]
    assert len({int(each[0]) for each in found}) == 4


def test_changing_one_bit_changes_half_of_the_bits() -> None:
    numbers = np.arange(4096, dtype=np.uint64)
    changed = hash64(numbers) ^ hash64(numbers ^ np.uint64(1))
    bits = np.unpackbits(np.ascontiguousarray(changed).view(np.uint8)).mean()
    assert abs(bits - 0.5) < 5 * (0.25 / (64 * 4096)) ** 0.5  # five standard deviations
