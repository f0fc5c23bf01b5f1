"""An attempt's shards, and then what makes the dataset, as processes of this machine.

Each run has one executor at a time; who starts the same run again follows it.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.config import RunConfig
from jobs.exits import DONE, FAILED, INCOMPLETE
from jobs.ledger import Lease, is_dead_here, is_here
from jobs.local_executor import STOP_GRACE_S, LocalExecutor, stopped
from jobs.local_gpus import gpus_here, gpus_of_slots
from jobs.local_state import (
    end_aggregations,
    end_process,
    executor_lease_path,
    live_executor,
    live_workers,
    read_state,
)
from jobs.packing_plan import num_pack_tasks
from jobs.rundir import RunDir
from jobs.submission import Role, SubmissionError, SubmittedJob

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.2
_LOOK_ELSEWHERE_EVERY_S = 5.0  # by files on a network file system


class LocalSubmitter:
    """Worker processes on this machine, a few at a time; logs as on a cluster."""

    def __init__(self) -> None:
        self._shards: list[int] = []
        self._executor: LocalExecutor | None = None

    def submit(self, run: RunDir, config: RunConfig, attempt: int, shards: Sequence[int]) -> list[SubmittedJob]:
        """Name the jobs; ``wait`` does the work, so that they are written down before it begins.

        Raises:
            SubmissionError: this machine has not the GPUs that one worker wants.
        """
        self._executor = LocalExecutor(
            run,
            attempt,
            _slots(config),
            max_attempts=config.worker.max_attempts,
            timeout_s=config.worker.lease_timeout_s,
            num_pack_tasks=num_pack_tasks(config),
        )
        self._shards = list(shards)
        jobs = [SubmittedJob(f"local-{attempt}-{shard}", shard) for shard in shards]
        after: list[Role] = ["aggregation", "packing", "finishing"] if num_pack_tasks(config) else ["aggregation"]
        return [*jobs, *(SubmittedJob(f"local-{attempt}-{role}", None, role) for role in after)]

    def wait(self) -> int:
        """Run all shards to their ends, then the aggregation and what packs its dataset; gives the run's exit code.

        Raises:
            StoppedError: a signal or `cancel` ended it.
        """
        return self._executor.work(self._shards) if self._executor is not None else FAILED


def _slots(config: RunConfig) -> list[str | None]:
    """``CUDA_VISIBLE_DEVICES`` of each worker at once; None leaves it as it is."""
    num_slots, per_task = config.local.parallel_shards, config.slurm.gpus_per_task
    if config.local.gpus == []:
        return [""] * num_slots
    gpus = config.local.gpus or gpus_here(os.environ)
    slots = gpus_of_slots(num_slots, gpus, per_task)
    num_alone = len(gpus) // per_task if per_task and gpus else num_slots
    if num_slots > num_alone and config.captions.generate_captions:
        logger.warning(
            "event=gpus_shared workers=%d gpus=%s: captioners that do not fit beside each other need "
            "--set local.parallel_shards=%d",
            num_slots,
            ",".join(gpus),
            num_alone,
        )
    return slots


@contextmanager
def local_run_claimed(run: RunDir, config: RunConfig) -> Iterator[int | None]:
    """Be the only one that runs a run's workers here; whoever comes second follows the first to its end.

    Gives the exit code of the executor that was followed; None when this process is the executor now, which it also
    becomes when the one that it followed has died.

    Raises:
        StoppedError: the executor that was followed was stopped.
    """
    timeout_s = config.worker.lease_timeout_s
    lease = Lease(executor_lease_path(run), timeout_s)
    while (code := _followed(run, timeout_s)) is None:
        if lease.acquire():
            break
    if code is not None:
        yield code
        return
    try:
        yield None
    finally:
        lease.release()


def _followed(run: RunDir, timeout_s: float) -> int | None:
    """Wait until a live executor ends; gives its code, or None where there is none or it died."""
    executor = live_executor(run, timeout_s=timeout_s)
    if executor is None:
        return None
    logger.warning("event=following pid=%s host=%s: this run is at work there", executor["pid"], executor["host"])
    while live_executor(run, timeout_s=timeout_s) == executor:
        time.sleep(_LOOK_EVERY_S if is_here(executor) else _LOOK_ELSEWHERE_EVERY_S)
    for attempt in reversed(run.attempts()):
        state = read_state(run, attempt)
        if state is not None and _is_same(state.executor, executor):
            if state.was_stopped:
                raise stopped(run, attempt)
            return state.code
    return None


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(key) == other.get(key) for key in ("boot", "pid", "started"))


def run_in_background(run: RunDir, *, timeout_s: float) -> tuple[int, Path]:
    """Go on with a planned run in a process that outlives the terminal; gives its id and its log.

    Raises:
        SubmissionError: it ended before it began to work.
    """
    log = run.logs_path / "local.log"
    executor = live_executor(run, timeout_s=timeout_s)
    if executor is not None:
        return int(executor["pid"]), log
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", "resume", str(run.root)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    while process.poll() is None and live_executor(run, timeout_s=timeout_s) is None:
        time.sleep(_LOOK_EVERY_S)
    if process.returncode not in (None, DONE, INCOMPLETE):
        raise SubmissionError(f"it ended at once with code {process.returncode}; see {log}")
    return process.pid, log


def cancel_local(run: RunDir, *, timeout_s: float) -> int:
    """End this run's executor and workers on this machine; gives how many there were.

    Workers finish what is nearly done, as at a time limit; what does not end is killed.

    Raises:
        SubmissionError: some of them are on another machine.
    """
    executor = live_executor(run, timeout_s=timeout_s)
    workers = live_workers(run, timeout_s=timeout_s)
    here = [each for each in workers.values() if is_here(each)]
    elsewhere = [each for each in [executor, *workers.values()] if each is not None and not is_here(each)]
    if executor is not None and is_here(executor):
        here.append(executor)
        end_process(executor, signal.SIGTERM)  # ends its workers
        _wait_for_end([executor], STOP_GRACE_S + 5)
        end_process(executor, signal.SIGKILL)
    left = [each for each in live_workers(run, timeout_s=timeout_s).values() if is_here(each)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for each in left:
            end_process(each, number)
        _wait_for_end(left, STOP_GRACE_S)
    end_aggregations(run)
    if elsewhere:
        places = ", ".join(sorted({f"{each['host']} (process {each['pid']})" for each in elsewhere}))
        raise SubmissionError(f"this run is at work on {places}: cancel it there")
    return len(here)


def _wait_for_end(processes: Sequence[Mapping[str, Any]], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not all(map(is_dead_here, processes)) and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_S)
