"""Seconds of ``clipmill status`` on a run of a million videos, 2000 shards and two attempts, as a command.

A thousand workers are at work, and each tells of itself in a file.

Measured in CPU seconds, which on an idle machine are wall seconds at most. Beside it: the same with nothing kept of the
logs, as for the first look of all, and reading every event line by line, as a program of a few lines would.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.ledger import read_events
from jobs.manifest import ManifestVideo, write_manifest
from jobs.planner import PlannedVideo, Shard
from jobs.progress import ShardProgress, StageSeconds, Work, progress_path
from jobs.rundir import RunDir
from jobs.shard_files import write_shards
from tests.benchmarks.harness import cpu_s, parse_size, verdict
from tests.local_runs import ROOT, config_of

GOAL = 2.0
VIDEOS_PER_SHARD = 500


def make_run(folder: Path, num_shards: int) -> RunDir:
    """A run in which 1 of 50 videos failed and was taken on by a second attempt; 1 shard of 20 is half done."""
    config = config_of(folder, folder / "raw", cluster="local")
    run = RunDir(Path(config.run_dir))
    run.claim(config)
    write_manifest([ManifestVideo("a.mp4", "/raw/a.mp4")], run.manifest_path)
    run.attempt_path(1).mkdir(parents=True)
    run.attempt_path(2).mkdir(parents=True)
    run.state_path.mkdir()
    again = []
    for shard in range(num_shards):
        lines = [_line("start", attempt=1, host="node", pid=1)]
        for k in range(VIDEOS_PER_SHARD if shard % 20 else VIDEOS_PER_SHARD // 2):
            video = f"traffic/day-{k % 31:02d}/camera-{shard:05d}-{k:04d}.mp4"
            lines.append(_line("begin", video=video))
            if k % 50:
                lines.append(_line("done", video=video, clips=12, clip_s=123.456))
            else:
                lines.append(_line("failed", video=video, reason="unreadable", message=f"{video}: no such container"))
                again.append(video)
        lines += [_line("end", attempt=1, code=0, stages={})] if shard % 20 else []
        run.shard_state_path(shard).write_text("".join(lines))
        if shard % 2 == 0:
            _come_alive(run, shard)
    shards = (Shard(k, _videos(k)) for k in range(num_shards))
    write_shards(run.shards_path(1), shards)
    write_shards(run.shards_path(2), [Shard(num_shards, _videos(0))])
    lines = [_line("done", video=video, clips=1, clip_s=1.5) for video in again[: len(again) // 2]]
    run.shard_state_path(num_shards).write_text("".join(lines))
    return run


def _come_alive(run: RunDir, shard: int) -> None:
    """A worker of another node, with all the stages of the default pipeline."""
    holder = {"host": "node", "boot": "another", "pid": shard, "started": "1"}
    seconds = StageSeconds(1234.567, 234.567, 34.567, 2)
    work = Work(600.0, 1234, 2345, 345678, {f"a_stage_with_number_{k}": seconds for k in range(12)})
    lease, path = run.lease_path(shard), progress_path(run, shard)
    for folder in (lease.parent, path.parent):
        folder.mkdir(exist_ok=True)
    lease.write_text(json.dumps({"token": "t", **holder}))
    os.utime(lease, (0, time.time() + 3600))  # nobody keeps it alive
    path.write_text(json.dumps(asdict(ShardProgress(time.time(), holder, 4, 12, work, work))))


def _videos(shard: int) -> tuple[PlannedVideo, ...]:
    first = shard * VIDEOS_PER_SHARD
    return tuple(PlannedVideo(90 * k, 10**9) for k in range(first, first + VIDEOS_PER_SHARD))


def _line(event: str, **values: object) -> str:
    return json.dumps({"event": event, "time": round(time.time(), 3), **values}) + "\n"


def command(run: RunDir) -> dict[str, Any]:
    """What ``clipmill status --json`` says."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "status", str(run.root), "--json"],
        capture_output=True,
        check=True,
        cwd=ROOT,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def line_by_line(run: RunDir) -> dict[str, str]:
    """How each video ended, by reading every event as JSON."""
    ended: dict[str, str] = {}
    for _, path in run.state_paths():
        for event in read_events(path):
            if event["event"] in {"done", "failed"}:
                ended.setdefault(event["video"], event["event"])
    return ended


def median_s(work: Callable[[], object], num_runs: int, *, before: Callable[[], object] = lambda: None) -> str:
    """Median CPU and wall seconds."""
    spent = []
    for _ in range(num_runs):
        before()
        cpu, wall = cpu_s(), time.monotonic()
        work()
        spent.append((cpu_s() - cpu, time.monotonic() - wall))
    cpu, wall = (statistics.median(each[k] for each in spent) for k in range(2))
    return f"{cpu:.2f} s CPU, {wall:.2f} s wall"


def main() -> int:
    is_tiny = parse_size(__doc__) == "tiny"
    num_shards, num_runs = (20, 1) if is_tiny else (2000, 5)
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), num_shards)
        logged = sum(path.stat().st_size for _, path in run.state_paths())
        print(f"{num_shards * VIDEOS_PER_SHARD} videos, {num_shards} shards, {logged / 1e6:.0f} MB of events")
        kept = run.state_path / "roll-up.arrow"
        first = median_s(lambda: command(run), num_runs, before=lambda: kept.unlink(missing_ok=True))
        usual = median_s(lambda: command(run), num_runs)
        ended = line_by_line(run)
        simple = median_s(lambda: line_by_line(run), 1)
        found = command(run)
        assert found["num_done"] == sum(how == "done" for how in ended.values())
        assert found["num_shards_running"] == num_shards // 2
        assert found["live"]["num_workers"] == num_shards // 2
        assert found["num_failed"] == sum(how == "failed" for how in ended.values())
    print(
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; medians of {num_runs}, the command's start included"
    )
    print(f"nothing kept of the logs: {first}")
    print(f"as usual: {usual}")
    print(f"every event as JSON, without a command around it: {simple}")
    return verdict("status_scale", float(usual.split()[0]), GOAL, at_most=True)


if __name__ == "__main__":
    sys.exit(main())
