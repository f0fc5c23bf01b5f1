"""Reads a manifest of any size as a stream, checks all of it, and gives what a plan needs of it as arrays."""

import json
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from curation.source_files import is_uri
from curation.storage import S3Options, storage_for
from jobs.manifest import VIDEO_EXTENSIONS, ManifestVideo, RowReader, ids_in_the_way
from jobs.manifest_blocks import MAX_KEPT_PROBLEMS, MISSING, Block, id_hashes, read_listed, read_piece, read_rows
from jobs.manifest_rows import ManifestError, Rows, check_list, decoded, folder_rows, line_row, lines_of, table_rows
from jobs.manifest_s3 import check_prefix, fetched_list, is_list, listed_videos
from jobs.planner import IntArray

BYTES_PER_S = 10**6  # 8 Mbit/s, where no video of the manifest tells both its size and its duration

Scalar = TypeVar("Scalar", np.int64, np.float64, np.uint64)

_PIECE_BYTES = 2**22
_ROWS_AT_ONCE = 2**14
_MAX_PROCESSES = 4  # more only wait for the one that writes


@dataclass(frozen=True, slots=True)
class ManifestTable:
    """What a plan needs of a manifest that was copied.

    Attributes:
        offsets: int64, shape (num_videos,): where each video's line begins in the copy, in bytes.
        costs: int64, shape (num_videos,): at least 1, see ``costs_of``.
        num_looked: how many files were looked at: those whose size the manifest does not tell, and some others.
        num_missing: how many of these are not there.
        first_missing: the first of them in words; None where all are there.
    """

    offsets: IntArray
    costs: IntArray
    num_looked: int
    num_missing: int
    first_missing: str | None


def copy_manifest(
    source: str,
    on_block: Callable[[Block], object],
    *,
    input_root: str | None = None,
    extensions: Sequence[str] = VIDEO_EXTENSIONS,
    limit: int = 0,
    s3: S3Options | None = None,
) -> ManifestTable:
    """Read the input videos from a folder, a prefix on S3 or a .txt, .json, .jsonl or .csv list, which may be there.

    Large .jsonl and .txt lists are read by several processes and never lie in memory as a whole.

    Args:
        on_block: Gets one piece after the other; its ``lines`` in a row are the run's own copy of the manifest, with
            the videos in the order of the list, those of a folder sorted by id.
        input_root: What the relative paths and the default ids of a list refer to; without it such paths refer to the
            list's own folder. A folder is its own root.
        limit: Keep the first ``limit`` videos; all the others are checked, too. 0 keeps all.
        s3: How S3 is reached; without it objects that a list names are not looked at.

    Raises:
        ManifestError: All that is wrong, each problem with its line; what ``on_block`` got is of no use then.
        StorageError: S3 can't be reached, or does not let the input be read.
    """
    with _opened(source, input_root, extensions, s3) as rows:
        copying = _Copying(rows, limit, on_block)
        for block in copying.blocks():
            copying.add(block)
        return copying.finish()


def read_manifest(
    source: str,
    *,
    input_root: str | None = None,
    extensions: Sequence[str] = VIDEO_EXTENSIONS,
    limit: int = 0,
    s3: S3Options | None = None,
) -> list[ManifestVideo]:
    """The videos of ``copy_manifest`` as objects, with their lines: for a manifest that is not large."""
    videos: list[ManifestVideo] = []

    def add(block: Block) -> None:
        entries = zip(block.lines.splitlines(), block.line_numbers.tolist(), strict=True)
        videos.extend(ManifestVideo(**json.loads(entry), line=line) for entry, line in entries)

    copy_manifest(source, add, input_root=input_root, extensions=extensions, limit=limit, s3=s3)
    return videos


