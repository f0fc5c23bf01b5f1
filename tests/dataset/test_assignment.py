"""Laws of tars: nothing is lost, nothing is twice, and what is right already stays."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from curation.dataset.assignment import EarlierTars, Samples, Tars, assign

TARGET = 1000
NUM_BUCKETS = 3

drawn = st.lists(st.tuples(st.integers(0, NUM_BUCKETS - 1), st.integers(1, 1500)), max_size=60)
minimums = st.integers(0, 6)


def samples_of(sizes: Sequence[tuple[int, int]], ranks: Sequence[int] | None = None) -> Samples:
    return Samples(
        buckets=np.array([bucket for bucket, _ in sizes], np.int32),
        ranks=np.array(ranks if ranks is not None else shuffled(len(sizes)), np.uint64),
        num_bytes=np.array([size for _, size in sizes], np.int64),
    )


def shuffled(count: int) -> list[int]:
    """Different ranks in no order."""
    return [number * 37 % 1009 for number in range(count)]


def packed(samples: Samples, earlier: EarlierTars | None = None, *, minimum: int = 0) -> Tars:
    earlier = earlier if earlier is not None else EarlierTars.none(len(samples.buckets))
    return assign(samples, earlier, target_bytes=TARGET, min_clips_per_tar=minimum)


def contents(tars: Tars) -> list[list[int]]:
    """The samples of each tar."""
    return [tars.samples[begin:end].tolist() for begin, end in pairwise(tars.begins.tolist())]


def by_bucket(tars: Tars) -> dict[int, list[list[int]]]:
    found: dict[int, list[list[int]]] = {}
    for bucket, number, samples in zip(tars.buckets.tolist(), tars.numbers.tolist(), contents(tars), strict=True):
        assert number == len(found.setdefault(bucket, []))  # dense, in order
        found[bucket].append(samples)
    return found


@st.composite
def datasets(draw: st.DrawFn) -> tuple[Samples, EarlierTars]:
    """Samples, of which some are in tars of an earlier dataset; some of those tars are not right any more."""
    sizes = draw(drawn)
    num_tars = draw(st.integers(1, 6))
    tar_buckets = [draw(st.integers(0, NUM_BUCKETS - 1)) for _ in range(num_tars)]
    numbers = [tar_buckets[:place].count(bucket) for place, bucket in enumerate(tar_buckets)]
    tar_of = []
    for bucket, _ in sizes:
        tar = draw(st.integers(-1, num_tars - 1))
        tar_of.append(tar if tar >= 0 and tar_buckets[tar] == bucket else -1)
    is_whole = [draw(st.booleans()) and tar in tar_of for tar in range(num_tars)]
    earlier = EarlierTars(
        buckets=np.array(tar_buckets, np.int32),
        numbers=np.array(numbers, np.int32),
        is_whole=np.array(is_whole, np.bool_),
        tar_of=np.array(tar_of, np.int32),
    )
    return samples_of(sizes), earlier


@given(datasets(), minimums)
def test_each_sample_is_in_exactly_one_tar_of_its_bucket(dataset: tuple[Samples, EarlierTars], minimum: int) -> None:
    samples, earlier = dataset
    tars = packed(samples, earlier, minimum=minimum)
    assert sorted(tars.samples.tolist()) == list(range(len(samples.buckets)))
    for bucket, of_bucket in by_bucket(tars).items():
        assert all(samples.buckets[sample] == bucket for tar in of_bucket for sample in tar)


@given(datasets(), minimums)
def test_no_tar_is_empty_and_each_is_in_the_order_of_the_ranks(
    dataset: tuple[Samples, EarlierTars], minimum: int
) -> None:
    samples, earlier = dataset
    for tar in contents(packed(samples, earlier, minimum=minimum)):
        ranks = samples.ranks[tar].tolist()
        assert ranks == sorted(ranks)
        assert ranks


@given(datasets())
def test_a_tar_that_is_right_stays_unless_it_moves_to_a_free_number(dataset: tuple[Samples, EarlierTars]) -> None:
    samples, earlier = dataset
    tars = packed(samples, earlier)
    for kept, number, bucket, content in zip(tars.kept, tars.numbers, tars.buckets, contents(tars), strict=True):
        if kept >= 0:
            assert earlier.is_whole[kept]
            assert (earlier.numbers[kept], earlier.buckets[kept]) == (number, bucket)
            assert sorted(content) == np.flatnonzero(earlier.tar_of == kept).tolist()
    num_tars = np.bincount(tars.buckets, minlength=NUM_BUCKETS)
    for tar in np.flatnonzero(earlier.is_whole):
        assert tar in tars.kept or earlier.numbers[tar] >= num_tars[earlier.buckets[tar]]


@given(drawn)
def test_packed_again_a_dataset_stays_as_it_is(sizes: list[tuple[int, int]]) -> None:
    samples = samples_of(sizes)
    first = packed(samples)
    tar_of = np.empty(len(sizes), np.int32)
    tar_of[first.samples] = np.repeat(np.arange(len(first)), np.diff(first.begins))
    earlier = EarlierTars(first.buckets, first.numbers, np.ones(len(first), np.bool_), tar_of)
    again = packed(samples, earlier)
    assert contents(again) == contents(first)
    assert again.kept.tolist() == list(range(len(first)))


@given(drawn, drawn)
def test_what_is_new_goes_to_tars_behind(sizes: list[tuple[int, int]], more: list[tuple[int, int]]) -> None:
    first = packed(samples_of(sizes))
    tar_of = np.full(len(sizes) + len(more), -1, np.int32)
    tar_of[first.samples] = np.repeat(np.arange(len(first)), np.diff(first.begins))
    earlier = EarlierTars(first.buckets, first.numbers, np.ones(len(first), np.bool_), tar_of)
    grown = packed(samples_of([*sizes, *more], shuffled(len(sizes) + len(more))), earlier)
    assert sorted(grown.kept[grown.kept >= 0].tolist()) == list(range(len(first)))
    new = [tar for tar, kept in zip(contents(grown), grown.kept, strict=True) if kept < 0]
    assert sorted(sample for tar in new for sample in tar) == list(range(len(sizes), len(sizes) + len(more)))


def test_a_number_that_becomes_free_gets_a_new_tar() -> None:
    samples = samples_of([(0, 600)] * 3)
    there = earlier_tars(numbers=[0, 1, 2], is_whole=[True, False, True], tar_of=[0, 2, -1])
    tars = packed(samples, there)
    assert (contents(tars), tars.kept.tolist()) == ([[0], [2], [1]], [0, -1, 2])


def test_a_free_number_without_anything_new_gets_the_last_tar() -> None:
    samples = samples_of([(0, 600)] * 3)
    there = earlier_tars(numbers=[0, 1, 2, 3], is_whole=[True, False, True, True], tar_of=[0, 2, 3])
    tars = packed(samples, there)
    assert (contents(tars), tars.kept.tolist()) == ([[0], [2], [1]], [0, -1, 2])


def test_free_numbers_at_the_end_are_given_up() -> None:
    there = earlier_tars(numbers=[0, 1, 2], is_whole=[True, False, False], tar_of=[0])
    tars = packed(samples_of([(0, 600)]), there)
    assert (contents(tars), tars.kept.tolist()) == ([[0]], [0])


def test_a_tar_that_is_not_right_is_packed_again_with_what_is_left_of_it() -> None:
    samples = samples_of([(0, 400)] * 4, [3, 2, 1, 0])
    there = earlier_tars(numbers=[0, 1], is_whole=[False, True], tar_of=[0, 0, 1, 1])
    tars = packed(samples, there)
    assert (contents(tars), tars.kept.tolist()) == ([[1, 0], [3, 2]], [-1, 1])


def earlier_tars(*, numbers: list[int], is_whole: list[bool], tar_of: list[int]) -> EarlierTars:
    """Tars of bucket 0."""
    return EarlierTars(
        buckets=np.zeros(len(numbers), np.int32),
        numbers=np.array(numbers, np.int32),
        is_whole=np.array(is_whole, np.bool_),
        tar_of=np.array(tar_of, np.int32),
    )


def fits(samples: Samples, tar: Sequence[int]) -> bool:
    """Whether a tar may hold these samples."""
    return len(tar) == 1 or (len(tar) > 1 and int(samples.num_bytes[list(tar)].sum()) <= TARGET)


@given(drawn, minimums)
def test_a_tar_exceeds_the_target_only_by_a_large_sample_or_a_short_tail(
    sizes: list[tuple[int, int]], minimum: int
) -> None:
    samples = samples_of(sizes)
    for *others, last in by_bucket(packed(samples, minimum=minimum)).values():
        assert all(fits(samples, tar) for tar in others)
        assert any(fits(samples, last[: len(last) - tail]) for tail in range(max(minimum - 1, 0) + 1))


@given(drawn)
def test_no_tar_would_have_had_room_for_the_first_sample_of_the_next(sizes: list[tuple[int, int]]) -> None:
    samples = samples_of(sizes)
    for of_bucket in by_bucket(packed(samples)).values():
        for tar, following in pairwise(of_bucket):
            assert samples.num_bytes[tar].sum() + samples.num_bytes[following[0]] > TARGET


@given(drawn, minimums)
def test_no_last_tar_of_several_is_too_small(sizes: list[tuple[int, int]], minimum: int) -> None:
    for of_bucket in by_bucket(packed(samples_of(sizes), minimum=minimum)).values():
        assert len(of_bucket) == 1 or len(of_bucket[-1]) >= minimum
