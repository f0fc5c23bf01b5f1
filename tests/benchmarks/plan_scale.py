"""Balance of a plan over videos of heavy-tailed length, and the time and memory of planning ten million of them.

The longest shard beside what no plan can go below (the mean, or the longest video), for the planner and, of the same
videos, for dealing them out in turns and for cutting the list in pieces of equal count. Then a list of ten million
lines with sizes and durations, from the file to the written plan: wall seconds, and the largest sum over all processes
of the memory that each holds (pages that two share are counted twice).

Durations: a log-normal body (Downey 2001, "The structural cause of file size distributions") with a Pareto tail
(Crovella and Bestavros 1997, "Self-similarity in World Wide Web traffic": exponent 1.2), at most twelve hours.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from jobs.planner import PlannedVideos, plan_shards
from tests.benchmarks.harness import parse_size, verdict

RATIO_GOAL, SECONDS_GOAL, GB_GOAL = 1.05, 60.0, 2.0
VIDEOS_PER_SHARD = 500
WORKERS = 64
NUM_FOLDERS = 500
PLAN = """
import os, sys, time
from pathlib import Path
from typing import Any
from jobs.planning import plan_file
begun = time.monotonic()
plan = plan_file(Path(sys.argv[1]))
print(time.monotonic() - begun, sum(os.times()[:4]), plan.num_videos, len(plan.shards))
"""


def durations_s(num_videos: int, *, seed: int = 0) -> npt.NDArray[np.float64]:
    """Seconds: a log-normal body around four minutes, and one video in fifty of half an hour and more."""
    chance = np.random.default_rng(seed)
    body = chance.lognormal(np.log(240), 1.1, num_videos)
    tail = 1800 * (1 + chance.pareto(1.2, num_videos))
    return np.clip(np.where(chance.random(num_videos) < 0.02, tail, body), 1, 12 * 3600)


def balance(num_videos: int) -> float:
    """Print makespan over lower bound of each way to plan; gives the planner's."""
    costs = (durations_s(num_videos) * 10**6).astype(np.int64)
    num_shards = max(2, num_videos // VIDEOS_PER_SHARD)
    begun = time.process_time()
    shards = plan_shards(PlannedVideos(np.arange(num_videos), costs), num_shards=num_shards)
    spent = time.process_time() - begun
    bound = max(costs.max(), costs.sum() / num_shards)
    in_turns = np.bincount(np.arange(num_videos) % num_shards, costs)
    pieces = np.add.reduceat(costs, np.arange(num_shards) * num_videos // num_shards)
    planned = np.array([shard.cost for shard in shards])
    print(f"{num_videos} videos in {num_shards} shards, planned in {spent:.1f} s of CPU; makespan / lower bound")
    print(
        f"with all shards at once: planner {planned.max() / bound:.4f}, in turns {in_turns.max() / bound:.3f}, "
        f"pieces of equal count {pieces.max() / bound:.3f}"
    )
    queue_bound = max(costs.max(), costs.sum() / min(WORKERS, num_shards))
    rates = [queue_makespan(loads) / queue_bound for loads in (planned, in_turns, pieces)]
    print(
        f"with {WORKERS} workers that take one shard after the other: planner {rates[0]:.4f}, in turns "
        f"{rates[1]:.4f}, pieces of equal count {rates[2]:.4f}"
    )
    return float(planned.max() / bound)


def queue_makespan(loads: npt.NDArray[Any]) -> float:
    """When the last of ``WORKERS`` is done, each taking the next shard in order when it is free."""
    ends = np.zeros(min(WORKERS, len(loads)))
    for load in loads:
        ends[ends.argmin()] += load
    return float(ends.max())


def write_list(folder: Path, num_lines: int) -> Path:
    """A list as users have it: ids, absolute paths (of a few real files), sizes, durations."""
    raw = folder / "datasets" / "web-videos"
    for k in range(NUM_FOLDERS):
        (raw / f"{k:03d}").mkdir(parents=True)
        (raw / f"{k:03d}" / "original-upload.mp4").write_bytes(b"x")
    path = folder / "videos.jsonl"
    chance = np.random.default_rng(1)
    with path.open("w") as file:
        for first in range(0, num_lines, 10**5):
            lengths = durations_s(min(10**5, num_lines - first), seed=first + 1)
            names = chance.integers(0, 2**63, len(lengths))
            sizes = (lengths * chance.lognormal(12.2, 0.6, len(lengths))).astype(np.int64)
            rows = zip(range(first, num_lines), names.tolist(), sizes.tolist(), lengths.round(2).tolist(), strict=False)
            file.writelines(
                f'{{"id": "web/{k % NUM_FOLDERS:03d}/{name:016x}{k:08d}", '
                f'"path": "{raw}/{k % NUM_FOLDERS:03d}/original-upload.mp4", '
                f'"size_bytes": {size}, "duration_s": {duration}}}\n'
                for k, name, size, duration in rows
            )
    return path


def plan_lines(folder: Path, num_lines: int) -> tuple[float, float]:
    """Plan a list of so many lines; gives wall seconds and GB."""
    source = write_list(folder, num_lines)
    settings = {
        "run_dir": str(folder / "run"),
        "manifest": str(source),
        "output_clip_path": str(folder / "out"),
        "cluster": "local",
        "split": {"splitting_algorithm": "fixed-stride"},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    script = folder / "plan.py"
    script.write_text(f"if __name__ == '__main__':\n{_indented(PLAN)}")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder / "run.yaml")],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, session_bytes(process.pid))
        time.sleep(0.1)
    assert process.stdout is not None
    printed = process.stdout.read().split()
    assert process.returncode == 0, printed
    assert int(printed[2]) == num_lines, printed
    seconds = float(printed[0])
    size = source.stat().st_size
    print(
        f"{num_lines} lines ({size / 1e9:.2f} GB) planned into {printed[3]} shards in {seconds:.1f} s (goal <= "
        f"{SECONDS_GOAL:.0f}), {float(printed[1]):.1f} s of CPU; {peak / 1e9:.2f} GB in all processes (goal <= "
        f"{GB_GOAL:.0f}); load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    return seconds, peak / 1e9


def session_bytes(session: int) -> int:
    """Resident bytes of all processes of a session."""
    total = 0
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getsid(int(entry.name)) == session:
                total += int((entry / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):  # it has just ended
            continue
    return total


def parse_seconds(folder: Path, num_lines: int) -> float:
    """Seconds of nothing but ``json.loads`` of each line, in one process: what reading cannot go below."""
    begun = time.process_time()
    with (folder / "videos.jsonl").open() as lines:
        for line in lines:
            json.loads(line)
    spent = time.process_time() - begun
    print(f"json.loads of each of the {num_lines} lines alone, in one process: {spent:.1f} s of CPU")
    return spent


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.strip().splitlines())


def main() -> int:
    is_tiny = parse_size(__doc__) == "tiny"
    ratio = balance(10**4 if is_tiny else 10**6)
    num_lines = 2 * 10**5 if is_tiny else 10**7
    with tempfile.TemporaryDirectory() as folder:
        seconds, gigabytes = plan_lines(Path(folder), num_lines)
        parse_seconds(Path(folder), num_lines)
    is_met = seconds <= SECONDS_GOAL and gigabytes <= GB_GOAL
    return max(0 if is_met else 1, verdict("plan_scale", ratio, RATIO_GOAL, at_most=True))


if __name__ == "__main__":
    sys.exit(main())
