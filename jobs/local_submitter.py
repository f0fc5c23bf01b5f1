"""An attempt's shards and then the aggregation as processes of this machine."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from jobs.config import RunConfig
from jobs.exits import FAILED
from jobs.rundir import RunDir
from jobs.submission import SubmittedJob


class LocalSubmitter:
    """Worker processes on this machine, a few at a time; logs as on a cluster."""

    def __init__(self) -> None:
        self._code = FAILED
        self._processes: list[subprocess.Popen[bytes]] = []

    def submit(self, run: RunDir, config: RunConfig, attempt: int, shards: Sequence[int]) -> list[SubmittedJob]:
        """Run all shards to their ends, then the aggregation."""
        folder = run.logs_path / f"attempt-{attempt:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ)
        # this machine may be a login node inside somebody's allocation: its job is not ours
        for name in [name for name in environment if name.startswith("SLURM_")]:
            del environment[name]

        def work(shard: int) -> int:
            command = ["jobs.worker", "--run", str(run.root), "--shard", str(shard), "--attempt", str(attempt)]
            return self._run_logged(command, folder / f"shard-{shard:05d}.log", environment)

        with _ending_on_term(self._processes), ThreadPoolExecutor(config.local.parallel_shards) as pool:
            try:
                list(pool.map(work, shards))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            log = folder / "aggregation.log"
            self._code = self._run_logged(["jobs.aggregation", "--run", str(run.root)], log, environment)
        return [SubmittedJob(f"local-{shard}", shard) for shard in shards]

    def _run_logged(self, module: list[str], log: Path, environment: dict[str, str]) -> int:
        """Run a module of this project in a process of its own; its output is appended to a log file."""
        command = [sys.executable, "-m", *module]
        with log.open("ab") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment)
        self._processes.append(process)
        return process.wait()

    def wait(self) -> int:
        """The aggregation's exit code."""
        return self._code


@contextmanager
def _ending_on_term(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Without this a SIGTERM would end this process alone, and its workers would go on by themselves."""

    def stop(_number: int, _frame: object) -> None:
        for process in processes:
            process.terminate()
        sys.exit(128 + signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
