"""What a live worker tells of itself: a small file in the run folder, which goes when the worker does."""

import json
import logging
import os
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from curation.model import VideoTask, Window
from curation.pipeline import Pipeline, StageLook
from curation.storage.files import written_aside
from jobs.config import RunConfig
from jobs.ledger import whoami
from jobs.rundir import RunDir

logger = logging.getLogger(__name__)

TICK_S = 10.0
"""How often a worker looks at itself."""

_FIRST_S = 2.0  # after its start it tells of itself for the first time: somebody may be looking on
_WRITES_PER_S = 25.0
_LATELY_S = 60.0
_READERS = 16  # looking at a file on a network file system is waiting, mostly


def interval_s(num_workers: int) -> float:
    """Seconds between two writes of one worker, when so many work at once.

    10 s for up to 250 workers, and then such that all of them together write 25 files a second: 1,000 workers write
    every 40 s each. A write makes one file of some 2 kB and renames it, without fsync.
    """
    return max(TICK_S, num_workers / _WRITES_PER_S)


def workers_at_once(run: RunDir, config: RunConfig, attempt: int) -> int:
    """How many workers of an attempt are at work together, at most."""
    at_most = config.slurm.array_parallelism if config.cluster == "slurm" else config.local.parallel_shards
    return min(at_most, len(run.shard_sizes(attempt)))


@dataclass
class StageSeconds:
    """Of a stage's threads, and how many tasks wait before it.

    ``inside`` are the seconds of the stages that it runs in decode children.
    """

    busy_s: float = 0.0
    starved_s: float = 0.0
    blocked_s: float = 0.0
    num_queued: int = 0
    inside: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, look: StageLook) -> "StageSeconds":
        """To the millisecond."""
        times = {name: round(s, 3) for name, s in asdict(look.times).items()}
        inside = {name: round(s, 3) for name, s in look.inside.items()}
        return cls(**times, num_queued=look.num_queued, inside=inside)

    def since(self, before: "StageSeconds") -> "StageSeconds":
        """What was spent since an earlier look."""
        return StageSeconds(
            self.busy_s - before.busy_s,
            self.starved_s - before.starved_s,
            self.blocked_s - before.blocked_s,
            self.num_queued,
            {name: s - before.inside.get(name, 0.0) for name, s in self.inside.items()},
        )

    def add(self, other: "StageSeconds") -> None:
        """Add those of another worker."""
        self.busy_s += other.busy_s
        self.starved_s += other.starved_s
        self.blocked_s += other.blocked_s
        self.num_queued += other.num_queued
        for name, s in other.inside.items():
            self.inside[name] = self.inside.get(name, 0.0) + s


@dataclass
class Work:
    """What a worker did since it started, or in the last minute.

    Attributes:
        s: seconds in which it did that.
        clips: that are written, those of videos without an end included.
        windows: whose captions are written.
        output_tokens: of its engines.
        stages: in the order in which tasks go through them.
    """

    s: float = 0.0
    clips: int = 0
    windows: int = 0
    output_tokens: int = 0
    stages: dict[str, StageSeconds] = field(default_factory=dict)

    def since(self, before: "Work") -> "Work":
        """What was done since an earlier look."""
        return Work(
            self.s - before.s,
            self.clips - before.clips,
            self.windows - before.windows,
            self.output_tokens - before.output_tokens,
            {name: at.since(before.stages.get(name, StageSeconds())) for name, at in self.stages.items()},
        )


@dataclass
class ShardProgress:
    """``progress/shard-NNNNN.json``: how a live worker stands.

    Attributes:
        time: of the look, seconds since the epoch.
        holder: the process, as in its lease; another one's file says nothing of this one.
        num_begun: videos, or parts of videos, that are begun and not ended.
        clips_under_way: clips written of these; those of ended videos are in the shard's events.
        so_far: since the worker's start.
        lately: in the last minute of that, or a little more.
    """

    time: float
    holder: dict[str, Any]
    num_begun: int
    clips_under_way: int
    so_far: Work
    lately: Work


def progress_path(run: RunDir, shard: int) -> Path:
    """The file of a shard's worker."""
    return run.root / "progress" / f"shard-{shard:05d}.json"


