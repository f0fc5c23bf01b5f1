"""What disturbed workers leave is what an undisturbed one leaves; those that are killed or signalled are processes."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from curation.errors import FailureReason
from jobs import exits
from jobs.ledger import ShardLog
from jobs.planner import PlannedVideo, Shard
from jobs.rundir import RunDir
from tests.footage import MEDIA
from tests.local_runs import (
    digests,
    events,
    make_videos,
    planned,
    record_path,
    start_worker,
    videos_of,
    wait_for,
    work,
    work_here,
)
from tests.patience import PATIENCE_S

NUM_VIDEOS = 6


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("raw"), NUM_VIDEOS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> dict[str, str]:
    """Digests of what a worker leaves that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    code, log = work(planned(folder, raw))
    assert code == exits.DONE, log
    assert "ERROR" not in log
    found = digests(folder / "out")
    assert len([name for name in found if name.startswith("processed_videos/")]) == NUM_VIDEOS
    return found


def ids_of(run: RunDir) -> list[str]:
    """The videos of shard 0 in the order of the plan."""
    return [entry.id for entry in run.videos_at(video.offset for video in run.shard(1, 0).videos)]


def begin_by_hand(run: RunDir, video: str, times: int, *, shard: int = 0) -> None:
    """What workers leave that were ended by a video."""
    log = ShardLog(run.shard_state_path(shard))
    for _ in range(times):
        log.append("start", attempt=1)
        log.append("begin", video=video)
    log.close()


def unfinished(run: RunDir) -> list[str]:
    """Videos whose last event is their beginning."""
    last = {each["video"]: each["event"] for each in events(run) if "video" in each}
    return [video for video, event in last.items() if event == "begin"]


@pytest.mark.parametrize("seed", range(3))
def test_a_worker_killed_at_any_moment_and_run_again_leaves_the_same_bytes(
    tmp_path: Path, raw: Path, undisturbed: dict[str, str], seed: int
) -> None:
    chance = random.Random(seed)
    run = planned(tmp_path, raw, worker={"max_attempts": 100})
    for _ in range(2):
        worker = start_worker(run)
        num_events = len(events(run))
        wait_for(lambda seen=num_events: len(events(run)) > seen)  # type: ignore[misc]
        time.sleep(chance.uniform(0.0, 0.35))
        worker.kill()
        assert worker.wait() in (-signal.SIGKILL, exits.DONE)
        assert set(digests(tmp_path / "out")) <= set(undisturbed)
    code, log = work_here(run)
    assert code == exits.DONE, log
    assert digests(tmp_path / "out") == undisturbed
    assert sorted(set(videos_of(run, "done"))) == sorted(ids_of(run))


def children_of(pid: int) -> list[int]:
    """Processes that a worker has started, as long as it is alive."""
    found = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for each in found for child in each]


def test_a_decode_child_that_somebody_kills_is_replaced_and_the_bytes_are_the_same(
    tmp_path: Path, raw: Path, undisturbed: dict[str, str]
) -> None:
    run = planned(tmp_path, raw, worker={"videos_at_once": 1})
    worker = start_worker(run)
    killed: set[int] = set()
    for num_done in range(3):
        wait_for(lambda least=num_done: len(videos_of(run, "done")) >= least)  # type: ignore[misc]
        wait_for(lambda: bool(set(children_of(worker.pid)) - killed))
        (child,) = set(children_of(worker.pid)) - killed
        os.kill(child, signal.SIGKILL)
        killed.add(child)
    log = worker.communicate(timeout=PATIENCE_S)[1]
    assert worker.returncode == exits.DONE, log
    assert digests(tmp_path / "out") == undisturbed
    assert sorted(videos_of(run, "done")) == sorted(ids_of(run))


def test_a_killed_worker_leaves_no_decode_child_behind(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "v.mp4").write_bytes((MEDIA / "big_buck_bunny_1.mp4").read_bytes())
    run = planned(tmp_path, raw, clips={"preset": "placebo", "crf": 1})  # takes minutes
    worker = start_worker(run)
    wait_for(lambda: bool(children_of(worker.pid)))
    (child,) = children_of(worker.pid)
    worker.kill()
    worker.communicate(timeout=PATIENCE_S)
    wait_for(lambda: not Path(f"/proc/{child}").exists() or "(zombie)" in Path(f"/proc/{child}/status").read_text())


def test_a_missing_mount_stops_the_worker_and_no_video_is_blamed(tmp_path: Path) -> None:
    raw = make_videos(tmp_path / "raw", 2)
    run = planned(tmp_path, raw)
    raw.rename(tmp_path / "elsewhere")
    code, log = work_here(run)
    assert code == exits.FAILED
    assert f"input_video_path {raw} is not there on " in log
    assert not record_path(tmp_path, "v0.mp4").exists()
    (tmp_path / "elsewhere").rename(raw)
    code, log = work_here(run)
    assert code == exits.DONE, log


