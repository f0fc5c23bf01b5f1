"""A worker's own folder on the disk of its node; what killed workers left there is swept by the next."""

import contextlib
import fcntl
import logging
import os
import re
import shutil
from pathlib import Path

logger = logging.getLogger(__name__)

_LOCK = "lock"
_NAME = re.compile(r"clipmill-input-([0-9a-f]{12})-([0-9]+)-([0-9]+)")


class ScratchFolder:
    """A folder that is this process's: named by boot, process and when that started, and locked while it lives.

    The lock tells of processes that can't be seen from here: in another container, or on another node where the
    folder is shared.
    """

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self.path = parent / f"clipmill-input-{_boot()}-{os.getpid()}-{_started_at(os.getpid())}"
        self._lock = -1

    def make(self) -> None:
        """Make it, after sweeping what dead workers left. Raises OSError."""
        sweep(self._parent)
        while self._lock < 0:
            self.path.mkdir(mode=0o700, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # swept by another between the two
                lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
                with contextlib.suppress(OSError):  # a file system without locks: nobody sweeps it either
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_same(lock, self.path / _LOCK):
                    self._lock = lock
                else:
                    os.close(lock)

    def remove(self) -> None:
        """Take it away with all that is in it; does nothing when it is not there."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def sweep(parent: Path) -> None:
    """Take away the folders of workers that are no more."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(parent)):
            match = _NAME.fullmatch(entry.name)
            if match is None or not entry.is_dir(follow_symlinks=False) or entry.stat().st_uid != os.getuid():
                continue
            boot, pid, started_at = match.groups()
            is_alive = boot == _boot() and _started_at(int(pid)) == int(started_at)
            if not is_alive and _is_unlocked(Path(entry.path)):
                logger.info("event=scratch_swept folder=%s", entry.path)
                shutil.rmtree(entry.path, ignore_errors=True)


def _is_unlocked(folder: Path) -> bool:
    """Whether nobody holds the folder's lock; a file system that knows no locks can't tell."""
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _boot() -> str:
    """Which start of which machine this is."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "")[:12]
    except OSError:
        return "0" * 12


def _started_at(pid: int) -> int:
    """When a process started, in clock ticks since the boot; 0 where there is none, or the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError):
        return 0
