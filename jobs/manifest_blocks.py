"""A piece of a manifest: checked row by row, and what planning needs of it as arrays. Runs in worker processes, too."""

import json
import math
import os
import stat
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.source_files import is_uri
from curation.storage import S3Options, locate
from jobs.manifest import (
    EXPENSE_COLUMNS,
    MAX_ID_BYTES,
    RowReader,
    canonical_json,
    expense,
    is_plain_id,
    manifest_line,
)
from jobs.manifest_rows import Row, decoded, line_row, lines_of

MAX_KEPT_PROBLEMS = 1000  # of one piece; nobody reads more, and all lines of a list of millions may be wrong
SAMPLE = 64  # of the videos of a piece whose sizes are given, so many are looked at all the same

MISSING = -1

_LOOKERS = 32  # looking at a file on a network file system is waiting, mostly
_SIZE, _DURATION = EXPENSE_COLUMNS
_MOST = 10**15  # bytes; a size beyond belief must not make sums overflow
_WEIGHTS = np.random.default_rng(20240229).integers(0, 2**64, MAX_ID_BYTES, np.uint64)
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Block:
    """What a piece of a manifest holds. Line numbers count from 1 in the piece, or are 0 in a folder.

    Attributes:
        num_lines: lines of the list that the piece spans.
        lines: the good rows as lines of the run's own copy, one after the other.
        line_numbers: int64, shape (num_videos,): where each stands in the list.
        sizes_bytes: int64, shape (num_videos,): of each line in ``lines``.
        num_bytes: int64, shape (num_videos,): of each video's file; 0 not known, MISSING it is not there.
        durations_s, spans_s: float64, shape (num_videos,): of the file and of what is used of it; NaN not known.
        id_hashes: uint64: of every good id, also of rows that are bad otherwise.
        problems: line and text of the first that are wrong; ``num_problems`` counts all.
        ids_below_records: line and id of those that need a folder where another id may have its record.
        num_looked: how many files were looked at.
        missing: line of each that is no file, and why.
    """

    num_lines: int
    lines: bytes
    line_numbers: npt.NDArray[np.int64]
    sizes_bytes: npt.NDArray[np.int64]
    num_bytes: npt.NDArray[np.int64]
    durations_s: npt.NDArray[np.float64]
    spans_s: npt.NDArray[np.float64]
    id_hashes: npt.NDArray[np.uint64]
    problems: list[tuple[int, str]]
    num_problems: int
    ids_below_records: list[tuple[int, str]]
    num_looked: int
    missing: list[tuple[int, str]]


def id_hashes(video_ids: Sequence[str]) -> npt.NDArray[np.uint64]:
    """A number for each id; where two are equal, the ids themselves must be compared.

    Sums of bytes times weights, modulo 2^64: of two different ids the numbers are equal with a chance of 2^-57, over
    all choices of the weights.

    Source:
        Lemire and Kaser 2014, "Strongly universal string hashing is fast" (multilinear hashing).
    """
    encoded = [video_id.encode() for video_id in video_ids]
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    starts = np.cumsum(lengths) - lengths
    values = np.frombuffer(b"".join(encoded), np.uint8).astype(np.uint64) + np.uint64(1)
    places = np.arange(len(values)) - np.repeat(starts, lengths)
    return np.add.reduceat(values * _WEIGHTS[places], starts) if len(encoded) else np.empty(0, np.uint64)


def read_piece(path: str, start: int, end: int, kind: str, reader: RowReader, max_kept: int | None) -> Block:
    """Check the bytes ``start <= i < end`` of a .txt or .jsonl list, which are whole lines.

    Args:
        max_kept: Videos after so many are checked and left out; None keeps all.
    """
    with open(path, "rb") as file:
        file.seek(start)
        text = decoded(file.read(end - start), is_first=start == 0)
    filler = _Filler(reader, max_kept)
    if kind == ".jsonl":
        num_lines = filler.add_json_lines(text)
    else:
        lines = lines_of(text)
        filler.add_rows((line, line_row(entry, kind)) for line, entry in enumerate(lines, start=1))
        num_lines = len(lines)
    return filler.block(num_lines)


def read_rows(rows: Iterable[tuple[int, Row | str]], reader: RowReader, max_kept: int | None) -> Block:
    """Check rows that were read already, with their line numbers in the whole list."""
    filler = _Filler(reader, max_kept)
    filler.add_rows(rows)
    return filler.block(0)


