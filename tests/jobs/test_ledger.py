"""Events survive crashes; of all who want a shard one has it."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobs.ledger import Lease, LeaseLostError, ShardLog, count_begun, lease_age_s, live_leases, read_events, read_lease
from jobs.rundir import RunDir
from tests.local_runs import ROOT, wait_for

# takes a lease, says whether it got it, and holds it until it is killed or its input ends
HOLDER = """
import sys
from pathlib import Path
from jobs.ledger import Lease
lease = Lease(Path(sys.argv[1]), float(sys.argv[2]))
print(lease.acquire(), flush=True)
sys.stdin.read()
lease.release()
"""
ELSEWHERE = {"token": "f00", "host": "another-node", "boot": "another-boot", "pid": 1, "started": "1"}


@contextmanager
def holder(path: Path, timeout_s: float) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), str(timeout_s)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def answer(process: subprocess.Popen[str]) -> bool:
    """Whether a holder got its lease."""
    assert process.stdout is not None
    return process.stdout.readline().strip() == "True"


def held_elsewhere(path: Path, *, age_s: float = 0.0) -> Path:
    """A lease of a worker on another machine, of whom nothing has been heard for ``age_s``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(ELSEWHERE))
    stamp = path.stat().st_mtime - age_s
    os.utime(path, (stamp, stamp))
    return path


def kinds(path: Path) -> list[str]:
    return [event["event"] for event in read_events(path)]


# -- events