def test_a_worker_whose_videos_nearly_all_fail_gives_up_and_says_why(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for index in range(130):
        (raw / f"{index:03}.mp4").write_bytes(b"not a video")
    run = planned(tmp_path, raw, worker={"videos_at_once": 1})
    code, log = work_here(run)
    assert code == exits.FAILED
    assert "100 of 100 videos failed, more than max_failure_rate 0.5 allows (100 unreadable, first: 0" in log
    assert len(videos_of(run, "failed")) == 100
    assert unfinished(run) == []  # the others can be tried again


def test_usr2_lets_what_is_begun_finish_and_takes_no_more(
    tmp_path: Path, raw: Path, undisturbed: dict[str, str]
) -> None:
    run = planned(tmp_path, raw)
    worker = start_worker(run)
    wait_for(lambda: bool(videos_of(run, "begin")))
    worker.send_signal(signal.SIGUSR2)
    log = worker.communicate(timeout=PATIENCE_S)[1]
    assert worker.returncode == exits.INCOMPLETE, log
    assert unfinished(run) == []
    assert 0 < len(videos_of(run, "begin")) < NUM_VIDEOS
    assert not run.lease_path(0).exists()
    assert "ERROR" not in log

    code, log = work_here(run)
    assert code == exits.DONE, log
    assert sorted(videos_of(run, "begin")) == sorted(ids_of(run))  # none was begun twice
    assert digests(tmp_path / "out") == undisturbed


SHORT_OF_TIME = """\
import jobs.shard_worker
from jobs.stopping import end_process
from jobs.worker import main

jobs.shard_worker._GRACE_S = 3.0
end_process(main())
"""


def test_what_does_not_finish_in_time_after_a_signal_is_released(tmp_path: Path) -> None:
    raw = make_videos(tmp_path / "raw", 3)
    (raw / "v0.mp4").write_bytes((MEDIA / "big_buck_bunny_1.mp4").read_bytes())  # the largest, so the first
    slow = {"preset": "placebo", "crf": 1}  # takes minutes
    signals = (signal.SIGTERM, signal.SIGINT)
    runs = [planned(tmp_path / number.name, raw, clips=slow) for number in signals]
    workers = [start_worker(run, program=("-c", SHORT_OF_TIME)) for run in runs]
    for run, worker, number in zip(runs, workers, signals, strict=True):
        wait_for(lambda run=run: bool(videos_of(run, "begin")))  # type: ignore[misc]
        worker.send_signal(number)
    for run, worker in zip(runs, workers, strict=True):
        log = worker.communicate(timeout=PATIENCE_S)[1]
        assert worker.returncode == exits.INCOMPLETE, log
        assert "v0.mp4" in videos_of(run, "released")
        assert unfinished(run) == []
        assert events(run)[-1]["event"] == "end"

    make_videos(raw, 1)  # the long recording is replaced by a short one
    code, log = work_here(runs[0])
    assert code == exits.DONE, log
    assert "v0.mp4" in videos_of(runs[0], "done")


def test_a_video_that_ended_its_worker_each_time_is_quarantined_and_the_others_are_done(
    tmp_path: Path, raw: Path
) -> None:
    run = planned(tmp_path, raw, worker={"max_attempts": 3})
    bad = ids_of(run)[1]
    begin_by_hand(run, bad, 3)
    code, log = work_here(run)
    assert code == exits.DONE, log
    record = json.loads(record_path(tmp_path, bad).read_text())
    assert (record["status"], record["failure"]["reason"]) == ("failed", FailureReason.CRASHED)
    assert bad in record["failure"]["message"]
    assert "ended the worker 3 times" in record["failure"]["message"]
    assert videos_of(run, "failed") == [bad]
    assert sorted(videos_of(run, "done")) == sorted(set(ids_of(run)) - {bad})


def test_beginnings_of_earlier_attempts_count_towards_quarantine(tmp_path: Path, raw: Path) -> None:
    run = planned(tmp_path, raw, worker={"max_attempts": 3})
    (bad, *_), (first, *_) = ids_of(run), run.shard(1, 0).videos
    run.write_shards(2, [Shard(7, (PlannedVideo(first.offset, first.cost, num_begun=2),))])
    begin_by_hand(run, bad, 1, shard=7)
    code, log = work_here(run, shard=7, attempt=2)
    assert code == exits.DONE, log
    assert videos_of(run, "failed", shard=7) == [bad]
    assert "ended the worker 3 times" in json.loads(record_path(tmp_path, bad).read_text())["failure"]["message"]


def test_suspects_come_last_and_alone_before_they_are_quarantined(
    tmp_path: Path, raw: Path, undisturbed: dict[str, str]
) -> None:
    run = planned(tmp_path, raw, worker={"max_attempts": 3})
    suspects = ids_of(run)[:2]
    for video in suspects:
        begin_by_hand(run, video, 2)
    num_before = len(events(run))
    code, log = work_here(run)
    assert code == exits.DONE, log
    steps = [(each["event"], each["video"]) for each in events(run)[num_before:] if "video" in each]
    assert steps[-4:] == [(event, video) for video in suspects for event in ("begin", "done")]
    assert digests(tmp_path / "out") == undisturbed


def test_what_was_begun_once_comes_last_in_company(tmp_path: Path, raw: Path, undisturbed: dict[str, str]) -> None:
    """A worker that was killed from outside had many videos under way: to do each alone would take for ever."""
    run = planned(tmp_path, raw, worker={"max_attempts": 3})
    suspects = ids_of(run)[:2]
    for video in suspects:
        begin_by_hand(run, video, 1)
    num_before = len(events(run))
    code, log = work_here(run)
    assert code == exits.DONE, log
    begun = [each["video"] for each in events(run)[num_before:] if each["event"] == "begin"]
    assert begun[-2:] == suspects
    assert digests(tmp_path / "out") == undisturbed


def test_of_two_copies_of_a_shard_one_does_the_work(tmp_path: Path, raw: Path, undisturbed: dict[str, str]) -> None:
    run = planned(tmp_path, raw, worker={"lease_timeout_s": 1.0})
    copies = [start_worker(run), start_worker(run)]
    logs = [each.communicate(timeout=PATIENCE_S)[1] for each in copies]
    assert [each.returncode for each in copies] == [exits.DONE, exits.DONE], logs
    assert sorted(videos_of(run, "begin")) == sorted(ids_of(run))
    assert sorted(log.count("event=video video=") for log in logs) == [0, NUM_VIDEOS]
    assert digests(tmp_path / "out") == undisturbed


def test_videos_that_a_newer_attempt_took_over_are_left_to_it(
    tmp_path: Path, raw: Path, undisturbed: dict[str, str]
) -> None:
    run = planned(tmp_path, raw)
    taken = run.shard(1, 0).videos[:4]
    run.write_shards(2, [Shard(1, taken)])
    code, log = work_here(run)
    assert code == exits.DONE, log
    assert videos_of(run, "begin") == ids_of(run)[4:]
    code, log = work_here(run, shard=1, attempt=2)
    assert code == exits.DONE, log
    assert sorted(videos_of(run, "begin", shard=1)) == sorted(ids_of(run)[:4])
    assert digests(tmp_path / "out") == undisturbed


def test_what_has_a_record_is_not_touched_again(tmp_path: Path, raw: Path) -> None:
    run = planned(tmp_path, raw)
    assert work_here(run)[0] == exits.DONE
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    code, log = work_here(run)
    assert code == exits.DONE, log
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == stamps
    assert len(videos_of(run, "begin")) == NUM_VIDEOS


@pytest.mark.parametrize("in_the_way", ["", "processed_videos", "clips"], ids=["the output", "records", "clips"])
def test_failing_storage_ends_the_worker_and_blames_no_video(
    tmp_path: Path, raw: Path, undisturbed: dict[str, str], in_the_way: str
) -> None:
    run = planned(tmp_path, raw, worker={"max_attempts": 2})
    obstacle = tmp_path / "out" / in_the_way if in_the_way else tmp_path / "out"
    obstacle.parent.mkdir(exist_ok=True)
    obstacle.touch()
    for _ in range(3):  # more often than a video may be begun
        code, log = work_here(run)
        assert code == exits.FAILED, log
        assert "StorageError" in log
    assert videos_of(run, "failed") == videos_of(run, "done") == unfinished(run) == []
    assert not (tmp_path / "out" / "processed_videos").is_dir()
    assert not run.lease_path(0).exists()

    obstacle.unlink()
    code, log = work_here(run)
    assert code == exits.DONE, log
    assert digests(tmp_path / "out") == undisturbed


def test_a_bad_video_fails_alone(tmp_path: Path) -> None:
    raw = make_videos(tmp_path / "raw", 3)
    (raw / "v0.mp4").write_text("no video at all")
    (raw / "a" / "b c.mp4").write_bytes(b"")
    run = planned(tmp_path, raw)
    code, log = work_here(run)
    assert code == exits.DONE, log
    assert {each["video"]: each["reason"] for each in events(run) if each["event"] == "failed"} == {
        "v0.mp4": FailureReason.UNREADABLE,
        "a/b c.mp4": FailureReason.EMPTY_FILE,
    }
    assert videos_of(run, "done") == ["日本 é.mp4"]


def test_a_shard_that_is_not_planned_is_an_error_that_says_so(tmp_path: Path, raw: Path) -> None:
    run = planned(tmp_path, raw)
    code, log = work(run, shard=9)
    assert code == exits.FAILED
    assert f"attempt 1 of {run.root} has no shard 9" in log
