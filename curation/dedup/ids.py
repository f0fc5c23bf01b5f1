"""Ids of clips as numbers: 16 bytes instead of 36 characters, for tables of millions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.uint64]  # shape (num_ids, 2): the upper and the lower half

_DASHES = [8, 13, 18, 23]  # RFC 9562, section 4
_DIGITS_AT = [index for index in range(36) if index not in _DASHES]
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)


def ids_of(content: NDArray[np.uint8]) -> Ids:
    """The ids whose bytes these are, shape (num_ids, 16)."""
    return np.ascontiguousarray(content).view(">u8").astype(np.uint64)


def parse_ids(texts: Sequence[str]) -> Ids:
    """The ids that texts of 36 characters hold.

    Raises:
        ValueError: one of them is no UUID.
    """
    content = bytes.fromhex("".join(texts).replace("-", ""))
    if len(content) != 16 * len(texts):
        raise ValueError(f"{len(texts)} ids of {len(content)} bytes in all, expected 16 each")
    return ids_of(np.frombuffer(content, np.uint8).reshape(-1, 16))


def format_ids(ids: Ids) -> list[str]:
    """The ids as text, in lower case."""
    content = np.ascontiguousarray(ids.astype(">u8")).view(np.uint8).reshape(-1, 16)
    characters = np.full((len(ids), 36), ord("-"), np.uint8)
    characters[:, _DIGITS_AT[0::2]] = _DIGITS[content >> 4]
    characters[:, _DIGITS_AT[1::2]] = _DIGITS[content & 15]
    texts: list[str] = characters.view("S36").ravel().astype(str).tolist()
    return texts


def ascending(ids: Ids) -> NDArray[np.int64]:
    """Where in ``ids`` each id of the sorted list stands; of equal ids that one which stands first."""
    order = np.lexsort((ids[:, 1], ids[:, 0]))  # stable
    in_order = ids[order]
    is_other = np.ones(len(ids), np.bool_)
    is_other[1:] = (in_order[1:] != in_order[:-1]).any(axis=1)
    firsts: NDArray[np.int64] = order[is_other]
    return firsts
