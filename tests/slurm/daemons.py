"""The processes of a test cluster: starting them, watching them, ending them and nothing else."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.1
TAIL_LINES = 20


class ClusterError(RuntimeError):
    """The test cluster cannot do what was asked of it."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon that runs in the foreground as our child, so that its pid is its own until we have waited for it."""

    name: str
    log: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(
        cls, name: str, command: Sequence[str | Path], *, log: Path, folder: Path, environment: Mapping[str, str]
    ) -> "Daemon":
        """Start ``command`` in ``folder``, in a session of its own; ``log`` gets what it prints."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests; the cluster is stopped by stop()
            )
        return cls(name, log, process)

    def is_running(self) -> bool:
        return self.process.poll() is None

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])

    def wait_until(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Wait until ``ready()``.

        Raises:
            ClusterError: the daemon ended or was not ready in time; the message has the end of its log.
        """
        settled = wait_until(lambda: not self.is_running() or ready(), timeout_s=timeout_s)
        if not self.is_running():
            raise ClusterError(f"{self.name} ended with {self.process.returncode}:\n{self.log_tail()}")
        if not settled:
            raise ClusterError(f"{self.name} is not ready after {timeout_s:g} s:\n{self.log_tail()}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def kill_job_processes(slurm_conf: Path) -> None:
    """Kill what jobs left behind: slurmstepd and job processes, known by the ``SLURM_CONF`` that they carry."""
    for folder in Path("/proc").glob("[0-9]*"):
        if _is_job_process(folder, slurm_conf):
            with suppress(ProcessLookupError):
                os.kill(int(folder.name), signal.SIGKILL)


def _is_job_process(folder: Path, slurm_conf: Path) -> bool:
    try:
        variables = (folder / "environ").read_bytes().split(b"\0")
        name = (folder / "comm").read_text().rstrip("\n")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    if os.fsencode(f"SLURM_CONF={slurm_conf}") not in variables:
        return False
    return name == "slurmstepd" or any(variable.startswith(b"SLURM_JOB_ID=") for variable in variables)


def wait_until(condition: Callable[[], bool], *, timeout_s: float) -> bool:
    """Whether ``condition()`` came true within ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return holds
