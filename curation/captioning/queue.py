"""One continuous queue of requests into the engines: no barrier per video or batch, replies matched by id."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from curation.captioning.requests import (
    CaptionEngine,
    CaptionReply,
    CaptionRequest,
    EngineDiedError,
    EngineStartError,
    RequestRefusedError,
)

logger = logging.getLogger(__name__)

StartEngine = Callable[[], CaptionEngine]

_MAX_STARTS = 3
_MAX_DEATHS_IN_A_ROW = 6  # without one answer between them: then it is not the requests' fault
_ADDED_PER_STEP = 4  # to an engine at work: making inputs takes milliseconds in which no answer is heard
_WATCH_S = 1.0


class QueueClosedError(Exception):
    """The queue was closed before the request was answered."""


@dataclass
class EngineUse:
    """What engines did: seconds in which they had work, tokens of what they answered, how often one was replaced."""

    engine_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    num_restarts: int = 0


class CaptionQueue:
    """Feeds engines with requests as they come, and gives each its own reply.

    An engine that dies is replaced, and what it was at is tried again, ``max_tries`` times in all, the last time alone:
    only a request that kills engines by itself fails for it.
    """

    def __init__(
        self,
        engines: Sequence[StartEngine],
        *,
        max_in_engine: int = 64,
        max_tries: int = 3,
        stall_timeout_s: float = 600.0,
    ) -> None:
        """Nothing is started yet.

        Args:
            engines: how each is started; they take from the same queue.
            max_in_engine: requests that are in one engine at once.
            max_tries: engines that a request may be in when they die.
            stall_timeout_s: an engine with work that gives no sign for so long is ended, as if it had died.
        """
        self.use = EngineUse()
        self._max_tries = max_tries
        self._stall_timeout_s = stall_timeout_s
        self._changed = threading.Condition()
        self._waiting: deque[_Asked] = deque()
        self._known: set[str] = set()
        self._is_closed = self._rests = False
        self._error: BaseException | None = None
        self._drivers = [_Driver(self, start, max_in_engine) for start in engines]
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the engines, in threads of their own; does not wait for them."""
        with self._changed:
            if self._threads or self._is_closed:
                return
            targets = [(f"engine-{k}", driver.work) for k, driver in enumerate(self._drivers)]
            self._threads = [
                threading.Thread(target=target, name=name, daemon=True)
                for name, target in [*targets, ("engine-watch", self._watch)]
            ]
        for thread in self._threads:
            thread.start()

    def submit(self, request: CaptionRequest) -> "Future[CaptionReply]":
        """Queue a request; the future gives its reply.

        Raises:
            ValueError: another request with this id is under way.
            QueueClosedError: nothing is taken any more.
            StopRunError: no engine can be started.
        """
        asked = _Asked(request)
        with self._changed:
            if self._error is not None:
                raise self._error
            if self._is_closed:
                raise QueueClosedError
            if request.id in self._known:
                raise ValueError(f"a request with the id {request.id!r} is under way")
            self._known.add(request.id)
            self._waiting.append(asked)
            self._changed.notify_all()
        self.start()
        return asked.reply

    def rest(self) -> None:
        """Let the engines finish what they are at, and end them; what is asked meanwhile waits for ``wake``.

        Raises:
            StopRunError: as ``submit``.
        """
        with self._changed:
            self._rests = True
            self._changed.notify_all()
            while not self._has_ended() and any(driver.engine is not None for driver in self._drivers):
                self._changed.wait()
            if self._error is not None:
                raise self._error

    def wake(self) -> None:
        """Go on after ``rest``: engines start again when there is work for them."""
        with self._changed:
            self._rests = False
            self._changed.notify_all()

    def close(self) -> None:
        """End the engines; what was not answered ends with QueueClosedError."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for driver in self._drivers:
            if driver.asked:
                driver.interrupt()
        for thread in self._threads:
            thread.join()
        self._give_up(QueueClosedError())

    def _give_up(self, error: BaseException) -> None:
        """Answer all that is waiting with an error."""
        with self._changed:
            waiting = list(self._waiting)
            self._waiting.clear()
        for asked in waiting:
            asked.reply.set_exception(error)

    def fail(self, error: BaseException) -> None:
        """No engine can be had: all requests, and those to come, end with this."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()
        self._give_up(error)

    def take(self, *, is_idle: bool) -> "_Asked | None":
        """The next request, for an engine that is idle or not: one that may be what kills engines goes in alone."""
        with self._changed:
            if not self._waiting or self._rests or self._is_closed:
                return None
            if self._waiting[0].num_deaths >= self._max_tries - 1 and not is_idle:
                return None
            return self._waiting.popleft()

    def is_suspect(self, asked: "_Asked") -> bool:
        """Whether it was there at so many deaths that it is tried alone."""
        return asked.num_deaths >= self._max_tries - 1

    def settle(self, asked: "_Asked", reply: CaptionReply) -> None:
        """Give a request its reply."""
        with self._changed:
            self._known.discard(asked.request.id)
            self.use.prompt_tokens += reply.prompt_tokens
            self.use.output_tokens += reply.output_tokens
        asked.reply.set_result(reply)

    def try_again(self, died: Sequence["_Asked"], cause: EngineDiedError) -> None:
        """Put back what an engine was at when it died; what was there too often ends as an error."""
        with self._changed:
            self.use.num_restarts += 1
            for asked in died:
                asked.num_deaths += 1
            again = [asked for asked in died if asked.num_deaths < self._max_tries]
            self._waiting.extendleft(reversed(again))
            self._changed.notify_all()
        for asked in died:
            if asked.num_deaths >= self._max_tries:
                reason = f"its engine died {asked.num_deaths} times: {cause}"
                self.settle(asked, CaptionReply.refused(asked.request.id, reason))

    def wait_for_work(self, driver: "_Driver") -> bool:
        """Wait until a driver has requests, or an engine to start or to end; False when the queue has ended."""
        with self._changed:
            while not self._has_ended() and not self._has_work(driver):
                self._changed.wait()
            return not self._has_ended()

    def _has_work(self, driver: "_Driver") -> bool:
        if driver.asked:
            return True
        return driver.engine is not None if self._rests else bool(self._waiting) or not driver.has_begun

    def _has_ended(self) -> bool:
        return self._is_closed or self._error is not None

    @property
    def error(self) -> BaseException | None:
        """Why no engine can be had."""
        return self._error

    def should_rest(self) -> bool:
        """Whether engines are to end once they are idle."""
        with self._changed:
            return self._rests

    def changed(self) -> None:
        """Wake up whoever waits for an engine to start or end."""
        with self._changed:
            self._changed.notify_all()

    def count_work(self, seconds: float) -> None:
        """Note that an engine was at work."""
        with self._changed:
            self.use.engine_s += seconds

    def _watch(self) -> None:
        """End engines that hang. A turn that took far longer than it should was spent suspended, together with them."""
        with self._changed:
            began = time.monotonic()
            while not self._changed.wait_for(self._has_ended, _WATCH_S):
                slept_s, began = time.monotonic() - began, time.monotonic()
                for driver in self._drivers:
                    driver.excuse(max(0.0, slept_s - 2 * _WATCH_S))
                    if driver.silent_s() > self._stall_timeout_s:
                        logger.warning("event=engine_stalled seconds=%.0f: it is ended", driver.silent_s())
                        driver.interrupt()


