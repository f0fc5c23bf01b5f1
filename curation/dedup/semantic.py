"""Semantic deduplication: from tables of vectors to the table of duplicates (docs/rules.md, Duplicates).

Source: SemDeDup (Abbas et al. 2023, "SemDeDup: Data-efficient learning at web-scale through semantic
deduplication"), with the settings and columns of NeMo Curator.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curation.clip_ids import Ids
from curation.dedup.clusters import cluster_centres, default_num_clusters, nearest_centres
from curation.dedup.duplicates import write_duplicates
from curation.dedup.heads import fill_heads, head_axes, head_size
from curation.dedup.kept import KeptVectors
from curation.dedup.products import Numbers, Products, products_on
from curation.dedup.vectors import Vectors, clips_by_id, reorder, vector_file
from curation.storage import Storage
from curation.vector_tables import find_tables

logger = logging.getLogger(__name__)

WhichToKeep = Literal["hard", "easy", "random"]
_MIN_EPS = 1e-6  # below, it is the rounding of float32 that decides


@dataclass(frozen=True, slots=True)
class DedupSettings:
    """What decides which clips are duplicates.

    Attributes:
        eps: a cosine of at least 1 - ``eps`` makes a duplicate; 1e-6 or more, below 1.
        num_clusters: None: the square root of the number of clips.
        which_to_keep: first within a cluster: the clip farthest from the centre (``hard``), the nearest (``easy``), or
            one by chance (``random``).
        seed: of everything that is left to chance.
    """

    eps: float = 0.01
    num_clusters: int | None = None
    which_to_keep: WhichToKeep = "hard"
    seed: int = 0

    def __post_init__(self) -> None:
        if not _MIN_EPS <= self.eps < 1:
            raise ValueError(f"expected {_MIN_EPS:g} <= eps < 1, found {self.eps:g}")
        if self.which_to_keep not in _RANKS:
            raise ValueError(f"which_to_keep {self.which_to_keep!r} is unknown; known: {', '.join(_RANKS)}")


@dataclass(frozen=True, slots=True)
class DedupReport:
    """How many clips were looked at and what became of them.

    Attributes:
        num_groups: kept clips that have duplicates.
        max_group_clips: of the largest group, with the kept one.
        num_without_direction: clips that are like no other, for their vector has no direction; they are kept.
        num_clusters: that have members.
    """

    num_clips: int
    num_kept: int
    num_duplicates: int
    num_groups: int
    max_group_clips: int
    num_without_direction: int
    num_clusters: int
    dimensions: int


def find_duplicates(
    clips: Storage,
    name: str,
    output: Storage,
    settings: DedupSettings,
    *,
    device: str = "auto",
    scratch_folder: Path | None = None,
) -> DedupReport:
    """Find the duplicates among clips by their vectors, and write their table and its summary.

    The result does not depend on the order of rows and files. Twice the vectors' bytes are needed as room for
    temporary files, and 100 bytes a clip in memory beside what is being compared.

    Args:
        name: of the folder with the tables of vectors in ``clips``, without ``_parquet``.
        device: see ``products_on``.
        scratch_folder: for temporary files; None: where they go.

    Raises:
        ValueError: there are no tables, see ``clips_by_id``, ``cluster_centres`` and ``products_on``.
    """
    products = products_on(device)
    tables = find_tables(clips, name)
    if not tables:
        raise ValueError(f"no tables of vectors in {clips.root}/{name}_parquet")
    with ExitStack() as files:
        with clips_by_id(clips, tables, scratch_folder) as found:
            logger.info("event=read clips=%d", len(found.ids))
            num_clusters = settings.num_clusters or default_num_clusters(len(found.ids))
            centres = cluster_centres(found.vectors, num_clusters, seed=settings.seed, products=products)
            order, begins = _cluster_order(found.vectors, centres, settings, products)
            vectors = files.enter_context(vector_file(len(order), centres.shape[1], scratch_folder))
            reorder(found.vectors, order, vectors)
            axes = head_axes(found.vectors, seed=settings.seed)
        heads = files.enter_context(vector_file(len(order), head_size(centres.shape[1]), scratch_folder))
        fill_heads(vectors, axes, heads)
        logger.info("event=clustered clusters=%d", len(centres))
        kept = KeptVectors(vectors, heads, begins, centres, eps=settings.eps, products=products)
        kept.find()
    report = _report(kept.kept_as, found.num_without_direction, centres)
    told = {"tables": f"{clips.root}/{name}_parquet", "provenance": dict(tables[0].metadata), "device": products.device}
    _write(output, found.ids[order], kept, {**told, "settings": asdict(settings), **asdict(report)})
    return report


def _cluster_order(
    vectors: Vectors, centres: Vectors, settings: DedupSettings, products: Products
) -> tuple[Numbers, Numbers]:
    """The vectors cluster by cluster, what is kept first first, equals by id; and where each cluster begins."""
    labels, cosines = nearest_centres(vectors, centres, products)
    ranks = _RANKS[settings.which_to_keep](cosines, settings.seed)
    order = np.lexsort((ranks, labels))  # a stable sort: equals stay as they stand, by id
    return order, np.searchsorted(labels[order], np.arange(len(centres) + 1))


def _by_chance(cosines: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    return np.random.default_rng([seed, 1]).random(len(cosines))


_Rank = Callable[[NDArray[np.float32], int], NDArray[Any]]
_RANKS: Mapping[str, _Rank] = MappingProxyType(
    {"hard": lambda cosines, _: cosines, "easy": lambda cosines, _: -cosines, "random": _by_chance}
)


def _report(kept_as: Numbers, num_without_direction: int, centres: Vectors) -> DedupReport:
    group_sizes = np.unique(kept_as[kept_as >= 0], return_counts=True)[1]
    num_duplicates = int(group_sizes.sum())
    return DedupReport(
        num_clips=len(kept_as),
        num_kept=len(kept_as) - num_duplicates,
        num_duplicates=num_duplicates,
        num_groups=len(group_sizes),
        max_group_clips=int(group_sizes.max(initial=0)) + 1,
        num_without_direction=num_without_direction,
        num_clusters=len(centres),
        dimensions=centres.shape[1],
    )


def _write(output: Storage, ids: Ids, kept: KeptVectors, summary: Mapping[str, Any]) -> None:
    """Write the duplicates in the order of their ids."""
    duplicates = np.flatnonzero(kept.kept_as >= 0)
    duplicates = duplicates[np.lexsort((ids[duplicates, 1], ids[duplicates, 0]))]
    found = ids[duplicates], ids[kept.kept_as[duplicates]], kept.cosines[duplicates]
    write_duplicates(output, *found, summary=summary)
