"""Where a run stands, from its own files: O(shards) reads, no need of Slurm."""

import shlex
import time
from collections.abc import Iterator, Mapping, Set
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
from jobs.live_work import LiveWork, live_work
from jobs.packing_plan import PackingPlan, live_packers, packed_tasks
from jobs.parts import video_of
from jobs.progress import read_progress
from jobs.rates import Life, per_hour, worked_s
from jobs.roll_up import LogState, RollUp, roll_up
from jobs.rundir import RunDir

_HOUR_S = 3600.0


@dataclass
class RunStatus:
    """Counts of shards and videos now.

    ``num_running`` videos are begun in a live shard; ``num_waiting`` are everything that is not done, failed or
    running. ``videos_per_hour`` is the rate of the last hour, as far as anybody was at work in it; None until two
    videos ended, as is ``eta_s``. ``worked_s`` is the time in which anybody was at work. ``num_windows`` are captioned
    and written, by workers that ended or are live; ``live`` is what the latter tell, None where none does.
    ``retry_commands`` are by class of failure; ``bad_nodes`` are those that are left out now. ``captions`` are by key,
    of the workers that came to their end. ``packing`` counts the tasks that pack the dataset; None where there are
    none, or the dataset is published.
    """

    run_dir: str
    cluster: str = ""
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
    num_windows: int = 0
    worked_s: float = 0.0
    videos_per_hour: float | None = None
    eta_s: float | None = None
    captions: dict[str, EngineWork] = field(default_factory=dict)
    packing: dict[str, int] | None = None
    live: LiveWork | None = None

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
    status = RunStatus(str(run.root), config.cluster)
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
    _add_rate(status, ends, list(_lives(run, rolled, live.keys())))
    _add_live(status, run, live)
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
            status.num_windows += log.num_windows
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


def _lives(run: RunDir, rolled: RollUp, live: Set[int]) -> Iterator[Life]:
    """When workers were at work; those that live are so until now."""
    now, live_names = time.time(), {run.shard_state_path(shard).name for shard in live}
    for name, log in rolled.logs.items():
        yield from log.lives[:-1]
        for first, last in log.lives[-1:]:
            yield first, max(last, now) if name in live_names else last


def _add_rate(status: RunStatus, ends: pa.Table, lives: list[Life]) -> None:
    """The rate of the last hour, or of that before the end of the work."""
    status.worked_s = worked_s(lives)
    since = max((last for _, last in lives), default=0.0) - _HOUR_S
    num_lately = pc.sum(pc.greater_equal(ends["time"], since)).as_py() or 0
    status.videos_per_hour = per_hour(num_lately, worked_s(lives, since=since))
    if status.videos_per_hour is not None:
        left = status.num_videos - status.num_done - status.num_failed
        status.eta_s = left / status.videos_per_hour * 3600


def _add_live(status: RunStatus, run: RunDir, live: Mapping[int, Mapping[str, Any]]) -> None:
    told = read_progress(run, live)
    if told:
        status.live = live_work(told.values())
        status.num_windows += status.live.num_windows
