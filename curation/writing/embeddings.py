"""The vectors of clips in the documents of an output: as text, until the aggregation makes tables of them."""

import base64
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from curation.model import Clip

_DTYPE = np.dtype("<f4")


def embedding_entry(clip: Clip, names: Mapping[str, str]) -> dict[str, str]:
    """A clip's vectors by the name of their folder.

    Args:
        names: field of ``Clip`` -> folder.

    Returns:
        Base64 (RFC 4648) of float32, little-endian; nothing for a vector that is not there.
    """
    vectors = {folder: getattr(clip, field) for field, folder in names.items()}
    return {folder: to_text(vector) for folder, vector in vectors.items() if vector is not None}


def to_text(vector: NDArray[np.float32]) -> str:
    """A vector as text."""
    return base64.b64encode(np.ascontiguousarray(vector, dtype=_DTYPE).tobytes()).decode("ascii")


def from_text(text: str) -> NDArray[np.float32]:
    """The vector that a text holds, float32, shape (dimensions,)."""
    return np.frombuffer(base64.b64decode(text, validate=True), dtype=_DTYPE).astype(np.float32, copy=False)
