"""A stage at work: its threads take from one queue and put into the next, each video's tasks in their order."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from curation.model import VideoTask
from curation.pipeline.queues import ByteBoundedQueue
from curation.pipeline.stage import BatchStage, Stage, apply_batch, apply_stage

_POLL_S = 0.1


@dataclass
class StageTimes:
    """Where the seconds of a stage's threads went: working, waiting for tasks, waiting for room behind it."""

    busy_s: float = 0.0
    starved_s: float = 0.0
    blocked_s: float = 0.0


class StageRun:
    """A stage at work: its threads take from one queue and put into the next."""

    def __init__(
        self, stage: Stage, source: ByteBoundedQueue, into: ByteBoundedQueue, times: StageTimes, stop: threading.Event
    ) -> None:
        self.stage = stage
        self._source, self._into, self._times = source, into, times
        self._turns = _Turns(source, stage, stop)
        self._lock = threading.Lock()
        self._is_set_up = False
        self._num_at_work = stage.num_workers

    def work(self) -> None:
        """What each thread does."""
        spent, clock = StageTimes(), _Clock()
        with self._lock:  # one sets up, the others wait
            if not self._is_set_up:
                self.stage.setup()
                self._is_set_up = True
        spent.busy_s += clock.lap_s()
        while (turn := self._next_turn()) is not None:
            spent.starved_s += clock.lap_s()
            has_room = self._hand_on(turn, spent, clock)
            self._turns.give_back(turn)
            if not has_room:
                return
        self._source.put(None)  # for the threads beside this one
        self._leave(spent, clock)

    def _next_turn(self) -> "_Turn | None":
        while True:
            try:
                return self._turns.take()
            except TimeoutError:
                self._put_held()

    def _put_held(self) -> None:
        for result in self.stage.drained():
            self._into.put(result)

    def _results(self, task: VideoTask) -> Iterator[VideoTask]:
        if not isinstance(self.stage, BatchStage):
            return apply_stage(self.stage, task)
        return apply_batch(self.stage, [task, *self._source.get_present(self.stage.batch_size - 1)])

    def _hand_on(self, turn: "_Turn", spent: StageTimes, clock: "_Clock") -> bool:
        """Hand on what becomes of a task, when it is its turn; False when the pipeline was stopped."""
        for result in self._results(turn.task):
            spent.busy_s += clock.lap_s()
            has_room = self._turns.wait_for(turn) and self._into.put(result)
            spent.blocked_s += clock.lap_s()
            if not has_room:
                return False
        spent.busy_s += clock.lap_s()
        return self._turns.wait_for(turn)

    def _leave(self, spent: StageTimes, clock: "_Clock") -> None:
        with self._lock:
            self._num_at_work -= 1
            is_last = self._num_at_work == 0
        if is_last:
            self._put_held()
            spent.busy_s += clock.lap_s()
        with self._lock:
            self._times.busy_s += spent.busy_s
            self._times.starved_s += spent.starved_s
            self._times.blocked_s += spent.blocked_s
        if is_last:
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


class _Clock:
    """Seconds since the last look."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap_s(self) -> float:
        now = time.monotonic()
        lap, self._last = now - self._last, now
        return lap
