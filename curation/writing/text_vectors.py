"""The T5 vectors of captions in an output: one NumPy file for a chunk, and where in it each window has its rows."""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from curation.model import Clip, Window
from curation.storage import Storage

_DTYPE = np.dtype("<f2")
_NPY: Any = np.lib.format  # NumPy 2.3 and before have no types here
_MEMORY_BYTES = 16 * 2**20  # what a chunk has more than that waits in a temporary file


class TextVectorsAside:
    """The vectors of the clips of a chunk, or of a part of a video, until all are there."""

    def __init__(self) -> None:
        self._rows = tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES)  # noqa: SIM115  (closed by close)
        self._num_rows = self._num_dimensions = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Rows."""
        return self._num_rows

    def add(self, vectors: NDArray[np.float16]) -> list[int]:
        """Append the vectors of a caption, shape (tokens, dimensions); gives their first row and how many there are."""
        first, (num_rows, self._num_dimensions) = self._num_rows, vectors.shape
        self._rows.write(np.ascontiguousarray(vectors, dtype=_DTYPE).tobytes())
        self._num_rows += num_rows
        return [first, num_rows]

    def write(self, storage: Storage, path: str) -> None:
        """Write them all as one array, float16, shape (rows, dimensions)."""
        header = {"descr": _DTYPE.str, "fortran_order": False, "shape": (self._num_rows, self._num_dimensions)}
        with storage.writing(path) as stream:
            _NPY.write_array_header_1_0(stream, header)
            self._rows.seek(0)
            shutil.copyfileobj(self._rows, stream, 2**20)

    def close(self) -> None:
        """Let go of the temporary file."""
        self._rows.close()


def set_aside(clip: Clip, aside: TextVectorsAside, path: str) -> dict[str, Any]:
    """Take the vectors of a clip's windows off the clip; gives where they will be, nothing of a clip without any.

    Args:
        path: that ``aside`` will be written to.
    """
    if all(window.t5_xxl_embedding is None for window in clip.windows):
        return {}
    return {"path": path, "rows": [_taken(window, aside) for window in clip.windows]}


def _taken(window: Window, aside: TextVectorsAside) -> list[int] | None:
    vectors, window.t5_xxl_embedding = window.t5_xxl_embedding, None
    return None if vectors is None else aside.add(vectors)


def described(window: Window) -> dict[str, Any]:
    """What a meta says of a window's vectors; nothing of one that has none."""
    if window.t5_xxl_embedding is None:
        return {}
    truncated = {"t5_xxl_truncated": True} if window.t5_xxl_truncated else {}
    return {"t5_xxl_num_tokens": len(window.t5_xxl_embedding), **truncated}


def join_chunk(
    entries: Iterable[Mapping[str, Any]], files: Storage, clips: Storage, path_of: Callable[[str], str]
) -> list[dict[str, Any]]:
    """Write the vectors of the clips of a chunk, which are in the files of parts, as the chunk's own files.

    Args:
        entries: of the clips, with the parts' paths.
        files: where these are.
        clips: where the chunk's are written.
        path_of: the path of an annotation version's.

    Returns:
        The entries with the chunk's paths.
    """
    asides: dict[str, TextVectorsAside] = {}
    joined = []
    for entry in entries:
        places = {
            version: {
                "path": path_of(version),
                "rows": _copied(files, place, asides.setdefault(version, TextVectorsAside())),
            }
            for version, place in entry.get("t5", {}).items()
        }
        joined.append({**entry, **({"t5": places} if places else {})})
    for version, aside in asides.items():
        with aside:
            aside.write(clips, path_of(version))
    return joined


def _copied(files: Storage, place: Mapping[str, Any], aside: TextVectorsAside) -> list[list[int] | None]:
    """Append the rows of a clip's windows; gives where they are now."""
    with files.reading(place["path"]) as stream:
        version = _NPY.read_magic(stream)
        assert version == (1, 0)
        (_, num_dimensions), _, dtype = _NPY.read_array_header_1_0(stream)
        begin, row_bytes = stream.tell(), num_dimensions * dtype.itemsize

        def read(rows: Sequence[int]) -> NDArray[np.float16]:
            stream.seek(begin + rows[0] * row_bytes)
            return _read(stream, rows[1], num_dimensions, dtype)

        return [None if rows is None else aside.add(read(rows)) for rows in place["rows"]]


def _read(stream: BinaryIO, num_rows: int, num_dimensions: int, dtype: np.dtype[Any]) -> NDArray[np.float16]:
    content = stream.read(num_rows * num_dimensions * dtype.itemsize)
    return np.frombuffer(content, dtype=dtype).reshape(num_rows, num_dimensions)
