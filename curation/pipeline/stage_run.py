"""A stage at work: its threads take from one queue and put into the next, each video's tasks in their order."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from curation.model import VideoTask
from curation.pipeline.queues import ByteBoundedQueue
from curation.pipeline.stage import BatchStage, Stage, apply_batch, apply_stage

_POLL_S = 0.1
_Doing = Literal["busy", "starved", "blocked", "ended"]


@dataclass
class StageTimes:
    """Where the seconds of a stage's threads went: working, waiting for tasks, waiting for room behind it."""

    busy_s: float = 0.0
    starved_s: float = 0.0
    blocked_s: float = 0.0

    def add(self, other: "StageTimes") -> None:
        """Add the seconds of other threads."""
        self.busy_s += other.busy_s
        self.starved_s += other.starved_s
        self.blocked_s += other.blocked_s


@dataclass(frozen=True, slots=True)
class StageLook:
    """How a stage stands at one moment.

    Attributes:
        times: thread-seconds so far, what its threads are at included.
        num_queued: tasks that wait before it.
        inside: seconds of the stages that it runs in decode children, by name; empty for others.
    """

    name: str
    times: StageTimes
    num_queued: int
    inside: dict[str, float] = field(default_factory=dict)


class StageRun:
    """A stage at work: its threads take from one queue and put into the next."""

    def __init__(self, stage: Stage, source: ByteBoundedQueue, into: ByteBoundedQueue, stop: threading.Event) -> None:
        self.stage = stage
        self._source, self._into = source, into
        self._turns = _Turns(source, stage, stop)
        self._lock = threading.Lock()
        self._is_set_up = False
        self._num_at_work = stage.num_workers
        self._meters: list[_Meter] = []  # one for each thread; only appended to

    @property
    def times(self) -> StageTimes:
        """Of all threads so far; any thread may ask at any time."""
        times = StageTimes()
        for meter in list(self._meters):
            times.add(meter.so_far())
        return times

    @property
    def num_queued(self) -> int:
        """Tasks that wait before the stage."""
        return self._source.num_tasks

    def work(self) -> None:
        """What each thread does."""
        meter = _Meter()
        self._meters.append(meter)
        try:
            self._work(meter)
        finally:
            meter.turn_to("ended")

    def _work(self, meter: "_Meter") -> None:
        with self._lock:  # one sets up, the others wait
            if not self._is_set_up:
                self.stage.setup()
                self._is_set_up = True
        while (turn := self._next_turn(meter)) is not None:
            has_room = self._hand_on(turn, meter)
            self._turns.give_back(turn)
            if not has_room:
                return
        self._source.put(None)  # for the threads beside this one
        self._leave(meter)

    def _next_turn(self, meter: "_Meter") -> "_Turn | None":
        while True:
            meter.turn_to("starved")
            try:
                return self._turns.take()
            except TimeoutError:
                meter.turn_to("busy")
                self._put_held()

    def _put_held(self) -> None:
        for result in self.stage.drained():
            self._into.put(result)

    def _results(self, task: VideoTask) -> Iterator[VideoTask]:
        if not isinstance(self.stage, BatchStage):
            return apply_stage(self.stage, task)
        return apply_batch(self.stage, [task, *self._source.get_present(self.stage.batch_size - 1)])

    def _hand_on(self, turn: "_Turn", meter: "_Meter") -> bool:
        """Hand on what becomes of a task, when it is its turn; False when the pipeline was stopped."""
        meter.turn_to("busy")
        for result in self._results(turn.task):
            meter.turn_to("blocked")
            if not (self._turns.wait_for(turn) and self._into.put(result)):
                return False
            meter.turn_to("busy")
        meter.turn_to("blocked")
        return self._turns.wait_for(turn)

    def _leave(self, meter: "_Meter") -> None:
        with self._lock:
            self._num_at_work -= 1
            is_last = self._num_at_work == 0
        if is_last:
            meter.turn_to("busy")
            self._put_held()
            meter.turn_to("blocked")
            self._into.put(None)


@dataclass(eq=False, slots=True)
class _Turn:
    """A task that a thread has taken, what it is about, and the bytes that it held then."""

    task: VideoTask
    key: str
    num_bytes: int


class _Turns:
    """Lets tasks of one video leave a stage in the order in which they came, whichever thread is done first.

    Threads take no further task while those that they have hold the stage's ``max_held_bytes`` or more.
    """

    def __init__(self, source: ByteBoundedQueue, stage: Stage, stop: threading.Event) -> None:
        self._source, self._stop = source, stop
        self._max_held_bytes, self._max_idle_s = stage.max_held_bytes, stage.max_idle_s
        self._taking = threading.Lock()
        self._changed = threading.Condition()
        self._held_bytes = 0
        self._of_video: dict[str, deque[_Turn]] = {}

    def take(self) -> _Turn | None:
        """The next task; None at the end, or when the pipeline was stopped.

        Raises:
            TimeoutError: none came for the stage's ``max_idle_s``.
        """
        with self._taking:
            with self._changed:
                while self._is_full() and not self._stop.is_set():
                    self._changed.wait(_POLL_S)
            task = self._source.get(timeout_s=self._max_idle_s)
            if task is None:
                return None
            num_bytes = task.data.get_major_size() if self._max_held_bytes is not None else 0
            turn = _Turn(task, task.data.key, num_bytes)
            with self._changed:
                self._held_bytes += turn.num_bytes
                self._of_video.setdefault(turn.key, deque()).append(turn)
            return turn

    def _is_full(self) -> bool:
        return self._max_held_bytes is not None and self._held_bytes >= self._max_held_bytes

    def wait_for(self, turn: _Turn) -> bool:
        """Wait until those of the same video that came before are gone; False when the pipeline was stopped."""
        with self._changed:
            while self._of_video[turn.key][0] is not turn and not self._stop.is_set():
                self._changed.wait(_POLL_S)
        return not self._stop.is_set()

    def give_back(self, turn: _Turn) -> None:
        """The task has left the stage."""
        with self._changed:
            key = turn.key
            self._of_video[key].remove(turn)
            if not self._of_video[key]:
                del self._of_video[key]
            self._held_bytes -= turn.num_bytes
            self._changed.notify_all()


class _Meter:
    """Where the seconds of one thread go; others may look while it is at work."""

    def __init__(self) -> None:
        # replaced as a whole: who looks never sees half of it, and nobody waits
        self._state: tuple[StageTimes, _Doing, float] = (StageTimes(), "busy", time.monotonic())

    def turn_to(self, doing: _Doing) -> None:
        """From now on the thread does this."""
        now = time.monotonic()
        self._state = (self._until(now), doing, now)

    def so_far(self) -> StageTimes:
        """Until now."""
        return self._until(time.monotonic())

    def _until(self, now: float) -> StageTimes:
        times, doing, since = self._state
        s = max(0.0, now - since)
        return StageTimes(
            times.busy_s + s * (doing == "busy"),
            times.starved_s + s * (doing == "starved"),
            times.blocked_s + s * (doing == "blocked"),
        )
