"""Sources on S3 come to the node's disk before they are processed, the next ones while the present are.

What finds no room there is read where it lies.
"""

import logging
import os
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from curation.errors import StorageError
from curation.model import VideoTask
from curation.pipeline import Stage
from curation.source_files import RemoteFile, is_uri
from curation.storage import S3Options, Storage, StoredFile, locate
from jobs.scratch import ScratchFolder

logger = logging.getLogger(__name__)

_DOWNLOADS_AT_ONCE = 4
_POLL_S = 0.5  # how soon it is noticed that others made room on the disk
_CLOSING_S = 5.0
_ENDING = re.compile(r"\.[A-Za-z0-9]{1,8}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A source that will be asked for.

    Attributes:
        key: by which it is asked for, and given back.
        uri: its place, a path of this machine or a URI.
        size_bytes: where it is known.
    """

    key: str
    uri: str
    size_bytes: int | None = None


@dataclass(eq=False)
class _Copy:
    """A source on the disk, or on its way there; those who read it at once share it."""

    path: Path
    num_bytes: int
    num_users: int = 0
    is_here: bool = False
    error: Exception | None = None


@dataclass(eq=False)
class _Item:
    """A source that is wanted, and what came of it. Its copy is None where it is read where it lies."""

    wanted: Wanted
    number: int
    is_settled: bool = False
    copy: _Copy | None = None
    remote: StoredFile | None = None
    error: Exception | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it is known where it is read, or why it can't be."""
        return self.is_settled and (self.copy is None or self.copy.is_here or self.copy.error is not None)


@dataclass(frozen=True, slots=True)
class Room:
    """How much of the disk copies may take.

    Attributes:
        max_bytes: all of them together; None: what is free.
        spared_bytes: stays free in any case.
    """

    max_bytes: int | None = None
    spared_bytes: int = 0


class Staging:
    """Copies sources in the order in which they are wanted, some ahead of who asks for them."""

    def __init__(
        self, folder: Path, s3: S3Options, room: Room, *, num_at_work: int, is_stopped: Callable[[], bool]
    ) -> None:
        """Nothing is done before something on S3 is wanted.

        Args:
            num_at_work: how many sources are read at once: none waits for room while fewer are, and as many come ahead.
            is_stopped: whether nothing is to be asked for any more.
        """
        self._scratch = ScratchFolder(folder)
        self._s3, self._room = s3, room
        self._num_at_work, self._is_stopped = num_at_work, is_stopped
        self._changed = threading.Condition()
        self._items: list[_Item] = []  # all that were ever wanted
        self._of_key: dict[str, _Item] = {}
        self._num_asked = 0  # of the items, in order
        self._num_claimed = 0
        self._settled: set[int] = set()
        self._num_settled = 0  # up to there all are
        self._at_work: set[str] = set()
        self._copies: dict[str, _Copy] = {}
        self._yet_wanted: Counter[str] = Counter()
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def want(self, sources: Iterable[Wanted]) -> None:
        """Take note of what will be asked for, in this order; what is no URI is passed over."""
        with self._changed:
            for wanted in sources:
                if is_uri(wanted.uri) and wanted.key not in self._of_key:
                    self._of_key[wanted.key] = item = _Item(wanted, len(self._items))
                    self._items.append(item)
                    self._yet_wanted[wanted.uri] += 1
            if self._items and not self._threads and not self._is_closed:
                self._start()
            self._changed.notify_all()

    def _start(self) -> None:
        try:
            self._scratch.make()
        except OSError as error:
            logger.warning("event=no_scratch error=%s: sources are read where they lie", error)
        for number in range(_DOWNLOADS_AT_ONCE):
            thread = threading.Thread(target=self._work, name=f"staging-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def take(self, wanted: Wanted) -> Path | RemoteFile | None:
        """Where the bytes of a source are to be read; None: where its path says.

        Raises:
            FileNotFoundError: there is no such object.
            StorageError: the storage failed.
            InterruptedError: it was stopped meanwhile.
        """
        if not is_uri(wanted.uri):
            return None
        self.want([wanted])
        with self._changed:
            item = self._of_key[wanted.key]
            self._num_asked = max(self._num_asked, item.number + 1)
            self._changed.notify_all()
            while not item.is_ready:
                if self._is_closed or self._is_stopped():
                    raise InterruptedError
                self._changed.wait(_POLL_S)
            error = item.error or (item.copy.error if item.copy is not None else None)
            if error is not None:
                self._forget(item)
                raise error
            self._at_work.add(wanted.key)
            return item.copy.path if item.copy is not None else item.remote

    def give_back(self, key: str) -> None:
        """A source is not read any more, or will not be asked for; nothing happens when that is known."""
        with self._changed:
            self._at_work.discard(key)
            item = self._of_key.get(key)
            if item is not None:
                self._num_asked = max(self._num_asked, item.number + 1)
                self._forget(item)
            self._changed.notify_all()

    def _forget(self, item: _Item) -> None:
        """With the condition held."""
        uri = item.wanted.uri
        del self._of_key[item.wanted.key]
        self._yet_wanted[uri] -= 1
        copy = item.copy
        if copy is not None:
            copy.num_users -= 1
            item.copy = None
        copy = self._copies.get(uri)
        if copy is not None and copy.is_here and not copy.num_users and not self._yet_wanted[uri]:
            self._drop(uri)
        self._changed.notify_all()

    def _drop(self, uri: str) -> None:
        copy = self._copies.pop(uri)
        copy.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Take away all that is on the disk."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._scratch.remove()
        deadline = time.monotonic() + _CLOSING_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        shutil.rmtree(self._scratch.path, ignore_errors=True)  # what a download that was just beginning put there

    # What the threads do

    def _work(self) -> None:
        while (item := self._claim()) is not None:
            try:
                copy = self._settle(item)
                if copy is not None:
                    self._download(item, copy)
            except Exception as error:  # noqa: BLE001  (a thread's last line: raised again where it is asked for)
                with self._changed:
                    item.error = error
            finally:
                self._mark_settled(item)

    def _mark_settled(self, item: _Item) -> None:
        with self._changed:
            item.is_settled = True
            self._settled.add(item.number)
            while self._num_settled in self._settled:
                self._settled.remove(self._num_settled)
                self._num_settled += 1
            self._changed.notify_all()

    def _claim(self) -> _Item | None:
        with self._changed:
            while not self._is_closed:
                ahead = self._num_asked + self._num_at_work
                if self._num_claimed < min(len(self._items), ahead):
                    self._num_claimed += 1
                    return self._items[self._num_claimed - 1]
                self._changed.wait(_POLL_S)
        return None

    def _settle(self, item: _Item) -> _Copy | None:
        """Decide where a source will be read; gives the copy that is to be made for it, if any.

        In the order of the items: who is asked for first may wait for room, and who comes later must not have it then.
        """
        wanted = item.wanted
        storage, path = _place(wanted.uri, self._s3)
        size = wanted.size_bytes
        with self._changed:
            is_shared = wanted.uri in self._copies
        if size is None and not is_shared:
            size = storage.size(path)
        with self._changed:
            while self._num_settled < item.number and not self._is_closed:
                self._changed.wait(_POLL_S)
            while not self._is_closed and self._of_key.get(wanted.key) is item:
                copy = self._copies.get(wanted.uri)
                if copy is not None:
                    copy.num_users += 1
                    item.copy = copy
                    return None
                size = size or 0
                if self._fits(size):
                    target = self._scratch.path / f"{item.number}{_ending(path)}"
                    copy = item.copy = self._copies[wanted.uri] = _Copy(target, size, num_users=1)
                    break
                if self._never_fits(size) or (self._is_asked_for(item) and len(self._at_work) < self._num_at_work):
                    logger.info("event=streamed uri=%s bytes=%d", wanted.uri, size)
                    item.remote = StoredFile(storage, path)
                    return None
                self._changed.wait(_POLL_S)
            else:
                return None
        self._mark_settled(item)
        return copy

    def _is_asked_for(self, item: _Item) -> bool:
        return item.number < self._num_asked

    def _fits(self, num_bytes: int) -> bool:
        while not self._has_room(num_bytes):
            idle = next((uri for uri, copy in self._copies.items() if copy.is_here and not copy.num_users), None)
            if idle is None:
                return False
            self._drop(idle)
        return True

    def _has_room(self, num_bytes: int) -> bool:
        held = sum(copy.num_bytes for copy in self._copies.values())
        to_come = sum(copy.num_bytes for copy in self._copies.values() if not copy.is_here)
        in_budget = self._room.max_bytes is None or held + num_bytes <= self._room.max_bytes
        return in_budget and num_bytes + to_come + self._room.spared_bytes <= self._free_bytes()

    def _never_fits(self, num_bytes: int) -> bool:
        """Whether there is no room for it even when all that is here now is gone."""
        here = sum(copy.num_bytes for copy in self._copies.values() if copy.is_here)
        in_budget = self._room.max_bytes is None or num_bytes <= self._room.max_bytes
        return not in_budget or num_bytes + self._room.spared_bytes > self._free_bytes() + here

    def _free_bytes(self) -> int:
        try:
            return shutil.disk_usage(self._scratch.path).free
        except OSError:
            return 0

    def _download(self, item: _Item, copy: _Copy) -> None:
        uri = item.wanted.uri
        storage, path = _place(uri, self._s3)
        began = time.monotonic()
        try:
            num_bytes = storage.download(path, copy.path)
        except Exception as error:  # noqa: BLE001  (raised again where it is asked for)
            with self._changed:
                self._copies.pop(uri, None)
                copy.error = error
                if _is_local(error) and not self._is_closed:
                    logger.warning("event=no_room uri=%s: %s: it is read where it lies", uri, error)
                    for each in self._of_key.values():
                        if each.copy is copy:
                            each.copy, each.remote = None, StoredFile(storage, path)
                self._changed.notify_all()
            return
        with self._changed:
            copy.num_bytes, copy.is_here = num_bytes, True
            if not copy.num_users and not self._yet_wanted[uri]:
                self._drop(uri)
            self._changed.notify_all()
        logger.debug("event=staged uri=%s bytes=%d s=%.2f", uri, num_bytes, time.monotonic() - began)


class GiveBackStage(Stage):
    """Stands behind the stages that read sources: of each video that passes for the last time, they are done."""

    name = "give_back"
    takes_failures = True

    def __init__(self, give_back: Callable[[str], None]) -> None:
        self._give_back = give_back

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        """Pass it on."""
        if task.data.num_clip_chunks or task.data.failure:
            self._give_back(task.task_id)
        yield task


def _place(uri: str, s3: S3Options) -> tuple[Storage, str]:
    try:
        return locate(uri, s3)
    except ValueError as error:
        raise FileNotFoundError(str(error)) from error


def _ending(path: str) -> str:
    """The end of a name by which FFmpeg guesses formats; nothing odd of other people's names goes to the disk."""
    ending = os.path.splitext(path)[1]
    return ending if _ENDING.fullmatch(ending) else ""


def _is_local(error: Exception) -> bool:
    """Whether it is this machine's disk that failed."""
    cause = error.__cause__
    return isinstance(error, StorageError) and isinstance(cause, OSError) and cause.errno is not None
