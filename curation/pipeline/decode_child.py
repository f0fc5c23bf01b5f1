"""What a decode child runs: ``python -m curation.pipeline.decode_child FD PARENT``, started by ``DecodeChildren``.

Everything that reads other people's files happens here, so that a decoder which spins, leaks or crashes takes no more
with it than this process and the video that it is at.
"""

import contextlib
import ctypes
import faulthandler
import logging
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.errors import StopRunError
from curation.model import VideoTask
from curation.pipeline.allocator import give_back_large_blocks
from curation.pipeline.stage import Stage, apply_stage
from curation.pipeline.wire import Message, load_stages, receive, send
from curation.resident import ResidentModel
from curation.storage.counts import request_counts
from curation.video import progress
from curation.video.remote import close_remote

_SIGN_OF_LIFE_S = 1.0  # how often the worker is told that work goes on
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class ChildSetup:
    """The first message to a child.

    Attributes:
        stages: pickled, see ``dump_stages``.
        memory_bytes: beyond which it gets no more.
        log_level: of the worker.
    """

    stages: bytes
    memory_bytes: int
    log_level: int


class _Worker:
    """The child's end of the pipe. Where the worker is gone, this process ends."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._last_sign = time.monotonic()

    def tell(self, kind: str, content: object = None) -> None:
        try:
            send(self._connection, (kind, content))
        except OSError:
            os._exit(0)

    def listen(self) -> Message:
        try:
            return receive(self._connection)
        except (EOFError, OSError):
            os._exit(0)

    def sign_of_life(self, meter: "_Meter") -> None:
        """Called all the time; tells the worker now and then, and what the seconds went to."""
        if time.monotonic() - self._last_sign >= _SIGN_OF_LIFE_S:
            self._last_sign = time.monotonic()
            self.tell("alive", meter.take())


class _Meter:
    """Whose seconds these are: at each moment one stage's, or nobody's."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = {}
        self._at, self._since = "", time.monotonic()

    def switch(self, name: str) -> str:
        """From now on they are this one's; gives whose they were."""
        now, before = time.monotonic(), self._at
        self.spent_s[before] = self.spent_s.get(before, 0.0) + now - self._since
        self._at, self._since = name, now
        return before

    def take(self) -> dict[str, float]:
        """What was spent since the last call."""
        self.switch(self._at)
        spent, self.spent_s = {name: s for name, s in self.spent_s.items() if name}, {}
        return spent


class _RemoteModel(ResidentModel):
    """A model that the worker's process holds."""

    def __init__(self, worker: _Worker, meter: _Meter, place: int) -> None:
        self._worker, self._meter, self._place = worker, meter, place

    def setup(self) -> None:
        """The worker did it."""

    def __call__(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        before = self._meter.switch("models")
        self._worker.tell("call", (self._place, batch))
        kind, content = self._worker.listen()
        self._meter.switch(before)
        if kind == "error":
            raise RuntimeError(content)
        result: NDArray[np.float32] = content
        return result


class _LogsToWorker(QueueHandler):
    """Hands log records to the worker, whose handlers write them."""

    def enqueue(self, record: logging.LogRecord) -> None:
        self.queue.tell("log", record)  # type: ignore[attr-defined]  # anything that takes records


def _through(stage: Stage, tasks: Iterable[VideoTask], meter: _Meter) -> Iterator[VideoTask]:
    """What a stage makes of tasks, one after the other as they are asked for."""
    for task in tasks:
        results = apply_stage(stage, task)
        while True:
            before = meter.switch(stage.name)
            result = next(results, None)
            meter.switch(before)
            if result is None:
                break
            yield result


def _work(worker: _Worker, meter: _Meter, stages: Sequence[Stage], task: VideoTask) -> None:
    """Run a video through the stages and hand over what comes out, chunk by chunk."""
    results: Iterable[VideoTask] = [task]
    for stage in stages:
        results = _through(stage, results, meter)
    sent_before = Counter(request_counts())
    try:
        for result in results:
            worker.tell("task", result)
        last: Message = ("done", meter.take())
    except StopRunError as error:
        last = ("stop", error)
    close_remote()
    if sent := Counter(request_counts()) - sent_before:
        worker.tell("requests", dict(sent))
    worker.tell(*last)


def _end_with(parent_pid: int) -> None:
    """Never outlive the worker, even in the middle of a spinning decoder."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)


def main() -> None:
    """Serve until the pipe is closed."""
    _end_with(int(sys.argv[2]))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):  # they reach all of a job; the worker decides
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()  # where it crashed goes to the log
    give_back_large_blocks(2**20)  # pictures come out of pools; clips and samples do not
    worker, meter = _Worker(Connection(int(sys.argv[1]))), _Meter()
    setup: ChildSetup = worker.listen()[1]
    # the worker's handlers put time, level and name in front
    logging.basicConfig(level=setup.log_level, format="%(message)s", handlers=[_LogsToWorker(worker)])  # type: ignore[arg-type]
    try:
        stages = load_stages(setup.stages, lambda place: _RemoteModel(worker, meter, place))
    except Exception as error:  # noqa: BLE001  (told to the worker, which stops)
        worker.tell("stop", StopRunError(f"a stage that runs in decode children can't be loaded there: {error}"))
        return
    with contextlib.suppress(ValueError, OSError):  # less is allowed already
        resource.setrlimit(resource.RLIMIT_DATA, (setup.memory_bytes, setup.memory_bytes))
    progress.listen(lambda: worker.sign_of_life(meter))
    worker.tell("ready")
    while True:
        _, task = worker.listen()
        _work(worker, meter, stages, task)


if __name__ == "__main__":
    main()
