"""Where the bytes of a source are: in a file, in memory, or on storage that has no files."""

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias


class RemoteFile(Protocol):
    """A source that is read where it lies, piece by piece; it may be pickled, and equal ones are the same source."""

    @property
    def uri(self) -> str:
        """What it is called."""

    def reading(self) -> AbstractContextManager[BinaryIO]:
        """A seekable stream of its bytes. Raises FileNotFoundError, or StorageError as every read of it may."""


SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

Source: TypeAlias = Path | bytes | RemoteFile


def is_uri(path: str) -> bool:
    """Whether it begins with a scheme, such as s3://, and so is no path of this machine."""
    return "://" in path and SCHEME.match(path) is not None
