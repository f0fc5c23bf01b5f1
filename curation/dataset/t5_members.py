"""The T5 vectors of a window as the member of a tar."""

import io
import pickle
import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from curation.dataset.plan_files import PlannedSample
from curation.storage import Storage

DIMENSIONS = 1024
_ROW_BYTES = 2 * DIMENSIONS  # float16
_HEADER_BYTES = 128  # np.save aligns what follows a header to 64; ours fits in two such blocks
_MOST_HEADERS = 100_000
_ARRAY_PARTS = {(".core.multiarray", "_reconstruct"), ("", "ndarray"), ("", "dtype")}  # of a pickled array
_PROTOCOL = 4  # the newest that every Python that trains today reads


class NoVectorsError(Exception):
    """The vectors of a window can't be had; the message says why."""


def t5_member(vectors: "np.ndarray[tuple[int, int], np.dtype[np.float16]]") -> bytes:
    """A pickled list with one array: float16, shape (num_tokens, 1024); the same vectors, the same bytes."""
    return pickle.dumps([np.ascontiguousarray(vectors)], protocol=_PROTOCOL)


class _OnlyArrays(pickle.Unpickler):
    """Reads arrays, and runs nothing else that a pickle may ask for."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.removeprefix("numpy").replace("._core.", ".core."), name) in _ARRAY_PARTS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_t5_member(content: bytes) -> "np.ndarray[tuple[int, int], np.dtype[np.float16]]":
    """The vectors that ``t5_member`` was given.

    Raises:
        ValueError: it is something else.
    """
    try:
        found = _OnlyArrays(io.BytesIO(content)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, TypeError) as error:
        raise ValueError(f"no pickled list of vectors: {error}") from error
    is_array = isinstance(found, list) and len(found) == 1 and isinstance(found[0], np.ndarray)
    if not is_array or found[0].dtype != np.float16 or found[0].shape[1:] != (DIMENSIONS,):
        raise ValueError(f"no list of one float16 array (tokens, {DIMENSIONS})")
    vectors: np.ndarray[tuple[int, int], np.dtype[np.float16]] = found[0]
    return vectors


class T5Members:
    """Reads windows' vectors out of the files of their chunks, by range; by several threads at once."""

    def __init__(self, clips: Storage) -> None:
        self._clips = clips
        self._headers: OrderedDict[str, tuple[int, int]] = OrderedDict()  # of files: where rows begin, and how many
        self._lock = threading.Lock()

    def read(self, sample: PlannedSample) -> bytes:
        """The member of a sample.

        Raises:
            NoVectorsError: there are none, or they are not what the list of clips says.
            StorageError: the storage failed.
        """
        if sample.t5_path is None or sample.t5_first_row is None or not sample.t5_num_rows:
            raise NoVectorsError("no T5 vectors")
        try:
            begin, num_rows = self._header(sample.t5_path)
            first, wanted = sample.t5_first_row, sample.t5_num_rows
            if not 0 <= first <= first + wanted <= num_rows:
                raise NoVectorsError(f"{sample.t5_path} has {num_rows} rows, not {first}..{first + wanted - 1}")
            start = begin + first * _ROW_BYTES
            content = self._clips.read_range(sample.t5_path, start, start + wanted * _ROW_BYTES)
        except FileNotFoundError as error:
            raise NoVectorsError(f"no T5 vectors {sample.t5_path}") from error
        if len(content) != wanted * _ROW_BYTES:
            raise NoVectorsError(f"{sample.t5_path} ends before row {first + wanted - 1}")
        return t5_member(np.frombuffer(content, np.dtype("<f2")).reshape(wanted, DIMENSIONS))

    def _header(self, path: str) -> tuple[int, int]:
        with self._lock:
            known = self._headers.get(path)
        if known is None:
            known = _parse_header(self._clips.read_range(path, 0, _HEADER_BYTES), path)
            with self._lock:
                self._headers[path] = known
                if len(self._headers) > _MOST_HEADERS:
                    self._headers.popitem(last=False)
        return known


def _parse_header(content: bytes, path: str) -> tuple[int, int]:
    stream = io.BytesIO(content)
    try:
        npy: Any = np.lib.format
        version = npy.read_magic(stream)
        shape, is_fortran, dtype = npy.read_array_header_1_0(stream)
    except ValueError as error:
        raise NoVectorsError(f"{path} is no file of vectors: {error}") from error
    if version != (1, 0) or is_fortran or dtype != np.dtype("<f2") or len(shape) != 2 or shape[1] != DIMENSIONS:
        raise NoVectorsError(f"{path} has {dtype} of shape {shape}, expected float16 (rows, {DIMENSIONS})")
    return stream.tell(), shape[0]
