"""From videos to shards of equal cost. Pure."""

import heapq
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

BYTES_PER_GB = 10**9

_BLOCK = 2**16  # numbers that are Python objects at once: ten million of them would be most of a GB

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PlannedVideo:
    """A line of the run's manifest and what the video is expected to cost.

    Attributes:
        offset: where the video's line begins in ``manifest.jsonl``, in bytes.
        cost: bytes of source, or as many as its duration stands for; at least 1: known without opening the file.
        num_begun: how often its processing was begun in earlier attempts and left no record.
        part: which of its time ranges this is, from 0.
        num_parts: how many it is split into; 1: it is not.
    """

    offset: int
    cost: int
    num_begun: int = 0
    part: int = 0
    num_parts: int = 1


class PlannedVideos(Sequence[PlannedVideo]):
    """Planned videos in two arrays: ten million of them as objects would not fit on a login node.

    Attributes:
        offsets: int64, shape (num_videos,).
        costs: int64, shape (num_videos,).
        special: by their place, the videos of which more is to be said than offset and cost.
    """

    __slots__ = ("costs", "offsets", "special")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, offsets: IntArray, costs: IntArray, special: Mapping[int, PlannedVideo] | None = None) -> None:
        self.offsets = offsets
        self.costs = costs
        self.special = special or {}

    @classmethod
    def of(cls, videos: Sequence[PlannedVideo]) -> "PlannedVideos":
        """The same videos in arrays."""
        if isinstance(videos, PlannedVideos):
            return videos
        offsets = np.fromiter((video.offset for video in videos), np.int64, len(videos))
        costs = np.fromiter((video.cost for video in videos), np.int64, len(videos))
        plain = map(PlannedVideo, offsets.tolist(), costs.tolist())
        special = {k: video for k, (video, other) in enumerate(zip(videos, plain, strict=True)) if video != other}
        return cls(offsets, costs, special)

    @property
    def cost(self) -> int:
        """What all of them cost."""
        return int(self.costs.sum())

    def take(self, places: IntArray) -> "PlannedVideos":
        """The videos at these places, in this order."""
        special = {}
        if self.special:
            special = {k: self.special[each] for k, each in enumerate(places.tolist()) if each in self.special}
        return PlannedVideos(self.offsets[places], self.costs[places], special)

    def __len__(self) -> int:
        return len(self.offsets)

    @overload
    def __getitem__(self, place: int) -> PlannedVideo: ...
    @overload
    def __getitem__(self, place: slice) -> "PlannedVideos": ...
    def __getitem__(self, place: int | slice) -> "PlannedVideo | PlannedVideos":
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place])
        place = range(len(self))[place]
        return self.special.get(place) or PlannedVideo(int(self.offsets[place]), int(self.costs[place]))

    def __iter__(self) -> Iterator[PlannedVideo]:
        for first in range(0, len(self), _BLOCK):
            block = slice(first, first + _BLOCK)
            pairs = zip(self.offsets[block].tolist(), self.costs[block].tolist(), strict=True)
            for place, (offset, cost) in enumerate(pairs, start=first):
                yield self.special.get(place) or PlannedVideo(offset, cost)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"PlannedVideos({list(self)!r})"


@dataclass(frozen=True, slots=True)
class Shard:
    """The slice of the manifest that one array task works on, in the order in which it is worked on."""

    index: int
    videos: Sequence[PlannedVideo]

    @property
    def num_videos(self) -> int:
        """Videos, one that is split into parts counted in the shard of its first."""
        special = self.videos.special.values() if isinstance(self.videos, PlannedVideos) else self.videos
        return len(self.videos) - sum(video.part > 0 for video in special)

    @property
    def cost(self) -> int:
        """Expected cost of the shard, in the unit of its videos."""
        if isinstance(self.videos, PlannedVideos):
            return self.videos.cost
        return sum(video.cost for video in self.videos)


def split_long(
    videos: PlannedVideos, parts_of: Callable[[PlannedVideo], Sequence[PlannedVideo]], *, above_cost: float
) -> PlannedVideos:
    """The videos with each that costs more than a limit replaced by its parts, which are planned like videos.

    Args:
        parts_of: one or several for a video; only what costs more than ``above_cost`` is asked for.
    """
    long = np.flatnonzero(videos.costs > above_cost)
    if not len(long):
        return videos
    parts = PlannedVideos.of([part for place in long.tolist() for part in parts_of(videos[place])])
    kept = videos.take(np.flatnonzero(videos.costs <= above_cost))
    special = {**kept.special, **{len(kept) + place: part for place, part in parts.special.items()}}
    return PlannedVideos(
        np.concatenate([kept.offsets, parts.offsets]), np.concatenate([kept.costs, parts.costs]), special
    )


def count_shards(videos: Sequence[PlannedVideo], *, num_shards: int | None, target_shard_gb: float) -> int:
    """How many shards to make: as asked, else by size; never more than videos."""
    by_size = PlannedVideos.of(videos).cost / (target_shard_gb * BYTES_PER_GB)
    return max(1, math.ceil(min(num_shards or by_size, len(videos))))


def plan_shards(videos: Sequence[PlannedVideo], *, num_shards: int, first_index: int = 0) -> list[Shard]:
    """Balance videos over shards, the dearest first, each to the shard that has least.

    Every video lands in exactly one shard, and no shard is empty while there are as many videos. The heaviest shard
    costs at most 4/3 of the best possible one.

    Raises:
        ValueError: ``num_shards`` is not in 1..number of videos.

    Source:
        Graham 1969, "Bounds on multiprocessing timing anomalies" (longest processing time first).
    """
    if not 1 <= num_shards <= max(1, len(videos)):
        raise ValueError(f"need 1 <= num_shards <= {len(videos)} videos, got {num_shards}")
    table = PlannedVideos.of(videos)
    order = np.lexsort((table.offsets, -table.costs))  # equal ones in the manifest's order
    shard_of = _dealt(table.costs[order], num_shards)
    by_shard = order[np.argsort(shard_of, kind="stable")]
    ends = np.cumsum(np.bincount(shard_of, minlength=num_shards))
    members = np.split(by_shard, ends[:-1])
    return [Shard(first_index + k, table.take(each)) for k, each in enumerate(members) if len(each)]


def _dealt(costs: IntArray, num_shards: int) -> npt.NDArray[np.int32]:
    """The shard of each video: the one that has least when it comes, of these the one with fewest videos.

    Loads lie in a heap as one number each, cost then count then shard: comparing tuples takes twice as long.
    """
    shard_of = np.empty(len(costs), np.int32)
    counts = len(costs) + 1
    heap = list(range(num_shards))
    for first in range(0, len(costs), _BLOCK):
        dealt: list[int] = []
        for cost in costs[first : first + _BLOCK].tolist():
            least = heap[0]
            dealt.append(least % num_shards)
            heapq.heapreplace(heap, least + (cost * counts + 1) * num_shards)
        shard_of[first : first + _BLOCK] = dealt
    return shard_of
