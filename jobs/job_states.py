"""In which states Slurm has a run's jobs: asked at most once in 30 s, however many people watch the run."""

import hashlib
import json
import os
import subprocess
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

from jobs.ledger import file_server_time
from jobs.rundir import RunDir, write_json
from jobs.slurm import queue_states
from jobs.slurm_attempt import slurm_job_ids

MIN_INTERVAL_S = 30.0


def slurm_jobs(run: RunDir, *, timeout_s: float = 10.0, interval_s: float = MIN_INTERVAL_S) -> dict[str, int] | None:
    """How many jobs of the run are in which state; None when Slurm does not answer in time.

    The answer, or that there was none, is kept for ``interval_s`` for every process that asks for this run; while one
    of them waits for Slurm, the others take the last answer.
    """
    ids = slurm_job_ids(run)
    if not ids:
        return {}
    path = _answer_path(run)
    with suppress(OSError):
        if _age_s(path) < interval_s or not _claimed(path, timeout_s=timeout_s):
            return _kept_answer(path)
        try:
            if _age_s(path) < interval_s:  # another one asked between these two looks
                return _kept_answer(path)
            write_json(path, {"jobs": _kept_answer(path)})  # its time: those who come now need not ask
            jobs = _asked(ids, timeout_s=timeout_s)
            write_json(path, {"jobs": jobs})
        finally:
            _lock_path(path).unlink(missing_ok=True)
        return jobs
    return _asked(ids, timeout_s=timeout_s)


def _asked(ids: list[str], *, timeout_s: float) -> dict[str, int] | None:
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T", f"--jobs={','.join(ids)}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return dict(Counter(queue_states(answer.stdout).values())) if answer.returncode == 0 else None


def _answer_path(run: RunDir) -> Path:
    """In the run folder; a reader who may not write there keeps an answer of their own."""
    if os.access(run.state_path if run.state_path.is_dir() else run.root, os.W_OK):
        return run.state_path / "squeue.json"
    name = hashlib.sha256(str(run.root.absolute()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"clipmill-{os.getuid()}" / f"{name}.json"


def _age_s(path: Path) -> float:
    """Seconds since the answer was written, by the clock that wrote it; infinite where there is none."""
    try:
        written = path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    return file_server_time(path.parent) - written


def _kept_answer(path: Path) -> dict[str, int] | None:
    try:
        jobs: dict[str, int] | None = json.loads(path.read_text())["jobs"]
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return jobs


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def _claimed(path: Path, *, timeout_s: float) -> bool:
    """Whether it is for this process to ask; one that died while it asked holds the others up no longer than a wait."""
    lock = _lock_path(path)
    lock.parent.mkdir(parents=True, exist_ok=True)
    if _age_s(lock) > timeout_s + MIN_INTERVAL_S:
        lock.unlink(missing_ok=True)
    try:
        lock.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
