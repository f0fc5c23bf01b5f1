"""The first error of each class of a run, and the log file and line where it stands."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.compute as pc

from jobs.ends import video_ends
from jobs.ledger import events_of, live_leases, read_events
from jobs.rundir import RunDir
from jobs.slurm_attempt import read_jobs

_SUFFIXES = {".log", ".out", ".err"}
_SHARD_LOG = re.compile(r"shard-(\d+)\.")  # of a worker of this machine
_TASK_LOG = re.compile(r"(\d+_\d+)[_.]")  # of a task of an array, whichever way it was submitted
_END_BYTES = 2**20  # of a log whose task died: how it ended stands there
_DEATH = re.compile(
    rb"(?i)oom.?kill|out of memory|due to time limit|due to preemption|due to node failure|segmentation fault"
    rb"|illegal instruction|bus error|no space left on device|disk quota exceeded|cancelled at|event=preflight_failed"
)
_TRACEBACK = b"Traceback (most recent call last)"


@dataclass(frozen=True)
class LoggedError:
    """The first error of a class.

    Attributes:
        kind: ``video failed``, ``worker failed`` or ``task died``, with the class in brackets.
        count: errors of this class.
        log: the file that tells of it, if there is one.
        line: where it stands there, counted from 1; None where only the shard's events know of it.
    """

    kind: str
    count: int
    message: str
    shard: int
    log: Path | None = None
    line: int | None = None

    def __str__(self) -> str:
        where = f"{self.log}{f':{self.line}' if self.line else ''}" if self.log else "it has no log"
        return f"{self.kind}: {self.count}; the first: {self.message}\n  shard {self.shard}, {where}"


class LogFiles:
    """The log files of a run, by the shard that they are of."""

    def __init__(self, run: RunDir) -> None:
        found = [path for path in run.logs_path.rglob("*") if path.suffix in _SUFFIXES and path.is_file()]
        self.all = sorted(found)  # attempt by attempt
        shard_of_task = _shards_of_tasks(run)
        self._by_shard: dict[int, list[Path]] = {}
        for path in self.all:
            if match := _SHARD_LOG.match(path.name):
                shard = int(match[1])
            elif (match := _TASK_LOG.match(path.name)) and match[1] in shard_of_task:
                shard = shard_of_task[match[1]]
            else:
                continue
            self._by_shard.setdefault(shard, []).append(path)

    def of(self, shard: int) -> list[Path]:
        """The logs of one shard, oldest first."""
        return self._by_shard.get(shard, [])


def log_files(run: RunDir, *, shard: int | None = None) -> list[Path]:
    """The log files of a run, or of one of its shards."""
    files = LogFiles(run)
    return files.all if shard is None else files.of(shard)


def first_errors(run: RunDir, *, shard: int | None = None) -> list[LoggedError]:
    """The first error of each class: of videos, of workers, and of tasks that died and left no event that says so.

    Args:
        shard: of this one only.
    """
    files = LogFiles(run)
    states = [(k, path) for k, path in run.state_paths() if shard is None or k == shard]
    planned = {k for attempt in run.attempts() for k in run.shard_sizes(attempt) if shard is None or k == shard}
    return [
        *_failed_videos(run, files, {k for k, _ in states}),
        *_failed_workers(files, states),
        *_dead_tasks(run, files, states, planned),
    ]


def _shards_of_tasks(run: RunDir) -> dict[str, int]:
    """Shard of each array task, by ``ARRAYJOB_TASK``: from what was submitted, and from the tasks' own word."""
    jobs = (job for attempt in run.attempts() for job in read_jobs(run, attempt).get("jobs", ()))
    shard_of = {job["job_id"]: job["shard"] for job in jobs if job["shard"] is not None}
    for shard, path in run.state_paths():
        with path.open("rb") as lines:
            start = next(events_of([lines.readline()]), {})  # a task of another attempt has a shard of its own
        if start.get("job") and start.get("task") is not None:
            shard_of[f"{start['job']}_{start['task']}"] = shard
    return shard_of


