"""Processes that must not outlive this one."""

import subprocess
from collections.abc import Sequence


class Guard:
    """Ends processes as soon as this one is gone, however it went: a shell waits for the end of a pipe."""

    def __init__(self, pids: Sequence[int]) -> None:
        # the signals that Slurm sends to all of a job are not for it either
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", 'trap "" INT TERM USR2; read -r line || kill -9 "$@"', "sh", *map(str, pids)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a signal for this process's group is not for it
        )

    def dismiss(self) -> None:
        """Let them be."""
        self._shell.communicate(b"\n")
