"""Where a run stands, from its own files: O(shards) reads, no need of Slurm."""

import shlex
import time
from collections.abc import Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.again import read_voids
from jobs.bad_nodes import bad_nodes
from jobs.captions import EngineWork
from jobs.ends import counted_ends, once
from jobs.job_states import slurm_jobs
from jobs.ledger import live_leases
from jobs.packing_plan import PackingPlan, live_packers, packed_tasks
from jobs.parts import video_of
from jobs.roll_up import LogState, RollUp, roll_up
from jobs.rundir import RunDir

_HOUR_S = 3600.0


@dataclass
class RunStatus:
    """Counts of shards and videos now.

    ``num_running`` videos are begun in a live shard; ``num_waiting`` are everything that is not done, failed or
    running. ``videos_per_hour`` is the rate of the last hour, None until two videos ended, as is ``eta_s``.
    ``retry_commands`` are by class of failure; ``bad_nodes`` are those that are left out now. ``captions`` are by key,
    of the workers that came to their end. ``packing`` counts the tasks that pack the dataset; None where there are
    none, or the dataset is published.
    """

    run_dir: str
    num_videos: int = 0
    num_done: int = 0
    num_failed: int = 0
    num_running: int = 0
    num_clips: int = 0
    clip_s: float = 0.0
    num_shards: int = 0
    num_shards_ended: int = 0
    num_shards_running: int = 0
    num_attempts: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    first_failures: dict[str, str] = field(default_factory=dict)
    retry_commands: dict[str, str] = field(default_factory=dict)
    bad_nodes: list[dict[str, Any]] = field(default_factory=list)
    jobs: dict[str, int] | None = None
    videos_per_hour: float | None = None
    eta_s: float | None = None
    captions: dict[str, EngineWork] = field(default_factory=dict)
    packing: dict[str, int] | None = None

    @property
    def num_waiting(self) -> int:
        return self.num_videos - self.num_done - self.num_failed - self.num_running

    @property
    def is_complete(self) -> bool:
        return 0 < self.num_videos == self.num_done + self.num_failed

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        captions = {key: work.to_json() for key, work in sorted(self.captions.items())}
        return {
            **asdict(self),
            "captions": captions,
            "num_waiting": self.num_waiting,
            "is_complete": self.is_complete,
        }


def run_status(run: RunDir, *, ask_slurm: bool = True) -> RunStatus:
    """Sum up what the logs of all shards tell.

    Raises:
        RunDirError: this is not a run folder.
    """
    config = run.load_config()
    status = RunStatus(str(run.root))
    live = live_leases(run, timeout_s=config.worker.lease_timeout_s)
    rolled = roll_up(run)
    all_ends = counted_ends(run, rolled, read_voids(run))
    ends = once(all_ends, columns=["time", "event", "reason", "message", "clips", "clip_s"])
    _count_shards(status, run, rolled, live.keys())
    _count_ends(status, ends)
    running = {video_of(key) for shard in live for key in _log(rolled, run, shard).begun}
    status.num_running = len(running) - _count_among(all_ends, running)
    status.retry_commands = {reason: retry_command(run.root, reason) for reason in status.failures}
    status.bad_nodes = [asdict(bad) for bad in bad_nodes(run, time.time())]
    _add_rate(status, ends)
    if (plan := PackingPlan.load(run)) is not None:
        counts = {"num_tasks": plan.num_tasks, "num_ended": len(packed_tasks(run, plan))}
        status.packing = counts | {"num_running": len(live_packers(run, config))}
    if ask_slurm and config.cluster == "slurm":
        status.jobs = slurm_jobs(run)
    return status


def retry_command(run_dir: Path, reason: str) -> str:
    """What tries the videos again that failed for this reason."""
    return f"clipmill resume {shlex.quote(str(run_dir))} --failed {reason}"


def _log(rolled: RollUp, run: RunDir, shard: int) -> LogState:
    return rolled.logs.get(run.shard_state_path(shard).name) or LogState()


def _count_shards(status: RunStatus, run: RunDir, rolled: RollUp, live: Set[int]) -> None:
    attempts = run.attempts()
    status.num_attempts = len(attempts)
    status.num_shards_running = len(live)
    for attempt in attempts:
        sizes = run.shard_sizes(attempt)
        status.num_shards += len(sizes)
        if attempt == 1:
            status.num_videos = sum(sizes.values())
        for index in sizes:
            log = _log(rolled, run, index)
            is_over = log.last == "end" or attempt != attempts[-1]  # a newer attempt took over what an old one left
            status.num_shards_ended += is_over and index not in live
            for key, work in log.engines.items():
                status.captions.setdefault(key, EngineWork()).add(work)


def _count_ends(status: RunStatus, ends: pa.Table) -> None:
    is_done = pc.equal(ends["event"], "done")
    done, failed = ends.filter(is_done), ends.filter(pc.invert(is_done))
    status.num_done, status.num_failed = len(done), len(failed)
    status.num_clips = pc.sum(done["clips"]).as_py() or 0
    status.clip_s = pc.sum(done["clip_s"]).as_py() or 0.0
    counts = failed.group_by("reason").aggregate([("reason", "count")])
    status.failures = dict(sorted(zip(*(counts[name].to_pylist() for name in ("reason", "reason_count")), strict=True)))
    for reason in status.failures:
        first = failed.slice(pc.index(failed["reason"], reason).as_py(), 1)
        status.first_failures[reason] = first["message"][0].as_py()


def _count_among(ends: pa.Table, videos: Set[str]) -> int:
    found = ends["video"].filter(pc.is_in(ends["video"], pa.array(videos, pa.string())))
    return len(found.unique())


def _add_rate(status: RunStatus, ends: pa.Table) -> None:
    """The rate of the last hour in which the run was at work."""
    if len(ends) < 2:
        return
    first, last = (each.as_py() for each in pc.min_max(ends["time"]).values())
    now = time.time() if status.num_shards_running else last
    begun = max(first, now - _HOUR_S)
    num_lately = pc.sum(pc.greater_equal(ends["time"], begun)).as_py()
    if last <= first or num_lately < 2:
        return
    status.videos_per_hour = num_lately / max(now - begun, 1e-3) * 3600
    left = status.num_videos - status.num_done - status.num_failed
    status.eta_s = left / status.videos_per_hour * 3600
