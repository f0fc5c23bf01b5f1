"""Nodes that failed a worker's checks for a reason of their own: written down, left out for a while, named."""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs import own_job
from jobs.config import RunConfig
from jobs.exits import FAILED, INCOMPLETE
from jobs.ledger import ShardLog, read_events
from jobs.preflight import Problem
from jobs.rundir import RunDir
from jobs.slurm_attempt import attempt_job_ids

logger = logging.getLogger(__name__)

_MAX_MOVES = 3  # so many nodes may turn one task away; then something else is wrong
_NUM_NODES_OF_A_RUN = 3  # so many nodes fail in the same way while nobody gets through: it is the run's fault


@dataclass(frozen=True, slots=True)
class BadNode:
    """A node that is left out, since when (seconds since 1970) and why."""

    node: str
    time: float
    check: str
    message: str


def bad_nodes_path(run: RunDir) -> Path:
    """The log of bad nodes; whoever mends a node takes its lines away, or the file."""
    return run.state_path / "bad_nodes.jsonl"


def bad_nodes(run: RunDir, now: float, *, hours: float | None = None) -> list[BadNode]:
    """The nodes that are left out now, by name.

    Args:
        now: seconds since 1970.
        hours: how long a node is left out; None: as the run's config says.
    """
    found: dict[str, BadNode] = {}
    for event in read_events(bad_nodes_path(run)):
        if event["event"] == "bad_node":
            found[event["node"]] = BadNode(event["node"], event["time"], event["check"], event["message"])
        elif event["event"] == "forgiven":
            found.pop(event["node"], None)
    if not found:
        return []
    hours = run.load_config().slurm.exclude_bad_nodes_hours if hours is None else hours
    return [found[name] for name in sorted(found) if now - found[name].time < hours * 3600]


def excluded_nodes(run: RunDir, now: float) -> list[str]:
    """Names of the nodes that a submission leaves out."""
    return [bad.node for bad in bad_nodes(run, now)]


def leave_node(run: RunDir, config: RunConfig, problems: Sequence[Problem]) -> int:
    """Write this node down, keep the run's waiting tasks off it, and go elsewhere where the site lets a task do so.

    What is wrong with the run would go wrong on every node: then nothing but the exit code tells.

    Returns:
        The exit code: 3 when this task is queued again, else 1.
    """
    for problem in problems:
        logger.error(
            "event=preflight_failed check=%s of_node=%s: %s", problem.check, problem.is_of_node, problem.message
        )
    job, node = own_job.own_job_id(), own_job.own_node()
    if config.cluster == "debug" or job is None or node is None or not all(each.is_of_node for each in problems):
        return FAILED
    log = ShardLog(bad_nodes_path(run))
    try:
        return _leave(run, config, problems[0], log=log, job=job, node=node)
    finally:
        log.close()


def _leave(run: RunDir, config: RunConfig, problem: Problem, *, log: ShardLog, job: str, node: str) -> int:
    log.append("bad_node", node=node, check=problem.check, message=problem.message, job=job)
    if config.slurm.exclude_bad_nodes_hours == 0:
        return FAILED
    if forgiven := _forgiven(run, config, problem, node=node):
        for each in forgiven:
            log.append("forgiven", node=each)
        _keep_all_off(run, config, job)
        return FAILED
    _keep_all_off(run, config, job)
    moves = Counter(event.get("job") for event in read_events(bad_nodes_path(run)) if event["event"] == "bad_node")
    if moves[job] > _MAX_MOVES:
        logger.error(
            "event=no_more_moves job=%s: %d nodes turned it away; mend them, then clipmill resume", job, moves[job]
        )
        return FAILED
    if not own_job.requeue(job):
        return FAILED
    # only now that it waits again can it be kept off this node itself
    _keep_all_off(run, config, job)
    return INCOMPLETE


def _forgiven(run: RunDir, config: RunConfig, problem: Problem, *, node: str) -> list[str]:
    """Nodes that must not be left out after all: the run is at fault, or there would be none left to run on."""
    now, hours = time.time(), config.slurm.exclude_bad_nodes_hours
    bad = bad_nodes(run, now, hours=hours)
    # those that were forgiven before count as well: who comes back from one is not sent round again
    failed = [event for event in read_events(bad_nodes_path(run)) if event["event"] == "bad_node"]
    recent = [event for event in failed if now - event["time"] < hours * 3600]
    times = {event["node"]: event["time"] for event in reversed(recent) if event["check"] == problem.check}
    alike = sorted(times)
    if len(alike) >= _NUM_NODES_OF_A_RUN and not _works_somewhere(run, since=min(times.values())):
        logger.error(
            "event=same_on_all_nodes check=%s: %s failed it and no worker got through: that is the run's fault, "
            "no node is left out for it",
            problem.check,
            ", ".join(alike),
        )
        return alike
    usable = own_job.usable_nodes()
    if usable is not None and usable <= {each.node for each in bad}:
        logger.error("event=no_node_left: all of %s are bad, so %s is not left out", ", ".join(sorted(usable)), node)
        return [node]
    return []


def _works_somewhere(run: RunDir, *, since: float) -> bool:
    """Whether any worker of the run has written an event from then on."""
    return any(path.stat().st_mtime >= since for path in run.state_path.glob("shard-*.jsonl"))


def _keep_all_off(run: RunDir, config: RunConfig, job: str) -> None:
    """Keep what waits of the run off the bad nodes; again when another task has found one more meanwhile."""
    # less those that this run has found before: some may be forgiven by now
    found_here = {event.get("node") for event in read_events(bad_nodes_path(run))}
    from_start = set(own_job.submitted_exclusion(job)) - found_here
    hours = config.slurm.exclude_bad_nodes_hours
    told: set[str] | None = None
    while told != (now := {each.node for each in bad_nodes(run, time.time(), hours=hours)}):
        own_job.keep_off(_waiting_jobs(run, job), sorted(now.union(from_start)))
        told = now


def _waiting_jobs(run: RunDir, job: str) -> list[str]:
    """Jobs and arrays of workers in which something may wait: this one's, and all of the newest attempt."""
    found = {job.partition("_")[0]: None}
    for attempt in run.attempts()[-1:]:
        with contextlib.suppress(OSError, ValueError):  # the launcher is about to write it
            found |= dict.fromkeys(attempt_job_ids(run, attempt, workers_only=True))
    return list(found)
