"""Spherical k-means (Dhillon and Modha 2001, "Concept decompositions for large sparse text data")."""

import math

import numpy as np
from numpy.typing import NDArray

from curation.dedup.products import Numbers, Products
from curation.dedup.vectors import Vectors

_MAX_PASSES = 10
_SAMPLES_PER_CLUSTER = 128
_MAX_SAMPLE_BYTES = 2**28
_MAX_PRODUCTS = 2**24  # at once: 64 MiB


def default_num_clusters(num_vectors: int) -> int:
    """The square root: comparing within clusters then costs about what finding the nearest centre does."""
    return max(1, round(math.sqrt(num_vectors)))


def cluster_centres(vectors: Vectors, num_clusters: int, *, seed: int, products: Products) -> Vectors:
    """Centres of length 1, found on a sample of the vectors.

    Returns:
        float32, shape (at most ``num_clusters``, dimensions): a centre that no vector is nearest to is dropped.

    Raises:
        ValueError: more clusters than vectors.
    """
    if not 1 <= num_clusters <= len(vectors):
        raise ValueError(f"expected 1 to {len(vectors)} clusters, as many as there are vectors, found {num_clusters}")
    chance = np.random.default_rng(seed)
    affordable = _MAX_SAMPLE_BYTES // vectors[0].nbytes
    num_samples = min(len(vectors), max(num_clusters, min(_SAMPLES_PER_CLUSTER * num_clusters, affordable)))
    sample = vectors[np.sort(chance.choice(len(vectors), num_samples, replace=False))]
    centres: Vectors = sample[np.sort(chance.choice(num_samples, num_clusters, replace=False))]
    before: Numbers | None = None
    for _ in range(_MAX_PASSES):
        labels, _ = nearest_centres(sample, centres, products)
        if before is not None and np.array_equal(labels, before):
            break
        before = labels
        centres = _means(sample, labels)
    return centres


def nearest_centres(vectors: Vectors, centres: Vectors, products: Products) -> tuple[Numbers, NDArray[np.float32]]:
    """The number of each vector's nearest centre, and its cosine to it."""
    labels = np.empty(len(vectors), np.int64)
    cosines = np.empty(len(vectors), np.float32)
    step = max(1, _MAX_PRODUCTS // len(centres))
    for begin in range(0, len(vectors), step):
        piece = slice(begin, begin + step)
        labels[piece], cosines[piece] = products.nearest(vectors[piece], centres)
    return labels, cosines


def _means(vectors: Vectors, labels: Numbers) -> Vectors:
    """The directions of the clusters' sums, or of a member where they cancel; a cluster without members has none."""
    order = np.argsort(labels, kind="stable")
    begins = np.flatnonzero(np.diff(labels[order], prepend=-1))
    sums = np.add.reduceat(vectors[order], begins, axis=0)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    means: Vectors = np.where(lengths > 0, sums / np.where(lengths > 0, lengths, 1), vectors[order[begins]])
    return means
