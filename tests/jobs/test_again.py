"""Videos that failed are tried again on request, each is counted once, and a launcher may die at any step of it."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from jobs.again import Again, AgainVideo, note_again, set_aside
from jobs.aggregation import aggregate
from jobs.config import RunConfig
from jobs.launcher import launch
from jobs.ledger import Lease, ShardLog
from jobs.planning import plan_run
from jobs.resuming import adopt_settings, note, requested
from jobs.rundir import RunDir, RunDirError
from jobs.slurm_attempt import SlurmAttempt
from jobs.slurm_submitter import SlurmSubmitter
from jobs.status import run_status
from jobs.submission import SubmittedJob
from tests.local_runs import config_of, digests, make_videos, record_path, run_here, write_config

BROKEN = ("v0.mp4", "v3.mp4")  # one unreadable, one empty


class Notebook:
    """A cluster that takes jobs and never runs them."""

    def submit(self, run: RunDir, config: RunConfig, attempt: int, shards: Sequence[int]) -> list[SubmittedJob]:
        return [SubmittedJob(f"{attempt}_{shard}", shard) for shard in shards]

    def wait(self) -> None:
        return


def broken_videos(folder: Path) -> Path:
    raw = make_videos(folder, 5, num_frames=30)
    (raw / BROKEN[0]).write_text("no video")
    (raw / BROKEN[1]).write_bytes(b"")
    return raw


def ids_of(run: RunDir, attempt: int) -> list[str]:
    """The videos of an attempt."""
    offsets = [video.offset for shard in run.shards(attempt) for video in shard.videos]
    return sorted(entry.id for entry in run.videos_at(offsets))


def by_hand(folder: Path, ends: str) -> tuple[RunDir, RunConfig]:
    """A run of one shard that ended so: ``v0.mp4:unreadable v4.mp4:done``, with records and events."""
    raw = make_videos(folder / "raw", 5, num_frames=3)
    config = config_of(folder, raw)
    run = plan_run(config).run
    launch(run, config, submitter=Notebook())
    log = ShardLog(run.shard_state_path(0))
    log.append("start", attempt=1)
    for video, _, how in (each.replace("%20", " ").partition(":") for each in ends.split()):
        log.append("begin", video=video)
        failure = None if how == "done" else {"reason": how, "message": f"{video}: {how}"}
        path = record_path(folder, video)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"status": "failed" if failure else "done", "failure": failure}))
        if failure:
            log.append("failed", video=video, **failure)
        else:
            log.append("done", video=video, clips=1, clip_s=1.0)
    log.append("end", attempt=1, code=0)
    log.close()
    return run, config


def resume(run: RunDir, config: RunConfig, *failed: str) -> int:
    note(run, requested(run, config, failed=failed))
    return launch(run, config, submitter=Notebook()).number


def test_what_failed_for_a_reason_that_is_gone_is_done_and_all_else_stays_as_it_is(tmp_path: Path) -> None:
    raw = broken_videos(tmp_path / "raw")
    whole = make_videos(tmp_path / "whole", 5, num_frames=30)
    config = write_config(tmp_path, raw, plan={"num_shards": 2})
    assert run_here("run", str(config)).returncode == 0
    before = digests(tmp_path / "out")
    (raw / BROKEN[0]).write_bytes((whole / BROKEN[0]).read_bytes())

    assert run_here("resume", str(config)).returncode == 0
    assert digests(tmp_path / "out") == before  # nobody asked for it
    assert run_here("resume", str(config), "--failed", "unreadable").returncode == 0

    run = RunDir(tmp_path / "run")
    assert ids_of(run, run.attempts()[-1]) == [BROKEN[0]]
    fresh = write_config(tmp_path / "fresh", raw)
    assert run_here("run", str(fresh)).returncode == 0
    assert digests(tmp_path / "out") == digests(tmp_path / "fresh" / "out")
    status = run_status(run)
    assert (status.num_done, status.num_failed, status.failures) == (4, 1, {"empty_file": 1})
    assert json.loads(run.report_path.read_text())["failures_by_reason"] == {"empty_file": 1}
    assert aggregate(run) == 0
    assert run_status(run).num_done == 4


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param(["unreadable"], ["v0.mp4"], id="one class"),
        pytest.param(["unreadable", "crashed"], ["a/b c.mp4", "v0.mp4"], id="two classes"),
        pytest.param(["all"], ["a/b c.mp4", "v0.mp4", "v3.mp4"], id="all"),
        pytest.param(["timeout"], [], id="a class without videos"),
        pytest.param([], [], id="nothing"),
    ],
)
def test_the_classes_asked_for_are_tried_again_and_no_other(
    tmp_path: Path, asked: list[str], expected: list[str]
) -> None:
    run, config = by_hand(tmp_path, "v0.mp4:unreadable a/b%20c.mp4:crashed v3.mp4:empty_file v4.mp4:done")
    number = resume(run, config, *asked)
    never_begun = ["日本 é.mp4"]
    assert ids_of(run, number) == sorted([*expected, *never_begun])
    assert {video for video in ("v0.mp4", "v3.mp4", "a/b c.mp4") if not record_path(tmp_path, video).exists()} == set(
        expected
    )
    assert record_path(tmp_path, "v4.mp4").exists()


def test_a_class_that_there_is_not_is_named_with_those_that_are(tmp_path: Path) -> None:
    run, config = by_hand(tmp_path, "v4.mp4:done")
    with pytest.raises(RunDirError, match=r"no class of failure is called 'cursed'; known: all, .*crashed"):
        requested(run, config, failed=["cursed"])


def test_a_failure_that_only_its_record_tells_of_is_tried_again_too(tmp_path: Path) -> None:
    run, config = by_hand(tmp_path, "v0.mp4:unreadable")
    path = run.shard_state_path(0)
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if '"failed"' not in line))
    assert "v0.mp4" in ids_of(run, resume(run, config, "unreadable"))
    assert not record_path(tmp_path, "v0.mp4").exists()


def test_begun_counts_start_anew_for_what_is_tried_again(tmp_path: Path) -> None:
    run, config = by_hand(tmp_path, "v0.mp4:crashed")
    log = ShardLog(run.shard_state_path(0))
    for video in ("v0.mp4", "v3.mp4", "v4.mp4", "v4.mp4"):
        log.append("begin", video=video)
    number = resume(run, config, "crashed")
    begun = {
        entry.id: video.num_begun
        for shard in run.shards(number)
        for video, entry in zip(shard.videos, run.videos_at(v.offset for v in shard.videos), strict=True)
    }
    assert begun == {"v0.mp4": 0, "v3.mp4": 1, "v4.mp4": 2, "a/b c.mp4": 0, "日本 é.mp4": 0}


def test_the_old_failure_is_kept_in_the_attempt(tmp_path: Path) -> None:
    run, config = by_hand(tmp_path, "v0.mp4:unreadable")
    number = resume(run, config, "unreadable")
    kept = (run.attempt_path(number) / "again.jsonl").read_text()
    assert "v0.mp4: unreadable" in kept


def test_what_is_tried_again_counts_as_waiting_and_then_once(tmp_path: Path) -> None:
    run, config = by_hand(tmp_path, "v0.mp4:unreadable v3.mp4:unreadable v4.mp4:done")
    resume(run, config, "unreadable")
    status = run_status(run)
    assert (status.num_done, status.num_failed, status.num_waiting) == (1, 0, 4)
    log = ShardLog(run.shard_state_path(1))
    log.append("done", video="v0.mp4", clips=2, clip_s=1.0)
    log.append("failed", video="v3.mp4", reason="timeout", message="too slow")
    log.close()
    status = run_status(run)
    assert (status.num_done, status.num_failed, status.num_waiting) == (2, 1, 2)
    assert status.failures == {"timeout": 1}


def test_a_shard_that_is_alive_does_not_keep_its_failures_from_being_tried_again(tmp_path: Path) -> None:
    run, config = by_hand(tmp_path, "v0.mp4:unreadable")
    lease = Lease(run.lease_path(0), 60.0)
    assert lease.acquire()
    number = resume(run, config, "unreadable")
    lease.release()
    assert ids_of(run, number) == ["v0.mp4"]  # the other four are left to the shard


# -- launchers that die


def in_a_child_that_dies(at_step: int, work: Callable[[], object]) -> bool:
    """Do it in a process that dies before its ``at_step``-th change of a name on disk; False when there were fewer."""
    pid = os.fork()
    if pid == 0:
        left = [at_step]

        def dying(change: Callable[..., None]) -> Callable[..., None]:
            def changed(*arguments: object, **options: object) -> None:
                left[0] -= 1
                if left[0] == 0:
                    os._exit(9)
                change(*arguments, **options)

            return changed

        for name in ("replace", "link", "unlink"):
            setattr(os, name, dying(getattr(os, name)))
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in {0, 9}
    return code == 9


def test_a_launcher_may_die_at_any_step_of_trying_again(tmp_path: Path) -> None:
    num_deaths = 0
    for step in range(1, 100):
        run, config = by_hand(tmp_path / str(step), "v0.mp4:unreadable v3.mp4:unreadable v4.mp4:done")
        died = in_a_child_that_dies(step, lambda run=run, config=config: resume(run, config, "unreadable"))  # type: ignore[misc]
        is_asked_for = (run.attempt_path(2) / "again.jsonl").is_file()
        number = resume(run, config)  # without --failed: what is noted is done
        taken = {"v0.mp4", "v3.mp4"} if is_asked_for else set()
        assert set(ids_of(run, number)) == {"a/b c.mp4", "日本 é.mp4"} | taken, step
        left = {video for video in ("v0.mp4", "v3.mp4", "v4.mp4") if record_path(tmp_path / str(step), video).exists()}
        assert left == {"v0.mp4", "v3.mp4", "v4.mp4"} - taken, step
        status = run_status(run)
        assert (status.num_done, status.num_failed) == (1, 2 - len(taken)), step
        if not died:
            break
        num_deaths += 1
    assert num_deaths > 10  # the notes, the shards, two records, the mark, the jobs, the lease


class SlurmNotebook(SlurmSubmitter):
    """As ``Notebook``; a launcher may go on with what it did not write down to the end."""

    def submit(self, run: RunDir, config: RunConfig, attempt: int, shards: Sequence[int]) -> list[SubmittedJob]:
        SlurmAttempt.planned(run, attempt, []).save()
        return [SubmittedJob(f"{attempt}_{shard}", shard) for shard in shards]

    def wait(self) -> None:
        return


def test_what_is_asked_for_is_not_forgotten_for_an_attempt_that_was_not_queued_to_its_end(tmp_path: Path) -> None:
    run, config = by_hand(tmp_path, "v0.mp4:unreadable")
    assert launch(run, config, submitter=SlurmNotebook()).number == 2
    assert launch(run, config, submitter=SlurmNotebook()).number == 2  # it goes on with it
    note(run, requested(run, config, failed=["unreadable"]))
    assert launch(run, config, submitter=SlurmNotebook()).number == 3
    assert "v0.mp4" in ids_of(run, 3)


def test_a_video_that_fails_again_in_the_same_way_is_not_taken_for_its_old_self(tmp_path: Path) -> None:
    run, config = by_hand(tmp_path, "v0.mp4:unreadable")
    resume(run, config, "unreadable")
    record_path(tmp_path, "v0.mp4").write_text(
        json.dumps({"status": "failed", "failure": {"reason": "unreadable", "message": "v0.mp4: unreadable"}})
    )
    ShardLog(run.shard_state_path(1)).append(
        "failed", video="v0.mp4", reason="unreadable", message="v0.mp4: unreadable"
    )
    assert "v0.mp4" not in ids_of(run, resume(run, config))
    assert record_path(tmp_path, "v0.mp4").exists()
    assert run_status(run).num_failed == 1


def test_a_note_of_a_dead_launcher_and_a_new_request_are_both_done(tmp_path: Path) -> None:
    run, config = by_hand(tmp_path, "v0.mp4:unreadable v3.mp4:crashed")
    note_again(run, 2, Again("failed: crashed", [AgainVideo("v3.mp4", "crashed", "x")]), first_shard=1)
    number = resume(run, config, "unreadable")
    assert {"v0.mp4", "v3.mp4"} <= set(ids_of(run, number))


def test_setting_aside_twice_takes_no_new_record(tmp_path: Path) -> None:
    run, config = by_hand(tmp_path, "v0.mp4:unreadable")
    resume(run, config, "unreadable")
    record_path(tmp_path, "v0.mp4").write_text("{}")
    set_aside(run, config)
    adopt_settings(run)
    assert record_path(tmp_path, "v0.mp4").exists()