def _failed_videos(run: RunDir, files: LogFiles, shards: set[int]) -> Iterator[LoggedError]:
    """The first failure of each class, by the reasons that the records have."""
    ends = video_ends(run)
    failed = ends.filter(pc.equal(ends["event"], "failed")).select(["time", "shard", "reason", "message"])
    classes: dict[str, list[tuple[float, int, str]]] = {}
    for each in sorted(failed.to_pylist(), key=lambda each: each["time"]):
        if each["shard"] in shards:
            classes.setdefault(each["reason"], []).append((each["time"], each["shard"], each["message"]))
    yield from _firsts("video failed", classes, files)


def _failed_workers(files: LogFiles, states: Iterable[tuple[int, Path]]) -> Iterator[LoggedError]:
    """The first exception of each type that ended a worker."""
    classes: dict[str, list[tuple[float, int, str]]] = {}
    for shard, path in states:
        for event in read_events(path):
            if event["event"] == "error":
                name = event["message"].partition(":")[0]
                classes.setdefault(name, []).append((event["time"], shard, event["message"]))
    yield from _firsts("worker failed", classes, files)


def _firsts(kind: str, classes: dict[str, list[tuple[float, int, str]]], files: LogFiles) -> Iterator[LoggedError]:
    """The first of each class, and where its text stands in its shard's logs."""
    for name, found in sorted(classes.items()):
        _, shard, message = min(found)
        log, line = _place(files.of(shard), message)
        yield LoggedError(f"{kind} ({name})", len(found), message, shard, log, line)


def _place(logs: list[Path], text: str) -> tuple[Path | None, int | None]:
    """The first log and line that has a text's first line; else the last log, which may say more."""
    wanted = text.partition("\n")[0].encode()
    for log in logs:
        with log.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if wanted in line:
                    return log, number
    return (logs[-1], None) if logs else (None, None)


def _dead_tasks(
    run: RunDir, files: LogFiles, states: Iterable[tuple[int, Path]], planned: set[int]
) -> Iterator[LoggedError]:
    """Tasks that ended with no last word among their events, and those that never came to their first event."""
    live = live_leases(run, timeout_s=run.load_config().worker.lease_timeout_s)
    last = {shard: ([event["event"] for event in read_events(path)] or [""])[-1] for shard, path in states}
    classes: dict[str, list[LoggedError]] = {}
    for shard in sorted(planned):
        if last.get(shard) in {"end", "error"} or shard in live:
            continue
        for log in files.of(shard)[-1:]:
            cause, line, message = _cause_of_death(log)
            if cause or shard in last:
                kind = f"task died ({cause or 'killed, or its node went away'})"
                classes.setdefault(kind, []).append(LoggedError(kind, 1, message, shard, log, line))
    for _, found in sorted(classes.items()):
        yield replace(found[0], count=len(found))


def _cause_of_death(log: Path) -> tuple[str, int | None, str]:
    """Class, line and text of why a task died by the end of its log; an empty class where that does not tell."""
    with log.open("rb") as file:
        skipped = max(0, file.seek(0, os.SEEK_END) - _END_BYTES)
        file.seek(0)
        number = sum(file.read(min(2**20, skipped - k)).count(b"\n") for k in range(0, skipped, 2**20))
        lines = file.read().splitlines()
    for k, line in enumerate(lines):
        text, cause = line, ""
        if match := _DEATH.search(line):
            cause = match[0].decode().lower()
        elif line.startswith(_TRACEBACK):  # what it ends with says more
            text = next((each for each in lines[k + 1 :] if each[:1].strip()), line)
            cause = text.partition(b":")[0].decode(errors="replace")
        if cause:
            return cause, number + k + 1, text.decode(errors="replace").strip()
    said = [k for k, line in enumerate(lines) if line.strip()]
    if not said:
        return "", None, "its log is empty"
    return "", number + said[-1] + 1, lines[said[-1]].decode(errors="replace").strip()
