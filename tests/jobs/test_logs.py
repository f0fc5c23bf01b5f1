"""Of each kind of error the first is found in the logs of every way to run: local workers, arrays, scripts."""

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from jobs.ledger import Lease, ShardLog
from jobs.logs import first_errors, log_files
from jobs.planning import plan_run
from jobs.rundir import RunDir, write_json
from tests.local_runs import clipmill, clipmill_here, config_of, make_videos, write_config

LOG_NAMES = {
    "local": "shard-{shard:05d}.log",
    "submitit": "77/77_{shard}_0_log.out",
    "a task's own": "77_{shard}_0_log.out",
}


def run_of_four(folder: Path) -> RunDir:
    """Four shards of one video each, in an array, with nothing done."""
    raw = make_videos(folder / "raw", 4, num_frames=3)
    run = plan_run(config_of(folder, raw, plan={"num_shards": 4})).run
    write_json(run.jobs_path(1), {"cluster": "slurm", "jobs": [{"job_id": f"77_{k}", "shard": k} for k in range(4)]})
    return run


def log_of(run: RunDir, shard: int, lines: list[str], kind: str = "local") -> Path:
    path = run.logs_path / "attempt-001" / LOG_NAMES[kind].format(shard=shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def events_of(run: RunDir, shard: int, *events: tuple[str, Mapping[str, object]]) -> None:
    log = ShardLog(run.shard_state_path(shard))
    log.append("start", attempt=1)
    for event, values in events:
        log.append(event, **values)
        time.sleep(0.002)  # events have times of a millisecond
    log.close()


@pytest.mark.parametrize("kind", LOG_NAMES)
def test_a_task_that_was_killed_for_its_memory_is_told_by_its_log(tmp_path: Path, kind: str) -> None:
    run = run_of_four(tmp_path)
    oom = "slurmstepd: error: Detected 1 oom_kill event in StepId=77.0. Some of the step tasks have been OOM Killed."
    path = log_of(run, 2, ["event=shard shard=2", oom, "srun: error: n1: task 0: Out Of Memory"], kind)
    events_of(run, 2, ("begin", {"video": "v3.mp4"}))
    [error] = first_errors(run)
    assert (error.kind, error.shard, error.log, error.line) == ("task died (oom_kill)", 2, path, 2)
    assert str(path) in str(error)


def test_a_task_that_died_before_its_first_event_is_told_by_its_traceback(tmp_path: Path) -> None:
    run = run_of_four(tmp_path)
    lines = ["Traceback (most recent call last):", '  File "x.py", line 1', "ModuleNotFoundError: No module named 'av'"]
    for shard in (1, 3):
        log_of(run, shard, ["submitit INFO", *lines], "submitit")
    [error] = first_errors(run)
    assert (error.kind, error.count, error.line) == ("task died (ModuleNotFoundError)", 2, 2)
    assert error.message == "ModuleNotFoundError: No module named 'av'"


def test_the_first_of_each_class_is_the_earliest(tmp_path: Path) -> None:
    run = run_of_four(tmp_path)
    full = "StorageError: can't write clips/x.mp4: No space left on device"
    first = {"video": "a.mp4", "reason": "unreadable", "message": "v.mp4: first"}
    later = {"video": "b.mp4", "reason": "unreadable", "message": "v.mp4: later"}
    events_of(run, 3, ("failed", first), ("error", {"message": full}))
    events_of(run, 0, ("failed", later), ("end", {}))
    path = log_of(run, 3, ["event=failed v.mp4: first", "ERROR event=worker_failed", full])
    videos, worker = first_errors(run)
    assert (videos.kind, videos.count, videos.message) == ("video failed (unreadable)", 2, "v.mp4: first")
    assert (videos.log, videos.line) == (path, 1)
    assert (worker.kind, worker.count, worker.log, worker.line) == ("worker failed (StorageError)", 1, path, 3)
    [only] = first_errors(run, shard=0)
    assert only.message == "v.mp4: later"


def test_shards_that_wait_work_or_ended_well_are_no_errors(tmp_path: Path) -> None:
    run = run_of_four(tmp_path)
    events_of(run, 0, ("begin", {"video": "v0.mp4"}))
    events_of(run, 1, ("end", {}))
    log_of(run, 0, ["event=shard shard=0"])
    log_of(run, 1, ["a video's text: Traceback (most recent call last)"])
    lease = Lease(run.lease_path(0), 60.0)
    assert lease.acquire()
    assert first_errors(run) == []
    lease.release()
    [killed] = first_errors(run)
    assert killed.kind == "task died (killed, or its node went away)"
    assert killed.message == "event=shard shard=0"


def test_the_logs_of_a_shard_are_those_of_its_task_and_no_other(tmp_path: Path) -> None:
    run = run_of_four(tmp_path)
    mine = [log_of(run, 1, ["x"], kind) for kind in LOG_NAMES]
    for shard in (0, 2, 11):
        log_of(run, shard, ["y"], "submitit")
    assert sorted(log_files(run, shard=1)) == sorted(mine)
    assert len(log_files(run)) == 6


PACKING_FAILED = [
    "INFO event=shard",
    "ERROR event=packing_failed run=x task=1",
    "Traceback (most recent call last):",
    '  File "x.py", line 1',
    "OSError: [Errno 28]",
    "",
    "The above exception was the direct cause of the following exception:",
    "",
    "Traceback (most recent call last):",
    '  File "y.py", line 2',
    "curation.errors.StorageError: can't write tars: it is full",
]
AFTER = {  # log of the aggregation, of two packers
    "local": ["aggregation.log", "packing-00000.log", "packing-00001.log"],
    "slurm": ["88_0_log.out", "89_0_0_log.out", "89_1_0_log.out"],
    "script": ["98_0_log.out", "99_0_0_log.out", "99_1_0_log.out"],
}


def run_with_packers(folder: Path) -> RunDir:
    """What was queued through submitit, and what scripts queued in a second attempt."""
    run = run_of_four(folder)
    jobs = [{"job_id": f"77_{k}", "shard": k, "role": "worker"} for k in range(4)]
    jobs += [{"job_id": "88", "shard": None, "role": "aggregation"}, {"job_id": "89", "shard": None, "role": "packing"}]
    write_json(run.jobs_path(1), {"cluster": "slurm", "jobs": jobs})
    (run.attempt_path(1) / "submitted.txt").write_text("c-1-a1-s0 97\nc-1-a1-aggregation 98\nc-1-a1-p0 99\n")
    return run


@pytest.mark.parametrize("kind", AFTER)
def test_an_aggregation_and_packers_that_failed_are_told_by_the_last_line_of_their_tracebacks(
    tmp_path: Path, kind: str
) -> None:
    run = run_with_packers(tmp_path)
    log_of(run, 0, ["event=shard"])
    folder = run.logs_path / "attempt-001"
    aggregation, first, second = (folder / name for name in AFTER[kind])
    aggregation.write_text("Traceback (most recent call last):\n  File\nKeyError: 'x'\n")
    first.write_text("INFO jobs.packing event=packed task=0 plan=x\n")
    second.write_text("\n".join(PACKING_FAILED) + "\n")
    one, other = first_errors(run)
    assert (one.kind, one.message, one.log, one.line) == (
        "aggregation failed (KeyError)",
        "KeyError: 'x'",
        aggregation,
        1,
    )
    assert (other.kind, other.log) == ("packer failed (curation.errors.StorageError)", second)
    assert other.message == "curation.errors.StorageError: can't write tars: it is full"
    assert second.read_text().splitlines()[(other.line or 0) - 1] == "Traceback (most recent call last):"
    assert str(other).endswith(f"  {second}:{other.line}")
    assert first_errors(run, shard=0) == []


def test_what_was_mended_since_is_no_error_of_the_run(tmp_path: Path) -> None:
    run = run_with_packers(tmp_path)
    log_of(run, 0, ["event=shard"])
    folder = run.logs_path / "attempt-001"
    packed = [*PACKING_FAILED, "2026 INFO __main__ event=packed task=1 plan=x"]
    (folder / "packing-00001.log").write_text("\n".join(packed) + "\n")
    assert first_errors(run) == []
    (folder / "finishing.log").write_text("\n".join(PACKING_FAILED) + "\n")
    [error] = first_errors(run)
    assert error.kind == "finishing failed (curation.errors.StorageError)"
    write_json(run.report_path, {"exit_code": 3, "dataset": {"missing_tars": ["x.tar"]}})
    assert first_errors(run) == [error]
    write_json(run.report_path, {"exit_code": 0, "dataset": {"num_packed": 3}})
    assert first_errors(run) == []


def test_logs_of_a_run_on_this_machine_name_file_and_line(tmp_path: Path) -> None:
    raw = make_videos(tmp_path / "raw", 2, num_frames=3)
    (raw / "v0.mp4").write_text("no video")
    config = write_config(tmp_path, raw)
    assert clipmill("run", str(config)).returncode == 0
    shown = clipmill_here("logs", str(config), "--first-error")
    assert shown.returncode == 0
    first, where = shown.stdout.splitlines()
    assert first.startswith("video failed (unreadable): 1; the first: v0.mp4: can't open it as media")
    log = tmp_path / "run/logs/attempt-001/shard-00000.log"
    assert re.fullmatch(rf"  shard 0, {re.escape(str(log))}:(\d+)", where)
    assert "video=v0.mp4" in log.read_text().splitlines()[int(where.rpartition(":")[2]) - 1]
    assert "log: " in clipmill_here("logs", str(config)).stdout
    assert json.loads(clipmill_here("status", str(config), "--json").stdout)["retry_commands"] == {
        "unreadable": f"clipmill resume {tmp_path}/run --failed unreadable"
    }
