"""What was begun, what is done, who is at it: append-only events and leases in the run folder."""

import contextlib
import errno
import json
import logging
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curation.errors import StopRunError
from curation.storage.files import settle, written_aside
from jobs.rundir import RunDir

logger = logging.getLogger(__name__)


class ShardLog:
    """The events of one shard, appended by the holder of its lease.

    An event is one line written at once. A line torn by a crash or a full disk is closed before the next one; readers
    skip it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        size = os.fstat(self._descriptor).st_size
        self._is_torn = bool(size) and os.pread(self._descriptor, 1, size - 1) != b"\n"

    def append(self, event: str, **values: Any) -> None:
        """Append an event and make it durable: a begin-marker must outlive the crash that it is there for.

        Raises:
            OSError: the event is not in the file; at most a torn line of it is.
        """
        event_json = json.dumps({"event": event, "time": round(time.time(), 3), **values}, ensure_ascii=False)
        line = (b"\n" if self._is_torn else b"") + f"{event_json}\n".encode()
        self._is_torn = True
        if os.write(self._descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._is_torn = False
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; who appends to it afterwards gets an OSError, and never another file."""
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a shard in order; a torn line is left out."""
    try:
        lines = [line for line in path.read_bytes().split(b"\n") if line]
    except FileNotFoundError:
        return
    yield from events_of(lines)


def events_of(lines: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """The events that stand in these lines of a log; a torn line is left out."""
    try:
        events = json.loads(b"[" + b",".join(lines) + b"]")  # three times as fast as line by line
    except ValueError:
        events = list(_whole_lines(lines))
    for event in events:
        if isinstance(event, dict) and "event" in event:
            yield event


def _whole_lines(lines: Iterable[bytes]) -> Iterator[Any]:
    for line in lines:
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def count_begun(events: Iterable[dict[str, Any]]) -> Counter[str]:
    """How often each video was begun without an end, by id; a clean stop takes its begin-markers back."""
    begun: Counter[str] = Counter()
    for event in events:
        video = event.get("video", "")
        if event["event"] == "begin":
            begun[video] += 1
        elif event["event"] in {"done", "failed"}:
            begun.pop(video, None)
        elif event["event"] == "released" and begun[video]:
            begun[video] -= 1
    return +begun


class LeaseLostError(StopRunError):
    """Another worker took the shard over while this one was silent."""


@dataclass
class Lease:
    """The right to publish a shard's results, kept alive by a heartbeat.

    The file's content names the holder; its modification time is the heartbeat. Ages are taken between times that the
    same file server wrote, so that the clocks of the nodes do not matter.
    """

    path: Path
    timeout_s: float
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    _stop: threading.Event = field(default_factory=threading.Event)
    _lost: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def acquire(self, stop: threading.Event | None = None) -> bool:
        """Take the lease; waits for a silent holder's time to run out. False when its heartbeat is seen to go on.

        Args:
            stop: set from elsewhere, ends the waiting: False.
        """
        stop = stop or threading.Event()
        first_seen: tuple[object, float | None] | None = None
        while not self._try_acquire():
            found = read_lease(self.path)
            seen = (found.get("token", "") if found is not None else None, _heartbeat(self.path))
            if first_seen is not None and seen[0] == first_seen[0] and seen[1] != first_seen[1]:
                return False
            first_seen = seen if first_seen is None or seen[0] != first_seen[0] else first_seen
            if stop.wait(min(1.0, self.timeout_s / 20)):
                return False
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()
        return True

    def _try_acquire(self) -> bool:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        holder = json.dumps({"token": self.token, **whoami()}).encode()
        with written_aside(self.path) as (file, aside):
            file.write(holder)
            settle(file)
            try:
                os.link(aside, self.path)  # fails when the name is taken, in one step, also on NFS
                return True
            except FileExistsError:
                return self._take_over(aside)

    def _take_over(self, aside: Path) -> bool:
        """Put our lease in the place of a dead holder's in one step; of all who try it at once one may."""
        dead = self._dead_holder()
        if dead is None:
            return False
        lock = self.path.with_name(f".{self.path.name}.lock")
        try:
            lock.touch(exist_ok=False)
        except FileExistsError:
            if lease_age_s(lock) > self.timeout_s:  # who made it died before the next lines
                lock.unlink(missing_ok=True)
            return False
        try:
            if self._dead_holder() != dead:
                return False  # somebody was faster
            os.replace(aside, self.path)
        finally:
            lock.unlink(missing_ok=True)
        logger.warning("event=lease_taken_over lease=%s from=%s", self.path.name, dead)
        return True

    def _dead_holder(self) -> dict[str, Any] | None:
        """Who holds the lease, if nobody has to wait for them any more."""
        found = read_lease(self.path)
        if found is None or not (lease_age_s(self.path) > self.timeout_s or is_dead_here(found)):
            return None
        return found

    def _beat(self) -> None:
        while not self._stop.wait(self.timeout_s / 4):
            try:
                found = read_lease(self.path)
                if found is None or found.get("token") != self.token:
                    self._lost.set()
                    return
                os.utime(self.path)
            except OSError as error:  # the file server is away: silence is what the timeout is for
                logger.warning("event=heartbeat_failed lease=%s error=%s", self.path.name, error)

    def check(self) -> None:
        """Raise LeaseLostError unless the lease is still ours."""
        found = read_lease(self.path)
        if self._lost.is_set() or found is None or found.get("token") != self.token:
            raise LeaseLostError(f"the lease {self.path.name} was taken over by {found}")

    def release(self) -> None:
        """Give the lease back."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        found = read_lease(self.path)
        if found is not None and found.get("token") == self.token:
            self.path.unlink(missing_ok=True)


def read_lease(path: Path) -> dict[str, Any] | None:
    """Who holds a lease; None when nobody does, empty when the file is damaged and does not tell."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _heartbeat(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def lease_age_s(path: Path) -> float:
    """Seconds since a lease's last heartbeat, by the file server's clock; infinite when it is gone."""
    probe = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    finally:
        probe.unlink(missing_ok=True)


