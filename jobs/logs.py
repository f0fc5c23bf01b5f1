"""The first error of each class of a run, and the log file and line where it stands."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.compute as pc

from jobs.ends import video_ends
from jobs.ledger import events_of, live_leases, read_events
from jobs.rundir import RunDir
from jobs.slurm_attempt import SCRIPT_JOBS, read_jobs

_SUFFIXES = {".log", ".out", ".err"}
_SHARD_LOG = re.compile(r"shard-(\d+)\.")  # of a worker of this machine
_TASK_LOG = re.compile(r"(\d+_\d+)[_.]")  # of a task of an array, whichever way it was submitted
_END_BYTES = 2**20  # of a log whose task died: how it ended stands there
_DEATH = re.compile(
    rb"(?i)oom.?kill|out of memory|due to time limit|due to preemption|due to node failure|segmentation fault"
    rb"|illegal instruction|bus error|no space left on device|disk quota exceeded|cancelled at|event=preflight_failed"
)
_TRACEBACK = b"Traceback (most recent call last)"
_AFTER_LOG = re.compile(
    r"(aggregation|finishing|packing-\d+)\.log$"
)  # of what comes after the workers, on this machine
_JOB_LOG = re.compile(r"(\d+)(?:_(\d+))?_0_log\.")  # of a job of Slurm, or of a task of an array
_ROLE = re.compile(r"-a\d+-(aggregation|finishing|p(\d+))$")  # at the end of a job's name
_WENT_WELL = re.compile(rb" event=(aggregated|published|packed|nothing_to_pack|nothing_to_finish|refused|unfinished)\b")


@dataclass(frozen=True)
class LoggedError:
    """The first error of a class.

    Attributes:
        kind: ``video failed``, ``worker failed``, ``task died``, ``aggregation failed`` or ``packer failed``, with the
            class in brackets.
        count: errors of this class.
        log: the file that tells of it, if there is one.
        shard: None where it is of no shard.
        line: where it stands there, counted from 1; None where only the shard's events know of it.
    """

    kind: str
    count: int
    message: str
    shard: int | None
    log: Path | None = None
    line: int | None = None

    def __str__(self) -> str:
        where = f"{self.log}{f':{self.line}' if self.line else ''}" if self.log else "it has no log"
        shard = f"shard {self.shard}, " if self.shard is not None else ""
        return f"{self.kind}: {self.count}; the first: {self.message}\n  {shard}{where}"


class LogFiles:
    """The log files of a run, by the shard that they are of."""

    def __init__(self, run: RunDir) -> None:
        found = [path for path in run.logs_path.rglob("*") if path.suffix in _SUFFIXES and path.is_file()]
        self.all = sorted(found)  # attempt by attempt
        shard_of_task = _shards_of_tasks(run)
        self._by_shard: dict[int, list[Path]] = {}
        self.after: dict[str, Path] = {}  # the newest log of each thing that comes after the workers
        jobs_after = _jobs_after(run)
        for path in self.all:
            if name := _name_after(path, jobs_after):
                self.after[name] = path
                continue
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
    """The first error of each class: of videos, of workers, of tasks that died and left no event that says so, and of
    the aggregation and the packers.

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
        *(_failed_after(run, files) if shard is None else ()),
    ]


def places(run: RunDir, failures: Sequence[tuple[int, str, str]]) -> list[tuple[Path | None, int | None]]:
    """Log and line that first tell of each failure of a video; each log is read once.

    Args:
        failures: shard, video and message.
    """
    files = LogFiles(run)
    by_shard: dict[int, dict[int, list[str]]] = {}
    for index, (shard, video, message) in enumerate(failures):
        by_shard.setdefault(shard, {})[index] = _words_of(message, video)
    found: dict[int, tuple[Path | None, int | None]] = {}
    for shard, texts in by_shard.items():
        found |= dict(zip(texts, _places(files.of(shard), list(texts.values())), strict=True))
    return [found[index] for index in range(len(failures))]


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
    failed = ends.filter(pc.equal(ends["event"], "failed")).select(["time", "shard", "reason", "message", "video"])
    classes: dict[str, list[tuple[float, int, str, str]]] = {}
    for each in sorted(failed.to_pylist(), key=lambda each: each["time"]):
        if each["shard"] in shards:
            found = each["time"], each["shard"], each["message"], each["video"]
            classes.setdefault(each["reason"], []).append(found)
    yield from _firsts("video failed", classes, files)


def _failed_workers(files: LogFiles, states: Iterable[tuple[int, Path]]) -> Iterator[LoggedError]:
    """The first exception of each type that ended a worker."""
    classes: dict[str, list[tuple[float, int, str, str]]] = {}
    for shard, path in states:
        for event in read_events(path):
            if event["event"] == "error":
                name = event["message"].partition(":")[0]
                classes.setdefault(name, []).append((event["time"], shard, event["message"], ""))
    yield from _firsts("worker failed", classes, files)


def _firsts(kind: str, classes: dict[str, list[tuple[float, int, str, str]]], files: LogFiles) -> Iterator[LoggedError]:
    """The first of each class, and where its shard's logs tell of it."""
    for name, found in sorted(classes.items()):
        _, shard, message, video = min(found)
        [(log, line)] = _places(files.of(shard), [_words_of(message, video)])
        yield LoggedError(f"{kind} ({name})", len(found), message, shard, log, line)


