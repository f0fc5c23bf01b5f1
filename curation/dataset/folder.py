"""The folder of a dataset in a storage: that of its annotation version in the root of the datasets."""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from curation.dataset.plan_files import read_document
from curation.storage import Storage

_BLOCK_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class DatasetFolder:
    """Paths are relative to the folder; see ``Storage`` for what each method does.

    Attributes:
        annotation_version: empty where the storage's root is the folder itself.
    """

    storage: Storage
    annotation_version: str

    def path(self, path: str) -> str:
        """Relative to the storage's root."""
        return f"{self.annotation_version}/{path}" if self.annotation_version else path

    def read(self, path: str) -> bytes:
        return self.storage.read(self.path(path))

    def document(self, path: str) -> dict[str, Any] | None:
        """A JSON document; None where there is none."""
        return read_document(self.storage, self.path(path))

    def write(self, path: str, content: bytes) -> None:
        self.storage.write(self.path(path), content)

    def reading(self, path: str) -> AbstractContextManager[BinaryIO]:
        return self.storage.reading(self.path(path))

    def writing(self, path: str) -> AbstractContextManager[BinaryIO]:
        return self.storage.writing(self.path(path))

    def exists(self, path: str) -> bool:
        return self.storage.exists(self.path(path))

    def copy(self, source: str, target: str) -> None:
        """Put the bytes of an object under another path, piece by piece."""
        with self.reading(source) as read, self.writing(target) as written:
            while block := read.read(_BLOCK_BYTES):
                written.write(block)

    def delete_many(self, paths: Iterable[str]) -> None:
        self.storage.delete_many(map(self.path, paths))

    def remove_empty(self, path: str) -> None:
        """Where folders are folders: remove those at and below a path that hold nothing."""
        top = self.storage.local_path(self.path(path))
        if top is not None:
            for folder, _, _ in os.walk(top, topdown=False):
                with suppress(OSError):  # not empty, or somebody else was faster
                    os.rmdir(folder)
