"""The clip lists of finished videos, and which videos of a split output are finished by its summary."""

import io
from collections.abc import Generator, Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from curation import layout
from curation.errors import StorageError
from curation.storage import Storage, read_ahead

_READERS = 16  # reading small files is waiting, mostly
_CHUNKS_AT_ONCE = 2 * _READERS
_VIDEOS = b' "videos": {'  # the line after which each line of a summary is one video
_END = b" }"


class SummaryVideo(NamedTuple):
    """A video as a summary has it. ``num_clip_chunks`` is 0 unless its ``status`` is done, ``clip_s`` as well."""

    video_id: str
    status: str
    num_clip_chunks: int
    clip_s: float = 0.0


def chunk_documents(storage: Storage, num_chunks: Iterable[tuple[str, int]]) -> Generator[dict[str, Any], None, None]:
    """The clip lists of videos, in their order, a few read ahead.

    Args:
        num_chunks: id of each video, and how many lists it has.

    Raises:
        StorageError: one is not there, or can't be read.
    """

    def read(path: str) -> dict[str, Any]:
        try:
            chunk: dict[str, Any] = orjson.loads(storage.read(path))
        except FileNotFoundError as error:
            raise StorageError(f"{path} is not there; the record of its video says that it is") from error
        return chunk

    paths = (layout.clip_chunk(video, index) for video, count in num_chunks for index in range(count))
    yield from read_ahead(read, paths, num_threads=_READERS, at_most=_CHUNKS_AT_ONCE)


def summary_videos(storage: Storage) -> Iterator[SummaryVideo]:
    """The videos of a finished split output, one line of its ``summary.json`` after the other.

    Raises:
        ValueError: there is no summary, or it is none that clipmill wrote, or it ends too early.
        StorageError: it can't be read.
    """
    try:
        with storage.reading(layout.SUMMARY) as file:
            buffered = io.BufferedReader(file, 2**20) if isinstance(file, io.RawIOBase) else file
            lines = (line.rstrip(b"\r\n") for line in buffered)
            if not any(line == _VIDEOS for line in lines):
                raise ValueError(f"{storage.root}/{layout.SUMMARY} has no list of videos, one a line")
            for line in lines:
                if line == _END:
                    return
                if line.strip():
                    yield _video(line)
    except FileNotFoundError:
        raise ValueError(f"{storage.root} is no finished split output: it has no {layout.SUMMARY}") from None
    raise ValueError(f"{storage.root}/{layout.SUMMARY} ends before its list of videos does")


def _video(line: bytes) -> SummaryVideo:
    try:
        ((video_id, entry),) = orjson.loads(b"{" + line.removesuffix(b",") + b"}").items()
        clip_s = entry.get("total_clip_duration", 0.0)
        return SummaryVideo(video_id, entry["status"], entry.get("num_clip_chunks", 0), clip_s)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a line of {layout.SUMMARY} is no video: {line[:100]!r}") from error
