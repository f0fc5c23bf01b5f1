"""Runs the tasks that pack a dataset on this machine, a few at once."""

import logging
import signal
import subprocess
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from jobs.exits import DONE
from jobs.ledger import whoami
from jobs.local_state import kill_group

logger = logging.getLogger(__name__)


class LocalPackers:
    """One process for each task, a few at once; one that something kills is started again.

    Args:
        start: starts the process of a task.
        ended_code: how a process ended, None while it runs.
        max_attempts: how often a packer may be killed and started again.
    """

    def __init__(
        self,
        num_tasks: int,
        *,
        num_at_once: int,
        start: Callable[[int], subprocess.Popen[bytes]],
        ended_code: Callable[[subprocess.Popen[bytes]], int | None],
        max_attempts: int,
    ) -> None:
        self._waiting = deque(range(num_tasks))
        self._num_at_once, self._max_attempts = num_at_once, max_attempts
        self._start, self._ended_code = start, ended_code
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._deaths: Counter[int] = Counter()

    @property
    def identities(self) -> list[Mapping[str, Any]]:
        """The processes at work now."""
        return [whoami(process.pid) for process in self._running.values()]

    def step(self) -> bool:
        """Take note of those that ended, and start what there is room for; gives whether any of that was."""
        ended = {
            task: code for task, process in self._running.items() if (code := self._ended_code(process)) is not None
        }
        for task, code in ended.items():
            del self._running[task]
            self._after(task, code)
        begun = [
            self._waiting.popleft() for _ in range(min(len(self._waiting), self._num_at_once - len(self._running)))
        ]
        self._running |= {task: self._start(task) for task in begun}
        return bool(ended or begun)

    @property
    def is_over(self) -> bool:
        """Nothing runs, and nothing waits."""
        return not self._running and not self._waiting

    def kill(self) -> None:
        """End them all at once; their files appear whole or not at all."""
        self._waiting.clear()
        for process in self._running.values():
            kill_group(process.pid)

    def _after(self, task: int, code: int) -> None:
        if code == DONE:
            return
        self._deaths[task] += 1
        is_again = code < 0 and self._deaths[task] <= self._max_attempts
        if is_again:
            self._waiting.appendleft(task)
        how = signal.Signals(-code).name if code < 0 else f"code {code}"
        logger.warning("event=packer_ended task=%d by=%s again=%s", task, how, is_again)
