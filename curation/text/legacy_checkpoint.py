"""Some tensors of a checkpoint in torch's format before 1.6, without reading the others into memory.

torch itself reads such a file whole: of an encoder and decoder of 11 billion float32 that is 45 GB for the 19 GB that
are wanted.
"""

import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

if TYPE_CHECKING:
    import torch

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_PROTOCOL: Final = 1001
_TYPES: Final = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
}


@dataclass(frozen=True, slots=True)
class _StorageType:
    """A class of torch that a file names; ``dtype`` is torch's name of its numbers."""

    dtype: str


@dataclass(frozen=True, slots=True)
class _Stored:
    """Numbers of one type that stand in the file in a row."""

    key: str
    dtype: str


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor's numbers are."""

    stored: _Stored
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def is_legacy(path: Path) -> bool:
    """Whether a file is in the format that this module reads; the newer one is a zip file."""
    return path.is_file() and not zipfile.is_zipfile(path)


def read_tensors(path: Path, *, wanted: Callable[[str], bool]) -> Iterator[tuple[str, "torch.Tensor"]]:
    """The wanted tensors of a state dict, one after the other in the file's order; no code of the file is run.

    Raises:
        ValueError: it is no state dict in this format, or is cut off.
    """
    with path.open("rb") as file:
        try:
            places, keys = _header(file)
        except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: no state dict in torch's old format: {error}") from error
        of_storage: dict[str, list[str]] = {}
        for name, place in places.items():
            if wanted(name):
                of_storage.setdefault(place.stored.key, []).append(name)
        item_bytes = {place.stored.key: _item_bytes(place.stored.dtype) for place in places.values()}
        for key in keys:
            num_bytes = int.from_bytes(_exactly(file, 8, path), "little") * item_bytes[key]
            if key in of_storage:
                content = _exactly(file, num_bytes, path)
                yield from ((name, _tensor(content, places[name])) for name in of_storage[key])
            else:
                file.seek(num_bytes, os.SEEK_CUR)


def _header(file: BinaryIO) -> tuple[dict[str, _Place], list[str]]:
    """Where each tensor is, and the storages in the order in which their numbers follow."""
    if _load(file) != _MAGIC or _load(file) != _PROTOCOL:
        raise pickle.UnpicklingError("its first bytes are others")
    is_little_endian = _load(file)["little_endian"]
    if not is_little_endian:
        raise pickle.UnpicklingError("its numbers are big-endian")
    document, keys = _load(file), _load(file)
    return {name: place for name, place in document.items() if isinstance(place, _Place)}, list(keys)


def _load(file: BinaryIO) -> Any:
    return _Unpickler(file).load()


class _Unpickler(pickle.Unpickler):
    """Makes places of tensors, and nothing that a state dict does not need."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _place
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _first
        if module == "torch" and name in _TYPES:
            return _StorageType(_TYPES[name])
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> _Stored:
        kind, storage_type, key, _, _, view = pid
        if kind != "storage" or view is not None or not isinstance(storage_type, _StorageType):
            raise pickle.UnpicklingError(f"it refers to {pid!r}")
        return _Stored(str(key), storage_type.dtype)


def _place(stored: _Stored, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> _Place:
    return _Place(stored, offset, tuple(shape), tuple(strides))


def _first(value: _Place, *_: Any) -> _Place:
    return value


def _tensor(content: bytes, place: _Place) -> "torch.Tensor":
    import torch

    numbers = torch.frombuffer(bytearray(content), dtype=getattr(torch, place.stored.dtype))
    return numbers.as_strided(place.shape, place.strides, place.offset).clone()


def _item_bytes(dtype: str) -> int:
    return {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4}[dtype]


def _exactly(file: BinaryIO, num_bytes: int, path: Path) -> bytes:
    content = file.read(num_bytes)
    if len(content) < num_bytes:
        raise ValueError(f"{path}: it ends {num_bytes - len(content)} bytes too early")
    return content