def _words_of(message: str, video: str = "") -> list[str]:
    """What a line has that tells of a failure: its message's first line, or that the video failed."""
    return [message.partition("\n")[0], *([f"event=video_failed video={video} "] if video else [])]


def _places(logs: list[Path], words: Sequence[Sequence[str]]) -> list[tuple[Path | None, int | None]]:
    """The first log and line that has one of each of these words; else the last log, which may say more."""
    wanted = {index: [text.encode() for text in texts] for index, texts in enumerate(words)}
    found: list[tuple[Path | None, int | None]] = [(logs[-1], None) if logs else (None, None)] * len(words)
    for log in logs:
        with log.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not wanted:
                    return found
                for index in [index for index, texts in wanted.items() if any(text in line for text in texts)]:
                    found[index] = log, number
                    del wanted[index]
    return found


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
            # who died before the first event left its lease, at least; with none of these a task may be about to begin
            if cause or shard in last or run.lease_path(shard).exists():
                kind = f"task died ({cause or 'killed, or its node went away'})"
                classes.setdefault(kind, []).append(LoggedError(kind, 1, message, shard, log, line))
    for _, found in sorted(classes.items()):
        yield replace(found[0], count=len(found))


def _failed_after(run: RunDir, files: LogFiles) -> Iterator[LoggedError]:
    """The aggregation and the packers that failed, unless what they were for was done since."""
    published_s = _published_s(run)
    classes: dict[str, list[LoggedError]] = {}
    for name, log in sorted(files.after.items()):
        if log.stat().st_mtime <= published_s:
            continue
        number, lines = _end_of(log)
        done = max((k for k, line in enumerate(lines) if _WENT_WELL.search(line)), default=-1)
        causes = [each for each in _causes(lines) if each[0] > done]
        if causes:
            k, cause, message = causes[-1]  # what a failure led to is said after it
            kind = f"{'packer' if name.startswith('packing') else name} failed ({cause})"
            classes.setdefault(kind, []).append(LoggedError(kind, 1, message, None, log, number + k + 1))
    for _, found in sorted(classes.items()):
        yield replace(found[0], count=len(found))


def _published_s(run: RunDir) -> float:
    """When the run's report was written, if that says that nothing is left to be published; else 0."""
    try:
        report = json.loads(run.report_path.read_bytes())
    except FileNotFoundError:
        return 0.0
    is_done = "refused" not in report and "missing_tars" not in (report.get("dataset") or {})
    return run.report_path.stat().st_mtime if is_done else 0.0


def _jobs_after(run: RunDir) -> dict[str, str]:
    """What the Slurm jobs are for that come after the workers, by id."""
    jobs = [job for attempt in run.attempts() for job in read_jobs(run, attempt).get("jobs", ())]
    found = {job["job_id"]: job.get("role", "aggregation") for job in jobs if job["shard"] is None}
    for attempt in run.attempts():
        path = run.attempt_path(attempt) / SCRIPT_JOBS
        named = [line.split() for line in path.read_text().splitlines()] if path.is_file() else []
        for name, job_id in (words for words in named if len(words) == 2):
            if role := _ROLE.search(name):
                found[job_id] = "packing" if role[2] else role[1]
    return found


def _name_after(path: Path, jobs_after: Mapping[str, str]) -> str:
    """What comes after the workers and wrote a log; empty: nothing of that kind did."""
    if match := _AFTER_LOG.match(path.name):
        return match[1]
    match = _JOB_LOG.match(path.name)
    role = jobs_after.get(match[1], "") if match else ""
    return f"{role}-{match[2]}" if match and match[2] and role else role


def _cause_of_death(log: Path) -> tuple[str, int | None, str]:
    """Class, line and text of why a task died by the end of its log; an empty class where that does not tell."""
    number, lines = _end_of(log)
    for k, cause, text in _causes(lines):
        return cause, number + k + 1, text
    said = [k for k, line in enumerate(lines) if line.strip()]
    if not said:
        return "", None, "its log is empty"
    return "", number + said[-1] + 1, lines[said[-1]].decode(errors="replace").strip()


def _end_of(log: Path) -> tuple[int, list[bytes]]:
    """The last lines of a log, and how many stand before them."""
    with log.open("rb") as file:
        skipped = max(0, file.seek(0, os.SEEK_END) - _END_BYTES)
        file.seek(0)
        number = sum(file.read(min(2**20, skipped - k)).count(b"\n") for k in range(0, skipped, 2**20))
        return number, file.read().splitlines()


def _causes(lines: Sequence[bytes]) -> Iterator[tuple[int, str, str]]:
    """Which lines say why something ended: their number, class and text."""
    for k, line in enumerate(lines):
        text, cause = line, ""
        if match := _DEATH.search(line):
            cause = match[0].decode().lower()
        elif line.startswith(_TRACEBACK):  # what it ends with says more
            text = next((each for each in lines[k + 1 :] if each[:1].strip()), line)
            cause = text.partition(b":")[0].decode(errors="replace")
        if cause:
            yield k, cause, text.decode(errors="replace").strip()