class _Asked:
    """A request, and what is known of it."""

    def __init__(self, request: CaptionRequest) -> None:
        self.request = request
        self.reply: Future[CaptionReply] = Future()
        self.num_deaths = 0


class _Driver:
    """One engine and the thread that uses it."""

    def __init__(self, queue: CaptionQueue, start: StartEngine, max_in_engine: int) -> None:
        self._queue, self._start, self._max_in_engine = queue, start, max_in_engine
        self.engine: CaptionEngine | None = None
        self.has_begun = False  # its first engine starts before there is work
        self.asked: dict[str, _Asked] = {}
        self._last_sign = time.monotonic()
        self._deaths_in_a_row = 0

    def work(self) -> None:
        """What its thread does until the queue is closed."""
        try:
            while self._queue.wait_for_work(self):
                self._work_once()
        except BaseException as error:  # noqa: BLE001  (a thread's last line: raised again where requests are made)
            self._queue.fail(error)
        finally:
            self._end_engine()
            for asked in self.asked.values():
                asked.reply.set_exception(self._queue.error or QueueClosedError())
            self.asked = {}

    def _work_once(self) -> None:
        self.has_begun = True
        if not self.asked and self._queue.should_rest():
            self._end_engine()
            return
        try:
            if self.engine is None:
                self.engine = self._started()
            self._sign()
            began = time.monotonic()
            self._fill(self.engine)
            if self.asked:
                for reply in self.engine.step():
                    self._settle(reply)
                self._queue.count_work(time.monotonic() - began)
            self._sign()
        except EngineDiedError as error:
            self._engine_died(error)

    def _fill(self, engine: CaptionEngine) -> None:
        """Add what waits, as far as there is room."""
        room = self._max_in_engine - len(self.asked)
        for _ in range(min(room, _ADDED_PER_STEP) if self.asked else room):
            if len(self.asked) == 1 and any(self._queue.is_suspect(asked) for asked in self.asked.values()):
                return
            asked = self._queue.take(is_idle=not self.asked)
            if asked is None:
                return
            self.asked[asked.request.id] = asked
            try:
                engine.add(asked.request)
            except RequestRefusedError as error:
                self._settle(CaptionReply.refused(asked.request.id, str(error)))

    def _settle(self, reply: CaptionReply) -> None:
        asked = self.asked.pop(reply.id, None)
        if asked is None:
            logger.warning("event=unknown_reply id=%s: it belongs to no request and is dropped", reply.id)
            return
        self._deaths_in_a_row = 0
        self._queue.settle(asked, reply)

    def _started(self) -> CaptionEngine:
        """A new engine.

        Raises:
            EngineStartError: there is none to be had.
        """
        for attempt in range(1, _MAX_STARTS + 1):
            try:
                began = time.monotonic()
                engine = self._start()
                logger.info("event=engine_started seconds=%.1f", time.monotonic() - began)
                return engine
            except EngineStartError:
                raise
            except Exception as error:
                logger.warning("event=engine_start_failed attempt=%d error=%s", attempt, error)
                if attempt == _MAX_STARTS:
                    message = f"no caption engine can be started, {attempt} times: {type(error).__name__}: {error}"
                    raise EngineStartError(message) from error
        raise AssertionError("unreachable")

    def _engine_died(self, error: EngineDiedError) -> None:
        self._end_engine()
        self._deaths_in_a_row += 1
        died, self.asked = list(self.asked.values()), {}
        logger.warning("event=engine_died requests=%d error=%s: another is started", len(died), error)
        self._queue.try_again(died, error)
        if self._deaths_in_a_row >= _MAX_DEATHS_IN_A_ROW:
            message = f"caption engines died {self._deaths_in_a_row} times without one answer, the last: {error}"
            raise EngineStartError(message) from error

    def _end_engine(self) -> None:
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.close()
        self._queue.changed()

    def _sign(self) -> None:
        self._last_sign = time.monotonic()

    def excuse(self, seconds: float) -> None:
        """Do not count so many seconds of silence."""
        self._last_sign += seconds

    def silent_s(self) -> float:
        """Seconds since an engine with work gave a sign; 0 without work."""
        return time.monotonic() - self._last_sign if self.asked else 0.0

    def interrupt(self) -> None:
        """End an engine that its thread may be waiting for."""
        engine = self.engine
        if engine is not None:
            engine.kill()
