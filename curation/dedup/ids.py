"""Ids of clips in the order of their numbers."""

import numpy as np
from numpy.typing import NDArray

from curation.clip_ids import Ids


def ids_of(content: NDArray[np.uint8]) -> Ids:
    """The ids whose bytes these are, shape (num_ids, 16)."""
    return np.ascontiguousarray(content).view(">u8").astype(np.uint64)


def ascending(ids: Ids) -> NDArray[np.int64]:
    """Where in ``ids`` each id of the sorted list stands; of equal ids that one which stands first."""
    order = np.lexsort((ids[:, 1], ids[:, 0]))  # stable
    in_order = ids[order]
    is_other = np.ones(len(ids), np.bool_)
    is_other[1:] = (in_order[1:] != in_order[:-1]).any(axis=1)
    firsts: NDArray[np.int64] = order[is_other]
    return firsts
