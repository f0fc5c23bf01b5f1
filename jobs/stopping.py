"""How a worker hears that it is to stop: by signals, whatever its main thread is in the middle of."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from jobs.exits import INCOMPLETE

logger = logging.getLogger(__name__)

TIME_LIMIT = signal.SIGUSR2
STOP_SIGNALS = (TIME_LIMIT, signal.SIGTERM, signal.SIGINT)
_PATIENCE_S = 1.0


class StopSignals:
    """Listens to the stop signals, as a context; puts the handlers that were there before back.

    A thread learns of a signal as soon as the system delivers it: Python's own handlers run when the main thread comes
    back from C, which a driver may put off for minutes. Anywhere but in the main thread nothing is listened to.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.seen: list[signal.Signals] = []
        self._call: Callable[[], None] | None = None
        self._before: dict[signal.Signals, object] = {}
        self._lock = threading.Lock()
        self._ears, self._mouth = socket.socketpair()

    @property
    def is_time_limit(self) -> bool:
        """Whether the wall time's end, and nothing else, is why this process stops."""
        return bool(self.seen) and all(number == TIME_LIMIT for number in self.seen)

    def call(self, function: Callable[[], None]) -> None:
        """Have a function called at the first signal: at once, where that has come already."""
        with self._lock:
            self._call = function
            has_come = self.stop.is_set()
        if has_come:
            function()

    def __enter__(self) -> "StopSignals":
        self._listener = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._listener.start()
        if threading.current_thread() is threading.main_thread():
            self._mouth.setblocking(False)
            self._fd_before = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
            for number in STOP_SIGNALS:
                self._before[number] = signal.signal(number, _heard)
        return self

    def _listen(self) -> None:
        while numbers := self._ears.recv(64):
            for number in numbers:
                if number in STOP_SIGNALS:
                    self._on_signal(signal.Signals(number))

    def _on_signal(self, number: signal.Signals) -> None:
        self.seen.append(number)
        logger.warning("event=signal signal=%s", number.name)
        with self._lock:
            function = None if self.stop.is_set() else self._call
            self.stop.set()
        if function is not None:
            function()

    def __exit__(self, *_: object) -> None:
        if self._before:
            signal.set_wakeup_fd(self._fd_before)
            for number, handler in self._before.items():
                signal.signal(number, handler)  # type: ignore[arg-type]
        self._mouth.close()
        self._listener.join(_PATIENCE_S)  # it may be in the middle of what it calls
        self._ears.close()


def _heard(_number: int, _frame: object) -> None:
    """The listening thread knows already; this keeps the signal's own default from ending the process."""


def end_process(code: int) -> NoReturn:
    """End a worker's process with an exit code; one that was told to stop waits for no library's last rites."""
    if code != INCOMPLETE:
        sys.exit(code)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