def read_listed(objects: Iterable[tuple[str, int]], reader: RowReader, max_kept: int | None) -> Block:
    """Check the videos of a listing: URIs with sizes in bytes; nothing is looked at."""
    filler = _Filler(reader, max_kept, is_listed=True)
    for uri, size_bytes in objects:
        filler.add_object(uri, size_bytes)
    return filler.block(0)


@dataclass(slots=True)
class _Filler:
    """A block while it is filled."""

    reader: RowReader
    max_kept: int | None
    is_listed: bool = False
    # line, path, line of the copy, size, duration and span, see Block
    kept: list[tuple[int, str, bytes, int, float, float]] = field(default_factory=list)
    video_ids: list[str] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)
    num_problems: int = 0
    ids_below_records: list[tuple[int, str]] = field(default_factory=list)

    def add_json_lines(self, text: str) -> int:
        """Take in the lines of a .jsonl list; gives their number."""
        decode, find, plain = _DECODER.raw_decode, text.find, self._plain
        line, position, size = 0, 0, len(text)
        while position < size:
            line += 1
            newline = find("\n", position)
            newline = size if newline < 0 else newline
            try:
                row, end = decode(text, position)
            except (ValueError, RecursionError):
                end = -1
            if end != newline or not plain(line, row):
                self._add_row(line, line_row(text[position:newline], ".jsonl"))
            position = newline + 1
        return line

    def add_rows(self, rows: Iterable[tuple[int, Row | str]]) -> None:
        """Take in rows of any kind."""
        for line, row in rows:
            self._add_row(line, row)

    def add_object(self, uri: str, size_bytes: int) -> None:
        """Take in an object of a listing."""
        num_before = len(self.kept)
        self._add_row(0, {"path": uri})
        if len(self.kept) > num_before:
            line, path, content, _, duration_s, span_s = self.kept.pop()
            self.kept.append((line, path, content, max(1, size_bytes), duration_s, span_s))

    def _add_row(self, line: int, row: Row | str) -> None:
        if isinstance(row, str):
            video_id, video, problems = "", None, [row]
        else:
            video_id, video, problems = self.reader.read(line, row)
        self.num_problems += len(problems)
        self.problems += ((line, problem) for problem in problems[: MAX_KEPT_PROBLEMS - len(self.problems)])
        if video_id:
            self._add_id(line, video_id)
        if video is None:
            return
        num_bytes = min(_MOST, int(expense(video.extra.get(_SIZE)) or 0))
        duration_s = expense(video.extra.get(_DURATION)) or math.nan
        span_s = _used_s(duration_s, video.start_s, video.end_s)
        self.kept.append((line, video.path, manifest_line(video), num_bytes, duration_s, span_s))

    def _plain(self, line: int, row: Any) -> bool:
        """Take in a row as most rows are, in a third of the time; False leaves it to ``_add_row``.

        It must come to what ``_add_row`` comes to.
        """
        if type(row) is not dict or "start_s" in row or "end_s" in row or "extra" in row:
            return False
        path, video_id = row.pop("path", None), row.pop("id", None)
        num_bytes, duration_s = row.get(_SIZE, 0), row.get(_DURATION, math.nan)
        if type(path) is not str or not path.isprintable() or not path.strip():
            return False
        if type(num_bytes) is not int or not 0 <= num_bytes <= _MOST:
            return False
        if type(duration_s) is not float or duration_s <= 0 or duration_s == math.inf:
            return False
        if path[0] != "/" or "//" in path or "/." in path or path[-1] == "/":
            path, written = self.reader.locate(path), path
        else:
            written = path
        if video_id is None:
            video_id = self.reader.default_id(path, written)
        if type(video_id) is not str or not is_plain_id(video_id):
            return False
        content = f'"id":{encode_basestring(video_id)},"path":{encode_basestring(path)}}}\n'
        try:
            encoded = (f'{{"extra":{canonical_json(row)},{content}' if row else f"{{{content}").encode()
        except (ValueError, RecursionError):  # a further column that is not JSON in UTF-8
            return False
        self._add_id(line, video_id)
        self.kept.append((line, path, encoded, num_bytes, duration_s, duration_s))
        return True

    def _add_id(self, line: int, video_id: str) -> None:
        self.video_ids.append(video_id)
        if ".json/" in video_id:
            self.ids_below_records.append((line, video_id))

    def block(self, num_lines: int) -> Block:
        """Look at the files whose size is not known, and at some of the others; then it is complete."""
        kept = self.kept[: self.max_kept]
        lines, paths, contents, sizes, durations_s, spans_s = zip(*kept, strict=True) if kept else ((),) * 6
        line_numbers, num_bytes = np.array(lines, np.int64), np.array(sizes, np.int64)
        num_looked, missing = (0, []) if self.is_listed else _looked(paths, line_numbers, num_bytes, self.reader.s3)
        return Block(
            num_lines=num_lines,
            lines=b"".join(contents),
            line_numbers=line_numbers,
            sizes_bytes=np.fromiter(map(len, contents), np.int64, len(contents)),
            num_bytes=num_bytes,
            durations_s=np.array(durations_s, np.float64),
            spans_s=np.array(spans_s, np.float64),
            id_hashes=id_hashes(self.video_ids),
            problems=self.problems,
            num_problems=self.num_problems,
            ids_below_records=self.ids_below_records,
            num_looked=num_looked,
            missing=missing,
        )


