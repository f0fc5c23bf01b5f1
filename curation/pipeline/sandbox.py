"""Killable decode children: a spin, a crash, a memory runaway costs the one video that it is about."""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

from curation.errors import FailureReason, StopRunError, VideoError
from curation.model import VideoTask
from curation.pipeline.decode_child import ChildSetup
from curation.pipeline.stage import Stage
from curation.pipeline.stage_run import StageTimes
from curation.pipeline.wire import Message, dump_stages, receive, send
from curation.resident import ResidentModel
from curation.storage.counts import add_request_counts

logger = logging.getLogger(__name__)

_POLL_S = 0.5
_GOODBYE_S = 5.0
_START_S, _MAX_STARTS = 300.0, 3


@dataclass(frozen=True, slots=True)
class DecodeSandbox:
    """Runs stages in processes of their own.

    Attributes:
        num_children: processes, and videos, at once.
        memory_bytes: data that one of them may hold (RLIMIT_DATA), all its code and buffers included.
        stall_timeout_s: without a sign of life, a packet read or a window done; waiting for the disk does not count.
        video_timeout_s: for all of one video; waiting for the worker does not count.
        max_attempts: how often a video is tried whose child dies.
    """

    num_children: int = 1
    memory_bytes: int = 4 * 2**30
    stall_timeout_s: float = 120.0
    video_timeout_s: float = 21_600.0
    max_attempts: int = 3

    def around(self, stages: Sequence[Stage], spent: dict[str, StageTimes]) -> Stage:
        """One stage that runs these in the children, and adds their seconds to ``spent``."""
        return DecodeChildren(stages, spent, self)


class DecodeChildren(Stage):
    """Gives each of its threads a child, and each video to the child of the thread that has it.

    A child that dies is replaced and its video tried again; what was given already is not given twice.
    Models are held and set up here, and called by the children.
    """

    name = "decode_children"

    def __init__(self, stages: Sequence[Stage], spent: dict[str, StageTimes], limits: DecodeSandbox) -> None:
        self._stages, self._spent, self._limits = list(stages), spent, limits
        self.num_workers = limits.num_children
        self._setup = ChildSetup(b"", 0, 0)
        self._models: list[ResidentModel] = []
        self._of_thread = threading.local()  # a child ends with the thread that started it
        self._lock = threading.Lock()
        self._children: set[_Child] = set()
        self._closed = threading.Event()

    def setup(self) -> None:
        """Set the stages up, here: children get them ready."""
        for stage in self._stages:
            stage.setup()
        pickled, self._models = dump_stages(self._stages)
        self._setup = ChildSetup(pickled, self._limits.memory_bytes, logging.getLogger().getEffectiveLevel())

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        """What the stages make of a video.

        Raises:
            VideoError: STALLED, TIMEOUT, CRASHED or MEMORY; all else is a failure on the task.
        """
        num_given = 0
        if self._closed.is_set():
            return
        for attempt in range(1, self._limits.max_attempts + 1):
            try:
                for result in islice(self._results(task), num_given, None):
                    num_given += 1
                    yield result
                return
            except _ChildGoneError as error:
                if self._closed.is_set():
                    return
                if attempt == self._limits.max_attempts:
                    raise VideoError(error.reason, f"{task.data.id}: {error}, {attempt} times") from error
                logger.warning(
                    "event=child_gone video=%s cause=%s: it is tried again in a new one", task.data.id, error
                )

    def _results(self, task: VideoTask) -> Iterator[VideoTask]:
        child, is_whole = self._own_child(), False
        is_used = child.num_videos > 0
        try:
            for result in child.run(task):
                if result.data.failure is not None and result.data.failure.reason is FailureReason.MEMORY:
                    if is_used:  # what earlier videos left behind may be the cause; the next try has a new child
                        raise _ChildGoneError(FailureReason.MEMORY, "a decode child ran out of memory")
                    yield result
                    return
                yield result
            is_whole = True
        finally:
            if not is_whole:  # dead, or in the middle of something
                self._let_go(child)

    def _own_child(self) -> "_Child":
        child: _Child | None = getattr(self._of_thread, "child", None)
        if child is None or child not in self._children:
            child = self._of_thread.child = self._started()
        return child

    def _started(self) -> "_Child":
        """A new child.

        Raises:
            StopRunError: none can be started, for which no video is to blame.
        """
        for attempt in range(1, _MAX_STARTS + 1):
            child = _Child(self._setup, self._models, self._limits, self._note)
            with self._lock:
                self._children.add(child)
            try:
                child.wait_until_ready()
                return child
            except _ChildGoneError as error:
                self._let_go(child)
                if attempt == _MAX_STARTS or self._closed.is_set():
                    raise StopRunError(f"no decode child can be started: {error}, {attempt} times") from error
        raise AssertionError("unreachable")

    def _let_go(self, child: "_Child") -> None:
        with self._lock:
            self._children.discard(child)
        child.kill()

    def _note(self, spent_s: dict[str, float]) -> None:
        with self._lock:
            for name, seconds in spent_s.items():
                self._spent.setdefault(name, StageTimes()).busy_s += seconds

    def close(self) -> None:
        """End the children."""
        with self._lock:
            self._closed.set()
            children, self._children = self._children, set()
        for child in children:
            child.end()


