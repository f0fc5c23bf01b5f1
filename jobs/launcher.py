"""Submits attempts over what is unfinished, and the aggregation after them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jobs.config import RunConfig
from jobs.ledger import Lease
from jobs.planner import Shard
from jobs.rundir import RunDir, RunDirError, write_json
from jobs.submission import SubmittedJob, Submitter, jobs_document
from jobs.submitters import SUBMITTERS
from jobs.unfinished import replan


@dataclass(frozen=True)
class Attempt:
    """One launch over the unfinished videos of a run."""

    number: int
    shards: list[Shard]
    num_left_running: int
    jobs: list[SubmittedJob]
    code: int | None


def launch(run: RunDir, config: RunConfig, *, submitter: Submitter | None = None) -> Attempt:
    """Submit an attempt over every video without a record that nobody is working on.

    The first attempt is the plan itself; a later one has shards of its own, so nothing queued earlier is confused.

    Raises:
        SubmissionError: the site refused; nothing is left queued.
        RunDirError: the run was never planned to the end, or another launcher is at it.
    """
    if not run.plan_path.is_file():
        raise RunDirError(f"{run.root} has no plan: run or submit its config again")
    with _only_launcher(run, config):
        number, shards, num_left_running = _next_attempt(run, config)
        write_json(run.jobs_path(number), jobs_document([], cluster=config.cluster))
    chosen = submitter or SUBMITTERS[config.cluster]()
    jobs = chosen.submit(run, config, number, [shard.index for shard in shards])
    write_json(run.jobs_path(number), jobs_document(jobs, cluster=config.cluster))
    return Attempt(number, shards, num_left_running, jobs, chosen.wait())


@contextmanager
def _only_launcher(run: RunDir, config: RunConfig) -> Iterator[None]:
    """Two launchers at once would give the same numbers to different shards."""
    lease = Lease(run.leases_path / "launcher.json", config.worker.lease_timeout_s)
    if not lease.acquire():
        raise RunDirError(f"another launcher is making an attempt of {run.root}; try again")
    try:
        yield
    finally:
        lease.release()


def _next_attempt(run: RunDir, config: RunConfig) -> tuple[int, list[Shard], int]:
    """Write the shards of the next attempt; gives its number, them, and how many videos are left to live workers."""
    attempts = run.attempts()
    if attempts == [1] and not run.jobs_path(1).is_file():
        return 1, list(run.shards(1)), 0
    shards, num_left_running = replan(run, config)
    run.write_shards(attempts[-1] + 1, shards)
    return attempts[-1] + 1, shards, num_left_running
