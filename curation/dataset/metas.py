"""Metas of clips on this machine's disk, from when their lists are read until what is to be packed is written."""

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.errors import StorageError

_MAX_BYTES = 2**31 - 1  # that a string column of Arrow holds
_GAP_BYTES = 2**11
"""Reading over what is not wanted costs less than another request."""


class MetasAside:
    """A temporary file that nobody else sees, of texts one after the other, as they are.

    Not compressed: by itself a meta costs ten times as much to compress as it saves in reading.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  (it lives as long as this does)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="metas")
        self._writing: Future[None] | None = None

    def add(self, texts: Sequence[bytes]) -> None:
        """Put some texts behind those that are there; they are written while the caller goes on.

        Raises:
            StorageError: the disk is full, and what was added before could not be written.
        """
        self.settle()
        self._writing = self._pool.submit(self._write, texts)

    def _write(self, texts: Sequence[bytes]) -> None:
        content = memoryview(b"".join(texts))
        while content:
            content = content[os.write(self._file.fileno(), content) :]

    def read(self, places: NDArray[np.int64], sizes: NDArray[np.int32]) -> "pa.StringArray":
        """The texts at these places, once all are there (``settle``); null where the place is negative.

        Texts that lie near each other are read at once. Places may repeat.

        Raises:
            ValueError: they have more than 2 GiB in all.
        """
        begins, where, again = np.unique(places, return_index=True, return_inverse=True)
        is_there = begins >= 0
        begins, ends = begins[is_there], (begins + sizes[where])[is_there]
        gaps = begins[1:] - ends[:-1]
        bounds = np.flatnonzero(gaps > _GAP_BYTES) + 1
        content = self._read_runs(
            begins[np.append(0, bounds)[: len(begins)]], ends[np.append(bounds - 1, -1)[: len(ends)]]
        )
        gaps[gaps > _GAP_BYTES] = 0  # between runs there is nothing in what was read
        edges = np.zeros(2 * len(begins) + 1, np.int32)  # a text, a gap, a text, ...
        edges[1::2] = ends - begins
        edges[2:-1:2] = gaps
        bounds = np.cumsum(edges, dtype=np.int32)
        texts = pa.StringArray.from_buffers(2 * len(begins), pa.py_buffer(bounds), pa.py_buffer(content))
        number = again - int(len(is_there) - len(begins))  # nothing but -1 is negative, so at most one
        return texts.take(pa.array(2 * number, mask=number < 0))

    def _read_runs(self, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint8]:
        """What lies from each begin to its end, one after the other."""
        num_bytes = int((ends - begins).sum())
        if num_bytes > _MAX_BYTES:
            raise ValueError(f"{num_bytes} bytes of metas at once, at most {_MAX_BYTES} have room: make tars smaller")
        content = np.empty(num_bytes, np.uint8)
        at = 0
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            os.preadv(self._file.fileno(), [content.data[at : at + end - begin]], begin)
            at += end - begin
        return content

    def settle(self) -> None:
        """Everything that was added can be read from now on. Raises StorageError when the disk is full."""
        try:
            if self._writing is not None:
                self._writing.result()
        except OSError as error:
            raise _no_room(error) from error


def _no_room(error: OSError) -> StorageError:
    where = tempfile.gettempdir()
    return StorageError(f"can't keep metas in {where}: {error.strerror}: name a larger folder in TMPDIR")
