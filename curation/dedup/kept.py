"""Which vectors are kept, and which are duplicates of a kept one."""

import logging
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from curation.dedup.heads import Heads
from curation.dedup.products import Numbers, Products
from curation.dedup.vectors import Vectors

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE: Final = 1024
_OTHERS_AT_ONCE: Final = 4096
_PAIRS_AT_ONCE: Final = 2**14
_SLACK: Final = 1e-4
"""More than float32 products of vectors of length 1 are wrong by, at 1,280 dimensions."""
_HEADS_SAY_MUCH: Final = 1 / 64
"""Of the pairs of two pieces: where heads leave more, all are multiplied whole."""


class KeptVectors:
    """Goes through vectors in their order; one whose cosine to a kept one before it is >= 1 - eps is a duplicate.

    No pair is missed. Where two vectors x, y are as alike as that, their distance is at most r = sqrt(2 eps), and by
    Cauchy and Schwarz (x - y) . (a - b) <= r |a - b| for any two centres a and b. So of a cluster only members
    are compared that lie near enough to the border with the other, on both sides together, and of these, heads first
    (``fill_heads``). Products in float32 only choose pairs: what decides is the product in float64.

    Attributes:
        kept_as: of each vector, the number of the kept one that it is a duplicate of, of several the most similar and
            of equals the first; -1 for one that is kept.
        cosines: to that one, float64.
    """

    def __init__(
        self, vectors: Vectors, heads: Heads, begins: Numbers, centres: Vectors, *, eps: float, products: Products
    ) -> None:
        """Nothing is decided yet.

        Args:
            vectors: cluster by cluster, each cluster in the order of keeping.
            heads: of the vectors.
            begins: of each cluster, and the end of all.
            centres: of the clusters; any others are right, too, and slower.
        """
        self._vectors, self._heads, self._begins, self._centres = vectors, heads, begins, centres
        self._products = products
        self._least_cosine = 1 - eps
        self._reach = float(np.sqrt(2 * eps))
        self._is_kept = np.zeros(len(vectors), np.bool_)
        self.kept_as = np.full(len(vectors), -1, np.int64)
        self.cosines = np.full(len(vectors), -np.inf)

    def find(self) -> None:
        """Decide all."""
        num_clusters = len(self._centres)
        for cluster in range(num_clusters):
            for rows in _pieces(self._begins[cluster], self._begins[cluster + 1], _ROWS_AT_ONCE):
                self._compare_with_kept(rows, cluster)
                self._compare_among(rows)
            if (cluster + 1) * 10 // num_clusters > cluster * 10 // num_clusters:
                logger.info("event=compared clusters=%d of=%d", cluster + 1, num_clusters)

    def _compare_with_kept(self, rows: slice, cluster: int) -> None:
        """A piece of a cluster with what is kept of the clusters before, and of its own."""
        vectors, centre = self._vectors[rows], self._centres[cluster]
        products = self._products.product(vectors, self._centres[: cluster + 1])
        leads = products[:, [cluster]] - products  # x . (a - b): how much nearer to the own centre a than to b
        limits = self._reach * _distances(centre, self._centres[: cluster + 1]) + _SLACK
        least_leads = leads.min(axis=0)
        for other in np.flatnonzero(least_leads <= limits):
            begin, end = self._begins[other], min(self._begins[other + 1], rows.start)
            for piece in _pieces(begin, end, _OTHERS_AT_ONCE):
                other_leads = self._vectors[piece] @ (self._centres[other] - centre)
                is_near = other_leads <= limits[other] - least_leads[other]
                near = piece.start + np.flatnonzero(is_near & self._is_kept[piece])
                if len(near):
                    least = other_leads[near - piece.start].min()
                    chosen = np.flatnonzero(leads[:, other] <= limits[other] - least)
                    self._take(*self._candidates(rows.start + chosen, near))

    def _compare_among(self, rows: slice) -> None:
        """The vectors of a piece with those before them in it; after that it is known which of them are kept."""
        free = np.flatnonzero(self.kept_as[rows] < 0)
        before, after = self._candidates(rows.start + free, np.arange(rows.start, rows.stop))
        is_earlier = before < after
        before, after = before[is_earlier], after[is_earlier]
        is_alike = self._cosines(after, before) >= self._least_cosine
        before, after = before[is_alike], after[is_alike]
        kept = np.zeros(rows.stop - rows.start, np.bool_)
        kept[free] = True
        for index, begin, end in _runs(before):
            if kept[index - rows.start]:
                kept[after[begin:end] - rows.start] = False
        self._is_kept[rows] = kept
        is_to_kept = kept[before - rows.start]
        self._take(after[is_to_kept], before[is_to_kept])

    def _candidates(self, first: Numbers, second: Numbers) -> tuple[Numbers, Numbers]:
        """Pairs of one of the first and one of the second, with all among them that are alike."""
        floor = self._least_cosine - _SLACK
        rows, others = self._products.pairs_at_least(self._heads[first], self._heads[second], floor)
        if len(rows) > _HEADS_SAY_MUCH * len(first) * len(second):
            rows, others = self._products.pairs_at_least(self._vectors[first], self._vectors[second], floor)
        return first[rows], second[others]

    def _take(self, duplicates: Numbers, kept: Numbers) -> None:
        """Note pairs that are alike enough, where nothing better is known of the duplicate."""
        if not len(duplicates):
            return
        cosines = self._cosines(duplicates, kept)
        is_alike = cosines >= self._least_cosine
        duplicates, kept, cosines = duplicates[is_alike], kept[is_alike], cosines[is_alike]
        order = np.lexsort((kept, -cosines, duplicates))
        best = order[np.diff(duplicates[order], prepend=-1) > 0]
        duplicates, kept, cosines = duplicates[best], kept[best], cosines[best]
        known = self.cosines[duplicates]
        is_better = (cosines > known) | ((cosines == known) & (kept < self.kept_as[duplicates]))
        self.kept_as[duplicates[is_better]] = kept[is_better]
        self.cosines[duplicates[is_better]] = cosines[is_better]

    def _cosines(self, first: Numbers, second: Numbers) -> NDArray[np.float64]:
        """Of pairs, in float64."""
        found = np.empty(len(first))
        for pairs in _pieces(0, len(first), _PAIRS_AT_ONCE):
            rows, others = self._vectors[first[pairs]], self._vectors[second[pairs]]
            found[pairs] = np.einsum("ij,ij->i", rows, others, dtype=np.float64)
        return found


def _pieces(begin: int, end: int, size: int) -> Iterator[slice]:
    for start in range(begin, end, size):
        yield slice(start, min(start + size, end))


def _runs(numbers: Numbers) -> Iterator[tuple[int, int, int]]:
    """Each number of an ascending list with the begin and end of where it stands."""
    begins = np.flatnonzero(np.diff(numbers, prepend=-1))
    for begin, end in zip(begins, np.append(begins[1:], len(numbers)), strict=False):
        yield int(numbers[begin]), int(begin), int(end)


def _distances(centre: Vectors, others: Vectors) -> NDArray[np.float32]:
    """From one vector of length 1 to others."""
    found: NDArray[np.float32] = np.linalg.norm(others - centre, axis=1)
    return found