def costs_of(num_bytes: IntArray, durations_s: npt.NDArray[np.float64], spans_s: npt.NDArray[np.float64]) -> IntArray:
    """What videos cost: their bytes; where seconds are known, as many bytes as the manifest has in so many seconds.

    A mean rate of the whole manifest makes durations comparable with sizes: work goes by frames, and of two videos of
    a minute the one with more bits a second is not the one with more frames. What is not there costs 1.

    Args:
        num_bytes, durations_s, spans_s: As in ``Block``.
    """
    both = (num_bytes > 0) & (durations_s > 0)
    rate = num_bytes[both].sum() / durations_s[both].sum() if both.any() else BYTES_PER_S
    by_time = np.rint(np.nan_to_num(spans_s) * rate).clip(0, 2**53).astype(np.int64)
    costs: IntArray = np.maximum(1, np.where(np.isnan(spans_s), num_bytes, by_time))
    costs[num_bytes == MISSING] = 1
    return costs


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the rows come from."""

    path: str
    kind: str  # of a list, such as ".jsonl"; "" is a folder or a prefix
    reader: RowReader
    extensions: tuple[str, ...]
    name: str  # in messages
    s3: S3Options

    @property
    def is_prefix(self) -> bool:
        """Whether it is listed on S3."""
        return is_uri(self.path)

    def objects(self) -> Iterator[tuple[str, int]]:
        """The videos of a prefix, with their sizes in bytes."""
        for path, size_bytes in listed_videos(self.path, self.s3, self.extensions):
            yield f"{self.path}/{path}", size_bytes

    @property
    def has_pieces(self) -> bool:
        """Whether it can be cut at any line."""
        return self.kind in (".jsonl", ".txt")

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Begin and end of each piece of whole lines, in bytes."""
        with open(self.path, "rb") as file:
            start, size = 0, os.fstat(file.fileno()).st_size
            while start < size:
                file.seek(start + _PIECE_BYTES)
                file.readline()
                end = min(size, file.tell())
                yield start, end
                start = end

    def rows(self) -> Rows:
        """Every row with its line, one after the other."""
        if self.is_prefix:
            yield from ((0, {"path": uri}) for uri, _ in self.objects())
            return
        if not self.has_pieces:
            yield from table_rows(self.path, self.kind) if self.kind else folder_rows(self.path, self.extensions)
            return
        line = 0
        with open(self.path, "rb") as file:
            for start, end in self.pieces():
                for entry in lines_of(decoded(file.read(end - start), is_first=start == 0)):
                    line += 1
                    yield line, line_row(entry, self.kind)


@contextmanager
def _opened(path: str, input_root: str | None, extensions: Sequence[str], s3: S3Options | None) -> Iterator[_Source]:
    """The rows of a manifest; a list on S3 is a local file meanwhile."""
    endings, options = tuple(extension.lower() for extension in extensions), s3 or S3Options()
    if is_uri(path) and is_list(path):
        with fetched_list(path, options) as local:
            yield _Source(local, check_list(local), RowReader.of(path, input_root, s3), endings, path, options)
    elif is_uri(path):
        check_prefix(path, options)
        root = storage_for(path, options).root
        yield _Source(root, "", RowReader.of(root, root, s3), endings, path, options)
    else:
        is_folder = os.path.isdir(path)
        kind = "" if is_folder else check_list(path)
        reader = RowReader.of(path, path if is_folder else input_root, s3)
        yield _Source(path, kind, reader, endings, path, options)


