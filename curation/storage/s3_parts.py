"""Parts of one object that are on their way at the same time."""

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from types import TracebackType
from typing import Self


class PartsAtOnce:
    """Runs what is submitted, a bounded number at a time; at the block's end all of it is done, or none goes on."""

    def __init__(self, pool: Executor, at_once: int) -> None:
        self._pool = pool
        self._at_once = at_once
        self._running: set[Future[None]] = set()

    def submit(self, run: Callable[[], None]) -> None:
        """Run it soon; waits while as many as may be are running. Raises what one that has ended raised."""
        while len(self._running) >= self._at_once:
            self._take(wait(self._running, return_when=FIRST_COMPLETED).done)
        self._running.add(self._pool.submit(run))

    def finish(self) -> None:
        """Wait for all; raises what one of them raised."""
        self._take(wait(self._running).done)

    def stop(self) -> None:
        """Nothing of it runs any more when this returns."""
        for each in self._running:
            each.cancel()
        wait(self._running)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.stop()

    def _take(self, done: set[Future[None]]) -> None:
        self._running -= done
        for each in done:
            each.result()