class _ChildGoneError(Exception):
    """A child died, or can't go on, while it was at a video; that may or may not be the video's fault."""

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class _Child:
    """A decode child and the worker's end of its pipe."""

    def __init__(
        self,
        setup: ChildSetup,
        models: Sequence[ResidentModel],
        limits: DecodeSandbox,
        note: Callable[[dict[str, float]], None],
    ) -> None:
        self._models, self._limits, self._note = models, limits, note
        self.num_videos = 0
        self._is_at_work = False
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "curation.pipeline.decode_child", str(theirs.fileno()), str(os.getpid())]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL
            )
        self._connection = Connection(ours.detach())
        with contextlib.suppress(OSError):  # gone already: noticed by who listens
            send(self._connection, ("setup", setup))

    def wait_until_ready(self) -> None:
        """Wait until it has loaded its code, which a slow file system may delay.

        Raises:
            _ChildGoneError: it ended, or takes longer than anything should.
            StopRunError: it can't load the stages.
        """
        deadline = time.monotonic() + _START_S
        try:
            kind = ""
            while kind != "ready":
                if not self._connection.poll(max(0.0, deadline - time.monotonic())):
                    raise _ChildGoneError(FailureReason.STALLED, f"it is not ready after {_START_S:g} s")
                kind, content = receive(self._connection)
                self._answer(kind, content)
        except (EOFError, OSError) as error:
            raise _ChildGoneError(FailureReason.CRASHED, self._why_it_ended()) from error

    def run(self, task: VideoTask) -> Iterator[VideoTask]:
        """What becomes of a video.

        Raises:
            VideoError: STALLED or TIMEOUT; the child is then of no more use.
            _ChildGoneError: it died.
            StopRunError: what it raised.
        """
        self._is_at_work = True
        watch = _Watch(self._limits, self._process.pid, task.data.id)
        try:
            send(self._connection, ("task", task))
            while True:
                kind, content = self._heard(watch)
                if kind == "task":
                    yield content
                elif kind == "done":
                    break
                else:
                    self._answer(kind, content)
                watch.go_on()
        except (EOFError, OSError) as error:
            raise _ChildGoneError(FailureReason.CRASHED, self._why_it_ended()) from error
        self._note(content)
        self.num_videos += 1
        self._is_at_work = False

    def _heard(self, watch: "_Watch") -> Message:
        while not self._connection.poll(_POLL_S):
            watch.look(is_sign_of_life=False)
        watch.look(is_sign_of_life=True)
        return receive(self._connection)

    def _answer(self, kind: str, content: object) -> None:
        if kind == "stop":
            assert isinstance(content, StopRunError)
            raise content
        if kind == "log":
            assert isinstance(content, logging.LogRecord)
            logging.getLogger(content.name).handle(content)
        elif kind == "alive":
            assert isinstance(content, dict)
            self._note(content)
        elif kind == "requests":
            assert isinstance(content, dict)
            add_request_counts(content)
        elif kind == "call":
            assert isinstance(content, tuple)
            place, batch = content
            try:
                answer: Message = ("result", self._models[place](batch))
            except Exception as error:  # noqa: BLE001  (raised again where the model was called)
                answer = ("error", f"{type(error).__name__}: {error}")
            send(self._connection, answer)

    def _why_it_ended(self) -> str:
        try:
            code = self._process.wait(_GOODBYE_S)
        except subprocess.TimeoutExpired:
            return "a decode child closed its pipe"
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
        return f"its decode child was ended {how}"

    def end(self) -> None:
        """Let an idle child end by itself; one at work is killed."""
        if self._is_at_work:
            self.kill()
            return
        with contextlib.suppress(OSError):
            self._connection.close()
        try:
            self._process.wait(_GOODBYE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it now."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it waits for a disk, and ends when that answers
            self._process.wait(_GOODBYE_S)


class _Watch:
    """How long a child took for a video, and how long ago it gave a sign of life; our own doings do not count."""

    def __init__(self, limits: DecodeSandbox, pid: int, video_id: str) -> None:
        self._limits, self._pid, self._video_id = limits, pid, video_id
        self._waited_s, self._silent_s = 0.0, 0.0
        self._since = time.monotonic()

    def go_on(self) -> None:
        """We wait for the child again."""
        self._since = time.monotonic()

    def look(self, *, is_sign_of_life: bool) -> None:
        """Take note of the time we waited.

        Raises:
            VideoError: STALLED or TIMEOUT.
        """
        now = time.monotonic()
        # one turn is at most that long: what is more was spent suspended, together with the child
        waited_s, self._since = min(now - self._since, 2 * _POLL_S), now
        self._waited_s += waited_s
        self._silent_s = 0.0 if is_sign_of_life or self._waits_for_disk() else self._silent_s + waited_s
        if self._silent_s > self._limits.stall_timeout_s:
            message = f"{self._video_id}: no progress for {self._limits.stall_timeout_s:g} s (worker.stall_timeout_s)"
            raise VideoError(FailureReason.STALLED, message)
        if self._waited_s > self._limits.video_timeout_s:
            message = f"{self._video_id}: took more than {self._limits.video_timeout_s:g} s (worker.video_timeout_s)"
            raise VideoError(FailureReason.TIMEOUT, message)

    def _waits_for_disk(self) -> bool:
        """Whether it is in uninterruptible sleep: a file server that does not answer is no fault of the video's."""
        try:
            stat = Path(f"/proc/{self._pid}/stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] == "D"
