"""Locks between processes."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock; wait for whoever has it. It goes with the process, however that ends.

    Raises:
        OSError: the file can't be written, or its file system has no locks.
    """
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process lock=%s", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
