"""Opening media and reading what its bytes claim; FFmpeg's errors become a FailureReason here and nowhere else."""

import errno
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import av
import av.container
import av.error

from curation.errors import FailureReason, StorageError, VideoError
from curation.source_files import Source
from curation.video.remote import READ_BYTES, remote_stream

_STORAGE_ERRNOS = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOLINK, errno.EREMOTEIO, errno.ENODEV}
_SMALL_READ_BYTES = 2**15  # what FFmpeg asks for at once
_NO_SUCH_FILE_ERRNOS = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}  # the path's fault


@contextmanager
def opened(
    source: Source, *, name: str, options: Mapping[str, str] | None = None
) -> Iterator[av.container.InputContainer]:
    """Open a file, bytes or an object of storage as a media container.

    Args:
        options: of FFmpeg, for the container and for the decoders that look into it while it is opened.

    Raises:
        VideoError: NOT_FOUND, EMPTY_FILE, UNREADABLE or LIMITS.
        StorageError: the file system failed, which says nothing about the video.
    """
    check_there(source, name=name)
    if isinstance(source, Path):
        # absolute: "12:30.mp4" or "concat:a.mp4" alone would name a protocol
        with _opened(str(source.absolute()), name=name, options=options) as container:
            yield container
        return
    num_bytes = _SMALL_READ_BYTES if isinstance(source, bytes) else READ_BYTES
    with (
        _bytes_of(source, name=name) as file,
        _opened(file, name=name, options=options, read_bytes=num_bytes) as container,
    ):
        yield container


@contextmanager
def _opened(
    file: str | BinaryIO, *, name: str, options: Mapping[str, str] | None, read_bytes: int = _SMALL_READ_BYTES
) -> Iterator[av.container.InputContainer]:
    try:
        container = av.open(file, mode="r", options=dict(options or {}), buffer_size=read_bytes)
    except av.error.MemoryError as error:  # also FFmpeg's word for what is beyond its own bounds
        message = f"{name}: can't open it as media: over 1000 streams, or tables that do not fit into memory"
        raise VideoError(FailureReason.LIMITS, message) from error
    except av.error.FFmpegError as error:
        raise as_video_error(error, name=name, reason=FailureReason.UNREADABLE, doing="open it as media") from error
    with container:
        yield container


@contextmanager
def _bytes_of(source: Source, *, name: str) -> Iterator[BinaryIO]:
    """The bytes of a source. Raises VideoError (NOT_FOUND) for an object that is not there, OSError for a file."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file
    elif isinstance(source, bytes):
        yield io.BytesIO(source)
    else:
        with remote_stream(source, name=name) as stream:
            yield stream


def size_of(source: Source, *, name: str) -> int:
    """Bytes; 0 where there is no such file. Raises as ``opened``."""
    if isinstance(source, Path):
        return source.stat().st_size if source.is_file() else 0
    if isinstance(source, bytes):
        return len(source)
    with remote_stream(source, name=name) as stream:
        return stream.seek(0, io.SEEK_END)


def check_there(source: Source, *, name: str) -> None:
    """Raise what is wrong with a source that FFmpeg would describe poorly: missing, a folder, empty."""
    if isinstance(source, Path):
        try:
            is_file, num_bytes = source.is_file(), source.stat().st_size
        except OSError as error:
            if error.errno in _NO_SUCH_FILE_ERRNOS:
                raise VideoError(FailureReason.NOT_FOUND, f"{name}: no such file: {source}") from error
            raise StorageError(f"can't look at {source}: {error.strerror}") from error
        if not is_file:
            raise VideoError(FailureReason.UNREADABLE, f"{name}: not a regular file: {source}")
    else:
        num_bytes = size_of(source, name=name)
    if num_bytes == 0:
        raise VideoError(FailureReason.EMPTY_FILE, f"{name}: the file has 0 bytes")


def as_video_error(error: Exception, *, name: str, reason: FailureReason, doing: str) -> Exception:
    """What an FFmpeg error means: the video's own fault, or the storage's."""
    number = getattr(error, "errno", None)
    detail = getattr(error, "strerror", None) or str(error)
    if number in _STORAGE_ERRNOS:
        return StorageError(f"{name}: can't {doing}: {detail}")
    if number == errno.ENOMEM:
        reason = FailureReason.MEMORY
    return VideoError(reason, f"{name}: can't {doing}: {detail}")


def missing_bytes(source: Source, *, name: str = "source") -> int:
    """How many bytes a container claims beyond the end of the file; 0 when it is whole or says nothing.

    ISO media (mp4, mov), Matroska and AVI state the sizes of their outer boxes; MPEG streams state nothing.

    Source:
        ISO/IEC 14496-12 section 4.2 (boxes), RFC 8794 sections 4-6 (EBML), the RIFF header of AVI.
    """
    with _bytes_of(source, name=name) as file:
        num_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = file.read(12)
        if head[4:8] in {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}:
            claimed = _claimed_by_boxes(file, num_bytes)
        elif head[:4] == b"\x1a\x45\xdf\xa3":
            claimed = _claimed_by_ebml(file)
        elif head[:4] == b"RIFF":
            claimed = 8 + int.from_bytes(head[4:8], "little")
        else:
            claimed = num_bytes
    return max(0, claimed - num_bytes)


def _claimed_by_boxes(file: BinaryIO, num_bytes: int) -> int:
    position = 0
    while position + 8 <= num_bytes:
        file.seek(position)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1 and len(head) == 16:
            size = int.from_bytes(head[8:16], "big")
        if size == 0:  # to the end of the file, whatever that is
            return num_bytes
        if size < 8:
            return position  # not a box: trailing bytes that claim nothing
        position += size
    return position


def _claimed_by_ebml(file: BinaryIO) -> int:
    """End of the Segment, the element after the EBML header; its own position when its size is left open."""
    file.seek(4)
    header_size, _ = _ebml_size(file)
    file.seek(header_size, io.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return file.tell()
    size, known = _ebml_size(file)
    return file.tell() + (size if known else 0)


def _ebml_size(file: BinaryIO) -> tuple[int, bool]:
    """A variable-length size and whether it is known (all ones means unknown)."""
    first = file.read(1)
    if not first or first[0] == 0:
        return 0, False
    length = 9 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & ((1 << (8 - length)) - 1)]) + file.read(length - 1), "big")
    return value, value != (1 << (7 * length)) - 1