def live_leases(run: RunDir, *, timeout_s: float, kind: str = "shard") -> dict[int, dict[str, Any]]:
    """Holder of each shard (or of each part of another ``kind`` of work) that somebody is working on now."""
    live: dict[int, dict[str, Any]] = {}
    paths = sorted(run.leases_path.glob(f"{kind}-*.json"))
    now = file_server_time(run.leases_path) if paths else 0.0  # once: with a thousand leases each look counts
    for path in paths:
        found, heartbeat = read_lease(path), _heartbeat(path)
        if found is not None and heartbeat is not None and now - heartbeat <= timeout_s and not is_dead_here(found):
            live[int(path.stem.removeprefix(f"{kind}-"))] = found
    return live


def is_held(path: Path, *, timeout_s: float) -> bool:
    """Whether somebody alive holds this lease."""
    found = read_lease(path)
    return found is not None and not is_dead_here(found) and lease_age_s(path) <= timeout_s


def file_server_time(folder: Path) -> float:
    """The time by the clock of the server that keeps a folder; this machine's where it may not be written to."""
    probe = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def whoami(pid: int | None = None) -> dict[str, Any]:
    """This process, or another one of this machine, so that it can be told from a later one with the same number."""
    pid = os.getpid() if pid is None else pid
    return {
        "host": os.environ.get("SLURMD_NODENAME") or os.uname().nodename,
        "boot": _boot_id(),
        "pid": pid,
        "started": _process_start(pid),
        "job": os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID"),
        "task": os.environ.get("SLURM_ARRAY_TASK_ID"),
    }


def is_here(holder: Mapping[str, Any]) -> bool:
    """Whether a process runs, or ran, on this machine since it was started."""
    return bool(holder.get("boot")) and holder.get("boot") == _boot_id()


def is_dead_here(holder: Mapping[str, Any]) -> bool:
    """Whether the holder ran on this very machine and is gone: then nobody has to wait for its time to run out."""
    if not is_here(holder):
        return False
    started = _process_start(int(holder.get("pid", 0)))
    return started is None or started != holder.get("started")


def _boot_id() -> str | None:
    """Names this machine since it started; containers on it that see other processes have their own suffix."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return None


def _process_start(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None when there is none (or only its zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
