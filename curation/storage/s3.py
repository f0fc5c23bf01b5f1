"""Objects of a bucket, on AWS or any server that speaks its protocol."""

import errno
import io
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from curation.errors import StorageError
from curation.storage.base import Leftover, StoredObject
from curation.storage.options import S3Options
from curation.storage.s3_client import MISSING, client_for, error_code, object_head, parts_pool, storage_errors
from curation.storage.s3_create import OWN_FOLDER, Creator
from curation.storage.s3_read import ObjectReader, ObjectStream
from curation.storage.s3_write import UploadStream, content_type

MAX_KEY_BYTES = 1024  # Source: Amazon S3 User Guide, "naming objects"
KEYS_PER_REQUEST = 1000


class S3Storage:
    """Keys are the root's prefix, a slash and the path, character by character."""

    def __init__(self, root: str, options: S3Options) -> None:
        bucket, _, prefix = root.removeprefix("s3://").partition("/")
        if not bucket:
            raise ValueError(f"{root!r} names no bucket: expected s3://bucket/prefix")
        prefix = prefix.rstrip("/")
        self.root = f"s3://{bucket}/{prefix}".rstrip("/")
        self.options = options
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._own = f"{self._prefix}{OWN_FOLDER}"

    def write(self, path: str, content: bytes) -> None:
        """See ``Storage.write``."""
        if len(content) > self.options.part_size_bytes:
            with self.writing(path) as file:
                file.write(content)
            return
        with self._errors("write", path):
            key = self._key(path)
            client_for(self.options).put_object(
                Bucket=self._bucket, Key=key, Body=content, ContentType=content_type(key)
            )

    def check_writable(self) -> None:
        """See ``Storage.check_writable``. An upload is begun and taken back: not even a version of it is kept."""
        key = self._key(f"{OWN_FOLDER}probe-{uuid.uuid4().hex}")
        with storage_errors("write", "an object", root=self.root, options=self.options):
            client = client_for(self.options)
            upload = client.create_multipart_upload(Bucket=self._bucket, Key=key)
            client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload["UploadId"])

    @contextmanager
    def writing(self, path: str) -> Iterator[BinaryIO]:
        """See ``Storage.writing``. Memory: the parts that are on their way, and one that fills."""
        errors, pool = partial(self._errors, "write", path), parts_pool(self.options)
        stream = UploadStream(self.options, errors, bucket=self._bucket, key=self._key(path), pool=pool)
        with errors():
            try:
                yield cast(BinaryIO, stream)
                stream.complete()
            except BaseException:
                stream.abort()
                raise

    def create(self, path: str, content: bytes) -> bool:
        """See ``Storage.create``. By If-None-Match where the server has it, else by a lease (some seconds)."""
        with self._errors("write", path):
            return Creator(self.options, self._bucket, self._own).create(self._key(path), content)

    def read(self, path: str) -> bytes:
        """See ``Storage.read``."""
        with self._errors("read", path):
            return self._reader(path).read()

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """See ``Storage.read_range``."""
        with self._errors("read", path):
            return self._reader(path).read_range(start, end) if end > start else b""

    @contextmanager
    def reading(self, path: str) -> Iterator[BinaryIO]:
        """See ``Storage.reading``. Memory: a few blocks. What is replaced meanwhile is an error, never a mixture."""
        errors = partial(self._errors, "read", path)
        with errors():
            stream = io.BufferedReader(ObjectStream(self._reader(path), errors))
        with stream:
            yield stream

    def download(self, path: str, target: Path) -> int:
        """See ``Storage.download``. Several requests at once, each read on where it breaks off."""
        from botocore.exceptions import BotoCoreError

        with self._errors("download", path):
            try:
                return self._reader(path).download(target, parts_pool(self.options))
            except BotoCoreError:
                raise  # some of them are OSErrors as well
            except OSError as error:
                raise StorageError(f"can't write {target}: {error.strerror or error}") from error

    def local_path(self, path: str) -> Path | None:
        """See ``Storage.local_path``."""
        return None

    def size(self, path: str) -> int:
        """See ``Storage.size``."""
        with self._errors("look at", path):
            head = object_head(self.options, self._bucket, self._key(path))
        if head is None:
            _raise_missing(path)
        return head["ContentLength"]

    def exists(self, path: str) -> bool:
        """See ``Storage.exists``."""
        with self._errors("look at", path):
            return object_head(self.options, self._bucket, self._key(path)) is not None

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """See ``Storage.list``. Page by page; marks of folders (empty objects with a slash at the end) are left out."""
        with self._errors("list", prefix):
            pages = client_for(self.options).get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                for each in page.get("Contents", []):
                    key = each["Key"]
                    if not key.endswith("/") and not key.startswith(self._own):
                        yield StoredObject(key.removeprefix(self._prefix), each["Size"])

    def delete(self, path: str) -> None:
        """See ``Storage.delete``."""
        with self._errors("delete", path):
            client_for(self.options).delete_object(Bucket=self._bucket, Key=self._key(path))

    def delete_many(self, paths: Iterable[str]) -> None:
        """See ``Storage.delete_many``. A thousand with each request."""
        left = iter(paths)
        while batch := list(islice(left, KEYS_PER_REQUEST)):
            with self._errors("delete", batch[0]):
                answer = client_for(self.options).delete_objects(
                    Bucket=self._bucket, Delete={"Objects": [{"Key": self._key(path)} for path in batch], "Quiet": True}
                )
            for error in answer.get("Errors", []):
                if error.get("Code") not in MISSING:
                    raise StorageError(f"can't delete {error.get('Key')} in s3://{self._bucket}: {error.get('Code')}")

    def leftovers(self, *, older_than_s: float) -> Iterator[Leftover]:
        """See ``Storage.leftovers``. Multipart uploads that nobody completed, and claims of ``create``."""
        with self._errors("list the unfinished uploads of", self._prefix):
            pages = client_for(self.options).get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                now = _server_time(page)
                for upload in page.get("Uploads", []):
                    age_s = (now - upload["Initiated"]).total_seconds()
                    if age_s >= older_than_s:
                        yield Leftover(upload["Key"].removeprefix(self._prefix), upload["UploadId"], age_s)
            claims = client_for(self.options).get_paginator("list_objects_v2")
            for listing in claims.paginate(Bucket=self._bucket, Prefix=f"{self._own}creating/"):
                now = _server_time(listing)
                for each in listing.get("Contents", []):
                    age_s = (now - each["LastModified"]).total_seconds()
                    if age_s >= older_than_s:
                        yield Leftover(each["Key"].removeprefix(self._prefix), "", age_s)

    def remove_leftover(self, leftover: Leftover) -> None:
        """See ``Storage.remove_leftover``."""
        from botocore.exceptions import ClientError

        if not leftover.token:
            self.delete(leftover.path)
            return
        with self._errors("remove the unfinished upload of", leftover.path):
            try:
                client_for(self.options).abort_multipart_upload(
                    Bucket=self._bucket, Key=self._key(leftover.path), UploadId=leftover.token
                )
            except ClientError as error:
                if error_code(error) != "NoSuchUpload":
                    raise

    def _key(self, path: str) -> str:
        key = self._prefix + path
        try:
            num_bytes = len(key.encode())
        except UnicodeEncodeError:
            raise StorageError(f"{path!r} is not UTF-8 and can't be the name of an object in {self.root}") from None
        if num_bytes > MAX_KEY_BYTES:
            raise StorageError(
                f"{path} in {self.root} has a key of {num_bytes} bytes, S3 holds {MAX_KEY_BYTES}: shorten the names"
            )
        return key

    def _reader(self, path: str) -> ObjectReader:
        return ObjectReader(self.options, self._bucket, self._key(path))

    @contextmanager
    def _errors(self, doing: str, path: str) -> Iterator[None]:
        from botocore.exceptions import ClientError

        with storage_errors(doing, path, root=self.root, options=self.options):
            try:
                yield
            except ClientError as error:
                if error_code(error) not in MISSING:
                    raise
                _raise_missing(path)


def _raise_missing(path: str) -> NoReturn:
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _server_time(page: Any) -> datetime:
    """The clock that stamped what is in the page, which is not this machine's."""
    date = page["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(date) if date else datetime.now(UTC)