def _looked(
    paths: Sequence[str],
    line_numbers: npt.NDArray[np.int64],
    num_bytes: npt.NDArray[np.int64],
    s3: S3Options | None,
) -> tuple[int, list[tuple[int, str]]]:
    """Put sizes in their places; gives how many files were looked at, and what is wrong with which of them.

    Raises:
        StorageError: the storage of an object can't be reached, or does not let it be looked at.
    """
    unknown = num_bytes == 0
    known, others = (np.flatnonzero(~unknown).tolist(), np.flatnonzero(unknown).tolist())
    local = [k for k in [*known[:SAMPLE], *others] if not is_uri(paths[k])]
    found_sizes = look([paths[k] for k in local])
    places = local
    if s3 is not None:
        # looking costs money: of those with a size one tells whether all can be reached
        remote = [*[k for k in known if is_uri(paths[k])][:1], *(k for k in others if is_uri(paths[k]))]
        places, found_sizes = local + remote, found_sizes + look_at_objects([paths[k] for k in remote], s3)
    missing = []
    for place, found in zip(places, found_sizes, strict=True):
        if isinstance(found, str):
            num_bytes[place] = MISSING
            missing.append((int(line_numbers[place]), f"{paths[place]!r}: {found}"))
        elif unknown[place]:
            num_bytes[place] = found
    return len(places), sorted(missing)


def look(paths: Sequence[str]) -> list[int | str]:
    """The size of each file in bytes, at least 1, or why it is no file."""
    share = -(-len(paths) // _LOOKERS) or 1
    with ThreadPoolExecutor(_LOOKERS) as pool:
        parts = pool.map(_look, (paths[first : first + share] for first in range(0, len(paths), share)))
        return [found for part in parts for found in part]


def look_at_objects(uris: Sequence[str], s3: S3Options) -> list[int | str]:
    """The size of each object in bytes, at least 1, or why there is none.

    Raises:
        StorageError: the storage can't be reached, or does not let it be looked at.
    """
    first = [_object_size(uri, s3.hurried()) for uri in uris[:1]]  # what is wrong with all is told soon
    with ThreadPoolExecutor(_LOOKERS) as pool:
        looking = [pool.submit(_object_size, uri, s3) for uri in uris[1:]]
        try:
            return [*first, *(each.result() for each in looking)]
        finally:
            pool.shutdown(cancel_futures=True)


def _object_size(uri: str, s3: S3Options) -> int | str:
    try:
        storage, path = locate(uri, s3)
    except ValueError as error:
        return str(error)
    try:
        return max(1, storage.size(path))
    except FileNotFoundError:
        return "no such object"


def _look(paths: Sequence[str]) -> list[int | str]:
    return [_size(path) for path in paths]


def _size(path: str) -> int | str:
    try:
        status = os.stat(path)
    except OSError as error:
        return error.strerror or type(error).__name__
    return max(1, status.st_size) if stat.S_ISREG(status.st_mode) else "not a file"


def _used_s(duration_s: float, start_s: float | None, end_s: float | None) -> float:
    """Seconds that a row's span takes of its file; NaN where neither column tells where it ends."""
    first_s = start_s or 0.0
    last_s = duration_s if end_s is None else end_s if math.isnan(duration_s) else min(end_s, duration_s)
    return max(0.0, last_s - first_s) if not math.isnan(last_s) else math.nan
