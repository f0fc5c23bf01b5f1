"""Where a run stands, from its own files: O(shards) reads, no need of Slurm."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from jobs.captions import EngineWork, add_engine_work
from jobs.ledger import live_leases, read_events
from jobs.rundir import RunDir
from jobs.slurm import queue_states


@dataclass
class RunStatus:
    """Counts of shards and videos now.

    ``num_running`` videos are begun in a live shard; ``num_waiting`` are everything that is not done, failed or
    running. ``videos_per_hour`` and ``eta_s`` are None until two videos ended. ``captions`` are by key, of the workers
    that came to their end.
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
    jobs: dict[str, int] | None = None
    videos_per_hour: float | None = None
    eta_s: float | None = None
    captions: dict[str, EngineWork] = field(default_factory=dict)

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
    """Read the events of all shards and sum them up.

    Raises:
        RunDirError: this is not a run folder.
    """
    config = run.load_config()
    status = RunStatus(str(run.root))
    attempts = run.attempts()
    sizes = {attempt: run.shard_sizes(attempt) for attempt in attempts}
    status.num_attempts = len(attempts)
    status.num_videos = sum(sizes[1].values()) if sizes else 0
    status.num_shards = sum(map(len, sizes.values()))
    live = live_leases(run, timeout_s=config.worker.lease_timeout_s)
    ended: dict[str, float] = {}
    running: set[str] = set()
    failures: Counter[str] = Counter()
    for attempt in attempts:
        for index in sizes[attempt]:
            begun, has_ended = _add_shard(status, run, index, ended=ended, failures=failures)
            is_over = has_ended or attempt != attempts[-1]  # a newer attempt took over what an old one left
            status.num_shards_ended += is_over and index not in live
            running |= begun if index in live else set()
    for event in read_events(run.found_path):
        if event["video"] not in ended:
            ended[event["video"]] = event["time"]
            _count_end(status, event, failures)
    status.num_running = len(running - ended.keys())
    status.num_shards_running = len(live)
    status.failures = dict(sorted(failures.items()))
    _add_rate(status, ended)
    if ask_slurm and config.cluster == "slurm":
        status.jobs = slurm_jobs(run)
    return status


def _add_shard(
    status: RunStatus, run: RunDir, index: int, *, ended: dict[str, float], failures: Counter[str]
) -> tuple[set[str], bool]:
    """Count the ends of one shard's videos; gives those begun and not ended, and whether its worker came to the end."""
    begun: set[str] = set()
    last = ""
    for event in read_events(run.shard_state_path(index)):
        last, video = event["event"], event.get("video", "")
        if last == "begin":
            begun.add(video)
        elif last in {"done", "failed"}:
            begun.discard(video)
            if video not in ended:
                ended[video] = event["time"]
                _count_end(status, event, failures)
        elif last in {"start", "released"}:
            begun.discard(video)
            begun = set() if last == "start" else begun
        elif last == "end":
            add_engine_work(status.captions, event)
    return begun, last == "end"


def _count_end(status: RunStatus, event: Mapping[str, Any], failures: Counter[str]) -> None:
    if event["event"] == "failed":
        status.num_failed += 1
        failures[event["reason"]] += 1
        status.first_failures.setdefault(event["reason"], event["message"])
    else:
        status.num_done += 1
        status.num_clips += event["clips"]
        status.clip_s += event["clip_s"]


def _add_rate(status: RunStatus, ended: Mapping[str, float]) -> None:
    times = ended.values()
    if len(ended) < 2 or max(times) <= min(times):
        return
    now = time.time() if status.num_shards_running else max(times)
    status.videos_per_hour = len(ended) / max(now - min(times), 1e-3) * 3600
    left = status.num_videos - status.num_done - status.num_failed
    status.eta_s = left / status.videos_per_hour * 3600


def slurm_jobs(run: RunDir, *, timeout_s: float = 10.0) -> dict[str, int] | None:
    """How many jobs of the run are in which state, by one query; None when Slurm does not answer in time."""
    ids: set[str] = set()
    for attempt in run.attempts():
        path = run.jobs_path(attempt)
        document = json.loads(path.read_text()) if path.is_file() else {}
        if document.get("cluster") == "slurm":
            ids |= {job["job_id"].partition("_")[0] for job in document["jobs"]}
    if not ids:
        return {}
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T", f"--jobs={','.join(sorted(ids))}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return dict(Counter(queue_states(answer.stdout).values())) if answer.returncode == 0 else None
