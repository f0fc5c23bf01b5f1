"""What the events of all shards tell together, and what only the records knew."""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jobs.again import read_voids
from jobs.captions import EngineWork, add_engine_work
from jobs.ledger import ShardLog, read_events
from jobs.parts import video_of
from jobs.rundir import RunDir


@dataclass
class TimeSpent:
    """How long workers and videos took, from the logs of shards, one after the other.

    Of each video a few bytes are kept, not its name. Long videos in parts are few; theirs are.

    Attributes:
        worker_s: from each start of a worker to its end; of a killed one to the last that it said.
        cpu_s: of the workers that told, out of ``cpu_room_s`` that they had.
        gpu_busy_s: of the workers that told, out of ``gpu_known_s``.
        video_s: from the begin of each video, in whatever worker did it, to when it was done.
    """

    worker_s: float = 0.0
    cpu_s: float = 0.0
    cpu_room_s: float = 0.0
    gpu_busy_s: float = 0.0
    gpu_known_s: float = 0.0
    video_s: "array[float]" = field(default_factory=lambda: array("f"))
    _begun: "array[int]" = field(default_factory=lambda: array("q"))  # hashes of videos
    _released: "array[int]" = field(default_factory=lambda: array("q"))
    _life: tuple[float, float] | None = None  # of the worker whose events come
    _since: dict[str, float] = field(default_factory=dict)  # when it began each video
    _parts_begun: Counter[str] = field(default_factory=Counter)
    _parts_since: dict[str, float] = field(default_factory=dict)  # of the first part of each video
    _parts_done: dict[str, float] = field(default_factory=dict)

    def add(self, event: Mapping[str, Any]) -> None:
        """Take in the next event of a shard's log."""
        kind, time_s = event["event"], event["time"]
        if kind == "start":
            self.end_log()
        first, last = self._life or (time_s, time_s)
        self._life = first, max(last, time_s)
        if "video" in event:
            self._note(kind, event["video"], time_s)
        if kind == "end":
            self._note_load(event, self._life[1] - first)
            self.end_log()

    def end_log(self) -> None:
        """The log ends here, or another worker goes on with it."""
        if self._life is not None:
            self.worker_s += self._life[1] - self._life[0]
        self._life = None
        self._since.clear()

    def _note(self, kind: str, key: str, time_s: float) -> None:
        if "//" in key:
            self._parts_begun[key] += {"begin": 1, "released": -1}.get(kind, 0)
            if kind == "begin":
                self._parts_since[video_of(key)] = min(time_s, self._parts_since.get(video_of(key), time_s))
        elif kind == "begin":
            self._begun.append(hash(key))
            self._since[key] = time_s
        elif kind == "released":
            self._released.append(hash(key))
        elif kind == "done" and key in self._since:
            self.video_s.append(time_s - self._since.pop(key))
        elif kind == "done":
            self._parts_done[key] = time_s

    def _note_load(self, end: Mapping[str, Any], life_s: float) -> None:
        cpu_s, num_cpus, gpu_busy = (end.get(name) for name in ("cpu_s", "num_cpus", "gpu_busy"))
        if cpu_s is not None and num_cpus:
            self.cpu_s += cpu_s
            self.cpu_room_s += num_cpus * life_s
        if gpu_busy is not None:
            self.gpu_busy_s += gpu_busy * life_s
            self.gpu_known_s += life_s

    @property
    def cpu_busy(self) -> float | None:
        """Share of the CPUs' time that was used, 0 to 1; None where no worker told."""
        return min(1.0, self.cpu_s / self.cpu_room_s) if self.cpu_room_s > 0 else None

    @property
    def gpu_busy(self) -> float | None:
        """Mean share of the time in which the GPUs were at work, 0 to 1; None where no worker told."""
        return self.gpu_busy_s / self.gpu_known_s if self.gpu_known_s > 0 else None

    @property
    def num_retries(self) -> int:
        """How often a video, or a part of one, was begun again; after a clean stop that does not count."""
        videos, num_begun = np.unique(np.frombuffer(self._begun, np.int64), return_counts=True)
        released, num_released = np.unique(np.frombuffer(self._released, np.int64), return_counts=True)
        is_known = np.isin(released, videos)
        num_begun[np.searchsorted(videos, released[is_known])] -= num_released[is_known]
        of_parts = sum(
            max(0, count - (video_of(part) not in self._parts_done))  # a part's end is a release, too
            for part, count in self._parts_begun.items()
        )
        return int(np.maximum(num_begun - 1, 0).sum()) + of_parts

    def video_percentiles_s(self, *percents: float) -> list[float | None]:
        """Of the seconds from a video's begin to when it was done; of one in parts from its first part's begin."""
        of_parts = [
            done - self._parts_since[video] for video, done in self._parts_done.items() if video in self._parts_since
        ]
        every = np.concatenate([np.frombuffer(self.video_s, np.float32), np.array(of_parts, np.float32)])
        return [float(np.percentile(every, percent)) if len(every) else None for percent in percents]


@dataclass
class History:
    """What the events of all shards tell."""

    times: tuple[float, float] | None = None
    ended: set[str] = field(default_factory=set)
    stage_s: dict[str, Counter[str]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)  # that workers sent to S3, by kind
    engines: dict[str, EngineWork] = field(default_factory=dict)  # by key of captions
    spent: TimeSpent = field(default_factory=TimeSpent)

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
        self.spent.add(event)


def read_history(run: RunDir) -> History:
    """Sum up the events of all shards."""
    history = History()
    voids = read_voids(run)
    for shard, path in run.state_paths():
        for event in read_events(path):
            history.add(event, counts="video" not in event or voids.counts(event["video"], shard))
        history.spent.end_log()
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