def read_progress(run: RunDir, live: Mapping[int, Mapping[str, Any]]) -> dict[int, ShardProgress]:
    """What live workers tell, by shard; a worker that has not told anything yet is left out.

    Args:
        live: the holder of each live shard's lease.
    """

    def one(shard: int) -> ShardProgress | None:
        try:
            found = _parsed(json.loads(progress_path(run, shard).read_bytes()))
        except (OSError, ValueError, TypeError, KeyError):  # none, or one of another version
            return None
        is_its = all(found.holder.get(key) == live[shard].get(key) for key in ("boot", "pid", "started"))
        return found if is_its else None

    with ThreadPoolExecutor(_READERS) as pool:
        told = dict(zip(live, pool.map(one, live), strict=True))
    return {shard: found for shard, found in told.items() if found is not None}


def _parsed(document: dict[str, Any]) -> ShardProgress:
    works = {name: _work(document[name]) for name in ("so_far", "lately")}
    return ShardProgress(**{**document, **works})


def _work(document: dict[str, Any]) -> Work:
    stages = {name: StageSeconds(**seconds) for name, seconds in document["stages"].items()}
    return Work(**{**document, "stages": stages})


class ProgressTeller:
    """Counts what a worker does, and tells of it from a thread of its own; nothing that goes wrong here stops work."""

    def __init__(self, run: RunDir, shard: int, *, num_workers: int, sample: Callable[[], None] = lambda: None) -> None:
        """Nothing is written yet.

        Args:
            num_workers: at work at once, this one among them.
            sample: called with each look, about every 10 s.
        """
        self._path, self._interval_s, self._sample = progress_path(run, shard), interval_s(num_workers), sample
        self._holder = {key: value for key, value in whoami().items() if key in ("host", "boot", "pid", "started")}
        self._started = time.monotonic()
        self._begun: Counter[str] = Counter()  # by key of what is begun: its clips
        self._num_clips = self._num_windows = 0
        self._past: deque[Work] = deque([Work()])
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def num_windows(self) -> int:
        """Whose captions are written."""
        return self._num_windows

    def begin(self, key: str) -> None:
        """A video, or a part of one, was begun."""
        with self._lock:
            self._begun[key] = 0

    def add(self, task: VideoTask) -> None:
        """A task has left the last stage: its clips are written."""
        clips = task.data.clips if task.data.failure is None else []
        with self._lock:
            self._num_clips += len(clips)
            self._num_windows += sum(_num_captioned(clip.windows) for clip in clips)
            if task.task_id in self._begun:
                self._begun[task.task_id] += len(clips)

    def end(self, key: str) -> None:
        """It came to its end."""
        with self._lock:
            self._begun.pop(key, None)

    def start(self, pipeline: Pipeline) -> None:
        """Begin to tell."""
        self._thread = threading.Thread(target=self._tell_on, args=(pipeline,), name="progress", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tell no more, and take the file away."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(1.0)
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _tell_on(self, pipeline: Pipeline) -> None:
        # workers of an array start together: each begins at a moment of its own
        wait_s = _FIRST_S + random.uniform(0.0, self._interval_s - TICK_S)
        next_write = time.monotonic() + wait_s
        while not self._ended.wait(min(wait_s, TICK_S)):
            self._sample()
            if time.monotonic() >= next_write:
                next_write = time.monotonic() + self._interval_s
                self._tell(pipeline)
            wait_s = max(0.5, next_write - time.monotonic())

    def _tell(self, pipeline: Pipeline) -> None:
        document = asdict(self.look(pipeline))
        try:
            with written_aside(self._path) as (file, aside):
                file.write(json.dumps(document).encode())
                file.flush()
                if not self._ended.is_set():
                    os.replace(aside, self._path)
        except OSError as error:
            logger.warning("event=progress_not_written path=%s error=%s", self._path, error)

    def look(self, pipeline: Pipeline) -> ShardProgress:
        """How the worker stands now."""
        with self._lock:
            num_begun, under_way = len(self._begun), self._begun.total()
            clips, windows = self._num_clips, self._num_windows
        tokens = sum(use["output_tokens"] for use in pipeline.measures.get("captions", {}).values())
        stages = {look.name: StageSeconds.of(look) for look in pipeline.looks()}
        now = Work(round(time.monotonic() - self._started, 3), clips, windows, tokens, stages)
        while len(self._past) > 1 and now.s - self._past[1].s >= _LATELY_S:
            self._past.popleft()
        lately = now.since(self._past[0])
        self._past.append(now)
        return ShardProgress(round(time.time(), 3), self._holder, num_begun, under_way, now, lately)


def _num_captioned(windows: Iterable[Window]) -> int:
    """How many of these windows have a caption."""
    return sum(any(each.status != "error" for each in window.caption_outcomes.values()) for window in windows)
