"""What a run has left to do: the videos without a record, less those that a live worker is at."""

from concurrent.futures import ThreadPoolExecutor

from curation import layout
from curation.storage import storage_for
from jobs.config import RunConfig
from jobs.ledger import count_begun, live_leases, read_events
from jobs.planner import PlannedVideo, Shard
from jobs.planning import balanced
from jobs.rundir import RunDir

_LOOKERS = 32  # looking at a file on a network file system is waiting, mostly


def replan(run: RunDir, config: RunConfig) -> tuple[list[Shard], int]:
    """Balanced shards of the unfinished videos, and how many are left to workers that are alive."""
    unfinished = unfinished_videos(run, config)
    running: set[int] = set()
    last_index = -1
    live = live_leases(run, timeout_s=config.worker.lease_timeout_s)
    for attempt in run.attempts():
        for shard in run.shards(attempt):
            last_index = max(last_index, shard.index)
            if shard.index in live:
                running |= {video.offset for video in shard.videos}
    todo = [video for video in unfinished if video.offset not in running]
    shards = balanced(todo, config, first_index=last_index + 1) if todo else []
    return shards, len(unfinished) - len(todo)


def unfinished_videos(run: RunDir, config: RunConfig) -> list[PlannedVideo]:
    """Every video without a record, and how often it was begun."""
    storage = storage_for(config.output_clip_path)
    begun = count_begun(event for path in sorted(run.state_path.glob("shard-*.jsonl")) for event in read_events(path))
    entries = list(run.manifest_entries())
    costs = {video.offset: video.cost for shard in run.shards(1) for video in shard.videos}
    with ThreadPoolExecutor(_LOOKERS) as pool:
        is_done = list(pool.map(lambda each: storage.exists(layout.record(each[1].id)), entries))
    return [
        PlannedVideo(offset, costs[offset], begun[entry.id])
        for (offset, entry), done in zip(entries, is_done, strict=True)
        if not done
    ]