@pytest.mark.parametrize(
    "torn",
    [
        pytest.param(b'{"event": "done", "vid', id="half an object"),
        pytest.param('{"event": "done", "video": "日'.encode()[:-1], id="half a character"),
        pytest.param(b"\0" * 64, id="what a node crash leaves"),
    ],
)
def test_a_torn_last_line_is_skipped_and_closed_by_the_next_writer(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "shard.jsonl"
    path.write_bytes(b'{"event": "begin", "video": "a"}\n' + torn)
    assert kinds(path) == ["begin"]
    log = ShardLog(path)
    log.append("done", video="a")
    log.close()
    assert kinds(path) == ["begin", "done"]


def test_an_event_that_the_disk_took_half_of_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "shard.jsonl"
    log = ShardLog(path)
    log.append("begin", video="a")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, hard))  # a full disk: 10 bytes still fit
    try:
        with pytest.raises(OSError, match=r"too large|No space"):
            log.append("begin", video="b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.append("done", video="a")
    log.close()
    assert [(each["event"], each["video"]) for each in read_events(path)] == [("begin", "a"), ("done", "a")]


def test_two_lives_of_a_shard_stand_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "state" / "shard.jsonl"
    for life in (1, 2):
        log = ShardLog(path)
        log.append("start", attempt=life)
        log.append("begin", video="é")
        log.close()
    assert [(each["event"], each.get("attempt")) for each in read_events(path)] == [
        ("start", 1),
        ("begin", None),
        ("start", 2),
        ("begin", None),
    ]
    assert count_begun(read_events(path)) == {"é": 2}


def test_a_shard_that_was_never_begun_has_no_events(tmp_path: Path) -> None:
    assert list(read_events(tmp_path / "none.jsonl")) == []


@pytest.mark.parametrize(
    ("text", "begun"),
    [
        pytest.param("", {}, id="nothing"),
        pytest.param("begin a", {"a": 1}, id="begun without an end"),
        pytest.param("begin a, begin a, begin b", {"a": 2, "b": 1}, id="each video by itself"),
        pytest.param("begin a, begin a, done a", {}, id="done clears"),
        pytest.param("begin a, begin a, failed a", {}, id="failed clears"),
        pytest.param("begin a, begin a, released a", {"a": 1}, id="a clean stop takes back its own"),
        pytest.param("begin a, begin b, released a, begin a", {"a": 1, "b": 1}, id="begun again after a clean stop"),
        pytest.param("begin a, done a, released a, begin a", {"a": 1}, id="what was not begun can't be taken back"),
    ],
)
def test_a_video_counts_as_begun_once_for_each_begin_without_an_end(text: str, begun: dict[str, int]) -> None:
    pairs = [each.split() for each in text.split(", ") if each]
    assert count_begun({"event": kind, "video": video} for kind, video in pairs) == begun


# -- leases


def test_of_many_threads_exactly_one_holds_the_lease(tmp_path: Path) -> None:
    leases = [Lease(tmp_path / "shard-00000.json", 2.0) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        held = list(pool.map(Lease.acquire, leases))
    winner = leases[held.index(True)]
    assert held.count(True) == 1
    winner.check()
    winner.release()


def test_of_many_processes_exactly_one_holds_the_lease(tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.json"
    with holder(path, 2.0) as a, holder(path, 2.0) as b, holder(path, 2.0) as c:
        assert sorted(answer(each) for each in (a, b, c)) == [False, False, True]


@pytest.mark.parametrize("attempt", range(10))
def test_of_many_who_take_over_a_silent_lease_exactly_one_holds_it(tmp_path: Path, attempt: int) -> None:
    path = held_elsewhere(tmp_path / "shard-00000.json", age_s=100.0)
    leases = [Lease(path, 0.4) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        held = list(pool.map(Lease.acquire, leases))
    assert held.count(True) == 1
    leases[held.index(True)].check()
    leases[held.index(True)].release()
    assert list(tmp_path.iterdir()) == []  # nothing is left lying about


def test_a_silent_holder_is_waited_for_and_then_replaced(tmp_path: Path) -> None:
    path = held_elsewhere(tmp_path / "shard-00000.json")
    lease = Lease(path, 0.6)
    started = time.monotonic()
    assert lease.acquire()
    assert time.monotonic() - started >= 0.55
    lease.check()
    lease.release()


def test_a_living_holder_is_left_alone_and_the_other_is_told_no(tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.json"
    first, second = Lease(path, 0.8), Lease(path, 0.8)
    assert first.acquire()
    time.sleep(1.2)  # longer than the timeout: the heartbeat has gone on
    assert not second.acquire()
    first.check()
    second.release()  # it never had it
    first.check()
    first.release()
    assert not path.exists()


@pytest.mark.parametrize("is_reaped", [True, False], ids=["gone", "a zombie"])
def test_a_holder_that_was_killed_on_this_machine_is_noticed_at_once(tmp_path: Path, is_reaped: bool) -> None:
    path = tmp_path / "shard-00000.json"
    with holder(path, 600.0) as process:
        assert answer(process)
        os.kill(process.pid, signal.SIGKILL)
        if is_reaped:
            process.wait()
        started = time.monotonic()
        lease = Lease(path, 600.0)
        assert lease.acquire()
        assert time.monotonic() - started < 300.0  # half of its timeout
        lease.release()


def test_another_process_with_the_number_of_a_dead_holder_is_not_the_holder(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    lease = Lease(run.lease_path(0), 60.0)
    assert lease.acquire()
    holding = read_lease(run.lease_path(0))
    assert holding is not None
    assert set(live_leases(run, timeout_s=60.0)) == {0}
    lease.release()
    run.lease_path(0).write_text(json.dumps({**holding, "started": "1"}))
    assert live_leases(run, timeout_s=60.0) == {}


def test_a_holder_that_was_silent_too_long_notices_that_it_lost_its_lease(tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.json"
    lease = Lease(path, 60.0)
    assert lease.acquire()
    lease.check()
    held_elsewhere(path)
    with pytest.raises(LeaseLostError, match="another-node"):
        lease.check()
    lease.release()
    assert read_lease(path) == ELSEWHERE  # only one's own is removed


def test_a_lease_that_is_gone_is_lost(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "shard-00000.json", 60.0)
    assert lease.acquire()
    lease.path.unlink()
    with pytest.raises(LeaseLostError):
        lease.check()
    lease.release()


def test_a_heartbeat_goes_on_after_the_file_server_was_away(tmp_path: Path) -> None:
    folder = tmp_path / "leases"
    lease = Lease(folder / "shard-00000.json", 0.4)
    assert lease.acquire()
    folder.rename(tmp_path / "away")
    folder.touch()  # every look at the lease fails now, and not because the lease is not there
    time.sleep(0.25)
    folder.unlink()
    (tmp_path / "away").rename(folder)
    before = lease.path.stat().st_mtime_ns
    wait_for(lambda: lease.path.stat().st_mtime_ns > before)
    lease.check()
    lease.release()


@pytest.mark.parametrize("content", [b"", b'{"token": "f0', b"[]"], ids=["empty", "torn", "not an object"])
def test_a_damaged_lease_is_taken_over_after_its_time(tmp_path: Path, content: bytes) -> None:
    path = held_elsewhere(tmp_path / "shard-00000.json")
    path.write_bytes(content)
    lease, held = Lease(path, 0.4), threading.Event()

    def take() -> None:
        if lease.acquire():
            held.set()

    threading.Thread(target=take, daemon=True).start()
    assert held.wait(5.0)
    lease.check()
    lease.release()


def test_a_damaged_lease_counts_as_live_until_its_time_is_over(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    held_elsewhere(run.lease_path(3)).write_bytes(b"")
    assert set(live_leases(run, timeout_s=60.0)) == {3}
    os.utime(run.lease_path(3), (1.0, 1.0))
    assert live_leases(run, timeout_s=60.0) == {}


def test_the_age_of_a_lease_does_not_depend_on_the_clock_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = held_elsewhere(tmp_path / "shard-00000.json", age_s=50.0)
    for wrong in (0.0, 2e9):
        monkeypatch.setattr(time, "time", lambda wrong=wrong: wrong)
        assert lease_age_s(path) == pytest.approx(50.0, abs=5.0)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_only_leases_with_a_heartbeat_are_live(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert live_leases(run, timeout_s=10.0) == {}
    held_elsewhere(run.lease_path(1))
    held_elsewhere(run.lease_path(2), age_s=11.0)
    expected: dict[int, dict[str, Any]] = {1: ELSEWHERE}
    assert live_leases(run, timeout_s=10.0) == expected


def test_a_takeover_that_died_half_way_is_finished_by_the_next(tmp_path: Path) -> None:
    path = held_elsewhere(tmp_path / "shard-00000.json", age_s=100.0)
    (tmp_path / f".{path.name}.lock").touch()
    lease = Lease(path, 0.4)
    assert lease.acquire()
    lease.check()
    lease.release()
    assert list(tmp_path.iterdir()) == []
