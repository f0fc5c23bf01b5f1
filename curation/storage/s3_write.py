"""Writing objects of S3: each appears whole, by a single PUT or a completed multipart upload."""

import io
import logging
import uuid
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from curation.errors import StorageError
from curation.storage.options import S3Options
from curation.storage.s3_client import client_for, error_code, object_head
from curation.storage.s3_parts import PartsAtOnce

MAX_PARTS = 10_000  # Source: Amazon S3 User Guide, "multipart upload limits"
WRITER = "clipmill-writer"  # metadata of what was not put by one unconditional request: whose it is

_CONTENT_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "json": "application/json",
    "jsonl": "application/x-ndjson",
    "mp4": "video/mp4",
    "parquet": "application/vnd.apache.parquet",
    "tar": "application/x-tar",
    "txt": "text/plain; charset=utf-8",
    "webp": "image/webp",
}

logger = logging.getLogger(__name__)


def content_type(key: str) -> str:
    """By the suffix, the same on every machine."""
    return _CONTENT_TYPES.get(key.rpartition(".")[2].lower(), "application/octet-stream")


def is_written_by(writer: str, *, options: S3Options, bucket: str, key: str) -> bool:
    """Whether the object that is there now is this writer's."""
    head = object_head(options, bucket, key)
    return head is not None and head["Metadata"].get(WRITER) == writer


class UploadStream(io.RawIOBase):
    """A stream to an object that appears when it is completed.

    What fits one part is one PUT. Memory: ``requests_at_once`` parts on their way and one that fills. ``errors`` is
    around each request, so that writers in between see a StorageError and never one of boto3's.
    """

    def __init__(
        self,
        options: S3Options,
        errors: Callable[[], AbstractContextManager[None]],
        *,
        bucket: str,
        key: str,
        pool: Executor,
    ) -> None:
        self._options = options
        self._errors = errors
        self._place: Any = {"Bucket": bucket, "Key": key}
        self._writer = uuid.uuid4().hex
        self._parts = PartsAtOnce(pool, options.requests_at_once)
        self._filling: Any = bytearray()  # boto3's types know only bytes, which would be one more copy
        self._upload_id: str | None = None
        self._etags: dict[int, str] = {}
        self._num_parts = 0
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, content: Any) -> int:
        """All of it, always."""
        if self.closed:
            raise ValueError("write to a closed stream")
        view = memoryview(content).cast("B")
        for start in range(0, len(view), self._options.part_size_bytes):
            self._append(view[start : start + self._options.part_size_bytes])
        self._position += len(view)
        return len(view)

    def _append(self, view: memoryview) -> None:
        room = self._options.part_size_bytes - len(self._filling)
        self._filling += view[:room]
        if len(view) > room:  # only when there is more: what fits one part is one PUT
            with self._errors():
                self._send_part()
            self._filling += view[room:]

    def _send_part(self) -> None:
        if self._upload_id is None:
            self._upload_id = client_for(self._options).create_multipart_upload(
                **self._place, ContentType=content_type(self._place["Key"]), Metadata={WRITER: self._writer}
            )["UploadId"]
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise StorageError(
                f"{self._place['Key']} is larger than {MAX_PARTS} parts of {self._options.part_size_bytes} bytes: "
                "raise s3.part_size_mb"
            )
        content, self._filling = self._filling, bytearray()
        self._parts.submit(partial(self._upload_part, self._upload_id, self._num_parts, content))

    def _upload_part(self, upload_id: str, number: int, content: Any) -> None:
        answer = client_for(self._options).upload_part(
            **self._place, UploadId=upload_id, PartNumber=number, Body=content
        )
        self._etags[number] = answer["ETag"]

    def complete(self) -> None:
        """Make the object appear."""
        if self._upload_id is None:
            client_for(self._options).put_object(
                **self._place, Body=self._filling, ContentType=content_type(self._place["Key"])
            )
            return
        self._send_part()
        self._parts.finish()
        if len(self._etags) != self._num_parts:  # the block went on after a write that failed
            raise StorageError(f"{self._place['Key']} lacks parts: a write to it had failed before")
        self._complete_upload(self._upload_id)

    def _complete_upload(self, upload_id: str) -> None:
        from botocore.exceptions import ClientError

        parts: Any = [{"PartNumber": number, "ETag": etag} for number, etag in sorted(self._etags.items())]
        try:
            client_for(self._options).complete_multipart_upload(
                **self._place, UploadId=upload_id, MultipartUpload={"Parts": parts}
            )
        except ClientError as error:
            # the answer to a try that succeeded may be lost, and the next try then finds no upload
            if error_code(error) != "NoSuchUpload" or not self._is_there():
                raise

    def _is_there(self) -> bool:
        return is_written_by(self._writer, options=self._options, bucket=self._place["Bucket"], key=self._place["Key"])

    def abort(self) -> None:
        """Leave nothing behind. What can't be removed now is found as a leftover later."""
        from botocore.exceptions import BotoCoreError, ClientError

        self._parts.stop()
        if self._upload_id is None:
            return
        try:
            client_for(self._options).abort_multipart_upload(**self._place, UploadId=self._upload_id)
        except (BotoCoreError, ClientError) as error:
            logger.warning("upload_left_behind key=%s reason=%s", self._place["Key"], type(error).__name__)
