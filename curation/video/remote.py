"""A source that is no file of this machine as FFmpeg reads it: storage that fails is never a fault of the video."""

import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import BinaryIO, TypeVar

from curation.errors import FailureReason, StorageError, VideoError
from curation.source_files import RemoteFile
from curation.storage.seekable import SeekableReader
from curation.video.progress import alive

READ_BYTES = 2**20  # what FFmpeg asks for at once
_SIGN_OF_LIFE_S = 1.0

_Found = TypeVar("_Found")


class _OpenFile:
    """The stream that a thread has open: a source is opened several times, and its index is read once."""

    def __init__(self, source: RemoteFile) -> None:
        self.source = source
        self._undo = ExitStack()
        self._reader = self._undo.enter_context(ThreadPoolExecutor(1, thread_name_prefix="read"))
        try:
            self._stream = self._waiting(lambda: self._undo.enter_context(source.reading()))
            self.num_bytes = self._waiting(lambda: self._stream.seek(0, io.SEEK_END))
        except BaseException:
            self._undo.close()
            raise

    def read(self, position: int, num_bytes: int) -> bytes:
        def read() -> bytes:
            self._stream.seek(position)
            return self._stream.read(num_bytes)

        return self._waiting(read)

    def close(self) -> None:
        self._undo.close()

    def _waiting(self, call: Callable[[], _Found]) -> _Found:
        """What a call gives that waits for the storage. While it tries again it is not the decoder that stalls."""
        future = self._reader.submit(call)
        while True:
            try:
                return future.result(timeout=_SIGN_OF_LIFE_S)
            except TimeoutError:
                if future.done():
                    raise
                alive()


_of_thread = threading.local()


def _open_file(source: RemoteFile) -> _OpenFile:
    found: _OpenFile | None = getattr(_of_thread, "file", None)
    if found is None or found.source != source:
        close_remote()
        found = _of_thread.file = _OpenFile(source)
    return found


def close_remote() -> None:
    """Let go of the source that this thread read last."""
    found: _OpenFile | None = getattr(_of_thread, "file", None)
    _of_thread.file = None
    if found is not None:
        found.close()


class RemoteStream(SeekableReader):
    """A source's bytes for FFmpeg, which takes some errors of reading for the end of the file: ``error`` keeps them."""

    def __init__(self, source: RemoteFile) -> None:
        self.name = f"remote.{source.uri.rpartition('/')[2].rpartition('.')[2]}"  # by its end FFmpeg guesses formats
        self.error: StorageError | None = None
        self._file = _open_file(source)
        super().__init__(self._file.num_bytes)

    def read(self, size: int = -1) -> bytes:
        """Fewer bytes only at the end."""
        if self.error is not None:
            raise self.error
        left = max(0, self.num_bytes - self.position)
        wanted = left if size < 0 else min(size, left)
        if not wanted:
            return b""
        try:
            found = self._file.read(self.position, wanted)
        except StorageError as error:
            self.error = error
            raise
        except FileNotFoundError as error:
            self.error = StorageError(f"{self._file.source.uri} was removed while it was read")
            raise self.error from error
        self.position += len(found)
        return found


@contextmanager
def remote_stream(source: RemoteFile, *, name: str) -> Iterator[BinaryIO]:
    """The bytes of a source.

    Raises:
        VideoError: NOT_FOUND.
        StorageError: at the block's end, too, whatever the block made of a read that failed.
    """
    try:
        stream = RemoteStream(source)
    except FileNotFoundError as error:
        raise VideoError(FailureReason.NOT_FOUND, f"{name}: no such object: {source.uri}") from error
    try:
        yield stream  # type: ignore[misc]  # a raw stream is as good as a buffered one here
    finally:
        if stream.error is not None:
            close_remote()
            raise stream.error
