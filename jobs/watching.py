"""Live progress of a run: bars on a terminal, a line now and then elsewhere. It only looks at the run folder."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from rich.console import Console

from jobs.config import RunConfig
from jobs.exits import DONE, INCOMPLETE
from jobs.ledger import is_held
from jobs.progress_display import LINE_EVERY_S, Bars, Display, Lines, display_on, is_terminal
from jobs.remainders import who_is_at_work
from jobs.rundir import RunDir, RunDirError
from jobs.status import RunStatus, run_status
from jobs.status_text import print_status, progress_line
from jobs.submission import StoppedError

LOOK_EVERY_S, LOOK_EVERY_PLAIN_S = 1.0, 5.0
_SHARE_OF_TIME = 0.03  # that looks may take: of a large run there are fewer
_JSON_EVERY_S = 10.0
_SURE_AFTER_S = {"slurm": 35.0}  # with nobody at work: Slurm's last answer may be half a minute old
_SURE_AFTER_HERE_S = 2.0
# Slurm's states of jobs that are no more
_OVER = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}
_OVER |= {"REVOKED", "TIMEOUT"}

Standing = Literal["at_work", "done", "idle"]


@contextmanager
def progress_shown(run: RunDir, config: RunConfig, console: Console, *, is_quiet: bool = False) -> Iterator[None]:
    """Show how a run goes on this machine while the block works at it; of other runs nothing is shown.

    A thread of its own looks, so that it can't disturb what it shows.
    """
    if is_quiet or config.cluster != "local":
        yield
        return
    display = display_on(console)
    ended, is_told = threading.Event(), False
    looker = threading.Thread(target=_look_on, args=(run, display, ended), name="display", daemon=True)
    looker.start()
    try:
        yield
        is_told = True
    except StoppedError:
        is_told = True
        raise
    finally:
        ended.set()
        looker.join()
        display.close(_looked(run) if is_told else None)


def _look_on(run: RunDir, display: Display, ended: threading.Event) -> None:
    pace = _Pace(LOOK_EVERY_S if isinstance(display, Bars) else LOOK_EVERY_PLAIN_S)
    while not ended.wait(pace.wait_s()):
        if (status := _looked(run)) is not None:
            display.show(status)


class _Pace:
    """How long to wait for the next look, so that looks take a few percent of a core at most."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._num_looks, self._last_s = 0, 0.0

    def wait_s(self) -> float:
        """Seconds from the end of this look to the next; the first look is due at once."""
        now = time.thread_time()
        took_s, self._last_s = now - self._last_s, now
        self._num_looks += 1
        if self._num_looks <= 2:  # the first look loads code, which says nothing of the next
            return self._every_s * (self._num_looks - 1)
        return max(self._every_s, took_s / _SHARE_OF_TIME)


def _looked(run: RunDir) -> RunStatus | None:
    """How the run stands; None where its files can't be read just now."""
    with suppress(OSError, ValueError, RunDirError):
        return run_status(run, ask_slurm=False)
    return None


def standing(run: RunDir, config: RunConfig, status: RunStatus) -> Standing:
    """Whether a run is over with its report, still at work, or neither."""
    if status.is_complete and status.packing is None and _is_reported(run):
        return "done"
    is_queued = status.jobs is None or any(state not in _OVER for state in status.jobs)
    if config.cluster == "slurm" and is_queued:
        return "at_work"
    timeout_s = config.worker.lease_timeout_s
    is_launched = is_held(run.leases_path / "launcher.json", timeout_s=timeout_s)
    return "at_work" if is_launched or who_is_at_work(run, config) is not None else "idle"


def _is_reported(run: RunDir) -> bool:
    """Whether the report is of all that the workers did."""
    if not run.report_path.is_file():
        return False
    logs = [path for _, path in run.state_paths()]
    return run.report_path.stat().st_mtime >= max((path.stat().st_mtime for path in logs), default=0.0)


def watch(run: RunDir, display: Display, *, every_s: float) -> tuple[RunStatus, Standing]:
    """Show how a run stands until it is over, or nothing is at work any more; gives how it stood then."""
    config = run.load_config()
    sure_after_s = _SURE_AFTER_S.get(config.cluster, _SURE_AFTER_HERE_S)
    idle_since: float | None = None
    pace = _Pace(every_s)
    pace.wait_s()
    try:
        while True:
            began = time.monotonic()
            status = run_status(run)
            now = standing(run, config, status)
            idle_since = None if now != "idle" else began if idle_since is None else idle_since
            if now == "done" or (idle_since is not None and began - idle_since >= sure_after_s):
                return status, now
            display.show(status)
            time.sleep(pace.wait_s())
    finally:
        display.close(None)


def watched(run: RunDir, out: Console, *, as_json: bool, every_s: float | None) -> int:
    """What ``clipmill status --watch`` does; gives its exit code."""
    is_plain = as_json or not is_terminal(out)
    if is_plain:
        in_words = _in_json if as_json else progress_line
        lines_every_s = every_s or (_JSON_EVERY_S if as_json else LINE_EVERY_S)
        display: Display = Lines(_write_line, in_words, every_s=lines_every_s, first_s=0.0)
        looks_every_s = min(lines_every_s, LOOK_EVERY_PLAIN_S)
    else:
        display, looks_every_s = Bars(out), every_s or LOOK_EVERY_S
    try:
        status, how = watch(run, display, every_s=looks_every_s)
    except KeyboardInterrupt:  # whoever looked on has seen enough
        return DONE
    if as_json:
        _write_line(_in_json(status))
    else:
        print_status(status, out)
        out.print(_last_words(run, status, how))
    return DONE if how == "done" else INCOMPLETE


def _last_words(run: RunDir, status: RunStatus, how: Standing) -> str:
    if how == "done":
        return f"complete; the report: {run.page_path if run.page_path.is_file() else run.report_path}"
    if status.is_complete:
        return f"all videos have ended, and nothing is at work; sum them up with: clipmill aggregate {run.root}"
    return f"nothing is at work, and the run is not complete; go on with: clipmill resume {run.root}"


def _in_json(status: RunStatus) -> str:
    return json.dumps(status.to_json())


def _write_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
