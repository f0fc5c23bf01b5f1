"""Messages between a worker and its decode children: pickles whose large buffers travel beside them, uncopied."""

import io
import pickle
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from curation.resident import ResidentModel

_MIN_BUFFER_BYTES = 2**16

Message: TypeAlias = tuple[str, Any]
"""What it is, and its content."""

Buffer: TypeAlias = bytes | NDArray[Any]


def send(connection: Connection, message: Message) -> None:
    """Send a message; it may not hold models.

    Raises:
        OSError: the other end is gone.
    """
    buffers: list[Buffer] = []
    pickled = _pickled(message, buffers)
    connection.send_bytes(pickle.dumps((pickled, [_form(buffer) for buffer in buffers])))
    for buffer in buffers:
        connection.send_bytes(buffer if isinstance(buffer, bytes) else buffer.reshape(-1).view(np.uint8).data)


def receive(connection: Connection) -> Message:
    """Receive a message.

    Raises:
        EOFError, OSError: the other end is gone.
    """
    pickled, forms = pickle.loads(connection.recv_bytes())
    kind, content = _Unpickler(pickled, buffers=[_received(connection, form) for form in forms]).load()
    return kind, content


def dump_stages(stages: Sequence[object]) -> tuple[bytes, list[ResidentModel]]:
    """Pickle stages without the models that they hold, which the pickle names by their place in the list."""
    models: list[ResidentModel] = []
    return _pickled(list(stages), [], models), models


def load_stages(pickled: bytes, find_model: Callable[[int], ResidentModel]) -> list[Any]:
    """The stages, with what ``find_model`` gives for the places of their models."""
    stages: list[Any] = _Unpickler(pickled, find_model=find_model).load()
    return stages


def _form(buffer: Buffer) -> tuple[str, tuple[int, ...]] | None:
    """An array's type and shape; None for bytes."""
    return None if isinstance(buffer, bytes) else (buffer.dtype.str, buffer.shape)


def _received(connection: Connection, form: tuple[str, tuple[int, ...]] | None) -> Buffer:
    if form is None:
        return connection.recv_bytes()
    array: NDArray[Any] = np.empty(form[1], np.dtype(form[0]))
    connection.recv_bytes_into(array.reshape(-1).view(np.uint8).data)
    return array


def _pickled(content: object, buffers: list[Buffer], models: list[ResidentModel] | None = None) -> bytes:
    file = io.BytesIO()
    _Pickler(file, buffers, models).dump(content)
    return file.getvalue()


class _Pickler(pickle.Pickler):
    """Leaves out models, or without a list for them large ``bytes`` and arrays."""

    def __init__(self, file: io.BytesIO, buffers: list[Buffer], models: list[ResidentModel] | None) -> None:
        super().__init__(file, protocol=5)
        self._buffers, self._models = buffers, models

    def persistent_id(self, obj: Any) -> tuple[str, int] | None:
        if self._models is not None:
            return ("model", _place(obj, self._models)) if isinstance(obj, ResidentModel) else None
        if type(obj) is bytes and len(obj) >= _MIN_BUFFER_BYTES:
            return "buffer", _place(obj, self._buffers)
        if type(obj) is np.ndarray and obj.nbytes >= _MIN_BUFFER_BYTES and obj.dtype != object:
            return "buffer", _place(np.ascontiguousarray(obj), self._buffers)
        return None


def _place(obj: Any, known: list[Any]) -> int:
    """Where it stands in the list, at whose end it is put where it is new."""
    found = next((place for place, each in enumerate(known) if each is obj), len(known))
    if found == len(known):
        known.append(obj)
    return found


class _Unpickler(pickle.Unpickler):
    def __init__(
        self,
        pickled: bytes,
        *,
        buffers: Sequence[Buffer] = (),
        find_model: Callable[[int], ResidentModel] | None = None,
    ) -> None:
        super().__init__(io.BytesIO(pickled))
        self._buffers, self._find_model = buffers, find_model

    def persistent_load(self, pid: tuple[str, int]) -> Buffer | ResidentModel:
        kind, place = pid
        if kind == "buffer":
            return self._buffers[place]
        assert self._find_model is not None
        return self._find_model(place)
