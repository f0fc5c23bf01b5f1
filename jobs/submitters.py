"""The ways to run an attempt, by the config's ``cluster``; and cancelling."""

import json
from collections.abc import Sequence

from jobs.aggregation import run_aggregation
from jobs.config import RunConfig
from jobs.exits import FAILED, INCOMPLETE
from jobs.local_submitter import LocalSubmitter
from jobs.rundir import RunDir
from jobs.slurm_submitter import SlurmSubmitter, cancel_jobs
from jobs.submission import SubmittedJob, Submitter
from jobs.worker import run_shard


class DebugSubmitter:
    """Everything one after the other in this process, where a debugger can follow."""

    def __init__(self) -> None:
        self._code = FAILED

    def submit(self, run: RunDir, config: RunConfig, attempt: int, shards: Sequence[int]) -> list[SubmittedJob]:
        """Run it all, or what comes before a signal to stop."""
        for shard in shards:
            if run_shard(str(run.root), shard, attempt) == INCOMPLETE:
                break
        self._code = run_aggregation(str(run.root))
        return [SubmittedJob(f"debug-{shard}", shard) for shard in shards]

    def wait(self) -> int:
        """The aggregation's exit code."""
        return self._code


def cancel_run(run: RunDir) -> int:
    """Cancel the Slurm jobs of every attempt; gives how many jobs and arrays were named."""
    submitted: list[str] = []
    for attempt in run.attempts():
        path = run.jobs_path(attempt)
        if not path.is_file():
            continue
        document = json.loads(path.read_text())
        if document["cluster"] == "slurm":
            submitted += [job["job_id"] for job in document["jobs"]]
    cancel_jobs(submitted)
    return len({job.partition("_")[0] for job in submitted})


SUBMITTERS: dict[str, type[Submitter]] = {
    "slurm": SlurmSubmitter,
    "local": LocalSubmitter,
    "debug": DebugSubmitter,
}
