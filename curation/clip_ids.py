"""Ids of clips as numbers: 16 bytes instead of a text of 36 characters, for tables of millions. Pure."""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Ids = NDArray[np.uint64]
"""Shape (num_ids, 2): the upper and the lower half."""

TEXT_BYTES = 36

_FORM = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_DASHES = (8, 13, 18, 23)  # RFC 9562, section 4
_DIGITS_AT = [index for index in range(TEXT_BYTES) if index not in _DASHES]
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)


def parse_ids(texts: Sequence[str]) -> Ids:
    """The ids that texts of 36 characters hold.

    Raises:
        ValueError: one of them is no UUID in the form that ``format_ids`` gives.
    """
    joined = "".join(texts)
    try:
        content = bytes.fromhex(joined.replace("-", ""))
    except ValueError:
        content = b""
    if len(content) == 16 * len(texts):
        ids = np.frombuffer(content, np.uint8).reshape(-1, 16).view(">u8").astype(np.uint64)
        if characters(ids).tobytes() == joined.encode():
            return ids
    wrong = next(text for text in texts if not re.fullmatch(_FORM, text))
    raise ValueError(f"{wrong!r} is no UUID such as 00000000-0000-4000-8000-000000000000")


def characters(ids: Ids) -> NDArray[np.uint8]:
    """The texts of ids in ASCII, shape (num_ids, 36)."""
    content = np.ascontiguousarray(ids.astype(">u8")).view(np.uint8).reshape(-1, 16)
    texts = np.full((len(ids), TEXT_BYTES), ord("-"), np.uint8)
    texts[:, _DIGITS_AT[0::2]] = _DIGITS[content >> 4]
    texts[:, _DIGITS_AT[1::2]] = _DIGITS[content & 15]
    return texts


def format_ids(ids: Ids) -> "pa.StringArray":
    """The ids as text, in lower case."""
    return fixed_texts(characters(ids))


def fixed_texts(texts: NDArray[np.uint8]) -> "pa.StringArray":
    """Texts of one length each, given as ASCII, shape (num_texts, num_characters)."""
    num_texts, length = texts.shape
    ends = np.arange(num_texts + 1, dtype=np.int32) * np.int32(length)
    return pa.StringArray.from_buffers(num_texts, pa.py_buffer(ends), pa.py_buffer(np.ascontiguousarray(texts)))


def hex_texts(content: NDArray[np.uint8]) -> "pa.StringArray":
    """Bytes as text in hexadecimal digits; shape (num_texts, num_bytes)."""
    digits = np.empty((len(content), 2 * content.shape[1]), np.uint8)
    digits[:, 0::2], digits[:, 1::2] = _DIGITS[content >> 4], _DIGITS[content & 15]
    return fixed_texts(digits)


def parse_id_column(column: "pa.Array | pa.ChunkedArray") -> Ids:
    """The ids of a column of texts.

    Raises:
        ValueError: as ``parse_ids``.
    """
    return parse_ids(column.to_pylist())
