"""Which sample goes into which tar: shuffled, cut by size, and leaving alone what an earlier build packed. Pure."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Indexes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Samples:
    """What is to be packed: arrays of the length num_samples, in an order that the input's does not change.

    Attributes:
        buckets: number of each one's bucket.
        ranks: uint64; within a bucket, samples are packed by rank, and equal ranks in the order they stand here.
        num_bytes: estimated size of each one's mp4.
    """

    buckets: NDArray[np.int32]
    ranks: NDArray[np.uint64]
    num_bytes: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EarlierTars:
    """Tars that are there already, of buckets that there still are.

    Attributes:
        buckets: number of each one's bucket.
        numbers: of each tar in its bucket.
        is_whole: of each tar: whether all it holds is still wanted as it is.
        tar_of: of each sample to be packed: the tar that has it, or had an earlier state of it; -1: none has.
    """

    buckets: NDArray[np.int32]
    numbers: NDArray[np.int32]
    is_whole: NDArray[np.bool_]
    tar_of: NDArray[np.int32]

    @classmethod
    def none(cls, num_samples: int) -> "EarlierTars":
        empty = np.empty(0, np.int32)
        return cls(empty, empty, np.empty(0, np.bool_), np.full(num_samples, -1, np.int32))


@dataclass(frozen=True, slots=True)
class Tars:
    """Tars by bucket and number: all that the dataset will have.

    Attributes:
        samples: of tar after tar, indexes into ``Samples``.
        begins: where in ``samples`` each tar begins, and the end of the last.
        kept: index of the earlier tar that stays as it is; -1: this tar is to be packed.
    """

    samples: Indexes
    begins: Indexes
    buckets: NDArray[np.int32]
    numbers: NDArray[np.int32]
    kept: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.buckets)


class _Tar(NamedTuple):
    """Places of samples in the shuffled order, ascending; ``kept`` as in ``Tars``."""

    places: Indexes
    kept: int = -1


def assign(samples: Samples, earlier: EarlierTars, *, target_bytes: int, min_clips_per_tar: int) -> Tars:
    """Shuffle each bucket's samples and cut them into tars of at most ``target_bytes``.

    A single sample may exceed the target. A bucket's last tar of fewer than ``min_clips_per_tar`` samples joins the
    one before it. An earlier tar that is whole stays; one that is not is packed again with what is left of it; new
    samples go to new tars. Numbers are dense: a number that becomes free gets a new tar, or else the bucket's last.
    """
    order = _shuffled(samples)
    buckets = samples.buckets[order]
    sizes = samples.num_bytes[order]
    tar_of = earlier.tar_of[order]
    members = _members(tar_of, len(earlier.numbers))
    found: list[_Tar] = []
    found_buckets: list[int] = []
    numbers: list[int] = []
    for bucket in range(int(buckets[-1]) + 1 if len(buckets) else 0):
        begin, end = np.searchsorted(buckets, [bucket, bucket + 1])
        new = begin + np.flatnonzero(tar_of[begin:end] < 0)
        there = {
            int(earlier.numbers[tar]): _Tar(members[tar], int(tar) if earlier.is_whole[tar] else -1)
            for tar in np.flatnonzero(earlier.buckets == bucket)
            if len(members[tar])
        }
        tars = _tail_joined(_dense(there, _cut(new, sizes[new], target_bytes)), min_clips_per_tar)
        found += tars
        found_buckets += [bucket] * len(tars)
        numbers += range(len(tars))
    places = [tar.places for tar in found]
    return Tars(
        samples=order[np.concatenate([np.empty(0, np.int64), *places])],
        begins=np.cumsum([0, *map(len, places)]),
        buckets=np.array(found_buckets, np.int32),
        numbers=np.array(numbers, np.int32),
        kept=np.array([tar.kept for tar in found], np.int32),
    )


def _shuffled(samples: Samples) -> Indexes:
    """Indexes of samples by bucket and rank."""
    order = np.argsort(samples.ranks, kind="stable")
    return order[np.argsort(samples.buckets[order], kind="stable")]


def _members(tar_of: NDArray[np.int32], num_tars: int) -> list[Indexes]:
    """Places of the samples of each earlier tar, ascending."""
    by_tar = np.argsort(tar_of, kind="stable")
    bounds = np.searchsorted(tar_of[by_tar], np.arange(num_tars + 1))
    return [by_tar[begin:end] for begin, end in pairwise(bounds)]


def _cut(places: Indexes, sizes: NDArray[np.int64], target_bytes: int) -> list[_Tar]:
    """Places in groups: each goes on while the sum of its sizes is within the target."""
    ends = np.cumsum(sizes)
    tars: list[_Tar] = []
    begin = 0
    while begin < len(places):
        before = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, before + target_bytes, side="right")))
        tars.append(_Tar(places[begin:end]))
        begin = end
    return tars


def _dense(there: Mapping[int, _Tar], new: Iterable[_Tar]) -> list[_Tar]:
    """Tars by number: earlier ones at theirs, new ones at free numbers and behind, the last at numbers still free."""
    tars = [there.get(number) for number in range(max(there, default=-1) + 1)]
    waiting = deque(new)
    for number, tar in enumerate(tars):
        if tar is None and waiting:
            tars[number] = waiting.popleft()
    for number in [number for number, tar in enumerate(tars) if tar is None]:
        while tars and tars[-1] is None:
            tars.pop()
        if number < len(tars) and (last := tars.pop()) is not None:
            tars[number] = _Tar(last.places)
    return [*(tar for tar in tars if tar is not None), *waiting]


def _tail_joined(tars: list[_Tar], min_clips_per_tar: int) -> list[_Tar]:
    """The same tars, but that a last one of too few samples is joined with the one before it."""
    while len(tars) > 1 and len(tars[-1].places) < min_clips_per_tar:
        last, before = tars.pop(), tars.pop()
        tars.append(_Tar(np.sort(np.concatenate([before.places, last.places]))))
    return tars
