"""What the events of all shards tell together, and what only the records knew."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.again import read_voids
from jobs.captions import EngineWork, add_engine_work
from jobs.ledger import ShardLog, read_events
from jobs.rundir import RunDir


@dataclass
class History:
    """What the events of all shards tell."""

    times: tuple[float, float] | None = None
    ended: set[str] = field(default_factory=set)
    stage_s: dict[str, Counter[str]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)  # that workers sent to S3, by kind
    engines: dict[str, EngineWork] = field(default_factory=dict)  # by key of captions

    @property
    def run_time_s(self) -> float:
        """Seconds from the first event of any worker to the last."""
        return self.times[1] - self.times[0] if self.times else 0.0

    def add(self, event: Mapping[str, Any], *, counts: bool = True) -> None:
        """Take in one event; an end that does not count is of a video that was done again since."""
        first, last = self.times or (event["time"], event["time"])
        self.times = min(first, event["time"]), max(last, event["time"])
        if counts and event["event"] in {"done", "failed"}:
            self.ended.add(event["video"])
        for stage, seconds in event.get("stages", {}).items():
            self.stage_s.setdefault(stage, Counter()).update(seconds)
        self.requests.update(event.get("requests", {}))
        add_engine_work(self.engines, event)


def read_history(run: RunDir) -> History:
    """Sum up the events of all shards."""
    history = History()
    voids = read_voids(run)
    for shard, path in run.state_paths():
        for event in read_events(path):
            history.add(event, counts="video" not in event or voids.counts(event["video"], shard))
    found = read_events(run.found_path)
    history.ended |= {event["video"] for event in found if voids.counts(event["video"], event["shard"])}
    return history


def note_found(run: RunDir, ends: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Write down what ended with a record and without an event: its worker died between the two."""
    if not ends:
        return
    log = ShardLog(run.found_path)
    last_shard = max((index for attempt in run.attempts() for index in run.shard_sizes(attempt)), default=-1)
    for video, record in ends:
        if record["status"] == "failed":
            log.append("failed", video=video, shard=last_shard, **record["failure"])
        else:
            stats = record["clip_stats"]
            clips, clip_s = stats["num_passed"], stats["total_clip_duration"]
            log.append("done", video=video, shard=last_shard, clips=clips, clip_s=clip_s)
    log.close()