@dataclass(slots=True)
class _Copying:
    """A manifest while it is copied: the arrays of its videos so far, and every problem."""

    source: _Source
    limit: int
    on_block: Callable[[Block], object]
    blocks_kept: list[Block] = field(default_factory=list)  # without their lines
    hashes: list[npt.NDArray[np.uint64]] = field(default_factory=list)
    ids_below_records: list[tuple[int, str]] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)
    num_problems: int = 0
    num_lines: int = 0
    num_videos: int = 0
    num_missing: int = 0
    first_missing: str | None = None

    @property
    def max_kept(self) -> int | None:
        """How many more videos are wanted; None: all."""
        return max(0, self.limit - self.num_videos) if self.limit else None

    def blocks(self) -> Iterator[Block]:
        """The source piece by piece, in order."""
        source = self.source
        if source.is_prefix:
            objects = source.objects()
            while listed := list(islice(objects, _ROWS_AT_ONCE)):
                yield read_listed(listed, source.reader, self.max_kept)
            return
        if not source.has_pieces:
            rows = iter(source.rows())
            while batch := list(islice(rows, _ROWS_AT_ONCE)):
                yield read_rows(batch, source.reader, self.max_kept)
            return
        num_processes = min(_MAX_PROCESSES, len(os.sched_getaffinity(0)))
        if os.path.getsize(source.path) <= 4 * _PIECE_BYTES or num_processes == 1 or self.limit:
            for start, end in source.pieces():
                yield read_piece(source.path, start, end, source.kind, source.reader, self.max_kept)
            return
        yield from self._blocks_of_processes(num_processes)

    def _blocks_of_processes(self, num_processes: int) -> Iterator[Block]:
        source = self.source
        # forked ones would inherit the locks of whatever threads there are
        with ProcessPoolExecutor(num_processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            ahead: deque[Future[Block]] = deque()
            for start, end in source.pieces():
                ahead.append(pool.submit(read_piece, source.path, start, end, source.kind, source.reader, None))
                if len(ahead) > 2 * num_processes:  # pieces that nobody takes yet lie in memory
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def add(self, block: Block) -> None:
        """Take in the next piece."""
        first = self.num_lines
        if first:
            block = replace(block, line_numbers=block.line_numbers + first)
        self.num_problems += block.num_problems
        room = MAX_KEPT_PROBLEMS - len(self.problems)
        self.problems += ((line + first, problem) for line, problem in block.problems[:room])
        self.ids_below_records += ((line + first, video_id) for line, video_id in block.ids_below_records)
        if block.missing and self.first_missing is None:
            line, fault = block.missing[0]
            self.first_missing = f"line {line + first}: {fault}" if line else fault
        self.num_missing += len(block.missing)
        self.hashes.append(block.id_hashes)
        self.num_lines += block.num_lines
        self.num_videos += len(block.line_numbers)
        self.on_block(block)
        self.blocks_kept.append(replace(block, lines=b"", line_numbers=_NONE, missing=[], problems=[]))

    def finish(self) -> ManifestTable:
        """Check what only the whole shows; a ManifestError unless all is well."""
        hashes = np.sort(_joined(self.hashes, np.uint64))
        self.hashes.clear()
        self._find_clashes(hashes)
        if not self.num_problems and not self.num_videos:
            self._add_problem(0, "no video in it")
        if self.num_problems:
            in_order = sorted(self.problems, key=lambda problem: problem[0])
            lines = [f"{self.source.name}:{f'{line}:' if line else ''} {text}" for line, text in in_order]
            hidden = self.num_problems - len(in_order)
            raise ManifestError([*lines, f"{self.source.name}: ... and {hidden} more problems"] if hidden else lines)
        sizes = _joined([block.sizes_bytes for block in self.blocks_kept], np.int64)
        return ManifestTable(
            offsets=np.cumsum(sizes) - sizes,
            costs=costs_of(
                _joined([block.num_bytes for block in self.blocks_kept], np.int64),
                _joined([block.durations_s for block in self.blocks_kept], np.float64),
                _joined([block.spans_s for block in self.blocks_kept], np.float64),
            ),
            num_looked=sum(block.num_looked for block in self.blocks_kept),
            num_missing=self.num_missing,
            first_missing=self.first_missing,
        )

    def _find_clashes(self, hashes: npt.NDArray[np.uint64]) -> None:
        """Ids that stand twice, and those that need a folder where another has its record.

        Hashes only tell where to look: the ids themselves are read again and compared.
        """
        again = hashes[1:][hashes[1:] == hashes[:-1]]
        in_the_way = {other for _, video_id in self.ids_below_records for other in ids_in_the_way(video_id)}
        others = id_hashes(sorted(in_the_way))
        suspects = set(again.tolist()) | set(others[np.isin(others, hashes)].tolist())
        if not suspects:
            return
        first_lines: dict[str, int] = {}
        for line, video_id in self._ids_among(suspects):
            if video_id in first_lines:
                self._add_problem(line, f"id {video_id!r} stands on line {first_lines[video_id]} already")
            else:
                first_lines[video_id] = line
        for line, video_id in self.ids_below_records:
            for other in ids_in_the_way(video_id):
                if other in first_lines:
                    self._add_problem(line, f"id {video_id!r} needs a folder where id {other!r} has its record")

    def _ids_among(self, suspects: set[int]) -> Iterator[tuple[int, str]]:
        """Read the source again: each id whose hash is one of these, with its line."""
        rows = iter(self.source.rows())
        while batch := list(islice(rows, _ROWS_AT_ONCE)):
            read = ((line, self.source.reader.read(line, row)[0]) for line, row in batch if not isinstance(row, str))
            named = [(line, video_id) for line, video_id in read if video_id]
            hashes = id_hashes([video_id for _, video_id in named]).tolist()
            yield from (each for each, found in zip(named, hashes, strict=True) if found in suspects)

    def _add_problem(self, line: int, problem: str) -> None:
        self.num_problems += 1
        if len(self.problems) < MAX_KEPT_PROBLEMS:
            self.problems.append((line, problem))


_NONE = np.empty(0, np.int64)


def _joined(arrays: Sequence[npt.NDArray[Scalar]], dtype: type[Scalar]) -> npt.NDArray[Scalar]:
    return np.concatenate([*arrays, np.empty(0, dtype)])
