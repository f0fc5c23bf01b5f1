"""An attempt's shards as Slurm arrays, and the aggregation after them, through submitit."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jobs.aggregation import run_aggregation
from jobs.config import RunConfig
from jobs.exits import DONE
from jobs.rundir import RunDir
from jobs.slurm import chunked, max_array_size, time_minutes
from jobs.submission import SubmissionError, SubmittedJob
from jobs.worker import run_shard


class SlurmSubmitter:
    """An array of workers and a dependent aggregation through submitit."""

    def submit(self, run: RunDir, config: RunConfig, attempt: int, shards: Sequence[int]) -> list[SubmittedJob]:
        """Submit arrays of at most MaxArraySize tasks and, ``afterany`` of all of them, the aggregation.

        Raises:
            SubmissionError: sbatch refused, with what it said; what was queued before is cancelled.
        """
        from submitit.core.utils import FailedJobError

        submitted: list[SubmittedJob] = []
        with _outside_any_job():
            try:
                for chunk in chunked(shards, _max_array_size()):
                    executor = _executor(run, config, attempt, "worker")
                    jobs = executor.map_array(work_or_exit, [str(run.root)] * len(chunk), chunk, [attempt] * len(chunk))
                    submitted += [SubmittedJob(job.job_id, k) for job, k in zip(jobs, chunk, strict=True)]
                executor = _executor(run, config, attempt, "aggregation", after=_array_ids(submitted))
                last = executor.submit(aggregate_or_exit, str(run.root))
            except (FailedJobError, OSError, subprocess.SubprocessError) as error:
                cancel_jobs([job.job_id for job in submitted])
                raise SubmissionError(f"sbatch refused: {_last_line(error)}") from error
        return [*submitted, SubmittedJob(last.job_id, None)]

    def wait(self) -> None:
        """The work goes on in Slurm."""
        return


def work_or_exit(run_dir: str, shard: int, attempt: int) -> None:
    """What an array task does: a worker whose exit code Slurm sees."""
    code = run_shard(run_dir, shard, attempt)
    if code != DONE:
        sys.exit(code)


def aggregate_or_exit(run_dir: str) -> None:
    """What the dependent job does: the aggregation, whose exit code Slurm sees."""
    code = run_aggregation(run_dir)
    if code != DONE:
        sys.exit(code)


def _executor(run: RunDir, config: RunConfig, attempt: int, role: str, *, after: Sequence[str] = ()) -> Any:
    import submitit

    slurm = config.slurm
    is_worker = role == "worker"
    executor = submitit.AutoExecutor(
        folder=run.logs_path / f"attempt-{attempt:03d}" / "%j", cluster="slurm", slurm_max_num_timeout=10**6
    )
    additional: dict[str, Any] = {**slurm.additional_parameters}
    if slurm.account:
        additional["account"] = slurm.account
    if after:
        # afterany: the aggregation judges completeness itself; afterok would never start after one failure
        additional |= {"dependency": f"afterany:{':'.join(after)}", "kill-on-invalid-dep": "no"}
    executor.update_parameters(
        name=f"clipmill-{role}",
        timeout_min=time_minutes(slurm.time if is_worker else slurm.aggregate_time),
        cpus_per_task=slurm.cpus_per_task if is_worker else 1,
        mem_gb=slurm.mem_gb if is_worker else slurm.aggregate_mem_gb,
        slurm_partition=slurm.partition,
        slurm_qos=slurm.qos,
        slurm_setup=slurm.setup or None,
        slurm_additional_parameters=additional,
        slurm_stderr_to_stdout=True,
    )
    if is_worker:
        executor.update_parameters(slurm_array_parallelism=slurm.array_parallelism)
        if slurm.gpus_per_task:
            executor.update_parameters(gpus_per_node=slurm.gpus_per_task)
    return executor


def _array_ids(jobs: Sequence[SubmittedJob]) -> list[str]:
    """Ids of whole arrays: a dependency on each task by itself would be as long as the array."""
    return list(dict.fromkeys(job.job_id.partition("_")[0] for job in jobs))


def _max_array_size() -> int:
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=60)
    if shown.returncode:
        raise SubmissionError(f"Slurm does not answer: {shown.stderr.strip() or 'scontrol show config failed'}")
    return max_array_size(shown.stdout)


@contextmanager
def _outside_any_job() -> Iterator[None]:
    """Submit as from a login node, also from inside a job: its own limits must not reach the new ones."""
    inherited = {name: value for name, value in os.environ.items() if name.startswith(("SLURM_", "SBATCH_"))}
    for name in inherited:
        if name != "SLURM_CONF":  # where the cluster is found
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(inherited)


def cancel_jobs(job_ids: Sequence[str]) -> None:
    """Cancel jobs and whole arrays; those that have ended already do not matter."""
    arrays = list(dict.fromkeys(job.partition("_")[0] for job in job_ids))
    if arrays:
        subprocess.run(["scancel", *arrays], capture_output=True, timeout=120)


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
