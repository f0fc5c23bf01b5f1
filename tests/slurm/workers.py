"""Workers as tasks of a Slurm array, from a batch script of three lines: what Slurm does to them, and nothing else."""

import sys
from collections.abc import Sequence

from jobs.rundir import RunDir
from tests.local_runs import ROOT, events
from tests.patience import PATIENCE_S
from tests.slurm.cluster import SlurmCluster
from tests.slurm.daemons import wait_until


def submit_workers(cluster: SlurmCluster, run: RunDir, *options: str, num_shards: int = 1) -> str:
    """An array with one task for each of the first shards of a run's first attempt; gives its id."""
    run.logs_path.mkdir(exist_ok=True)
    script = run.root / "worker.sh"
    worker = f"{sys.executable} -m jobs.worker --run {run.root} --shard $SLURM_ARRAY_TASK_ID --attempt 1"
    script.write_text(f"#!/bin/bash\ncd {ROOT}\nsrun --unbuffered {worker}\n")
    array = [f"--array=0-{num_shards - 1}", "--job-name=clipmill-worker", "--open-mode=append", "--requeue"]
    log = f"--output={run.logs_path}/%a.out"
    printed = cluster.client("sbatch", "--parsable", *array, log, "--time=5", "--mem=1000", *options, str(script))
    return printed.strip()


def log_of(run: RunDir, shard: int = 0) -> str:
    path = run.logs_path / f"{shard}.out"
    return path.read_text(errors="replace") if path.is_file() else ""


def field(cluster: SlurmCluster, job: str, name: str) -> str:
    """What ``scontrol show job`` says of a job under a name."""
    shown = cluster.client("scontrol", "show", "job", "-o", job)
    return next(part.partition("=")[2] for part in shown.split() if part.startswith(f"{name}="))


def wait_for_state(cluster: SlurmCluster, job: str, states: Sequence[str], run: RunDir) -> str:
    """Wait until a job is in one of these states; gives which."""
    seen = ""

    def is_there() -> bool:
        nonlocal seen
        seen = field(cluster, job, "JobState")
        return seen in states

    assert wait_until(is_there, timeout_s=PATIENCE_S), (seen, log_of(run))
    return seen


def wait_for_event(run: RunDir, kind: str, *, shard: int = 0, number: int = 1) -> None:
    """Wait until a shard has so many events of a kind."""
    found = wait_until(
        lambda: len([each for each in events(run, shard) if each["event"] == kind]) >= number, timeout_s=PATIENCE_S
    )
    assert found, (events(run, shard), log_of(run, shard))
