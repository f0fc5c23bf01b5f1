"""Where a run stands is read from its own files, at any moment, with Slurm or without."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import exits
from jobs.aggregation import aggregate
from jobs.job_states import slurm_jobs
from jobs.launcher import launch
from jobs.ledger import Lease, ShardLog
from jobs.manifest import ManifestVideo, write_manifest
from jobs.planner import PlannedVideo, Shard
from jobs.rates import worked_s
from jobs.rundir import RunDir, write_json
from jobs.status import RunStatus, run_status
from tests.local_runs import ROOT, config_of, make_videos, planned, start_worker, wait_for, work_here


def adds_up(status: RunStatus, num_videos: int) -> bool:
    counts = (status.num_done, status.num_failed, status.num_running, status.num_waiting)
    return min(counts) >= 0 and sum(counts) == status.num_videos == num_videos


def run_by_hand(folder: Path, num_shards: int, videos_per_shard: int, *, cluster: str = "slurm") -> RunDir:
    config = config_of(folder, folder / "raw", cluster=cluster)
    run = RunDir(Path(config.run_dir))
    run.claim(config)
    count = num_shards * videos_per_shard
    write_manifest((ManifestVideo(f"{k}.mp4", f"/raw/{k}.mp4") for k in range(count)), run.manifest_path)
    offsets = [offset for offset, _ in run.manifest_entries()]
    mine = [offsets[k * videos_per_shard : (k + 1) * videos_per_shard] for k in range(num_shards)]
    run.write_shards(1, [Shard(k, tuple(PlannedVideo(o, 10**6) for o in each)) for k, each in enumerate(mine)])
    return run


def write_events(run: RunDir, shard: int, steps: str) -> None:
    """Events from words such as ``begin:0.mp4 done:0.mp4 end``."""
    log = ShardLog(run.shard_state_path(shard))
    for step in steps.split():
        event, _, video = step.partition(":")
        values: dict[str, Any] = {"video": video} if video else {"attempt": 1}
        more: dict[str, dict[str, Any]] = {
            "done": {"clips": 2, "clip_s": 1.5},
            "failed": {"reason": "crashed", "message": f"{video}: no"},
        }
        log.append(event, **values, **more.get(event, {}))
    log.close()


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of one empty folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_counts_add_up_at_every_moment_of_a_run(tmp_path: Path) -> None:
    raw = make_videos(tmp_path / "raw", 6)
    (raw / "v0.mp4").write_text("no video")
    run = planned(tmp_path, raw)
    worker, seen = start_worker(run), []
    while worker.poll() is None:
        seen.append(run_status(run))
    log = worker.communicate()[1]
    assert worker.returncode == exits.DONE, log
    seen.append(run_status(run))
    assert all(adds_up(status, 6) for status in seen)
    ended = [status.num_done + status.num_failed for status in seen]
    assert ended == sorted(ended)
    assert any(status.num_shards_running == 1 and status.num_running > 0 for status in seen)
    last = seen[-1]
    assert (last.num_done, last.num_failed, last.num_running, last.num_waiting) == (5, 1, 0, 0)
    assert (last.num_shards_ended, last.num_shards_running) == (1, 0)
    assert last.failures == {"unreadable": 1}
    assert "v0.mp4" in last.first_failures["unreadable"]
    assert last.num_clips == len(list((tmp_path / "out" / "clips").glob("*.mp4")))
    assert last.is_complete


def test_a_run_that_did_not_begin_waits(tmp_path: Path, no_slurm: Path) -> None:
    status = run_status(run_by_hand(tmp_path, 2, 3))
    assert adds_up(status, 6)
    assert (status.num_waiting, status.num_shards, status.num_attempts) == (6, 2, 1)
    assert status.videos_per_hour is None
    assert not status.is_complete


def test_a_run_without_a_plan_is_not_complete(tmp_path: Path, no_slurm: Path) -> None:
    run = run_by_hand(tmp_path, 1, 1)
    run.plan_path.unlink()
    assert not run_status(run).is_complete


@pytest.mark.parametrize(
    ("steps", "live", "expected"),
    [
        pytest.param("start begin:0.mp4", True, (0, 0, 1, 2), id="running"),
        pytest.param("start begin:0.mp4", False, (0, 0, 0, 3), id="killed"),
        pytest.param("start begin:0.mp4 start begin:1.mp4", True, (0, 0, 1, 2), id="a second life"),
        pytest.param("start begin:0.mp4 released:0.mp4", True, (0, 0, 0, 3), id="released"),
        pytest.param("start begin:0.mp4 done:0.mp4 begin:1.mp4", True, (1, 0, 1, 1), id="one done"),
        pytest.param("start begin:0.mp4 failed:0.mp4 end", False, (0, 1, 0, 2), id="one failed"),
        pytest.param("start begin:0.mp4 done:0.mp4 done:0.mp4", False, (1, 0, 0, 2), id="counted once"),
    ],
)
def test_the_events_of_a_shard_tell_where_its_videos_stand(
    tmp_path: Path, no_slurm: Path, steps: str, live: bool, expected: tuple[int, ...]
) -> None:
    run = run_by_hand(tmp_path, 1, 3)
    write_events(run, 0, steps)
    lease = Lease(run.lease_path(0), 60.0)
    assert not live or lease.acquire()
    status = run_status(run)
    lease.release()
    assert (status.num_done, status.num_failed, status.num_running, status.num_waiting) == expected
    assert status.num_clips == 2 * status.num_done


def test_a_video_that_a_later_shard_did_is_not_running_in_an_earlier(tmp_path: Path, no_slurm: Path) -> None:
    run = run_by_hand(tmp_path, 2, 1)
    write_events(run, 0, "start begin:0.mp4")
    write_events(run, 1, "start begin:0.mp4 done:0.mp4 begin:1.mp4 done:1.mp4 end")
    lease = Lease(run.lease_path(0), 60.0)
    assert lease.acquire()
    status = run_status(run)
    lease.release()
    assert adds_up(status, 2)
    assert (status.num_done, status.num_running) == (2, 0)


def test_status_works_where_there_is_no_slurm(tmp_path: Path, no_slurm: Path) -> None:
    run = run_by_hand(tmp_path, 1, 2)
    write_json(run.jobs_path(1), {"cluster": "slurm", "jobs": [{"job_id": "7_0", "shard": 0}]})
    write_events(run, 0, "start begin:0.mp4 done:0.mp4")
    status = run_status(run)
    assert adds_up(status, 2)
    assert (status.num_done, status.jobs) == (1, None)


def fake_squeue(folder: Path, script: str) -> None:
    (folder / "squeue").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "squeue").chmod(0o755)


def test_a_squeue_that_hangs_is_given_up(tmp_path: Path, no_slurm: Path) -> None:
    fake_squeue(no_slurm, "exec /bin/sleep 60")
    run = run_by_hand(tmp_path, 1, 1)
    write_json(run.jobs_path(1), {"cluster": "slurm", "jobs": [{"job_id": "7_0", "shard": 0}]})
    started = time.monotonic()
    assert slurm_jobs(run, timeout_s=0.5) is None
    assert time.monotonic() - started < 30.0  # half of its sleep


def test_slurm_is_asked_once_and_only_for_its_own_jobs(tmp_path: Path, no_slurm: Path) -> None:
    fake_squeue(no_slurm, f'echo "$@" >> {tmp_path}/asked; echo "7_0|RUNNING"; echo "7_1|PENDING"; echo "9|PENDING"')
    run = run_by_hand(tmp_path, 2, 1)
    run.write_shards(2, [])
    jobs = [{"job_id": "7_0", "shard": 0}, {"job_id": "7_1", "shard": 1}, {"job_id": "9", "shard": None}]
    write_json(run.jobs_path(1), {"cluster": "local", "jobs": [{"job_id": "local-0", "shard": 0}]})
    write_json(run.jobs_path(2), {"cluster": "slurm", "jobs": jobs})
    assert run_status(run).jobs == {"RUNNING": 1, "PENDING": 2}
    [asked] = (tmp_path / "asked").read_text().splitlines()
    assert "--jobs=7,9" in asked
    assert "local" not in asked


def asked_run(folder: Path) -> RunDir:
    run = run_by_hand(folder, 1, 1)
    write_json(run.jobs_path(1), {"cluster": "slurm", "jobs": [{"job_id": "7_0", "shard": 0}]})
    return run


def num_asked(folder: Path) -> int:
    return len((folder / "asked").read_text().splitlines())


@pytest.mark.parametrize(
    ("answer", "expected"),
    [pytest.param('echo "7_0|RUNNING"', {"RUNNING": 1}, id="an answer"), pytest.param("exit 1", None, id="none")],
)
def test_slurm_is_asked_once_in_a_while_by_all_who_watch(
    tmp_path: Path, no_slurm: Path, answer: str, expected: dict[str, int] | None
) -> None:
    fake_squeue(no_slurm, f"echo asked >> {tmp_path}/asked; {answer}")
    run = asked_run(tmp_path)
    program = "from jobs.job_states import slurm_jobs; from jobs.rundir import RunDir; from pathlib import Path; "
    program += f"print(slurm_jobs(RunDir(Path({str(run.root)!r}))))"
    watchers = [subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) for _ in range(4)]
    assert [watcher.wait() for watcher in watchers] == [0] * 4
    assert [slurm_jobs(run) for _ in range(5)] == [expected] * 5
    assert num_asked(tmp_path) == 1
    assert slurm_jobs(run, interval_s=0.0) == expected
    assert num_asked(tmp_path) == 2


def test_while_slurm_hangs_only_one_waits_for_it(tmp_path: Path, no_slurm: Path) -> None:
    fake_squeue(no_slurm, f"echo asked >> {tmp_path}/asked; exec /bin/sleep 60")
    run = asked_run(tmp_path)
    waiting = threading.Thread(target=lambda: slurm_jobs(run, timeout_s=6.0))
    waiting.start()
    wait_for((tmp_path / "asked").exists)
    assert slurm_jobs(run) is None
    assert slurm_jobs(run, interval_s=0.0) is None  # also of those who would ask again
    assert waiting.is_alive()
    assert num_asked(tmp_path) == 1
    waiting.join()


def test_one_who_died_while_it_asked_does_not_keep_others_from_asking_for_ever(tmp_path: Path, no_slurm: Path) -> None:
    fake_squeue(no_slurm, 'echo "7_0|RUNNING"')
    run = asked_run(tmp_path)
    run.state_path.mkdir(exist_ok=True)
    lock = run.state_path / "squeue.lock"
    lock.touch()
    assert slurm_jobs(run) is None
    os.utime(lock, (0, time.time() - 3600))
    assert slurm_jobs(run) == {"RUNNING": 1}
    assert not lock.exists()


def test_the_rate_is_that_of_the_last_hour(tmp_path: Path, no_slurm: Path) -> None:
    run = run_by_hand(tmp_path, 1, 100)
    run.state_path.mkdir()
    begun = 1_000_000.0
    ends = [begun + 10.0 * k for k in range(10)] + [begun + 20_000.0 + 60.0 * k for k in range(61)]
    line = '{{"event": "done", "time": {}, "video": "{}.mp4", "clips": 1, "clip_s": 1.0}}\n'
    run.shard_state_path(0).write_text("".join(line.format(end, k) for k, end in enumerate(ends)))
    status = run_status(run)
    assert status.videos_per_hour == pytest.approx(61)  # one a minute, both ends counted
    assert status.eta_s == pytest.approx(29 / 61 * 3600)


def write_timed_events(run: RunDir, shard: int, steps: list[tuple[str, float]]) -> None:
    """Events at known times; videos are named in the order of their ends."""
    run.state_path.mkdir(exist_ok=True)
    lines = []
    for number, (event, time_s) in enumerate(steps):
        of_video = {"video": f"{number}.mp4", "clips": 1, "clip_s": 1.0} if event == "done" else {"attempt": 1}
        lines.append(json.dumps({"event": event, "time": time_s, **of_video}) + "\n")
    with run.shard_state_path(shard).open("a") as file:
        file.writelines(lines)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([("start", 0), ("done", 100.0), ("done", 100.001)], 2 / 100.001 * 3600, id="since the start"),
        pytest.param([("done", 100.0), ("done", 100.001)], None, id="nothing to measure by"),
        pytest.param([("start", 0), ("done", 100.0)], None, id="one video"),
        pytest.param(
            [("start", 0), ("done", 90), ("end", 100), ("start", 2000), ("done", 2050), ("end", 2100)],
            2 / 200 * 3600,
            id="nobody was at work between",
        ),
        pytest.param(
            [("start", 0), ("done", 90), ("end", 100), ("start", 9000), ("done", 9050), ("done", 9080), ("end", 9100)],
            2 / 100 * 3600,
            id="the last hour only",
        ),
    ],
)
def test_the_rate_is_what_ended_by_the_time_in_which_somebody_worked(
    tmp_path: Path, no_slurm: Path, steps: list[tuple[str, float]], expected: float | None
) -> None:
    run = run_by_hand(tmp_path, 1, 100)
    for some in (steps[:2], steps[2:]):  # read in two goes, as by somebody who looks on
        write_timed_events(run, 0, [(event, 1_000_000.0 + s) for event, s in some])
        status = run_status(run)
    assert status.videos_per_hour == (None if expected is None else pytest.approx(expected, rel=1e-3))
    assert (status.eta_s is None) == (expected is None)


def test_workers_at_the_same_time_share_that_time(tmp_path: Path, no_slurm: Path) -> None:
    run = run_by_hand(tmp_path, 2, 100)
    for shard in range(2):
        steps = [("start", 50.0 * shard), *[("done", 60.0 + k + shard) for k in range(3)], ("end", 100.0 + 50 * shard)]
        write_timed_events(run, shard, steps)
    status = run_status(run)
    assert status.worked_s == pytest.approx(150)
    assert status.videos_per_hour == pytest.approx(3 / 150 * 3600)  # the same three videos


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 10))), st.integers(0, 40))
def test_the_time_at_work_is_that_in_which_at_least_one_worked(lives: list[tuple[int, int]], since: int) -> None:
    spans = [(begin, begin + length) for begin, length in lives]
    expected = sum(any(begin <= second < end for begin, end in spans) for second in range(since, 60))
    assert worked_s(spans, since=since) == expected


def test_bad_nodes_are_named(tmp_path: Path, no_slurm: Path) -> None:
    run = run_by_hand(tmp_path, 1, 1)
    log = ShardLog(run.state_path / "bad_nodes.jsonl")
    log.append("bad_node", node="n3", check="scratch", message="the disk is full", job="7_0")
    log.close()
    [bad] = run_status(run).bad_nodes
    assert (bad["node"], bad["check"], bad["message"]) == ("n3", "scratch", "the disk is full")


def test_slurm_is_not_asked_of_a_local_run(tmp_path: Path, no_slurm: Path) -> None:
    fake_squeue(no_slurm, f"touch {tmp_path}/asked")
    assert run_status(run_by_hand(tmp_path, 1, 1, cluster="local")).jobs is None
    assert not (tmp_path / "asked").exists()


def test_everything_is_in_the_json(tmp_path: Path, no_slurm: Path) -> None:
    run = run_by_hand(tmp_path, 1, 2)
    write_events(run, 0, "start begin:0.mp4 done:0.mp4 begin:1.mp4 failed:1.mp4 end")
    shown = json.loads(json.dumps(run_status(run).to_json()))
    assert (shown["num_videos"], shown["num_waiting"], shown["is_complete"]) == (2, 0, True)
    assert shown["failures"] == {"crashed": 1}


def test_a_video_whose_worker_died_between_record_and_event_is_counted_after_the_aggregation(tmp_path: Path) -> None:
    run = planned(tmp_path, make_videos(tmp_path / "raw", 3))
    assert work_here(run)[0] == exits.DONE
    path = run.shard_state_path(0)
    lines = path.read_text().splitlines(keepends=True)
    lost = next(line for line in lines if '"event": "done"' in line)
    path.write_text("".join(line for line in lines if line != lost))
    assert run_status(run, ask_slurm=False).num_done == 2
    for _ in range(2):  # once more changes nothing
        assert aggregate(run) == exits.DONE
        status = run_status(run, ask_slurm=False)
        assert (status.num_done, status.num_waiting, status.is_complete) == (3, 0, True)


def test_a_shard_that_died_is_not_waited_for_once_a_newer_attempt_took_over(tmp_path: Path) -> None:
    run = planned(tmp_path, make_videos(tmp_path / "raw", 3))
    write_json(run.jobs_path(1), {"cluster": "local", "jobs": []})
    ShardLog(run.shard_state_path(0)).append("start", attempt=1)  # and then its worker died
    dead = run_status(run, ask_slurm=False)
    assert (dead.num_shards, dead.num_shards_ended) == (1, 0)
    assert launch(run, run.load_config()).number == 2
    status = run_status(run, ask_slurm=False)
    assert (status.num_shards, status.num_shards_ended, status.num_done) == (2, 2, 3)
