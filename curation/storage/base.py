"""What the rest of clipmill needs of storage."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from curation.storage.options import S3Options

DEFAULT_S3 = S3Options()


class StoredObject(NamedTuple):
    """An object in a listing; ``path`` is relative to the storage's root."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a writer that was killed left aside: no object, but it takes room. ``token`` says which one it is."""

    path: str
    token: str
    age_s: float


class Storage(Protocol):
    """Objects under one root, named by relative paths with forward slashes.

    Every method raises StorageError when the storage itself fails (full, quota, stale handle, no permission, no such
    bucket, no connection). It may be used by several threads at once, and pickled.
    """

    root: str

    def write(self, path: str, content: bytes) -> None:
        """Put an object whole or not at all, replacing what is there."""

    def check_writable(self) -> None:
        """Raises StorageError unless objects can be put here; leaves nothing behind."""

    def writing(self, path: str) -> AbstractContextManager[BinaryIO]:
        """A stream to an object that appears whole when the block ends without an exception, or not at all."""

    def create(self, path: str, content: bytes) -> bool:
        """Put an object whole unless there is one; False when there is one already, of two writers one wins."""

    def read(self, path: str) -> bytes:
        """Raises FileNotFoundError when there is no such object."""

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes ``start <= i < end``, fewer where the object ends before. Raises FileNotFoundError."""

    def reading(self, path: str) -> AbstractContextManager[BinaryIO]:
        """A seekable stream from an object, read piece by piece as it is asked for. Raises FileNotFoundError."""

    def download(self, path: str, target: Path) -> int:
        """Copy an object to a local file, which appears whole or not at all; its size. Raises FileNotFoundError."""

    def local_path(self, path: str) -> Path | None:
        """The file that the object is, there or not; None where objects are no files of this machine."""

    def size(self, path: str) -> int:
        """Bytes. Raises FileNotFoundError."""

    def exists(self, path: str) -> bool:
        """Whether the object is there."""

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """All objects whose path begins with ``prefix``, whatever stands behind it; none is kept in memory for long.

        The order is that of the paths' UTF-8 bytes wherever the storage keeps S3's rules.
        """

    def delete(self, path: str) -> None:
        """Remove an object; nothing happens when it is not there."""

    def delete_many(self, paths: Iterable[str]) -> None:
        """Remove objects, many with one request where that can be."""

    def leftovers(self, *, older_than_s: float) -> Iterator[Leftover]:
        """What killed writers left aside, and nothing has been written to for so long."""

    def remove_leftover(self, leftover: Leftover) -> None:
        """Remove it; nothing happens when it is gone."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One object as a source that is read where it lies."""

    storage: Storage
    path: str

    @property
    def uri(self) -> str:
        """What it is called."""
        return f"{self.storage.root}/{self.path}"

    def reading(self) -> AbstractContextManager[BinaryIO]:
        """See ``Storage.reading``."""
        return self.storage.reading(self.path)


def storage_for(root: str, s3: S3Options = DEFAULT_S3) -> Storage:
    """The storage of a root: a local folder, or ``s3://bucket/prefix``.

    Nothing is sent or looked at before the first use.

    Raises:
        ValueError: no storage is known for the root's scheme, or it names no bucket.
    """
    from curation.storage.local import LocalStorage

    scheme, separator, _ = root.partition("://")
    if scheme == "s3" and separator:
        from curation.storage.s3 import S3Storage

        return S3Storage(root, s3)
    if separator and scheme != "file":
        raise ValueError(f"no storage for {root!r}: known are local folders and s3://bucket/prefix")
    return LocalStorage(root.removeprefix("file://"))


def locate(uri: str, s3: S3Options = DEFAULT_S3) -> tuple[Storage, str]:
    """The storage and the path in it of one object, named by an absolute path or a URI.

    Raises:
        ValueError: no storage is known for the scheme, or the URI names no object.
    """
    is_s3 = uri.startswith("s3://")
    head, slash, name = uri.removeprefix("s3://").partition("/") if is_s3 else uri.rpartition("/")
    if not slash or not name or head.endswith(":/"):
        raise ValueError(f"{uri!r} names no object: expected s3://bucket/key or an absolute path")
    return storage_for(f"s3://{head}" if is_s3 else head or "/", s3), name
