"""Seconds from a worker's command to the record of a three-frame video, beside the import of torch alone.

An upper bound of the time to the first decoded frame: reading the run, the lease, the decode child, the encoder's trial
and the writing of a clip are in it. Nothing but models needs torch, and a worker without them never imports it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.harness import parse_size, verdict
from tests.local_runs import planned, record_path, start_worker, wait_for
from tests.synthetic import make_video

GOAL = 2.0


def worker_s(folder: Path) -> float:
    """Wall seconds of one worker until its video is done."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    make_video(raw / "v.mp4", num_frames=3, width=96, height=64)
    run = planned(folder, raw, split={"splitting_algorithm": "fixed-stride", "fixed_stride_min_clip_length_s": 0.0})
    begun = time.monotonic()
    worker = start_worker(run)
    wait_for(record_path(folder, "v.mp4").exists)
    spent = time.monotonic() - begun
    worker.communicate(timeout=60)
    record = json.loads(record_path(folder, "v.mp4").read_text())
    assert record["status"] == "done", record
    return spent


def torch_s() -> float:
    """Wall seconds of a process that imports torch and ends."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.monotonic() - begun


def main() -> int:
    num_runs = 1 if parse_size(__doc__) == "tiny" else 9
    ours: list[float] = []
    torch: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(num_runs):
            ours.append(worker_s(Path(folder) / str(index)))
            torch.append(torch_s())
    load = os.getloadavg()[0]
    print(f"{num_runs} runs on {os.cpu_count()} cores, load {load:.1f}; wall seconds, median and least")
    print(f"a worker to its first record: {statistics.median(ours):.2f}, {min(ours):.2f}")
    print(f"import torch alone: {statistics.median(torch):.2f}, {min(torch):.2f}")
    return verdict("startup", statistics.median(ours), GOAL, at_most=True)


if __name__ == "__main__":
    sys.exit(main())
