"""Live progress as a person sees it: bars on a terminal, plain lines elsewhere, and an end when nothing works."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from jobs import exits
from jobs.live_work import LiveWork, StageShares
from jobs.progress_display import is_terminal
from jobs.rundir import RunDir, write_json
from jobs.status import RunStatus
from jobs.status_text import progress_line
from jobs.watching import progress_shown, standing, watched
from tests.jobs.test_status import run_by_hand, write_events
from tests.local_runs import ROOT, make_videos, planned, write_config

CODE = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


def on_a_terminal(*arguments: str) -> tuple[int, bytes]:
    """Run a command on a terminal of its own; gives its exit code and all that it sent there."""
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
        os.execve(sys.executable, [sys.executable, "-m", "jobs.cli", *arguments], environment)
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the config of a run in which one of three videos fails."""
    folder = tmp_path_factory.mktemp("watched")
    raw = make_videos(folder / "raw", 3)
    (raw / "v0.mp4").write_text("no video")
    write_config(folder, raw)
    return folder


@pytest.fixture(scope="module")
def shown(folder: Path) -> bytes:
    """What a terminal was sent by that run."""
    code, shown = on_a_terminal("run", str(folder / "config.yaml"))
    assert code == exits.DONE, shown
    return shown


def test_a_terminal_shows_bars_and_at_the_end_what_there_is(folder: Path, shown: bytes) -> None:
    text = CODE.sub(b"", shown).decode()
    num_clips = len(list((folder / "out" / "clips").glob("*.mp4")))
    last = text[text.rindex("videos ━") :]
    assert "3/3 100% 1 failed" in last
    assert f"{num_clips} clips of 0:00:" in last
    assert last.count("failed (unreadable): 1") == 1
    assert f"2 videos done, 1 failed, 0 missing; {num_clips} clips" in last
    assert text.count("videos ━") > 1  # redrawn
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l")  # the cursor is there


def test_no_log_has_codes_of_a_terminal_and_no_live_file_is_left(folder: Path, shown: bytes) -> None:
    assert b"\x1b" in shown
    logs = [path for path in (folder / "run" / "logs").rglob("*") if path.is_file()]
    assert len(logs) >= 2
    assert not any(b"\x1b" in path.read_bytes() for path in logs)
    assert list((folder / "run" / "progress").glob("*")) == []


def test_the_last_event_tells_what_the_worker_took(folder: Path, shown: bytes) -> None:
    events = [json.loads(line) for line in (folder / "run" / "state" / "shard-00000.jsonl").read_text().splitlines()]
    last, wall_s = events[-1], events[-1]["time"] - events[0]["time"]
    assert last["event"] == "end"
    assert last["num_cpus"] == len(os.sched_getaffinity(0))
    assert 0 < last["cpu_s"] < (wall_s + 0.5) * last["num_cpus"]
    assert (last["gpu_busy"], last["num_windows"]) == (None, 0)


def test_without_a_terminal_there_are_plain_lines_and_none_for_who_wants_quiet(
    folder: Path, shown: bytes, tmp_path: Path
) -> None:
    run = RunDir(folder / "run")
    for is_quiet in (True, False):
        with (tmp_path / "log").open("w") as file:
            console = Console(file=file, force_terminal=True, soft_wrap=True, highlight=False)
            with progress_shown(run, run.load_config(), console, is_quiet=is_quiet):
                pass
        lines = (tmp_path / "log").read_text().splitlines()
        assert len(lines) == (0 if is_quiet else 1)
        assert all(line.startswith("progress videos=3/3 failed=1 clips=") for line in lines)


