"""Models that a worker's process holds once, whoever uses them."""

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray


class ResidentModel(ABC):
    """Stays in the worker's process. What is sent to a decode child only refers to it, and calls it over a pipe."""

    @abstractmethod
    def setup(self) -> None:
        """Load it; again does nothing."""

    @abstractmethod
    def __call__(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Results for a batch, one row each; may be called by several threads at once."""


BatchFunction: TypeAlias = Callable[[NDArray[Any]], NDArray[np.float32]]
"""Maps rows to results, one each; what comes of a row does not depend on the others."""


class CombinedCalls:
    """Makes one batch of the calls that several threads make at the same time.

    A call that finds nobody at work runs what is waiting; those that come meanwhile wait, and one of them runs the next
    batch. Nobody waits for a batch to fill. Rows of unequal shape or type are never in one batch.
    """

    def __init__(self, run: BatchFunction, *, max_batch: int) -> None:
        """``run`` gets at most ``max_batch`` rows, or one call's own where these are more; never two calls at once."""
        if max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, got {max_batch}")
        self._run, self._max_batch = run, max_batch
        self._changed = threading.Condition()
        self._waiting: deque[_Call] = deque()
        self._is_running = False

    def __call__(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Results for these rows alone; raises what ``run`` raises for them alone."""
        call = _Call(batch)
        with self._changed:
            self._waiting.append(call)
            self._changed.wait_for(lambda: call.is_done or not self._is_running)
            is_leader = not call.is_done
            self._is_running = self._is_running or is_leader
        if is_leader:
            self._lead(call)
        return call.outcome()

    def _lead(self, own: "_Call") -> None:
        """Run batches until one held the own call, then leave the rest to whoever waits."""
        try:
            while not own.is_done:
                with self._changed:
                    together = self._take()
                _run_together(self._run, together)
                with self._changed:
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._is_running = False
                self._changed.notify_all()

    def _take(self) -> list["_Call"]:
        """The call that waits longest and those after it that fit in a batch with it."""
        together = [self._waiting.popleft()]
        num_rows = len(together[0].batch)
        while self._waiting and together[0].is_like(self._waiting[0]):
            num_rows += len(self._waiting[0].batch)
            if num_rows > self._max_batch:
                break
            together.append(self._waiting.popleft())
        return together


class _Call:
    """One thread's rows, and what came of them."""

    def __init__(self, batch: NDArray[Any]) -> None:
        self.batch = batch
        self.rows: NDArray[np.float32] | None = None
        self.error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self.rows is not None or self.error is not None

    def is_like(self, other: "_Call") -> bool:
        return (self.batch.shape[1:], self.batch.dtype) == (other.batch.shape[1:], other.batch.dtype)

    def outcome(self) -> NDArray[np.float32]:
        if self.error is not None:
            raise self.error
        assert self.rows is not None
        return self.rows


def _run_together(run: BatchFunction, calls: Sequence[_Call]) -> None:
    """Run calls as one batch; where that fails each alone, so that only the one at fault fails."""
    try:
        rows = run(np.concatenate([call.batch for call in calls]) if len(calls) > 1 else calls[0].batch)
        ends = np.cumsum([len(call.batch) for call in calls])
        for call, end in zip(calls, ends.tolist(), strict=True):
            call.rows = rows[end - len(call.batch) : end]
    except BaseException as error:  # noqa: BLE001 - each caller raises its own
        if len(calls) == 1 or not isinstance(error, Exception):
            for call in calls:
                call.error = error
            return
        for call in calls:
            _run_together(run, [call])
