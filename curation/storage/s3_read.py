"""Reading objects of S3: whole, by ranges, to a file; a body that breaks off is read on from there."""

import os
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.errors import StorageError
from curation.storage.counts import add_request_counts
from curation.storage.files import written_aside
from curation.storage.options import MIB, S3Options
from curation.storage.s3_client import client_for, error_code
from curation.storage.s3_parts import PartsAtOnce
from curation.storage.seekable import SeekableReader

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

CHUNK_BYTES = MIB
BLOCK_BYTES = 4 * MIB  # what a stream asks for at once
BLOCKS_HELD = 4  # players go to and fro between an index, pictures and sound
EMPTY_RANGE = {"InvalidRange", "416"}
_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0


@dataclass(frozen=True, slots=True)
class ObjectReader:
    """One object of a bucket."""

    options: S3Options
    bucket: str
    key: str

    def read(self) -> bytes:
        """The whole object, with one request where nothing breaks."""
        response = client_for(self.options).get_object(Bucket=self.bucket, Key=self.key)
        return b"".join(self._body(response, 0, response["ContentLength"]))

    def read_range(self, start: int, end: int, etag: str | None = None) -> bytes:
        """Bytes ``start <= i < end``, fewer where the object ends before."""
        return b"".join(self.chunks(start, end, etag))

    def chunks(self, start: int, end: int, etag: str | None = None) -> Iterator[bytes]:
        """The bytes of a range as they come, of the version ``etag``; nothing where the object ends before it."""
        response = self._get(start, end, etag)
        if response is not None:
            yield from self._body(response, start, start + response["ContentLength"])

    def first(self, num_bytes: int) -> tuple[int, str | None, Iterator[bytes], int]:
        """The object's size and version, and its first bytes as they come with how many they are.

        They are all of it where the server knows no ranges.
        """
        response = self._get(0, num_bytes, None)
        if response is None:
            return 0, None, iter(()), 0
        length = response["ContentLength"]
        size = int(response["ContentRange"].rpartition("/")[2]) if "ContentRange" in response else length
        return size, response["ETag"], self._body(response, 0, length), length

    def _get(self, start: int, end: int, etag: str | None) -> "GetObjectOutputTypeDef | None":
        """The answer for a range; None where the object has no byte in it."""
        from botocore.exceptions import ClientError

        condition: Any = {"IfMatch": etag} if etag else {}
        try:
            response = client_for(self.options).get_object(
                Bucket=self.bucket, Key=self.key, Range=f"bytes={start}-{end - 1}", **condition
            )
        except ClientError as error:
            if error_code(error) in EMPTY_RANGE:
                return None
            if error_code(error) in {"PreconditionFailed", "412"}:
                raise StorageError(f"s3://{self.bucket}/{self.key} was replaced while it was read") from error
            raise
        if start and "ContentRange" not in response:
            raise StorageError(f"the server of s3://{self.bucket}/{self.key} does not know ranges, which are needed")
        return response

    def _body(self, response: "GetObjectOutputTypeDef", start: int, end: int) -> Iterator[bytes]:
        """The body's bytes; where it breaks off, the rest is asked for, with pauses while nothing comes at all."""
        from botocore import exceptions

        broken = (exceptions.HTTPClientError, exceptions.IncompleteReadError)
        position, futile, etag = start, 0, response["ETag"]
        while True:
            try:
                for chunk in response["Body"].iter_chunks(CHUNK_BYTES):
                    yield chunk
                    position, futile = position + len(chunk), 0
                return
            except broken:
                futile += 1
                if futile >= self.options.max_tries:
                    raise
            if position >= end:
                return
            add_request_counts({"resumed": 1})
            time.sleep(random.uniform(0, min(_LONGEST_PAUSE_S, _PAUSE_S * 2**futile)))
            again = self._get(position, end, etag)
            if again is None:
                raise StorageError(f"s3://{self.bucket}/{self.key} became shorter while it was read")
            response = again

    def download(self, target: Path, pool: Executor) -> int:
        """Copy the object to a file with several requests at once; its size. Memory: a chunk for each request."""
        part_bytes = self.options.part_size_bytes
        with written_aside(target) as (file, aside):
            size, etag, first, num_first = self.first(part_bytes)
            file.truncate(size)
            with PartsAtOnce(pool, self.options.requests_at_once) as parts:
                parts.submit(partial(_copy, first, file.fileno(), 0, num_first))
                for start in range(num_first, size, part_bytes):
                    end = min(start + part_bytes, size)
                    parts.submit(partial(_copy, self.chunks(start, end, etag), file.fileno(), start, end))
            os.replace(aside, target)
        return size


def _copy(chunks: Iterator[bytes], file: int, start: int, end: int) -> None:
    position = start
    for chunk in chunks:
        while chunk:
            written = os.pwrite(file, chunk, position)
            chunk, position = chunk[written:], position + written
    if position != end:
        raise StorageError(f"expected bytes {start} to {end}, got them up to {position}")


class ObjectStream(SeekableReader):
    """A seekable stream that asks for blocks of the object as they are needed and keeps the last few.

    ``errors`` is around each request, so that readers in between see a StorageError and never one of boto3's, which
    they could take for a fault of the file.
    """

    def __init__(self, reader: ObjectReader, errors: Callable[[], AbstractContextManager[None]]) -> None:
        self._reader = reader
        self._errors = errors
        num_bytes, self._etag, first, _ = reader.first(BLOCK_BYTES)
        super().__init__(num_bytes)
        self._blocks = OrderedDict({0: b"".join(first)})

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer up to the end of a block."""
        if self.position >= self.num_bytes:
            return 0
        index, offset = divmod(self.position, BLOCK_BYTES)
        found = memoryview(self._block(index))[offset : offset + len(buffer)]
        buffer[: len(found)] = found
        self.position += len(found)
        return len(found)

    def _block(self, index: int) -> bytes:
        if index not in self._blocks:
            end = min((index + 1) * BLOCK_BYTES, self.num_bytes)
            with self._errors():
                self._blocks[index] = self._reader.read_range(index * BLOCK_BYTES, end, self._etag)
            if len(self._blocks) > BLOCKS_HELD:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(index)
        return self._blocks[index]
