"""Metas of clips on this machine's disk, from when their lists are read until their samples are packed."""

import json
import os
import tempfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from curation.errors import StorageError

_LENGTH_BYTES = 4


class MetasAside:
    """A temporary file that nobody else sees; some 600 bytes a clip."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as this does)
        self._end = 0

    def add(self, meta: Mapping[str, Any]) -> int:
        """Keep a meta; gives its place.

        Raises:
            StorageError: the disk is full.
        """
        content = zlib.compress(json.dumps(meta, ensure_ascii=False).encode(), 1)
        place = self._end
        self._guarded(lambda: self._file.write(len(content).to_bytes(_LENGTH_BYTES) + content))
        self._end += _LENGTH_BYTES + len(content)
        return place

    def read(self, place: int) -> dict[str, Any]:
        """The meta at a place; by several threads at once, once all are there (``settle``)."""
        length = int.from_bytes(os.pread(self._file.fileno(), _LENGTH_BYTES, place))
        meta: dict[str, Any] = json.loads(zlib.decompress(os.pread(self._file.fileno(), length, place + _LENGTH_BYTES)))
        return meta

    def settle(self) -> None:
        """Everything that was added can be read from now on."""
        self._guarded(self._file.flush)

    @staticmethod
    def _guarded(write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            where = tempfile.gettempdir()
            raise StorageError(
                f"can't keep metas in {where}: {error.strerror}: name a larger folder in TMPDIR"
            ) from error
