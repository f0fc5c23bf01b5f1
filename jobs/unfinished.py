"""What a run has left to do: the videos without a record that counts, less those that a live worker is at."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice

from curation import layout
from jobs.again import read_voids, unsettled
from jobs.annotation import output_storage
from jobs.config import RunConfig
from jobs.ledger import count_begun, live_leases, read_events
from jobs.parts import parts_begun, parts_to_do, planned_parts, video_parts
from jobs.planner import PlannedVideo, Shard
from jobs.planning import balanced
from jobs.rundir import RunDir

_LOOKERS = 32  # looking at a file on a network file system is waiting, mostly
_LOOKS_AT_ONCE = 256 * _LOOKERS


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one video of the manifest stands.

    Attributes:
        offset: of its line in the run's manifest.
        has_record: it is done or failed, and not to be done again.
        is_again: it has, or had, a record, and is done again by an attempt that is not yet submitted.
        num_begun: how often it was begun without an end; of what is processed in parts, the part that was most often.
        live_shard: the shard of a live worker that has it, or had it.
        begun_parts: as ``num_begun``, by part.
        live_parts: those that live workers have.
    """

    offset: int
    video: str
    has_record: bool
    is_again: bool
    num_begun: int
    live_shard: int | None
    begun_parts: Mapping[int, int] = field(default_factory=dict)
    live_parts: frozenset[int] = frozenset()

    @property
    def is_to_do(self) -> bool:
        """Whether an attempt made now takes it."""
        return not self.has_record and (self.is_again or self.live_shard is None)

    def num_begun_of(self, part: PlannedVideo) -> int:
        """How often a part of it was begun without an end."""
        return self.begun_parts.get(part.part, 0)

    def is_live(self, part: PlannedVideo) -> bool:
        """Whether a part of it is left to a live worker."""
        return not self.is_again and part.part in self.live_parts


def replan(run: RunDir, config: RunConfig) -> tuple[list[Shard], int]:
    """Balanced shards of the unfinished videos, and how many are left to workers that are alive."""
    costs = {video.offset: video.cost for shard in run.shards(1) for video in shard.videos}
    split = planned_parts(run.shards(1))
    todo, num_left_running = [], 0
    for each in standings(run, config):
        if each.offset in split and not each.has_record:
            parts = video_parts(run, config, each.video, len(split[each.offset]))
            left = parts_to_do(split[each.offset], parts)
            todo += [replace(part, num_begun=each.num_begun_of(part)) for part in left if not each.is_live(part)]
            num_left_running += any(each.is_live(part) for part in left)
            continue
        if each.is_to_do:
            todo.append(PlannedVideo(each.offset, costs[each.offset], each.num_begun))
        num_left_running += not each.has_record and not each.is_to_do
    shards = balanced(todo, config, first_index=next_shard(run)) if todo else []
    return shards, num_left_running


def next_shard(run: RunDir) -> int:
    """The first shard number that no attempt has: numbers rise from attempt to attempt."""
    return 1 + max((index for attempt in run.attempts() for index in run.shard_sizes(attempt)), default=-1)


def standings(run: RunDir, config: RunConfig) -> Iterator[Standing]:
    """Where each video of the manifest stands, in its order, by the records and by what was begun."""
    storage = output_storage(config)
    voids, again = read_voids(run), unsettled(run)
    begun = count_begun(
        event for shard, path in run.state_paths() for event in voids.of_shard(read_events(path), shard)
    )
    begun_parts = parts_begun(begun)
    shards_of = _live_shards(run, config)
    entries = run.manifest_entries()
    with ThreadPoolExecutor(_LOOKERS) as pool:
        while batch := list(islice(entries, _LOOKS_AT_ONCE)):
            found = pool.map(lambda each: storage.exists(layout.record(each[1].id)), batch)
            for (offset, entry), exists in zip(batch, found, strict=True):
                is_again = again is None or entry.id in again
                has_record = exists and not is_again
                parts, shards = begun_parts.get(entry.id, {}), shards_of.get(offset, {})
                num_begun = max([begun[entry.id], *parts.values()])
                live_shard = next(iter(shards.values()), None)
                yield Standing(offset, entry.id, has_record, is_again, num_begun, live_shard, parts, frozenset(shards))


def _live_shards(run: RunDir, config: RunConfig) -> dict[int, dict[int, int]]:
    """The shards of live workers, by the offsets of the videos that they have, and the parts of those."""
    live = live_leases(run, timeout_s=config.worker.lease_timeout_s)
    found: dict[int, dict[int, int]] = {}
    if not live:
        return found
    for attempt in run.attempts():
        for shard in run.shards(attempt):
            for video in shard.videos if shard.index in live else ():
                found.setdefault(video.offset, {})[video.part] = shard.index
    return found
