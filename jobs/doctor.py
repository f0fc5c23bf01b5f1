"""What `clipmill doctor` finds out about this machine, and how one look cannot hold up the others."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from curation.errors import StorageError
from jobs.config import RunConfig

Level = Literal["ok", "warning", "problem"]

_ASK_TIMEOUT_S = 5.0
_TIMEOUT_S = 90.0  # of all looks together: PyTorch is loaded in one of them, from a slow file system perhaps


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look found. ``mend`` says what to do about it; empty where nothing is to be done."""

    level: Level
    check: str
    found: str
    mend: str = ""


Check = Callable[[RunConfig | None], Iterable[Finding]]
"""A look at this machine: for a config, or None for what there is at all."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said; ``fault``, in words, why it said nothing."""

    text: str = ""
    fault: str = ""
    is_there: bool = True


def ask(command: Sequence[str], *, timeout_s: float = _ASK_TIMEOUT_S) -> Answer:
    """Run a command that must not hang: after ``timeout_s`` it is ended, with all that it started."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    try:
        process = subprocess.Popen(
            command,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except FileNotFoundError:
        return Answer(fault=f"{command[0]} is not on PATH", is_there=False)
    except OSError as error:
        return Answer(fault=f"{command[0]}: {error.strerror}", is_there=False)
    try:
        printed, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # what waits for a driver or a disk does not even end when killed
            process.communicate(timeout=1.0)
        return Answer(fault=f"{command[0]} did not answer within {timeout_s:g} s")
    if process.returncode:
        said = next((line for line in reversed((errors or printed).splitlines()) if line.strip()), "it said nothing")
        return Answer(printed, f"{command[0]} ended with {process.returncode}: {said.strip()}")
    return Answer(printed)


def findings(
    checks: Mapping[str, Check], config: RunConfig | None, *, timeout_s: float = _TIMEOUT_S
) -> Iterator[Finding]:
    """What the checks find, in their order; all look at once, and one that hangs is told of, not waited for."""
    looks = [_Look(name, check, config) for name, check in checks.items()]
    deadline = time.monotonic() + timeout_s
    for look in looks:
        yield from look.result(deadline)


class _Look:
    """A check in a thread that does not keep the process alive: a file system that hangs answers nobody."""

    def __init__(self, name: str, check: Check, config: RunConfig | None) -> None:
        self._name, self._check, self._config = name, check, config
        self._found: list[Finding] | None = None
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._look, name=name, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        try:
            self._found = list(self._check(self._config))
        except (OSError, StorageError, ValueError, RuntimeError) as error:
            self._found = [Finding("problem", self._name, f"the look failed: {type(error).__name__}: {error}")]

    def result(self, deadline: float) -> list[Finding]:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._found is not None:
            return self._found
        waited_s = time.monotonic() - self._began
        if not self._thread.is_alive():
            return [Finding("problem", self._name, "the look ended with an error, see above")]
        mend = "a file system or driver that this asks may hang: try `df`, `mount` and `nvidia-smi` by hand"
        return [Finding("problem", self._name, f"no answer within {waited_s:.0f} s", mend)]