def test_watching_ends_when_the_run_is_over(folder: Path, shown: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    code, seen = on_a_terminal("status", str(folder / "run"), "--watch")
    assert code == exits.DONE
    assert f"complete; the report: {folder / 'run' / 'report.html'}" in CODE.sub(b"", seen).decode()
    assert watched(RunDir(folder / "run"), Console(), as_json=True, every_s=None) == exits.DONE
    assert [json.loads(line)["is_complete"] for line in capsys.readouterr().out.splitlines()] == [True]


def test_watching_ends_with_a_word_when_nothing_is_at_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = planned(tmp_path, make_videos(tmp_path / "raw", 1))
    assert watched(run, Console(soft_wrap=True), as_json=False, every_s=0.5) == exits.INCOMPLETE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("progress videos=0/1 ")
    assert lines[-1].endswith(f"go on with: clipmill resume {run.root}")


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ({"PENDING": 1, "COMPLETED": 3}, "at_work"),
        ({"COMPLETED": 3, "TIMEOUT": 1}, "idle"),
        ({}, "idle"),
        (None, "at_work"),  # Slurm does not answer: nobody knows
    ],
)
def test_a_run_on_slurm_is_at_work_as_long_as_a_job_of_it_may_run(
    tmp_path: Path, jobs: dict[str, int] | None, expected: str
) -> None:
    run = run_by_hand(tmp_path, 1, 1)
    assert standing(run, run.load_config(), RunStatus(str(run.root), "slurm", 1, jobs=jobs)) == expected


def test_a_complete_run_is_over_once_its_report_is_of_all_that_was_done(tmp_path: Path) -> None:
    run = run_by_hand(tmp_path, 1, 1, cluster="local")
    config, status = run.load_config(), RunStatus(str(run.root), "local", 1, num_done=1)
    write_json(run.report_path, {"exit_code": 3})
    os.utime(run.report_path, (0, time.time() - 60))  # of an earlier attempt
    write_events(run, 0, "start begin:0.mp4 done:0.mp4 end")
    assert standing(run, config, status) == "idle"
    write_json(run.report_path, {"exit_code": 0})
    assert standing(run, config, status) == "done"
    assert standing(run, config, replace(status, packing={"num_tasks": 2, "num_ended": 1})) == "idle"


def test_a_file_is_no_terminal_whatever_the_environment_says(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        assert not is_terminal(Console(file=file, force_terminal=True))


def test_lines_are_cut_at_the_edge_and_warnings_stand_above_them() -> None:
    program = """
import logging, sys
from rich.console import Console
from jobs.status import RunStatus
from jobs.progress_display import Bars
logging.basicConfig(format="%(levelname)s %(message)s")
failures = {"failures": {"crashed": 1}, "first_failures": {"crashed": "x" * 300}}
bars = Bars(Console(stderr=True, soft_wrap=True, width=60))
bars.show(RunStatus("run", "local", 4, 1, **failures))
logging.warning("a disk is full")
bars.show(RunStatus("run", "local", 4, 2, **failures))
bars.close(RunStatus("run", "local", 4, 4))
logging.warning("afterwards")
"""
    terminal, ours = pty.openpty()
    subprocess.run([sys.executable, "-c", program], stderr=ours, check=True, cwd=ROOT)
    os.close(ours)
    shown = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert "x" * 20 in shown
    assert "x" * 60 not in shown
    text = CODE.sub(b"", shown.encode()).decode()
    assert text.index("1/4") < text.index("WARNING a disk is full") < text.index("2/4") < text.index("4/4")
    assert text.index("4/4") < text.index("WARNING afterwards")


def test_a_line_for_logs_has_what_matters() -> None:
    live = LiveWork(1, 3, 5, 80.0, {"writer": StageShares(0.1, 0.9, 0.0, 0)})
    status = RunStatus("run", "local", 40, 11, 1, num_clips=84, num_windows=40, videos_per_hour=120.0, eta_s=840.0)
    status.num_shards_running, status.live = 2, live
    assert progress_line(status) == (
        "progress videos=12/40 failed=1 clips=87 captions=40 workers=2 videos_per_hour=120 eta=0:14:00"
    )
