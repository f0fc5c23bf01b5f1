"""Writing a tar whose bytes depend on its members alone, and that says where each of them lies."""

import hashlib
import os
import tarfile
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import BinaryIO

_MODE = 0o644
_SETTLED_BYTES = 2**25
_HASHED_ASIDE_BYTES = 2**16  # below, handing it to another thread takes longer than hashing it


@dataclass(frozen=True, slots=True)
class Member:
    """Where a member's content lies in its tar, in bytes."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class TarDigest:
    """What is known of a finished tar without reading it."""

    num_members: int
    num_bytes: int
    sha256: str


class TarWriter:
    """Writes a tar in USTAR format from front to back: no time, no owner, members in the order they come.

    Args:
        aside: threads, two for each tar that is written: in them checksums of large members are computed, and what was
            written to a file is put on the disk, so that little is left to wait for when it is closed. ``stop`` has to
            be called before it is.
    """

    def __init__(self, stream: BinaryIO, *, aside: Executor | None = None) -> None:
        self._stream = stream
        self._aside = aside
        self._sha256 = hashlib.sha256()
        self._hashed: Future[None] | None = None  # at most one piece is under way: their order is that of the tar
        self._settled: Future[None] | None = None
        self._file = _file_of(stream) if aside is not None else None
        self._unsettled_bytes = 0
        self._num_bytes = 0
        self._num_members = 0

    def add(self, name: str, content: bytes) -> Member:
        """Append a file.

        Raises:
            ValueError: the name or the size does not fit in USTAR (256 characters, 8 GiB).
        """
        header = tarfile.TarInfo(name)
        header.size, header.mode = len(content), _MODE
        self._write(header.tobuf(tarfile.USTAR_FORMAT))
        member = Member(offset=self._num_bytes, size=len(content))
        self._write(content)
        self._write(bytes(-len(content) % tarfile.BLOCKSIZE))
        self._num_members += 1
        return member

    def finish(self) -> TarDigest:
        """Write the end: two empty blocks, then what fills a whole record."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._write(bytes(-self._num_bytes % tarfile.RECORDSIZE))
        self.stop()
        return TarDigest(self._num_members, self._num_bytes, self._sha256.hexdigest())

    def stop(self) -> None:
        """Wait until nothing is done aside any more. Raises OSError when the disk could not take what was written."""
        for under_way in (self._hashed, self._settled):
            if under_way is not None:
                under_way.result()

    def _write(self, content: bytes) -> None:
        if self._hashed is not None:
            self._hashed.result()
        if self._aside is not None and len(content) >= _HASHED_ASIDE_BYTES:
            self._hashed = self._aside.submit(self._sha256.update, content)
        else:
            self._sha256.update(content)
        self._stream.write(content)
        self._num_bytes += len(content)
        self._settle(len(content))

    def _settle(self, num_bytes: int) -> None:
        self._unsettled_bytes += num_bytes
        if self._aside is None or self._file is None or self._unsettled_bytes < _SETTLED_BYTES:
            return
        if self._settled is not None:
            if not self._settled.done():
                return
            self._settled.result()  # an error of the disk is told once
        self._settled = self._aside.submit(os.fsync, self._file)
        self._unsettled_bytes = 0


def _file_of(stream: BinaryIO) -> int | None:
    """The descriptor of a file; None of what is none."""
    try:
        return stream.fileno()
    except OSError:
        return None
