"""Submits attempts over what is unfinished, and the aggregation after them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

from jobs.again import is_noted, set_aside
from jobs.config import RunConfig
from jobs.ledger import Lease
from jobs.local_submitter import local_run_claimed
from jobs.planner import Shard
from jobs.rundir import RunDir, RunDirError, write_json
from jobs.script_submitter import ScriptSubmitter
from jobs.slurm_attempt import is_unfinished_launch
from jobs.slurm_submitter import SlurmSubmitter
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
    A run that is at work on this machine is followed to its end instead, and an attempt whose launcher died before all
    of it was queued in Slurm is queued to its end.

    Raises:
        SubmissionError: the site refused; what was queued before stays so, and another launch goes on with it.
        RunDirError: the run was never planned to the end, or another launcher is at it.
        StoppedError: the run was on this machine, and somebody ended it.
    """
    if not run.plan_path.is_file():
        raise RunDirError(f"{run.root} has no plan: run or submit its config again")
    is_here = config.cluster == "local" and submitter is None
    with local_run_claimed(run, config) if is_here else nullcontext() as followed:
        if followed is not None:
            return Attempt(run.attempts()[-1], [], 0, [], followed)
        return _launch(run, config, submitter or SUBMITTERS[config.cluster]())


def _launch(run: RunDir, config: RunConfig, chosen: Submitter) -> Attempt:
    is_queued = isinstance(chosen, SlurmSubmitter | ScriptSubmitter)  # these keep what they do, step by step
    with ExitStack() as alone:
        alone.enter_context(only_launcher(run, config))
        number, shards, num_left_running = _next_attempt(run, config, may_go_on=is_queued)
        if not is_queued:
            write_json(run.jobs_path(number), jobs_document([], cluster=config.cluster))
            alone.close()  # what follows may be the whole run
        jobs = chosen.submit(run, config, number, [shard.index for shard in shards])
    if not is_queued:
        write_json(run.jobs_path(number), jobs_document(jobs, cluster=config.cluster))
    return Attempt(number, shards, num_left_running, jobs, chosen.wait())


@contextmanager
def only_launcher(run: RunDir, config: RunConfig) -> Iterator[None]:
    """Two launchers at once would give the same numbers to different shards."""
    lease = Lease(run.leases_path / "launcher.json", config.worker.lease_timeout_s)
    if not lease.acquire():
        raise RunDirError(f"another launcher is making an attempt of {run.root}; try again")
    try:
        yield
    finally:
        lease.release()


def _next_attempt(run: RunDir, config: RunConfig, *, may_go_on: bool) -> tuple[int, list[Shard], int]:
    """Write the shards of the next attempt; gives its number, them, and how many videos are left to live workers.

    Where the last attempt was not queued to its end, ``may_go_on`` makes that the next.
    """
    attempts = run.attempts()
    is_first = attempts == [1] and not run.jobs_path(1).is_file()
    goes_on = is_first or (may_go_on and is_unfinished_launch(run, attempts[-1]))
    if goes_on and not is_noted(run, attempts[-1] + 1):
        set_aside(run, config)
        return attempts[-1], list(run.shards(attempts[-1])), 0
    shards, num_left_running = replan(run, config)
    run.write_shards(attempts[-1] + 1, shards)
    set_aside(run, config)  # now that older workers know whose videos these are
    return attempts[-1] + 1, shards, num_left_running
