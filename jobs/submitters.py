"""The ways to run an attempt, by the config's ``cluster``; and cancelling."""

import logging
from collections.abc import Sequence

from jobs.aggregation import run_aggregation
from jobs.config import RunConfig
from jobs.exits import FAILED, INCOMPLETE
from jobs.local_submitter import LocalSubmitter, cancel_local
from jobs.packing import run_packing
from jobs.packing_plan import num_pack_tasks
from jobs.rundir import RunDir
from jobs.slurm import job_prefix
from jobs.slurm_attempt import SlurmAttempt, cancelled_path, slurm_job_ids
from jobs.slurm_client import cancel_jobs, find_named_jobs
from jobs.slurm_submitter import SlurmSubmitter
from jobs.submission import SubmissionError, SubmittedJob, Submitter
from jobs.worker import run_shard

logger = logging.getLogger(__name__)


class DebugSubmitter:
    """Everything one after the other in this process, where a debugger can follow."""

    def __init__(self) -> None:
        self._code = FAILED

    def submit(self, run: RunDir, config: RunConfig, attempt: int, shards: Sequence[int]) -> list[SubmittedJob]:
        """Run it all, or what comes before a signal to stop."""
        for shard in shards:
            if run_shard(str(run.root), shard, attempt) == INCOMPLETE:
                break
        num_tasks = num_pack_tasks(config)
        self._code = run_aggregation(str(run.root), num_tasks)
        if num_tasks:
            for task in range(num_tasks):
                run_packing(str(run.root), task)
            self._code = run_packing(str(run.root), None)
        return [SubmittedJob(f"debug-{shard}", shard) for shard in shards]

    def wait(self) -> int:
        """The run's exit code."""
        return self._code


def cancel_run(run: RunDir) -> int:
    """Cancel the Slurm jobs of every attempt and end local workers; gives how many jobs, arrays and processes.

    Raises:
        SubmissionError: Slurm does not answer, or workers are on another machine: these go on, the others end.
    """
    try:
        num_processes = cancel_local(run, timeout_s=run.load_config().worker.lease_timeout_s)
    finally:
        num_jobs = _cancel_slurm(run)
    return num_jobs + num_processes


def _cancel_slurm(run: RunDir) -> int:
    """Cancel what was written down, and what a launcher queued and did not live to write down."""
    attempts = [number for number in run.attempts() if SlurmAttempt.load(run, number) is not None]
    for number in attempts:
        cancelled_path(run, number).touch()  # first: a launcher that is still at it sees it and stops
    job_ids = slurm_job_ids(run)
    if attempts:
        try:
            prefix = job_prefix(str(run.root))
            job_ids += [job for name, job in find_named_jobs().items() if name.startswith(f"{prefix}-")]
        except SubmissionError as error:
            logger.warning("jobs that were not written down could not be looked for: %s", error)
    cancel_jobs(job_ids)
    return len(set(job_ids))


SUBMITTERS: dict[str, type[Submitter]] = {
    "slurm": SlurmSubmitter,
    "local": LocalSubmitter,
    "debug": DebugSubmitter,
}
