"""A manifest's rows on S3: a prefix that is listed, or a list that is fetched; and what ids long keys give."""

import hashlib
import heapq
import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from curation.storage import S3Options, locate, storage_for
from jobs.manifest_rows import LIST_SUFFIXES, ManifestError

_KEYS_IN_MEMORY = 2**17
_KEYS_AT_ONCE = 1000

Listed = tuple[str, int]
"""A key below the prefix, and its object's size in bytes."""


def is_list(uri: str) -> bool:
    """Whether a URI names a list, by its end; else it is a prefix."""
    return os.path.splitext(uri)[1].lower() in LIST_SUFFIXES


def check_prefix(root: str, s3: S3Options) -> None:
    """See soon whether a prefix can be listed.

    Raises:
        ManifestError: no storage is known for it.
        StorageError: it can't.
    """
    try:
        storage = storage_for(root, s3.hurried())
    except ValueError as error:
        raise ManifestError([f"input_video_path: {error}"]) from error
    next(storage.list(), None)


def listed_videos(root: str, s3: S3Options, suffixes: tuple[str, ...]) -> Iterator[Listed]:
    """The videos below a prefix, in the order of their keys, whatever order the server has.

    Keys with a hidden part (one that begins with a dot) are left out, as in folders. Any number of keys needs little
    memory: they lie in a temporary file.

    Raises:
        StorageError: it can't be listed.
    """
    with tempfile.TemporaryFile() as file:
        keys = _SortedKeys(file)
        for path, size_bytes in storage_for(root, s3).list():
            if path.lower().endswith(suffixes) and not path.startswith(".") and "/." not in path:
                keys.add((path, size_bytes))
        yield from keys.in_order()


class _SortedKeys:
    """Sorts by runs in a file; what comes in order already is one run."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._batch: list[Listed] = []
        self._runs: list[list[int]] = []  # of each the places of its pieces in the file
        self._last: Listed | None = None

    def add(self, entry: Listed) -> None:
        self._batch.append(entry)
        if len(self._batch) >= _KEYS_IN_MEMORY:
            self._put_down()

    def _put_down(self) -> None:
        self._batch.sort()
        if self._last is None or self._batch[0] < self._last:
            self._runs.append([])
        self._last = self._batch[-1]
        for first in range(0, len(self._batch), _KEYS_AT_ONCE):
            self._runs[-1].append(self._file.tell())
            pickle.dump(self._batch[first : first + _KEYS_AT_ONCE], self._file)
        self._batch = []

    def in_order(self) -> Iterator[Listed]:
        """All of them; nothing is added any more."""
        self._batch.sort()
        return heapq.merge(*map(self._read, self._runs), self._batch)

    def _read(self, run: list[int]) -> Iterator[Listed]:
        for place in run:
            self._file.seek(place)
            yield from pickle.load(self._file)


@contextmanager
def fetched_list(uri: str, s3: S3Options) -> Iterator[str]:
    """A list as a local file for as long as it is read.

    Raises:
        ManifestError: there is none.
        StorageError: it can't be read.
    """
    try:
        storage, path = locate(uri, s3)
        locate(uri, s3.hurried())[0].size(path)  # what is wrong is told soon
    except ValueError as error:
        raise ManifestError([f"manifest: {error}"]) from error
    except FileNotFoundError as error:
        raise ManifestError([f"manifest: {uri!r}: no such object"]) from error
    with tempfile.TemporaryDirectory(prefix="clipmill-manifest-") as folder:
        target = Path(folder, f"list{os.path.splitext(uri)[1]}")
        storage.download(path, target)
        yield str(target)


def fitting_id(video_id: str, *, max_bytes: int, max_segment_bytes: int) -> str:
    """An id that comes from a key, shortened where it is too long; hashes keep different ones apart."""
    segments = [_cut(segment, max_segment_bytes) for segment in video_id.split("/")]
    whole = "/".join(segments)
    if len(whole.encode()) <= max_bytes:
        return whole
    digest, name = hashlib.sha256(video_id.encode()).hexdigest()[:32], segments[-1]
    room = max_bytes - len(f"/{digest}/{name}".encode())
    folders = "/".join(segments[:-1]).encode()[: room + 1].decode(errors="ignore").rpartition("/")[0]
    return f"{folders}/{digest}/{name}" if folders else f"{digest}/{name}"


def _cut(segment: str, max_bytes: int) -> str:
    encoded = segment.encode()
    if len(encoded) <= max_bytes:
        return segment
    ending = os.path.splitext(segment)[1]
    ending = f"-{hashlib.sha256(encoded).hexdigest()[:32]}{ending if len(ending.encode()) <= 8 else ''}"
    return encoded[: max_bytes - len(ending.encode())].decode(errors="ignore") + ending
