"""What the run folder knows of the processes that run it on this machine: who starts workers, and who still works."""

import json
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobs.ledger import is_dead_here, is_here, lease_age_s, live_leases, read_lease
from jobs.rundir import RunDir, write_json


@dataclass
class LocalState:
    """``attempts/NNN/local.json``: the executor, the workers and packers that it has now, and how it ended.

    ``running`` has, by shard, the worker's process and its ``slot``; ``aggregation`` is also the job after the packers.
    ``code`` is None until the executor has ended by itself; one that was killed leaves it so.
    """

    executor: dict[str, Any]
    slots: list[str | None]
    running: dict[int, dict[str, Any]] = field(default_factory=dict)
    aggregation: dict[str, Any] | None = None
    packers: list[Mapping[str, Any]] = field(default_factory=list)
    code: int | None = None
    was_stopped: bool = False

    def write(self, run: RunDir, attempt: int) -> None:
        """Replace the file in one step."""
        running = [{"shard": shard, **process} for shard, process in sorted(self.running.items())]
        write_json(state_path(run, attempt), {**asdict(self), "running": running})


def state_path(run: RunDir, attempt: int) -> Path:
    """The file of one attempt."""
    return run.attempt_path(attempt) / "local.json"


def read_state(run: RunDir, attempt: int) -> LocalState | None:
    """What an attempt's executor wrote last; None where it was none of this machine's, or not yet begun."""
    try:
        found = json.loads(state_path(run, attempt).read_bytes())
    except FileNotFoundError:
        return None
    running = {process.pop("shard"): process for process in found["running"]}
    return LocalState(**{**found, "running": running})


def executor_lease_path(run: RunDir) -> Path:
    """Held by the one process that runs a run's workers here."""
    return run.leases_path / "local-executor.json"


def live_executor(run: RunDir, *, timeout_s: float) -> dict[str, Any] | None:
    """The process that is running this run's workers; None when there is none, or it is dead."""
    path = executor_lease_path(run)
    holder = read_lease(path)
    return holder if holder is not None and _is_alive(holder, path, timeout_s) else None


def live_workers(run: RunDir, *, timeout_s: float) -> dict[int, dict[str, Any]]:
    """Worker processes that are at shards now and are not Slurm's, by shard; ``slot`` where it is known.

    A worker without a lease yet is known from its executor's file, one that was not yet in there from its lease.
    """
    leases = live_leases(run, timeout_s=timeout_s)
    found = {shard: holder for shard, holder in leases.items() if holder.get("boot") and not holder.get("job")}
    for attempt in run.attempts():
        state = read_state(run, attempt)
        for shard, process in (state.running if state else {}).items():
            if is_running(run, shard, process, timeout_s=timeout_s):
                found[shard] = process
    return found


def is_running(run: RunDir, shard: int, process: Mapping[str, Any], *, timeout_s: float) -> bool:
    """Whether a worker is alive: by its process if it is on this machine, else by its lease's heartbeat."""
    if is_here(process):
        return not is_dead_here(process)
    path = run.lease_path(shard)
    holder = read_lease(path)
    is_its = holder is not None and all(holder.get(key) == process.get(key) for key in ("boot", "pid", "started"))
    return is_its and lease_age_s(path) <= timeout_s


def end_process(process: Mapping[str, Any], number: int) -> None:
    """Signal a process of this machine, unless it is gone; SIGKILL is for the group that it leads, too."""
    if not is_here(process) or is_dead_here(process):
        return
    pid = int(process["pid"])
    with suppress(ProcessLookupError):
        if number == signal.SIGKILL and os.getpgid(pid) == pid:
            kill_group(pid)
        os.kill(pid, number)


def kill_group(pid: int) -> None:
    """End the process group that a process leads, also after its leader's death."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def end_aggregations(run: RunDir) -> None:
    """End an aggregation, and packers, that outlived their executor; their files appear whole or not at all."""
    for attempt in run.attempts():
        state = read_state(run, attempt)
        for process in [state.aggregation, *state.packers] if state is not None else ():
            if process is not None:
                end_process(process, signal.SIGKILL)


def _is_alive(holder: Mapping[str, Any], path: Path, timeout_s: float) -> bool:
    if is_here(holder):
        return not is_dead_here(holder)
    return lease_age_s(path) <= timeout_s
