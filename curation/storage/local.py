"""A folder on a file system that may be shared by many nodes (NFS, Lustre, GPFS)."""

import errno
import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from curation.errors import StorageError
from curation.storage.base import Leftover, StoredObject
from curation.storage.files import files_below, is_aside, replace_file, replacing, settle, written_aside


class LocalStorage:
    """Files are written aside and renamed, so nobody ever sees half a file."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)

    def write(self, path: str, content: bytes) -> None:
        """See ``Storage.write``. Renaming replaces in one step, also on NFS."""
        with _storage_errors("write", path):
            replace_file(self._full(path), content)

    def check_writable(self) -> None:
        """See ``Storage.check_writable``."""
        with _storage_errors("write to", self.root), written_aside(self._full("probe")):
            pass

    @contextmanager
    def writing(self, path: str) -> Iterator[BinaryIO]:
        """See ``Storage.writing``."""
        with _storage_errors("write", path), replacing(self._full(path)) as file:
            yield file

    def create(self, path: str, content: bytes) -> bool:
        """See ``Storage.create``. A hard link fails when the name is taken, in one step, also on NFS."""
        target = self._full(path)
        with _storage_errors("write", path), written_aside(target) as (file, aside):
            file.write(content)
            settle(file)
            try:
                os.link(aside, target)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP}:
                    raise
                # no hard links here (some FUSE mounts): two at once may both win, and write the same bytes
                if target.exists():
                    return False
                os.replace(aside, target)
            return True

    def read(self, path: str) -> bytes:
        """See ``Storage.read``."""
        with _reading_errors("read", path):
            return self._full(path).read_bytes()

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """See ``Storage.read_range``."""
        with _reading_errors("read", path), self._full(path).open("rb", buffering=0) as file:
            file.seek(start)
            return file.read(max(0, end - start))

    @contextmanager
    def reading(self, path: str) -> Iterator[BinaryIO]:
        """See ``Storage.reading``."""
        with _reading_errors("read", path):
            file = self._full(path).open("rb")
        with file, _storage_errors("read", path):
            yield file

    def download(self, path: str, target: Path) -> int:
        """See ``Storage.download``."""
        with self.reading(path) as source, _storage_errors("write", str(target)), written_aside(target) as aside:
            file, name = aside
            shutil.copyfileobj(source, file, 2**20)
            os.replace(name, target)
            return file.tell()

    def local_path(self, path: str) -> Path | None:
        """See ``Storage.local_path``."""
        return self._full(path)

    def size(self, path: str) -> int:
        """See ``Storage.size``."""
        with _reading_errors("look at", path):
            status = self._full(path).stat()
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            return status.st_size

    def exists(self, path: str) -> bool:
        """See ``Storage.exists``."""
        with _storage_errors("look at", path):
            try:
                return stat.S_ISREG(self._full(path).stat().st_mode)  # a folder is no object
            except (FileNotFoundError, NotADirectoryError):
                return False

    def delete(self, path: str) -> None:
        """See ``Storage.delete``."""
        with _storage_errors("delete", path), suppress(FileNotFoundError, NotADirectoryError):
            self._full(path).unlink()

    def delete_many(self, paths: Iterable[str]) -> None:
        """See ``Storage.delete_many``."""
        for path in paths:
            self.delete(path)

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """See ``Storage.list``. Links are followed; the names of one folder at a time are in memory."""
        with _storage_errors("list", prefix or self.root):
            for path, status in self._files(prefix):
                if not is_aside(os.path.basename(path)):
                    yield StoredObject(path, status.st_size)

    def leftovers(self, *, older_than_s: float) -> Iterator[Leftover]:
        """See ``Storage.leftovers``. The hidden files that ``written_aside`` makes."""
        with _storage_errors("list", self.root):
            for path, status in self._files(""):
                age_s = time.time() - status.st_mtime
                if is_aside(os.path.basename(path)) and age_s >= older_than_s:
                    yield Leftover(path, "", age_s)

    def remove_leftover(self, leftover: Leftover) -> None:
        """See ``Storage.remove_leftover``."""
        self.delete(leftover.path)

    def _files(self, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
        folder, slash, beginning = prefix.rpartition("/")
        return files_below(self.root, folder + slash, beginning)

    def _full(self, path: str) -> Path:
        return Path(self.root) / path


@contextmanager
def _reading_errors(doing: str, path: str) -> Iterator[None]:
    """What is not there is FileNotFoundError with the path."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(error.errno, error.strerror, path) from error
    except OSError as error:
        raise _storage_error(doing, path, error) from error


@contextmanager
def _storage_errors(doing: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _storage_error(doing, path, error) from error


def _storage_error(doing: str, path: str, error: OSError) -> StorageError:
    return StorageError(f"can't {doing} {path}: {error.strerror or error}")
