"""Which vectors are kept: the same as by comparing each with all, wherever clusters lie."""

import numpy as np
import pytest
from numpy.typing import NDArray

from curation.dedup.heads import fill_heads, head_axes, head_size
from curation.dedup.kept import KeptVectors
from curation.dedup.products import NumpyProducts, Products, products_on
from tests.dedup.groups import at_cosine, kept_by_brute_force, topics, units


def find(
    vectors: NDArray[np.float32],
    centres: NDArray[np.float32],
    *,
    eps: float,
    products: Products | None = None,
) -> tuple[NDArray[np.float32], KeptVectors]:
    """The vectors in the order of their nearest centres, and what is found of them."""
    labels = (vectors @ centres.T).argmax(axis=1)
    order = np.argsort(labels, kind="stable")
    begins = np.searchsorted(labels[order], np.arange(len(centres) + 1))
    heads = np.empty((len(vectors), head_size(vectors.shape[1])), np.float32)
    fill_heads(vectors[order], head_axes(vectors, seed=0), heads)
    kept = KeptVectors(vectors[order], heads, begins, centres, eps=eps, products=products or NumpyProducts())
    kept.find()
    return vectors[order], kept


def pairs(kept: KeptVectors) -> dict[int, int]:
    return {index: int(other) for index, other in enumerate(kept.kept_as) if other >= 0}


@pytest.mark.parametrize("num_clusters", [1, 2, 9, 60, 400])
@pytest.mark.parametrize("eps", [0.01, 0.1, 0.4])
def test_the_same_are_kept_as_when_each_is_compared_with_all(num_clusters: int, eps: float) -> None:
    vectors = topics(3000, 24, spread=0.5, num_topics=40)
    vectors[2000:] = at_cosine(vectors[:1000], 1 - eps / 2)
    vectors = vectors[np.random.default_rng(1).permutation(len(vectors))]
    in_order, kept = find(vectors, vectors[:num_clusters], eps=eps)
    expected = kept_by_brute_force(in_order, eps)
    assert len(expected) >= 1000
    assert pairs(kept) == expected
    wide = in_order.astype(np.float64)
    for index, other in expected.items():
        assert kept.cosines[index] == pytest.approx(wide[index] @ wide[other], abs=1e-12)


def test_no_pair_is_lost_where_centres_say_nothing_of_the_vectors() -> None:
    vectors = topics(1500, 16, spread=1.0, num_topics=5)
    vectors = np.concatenate([vectors, at_cosine(vectors, 0.9905)])
    in_order, kept = find(vectors, units(np.random.default_rng(3).standard_normal((50, 16))), eps=0.01)
    assert pairs(kept) == kept_by_brute_force(in_order, 0.01)
    assert len(pairs(kept)) >= 1500


@pytest.mark.parametrize("eps", [0.01, 0.2, 0.7])
def test_heads_of_vectors_with_many_dimensions_lose_no_pair(eps: float) -> None:
    vectors = topics(1000, 300, spread=1.0, num_topics=100)
    vectors = np.concatenate([vectors, at_cosine(vectors, 1 - eps / 2)])
    in_order, kept = find(vectors, vectors[:10], eps=eps)
    assert pairs(kept) == kept_by_brute_force(in_order, eps)
    assert len(pairs(kept)) >= 1000


def test_pairs_on_both_sides_of_a_border_are_found() -> None:
    first, second = np.eye(2, 64, dtype=np.float32)
    border = units(np.tile(first + second, (500, 1)) + np.random.default_rng(0).standard_normal((500, 64)))
    towards = (first - second) * np.float32(0.05)
    in_order, kept = find(
        units(np.concatenate([border + towards, border - towards])), np.stack([first, second]), eps=0.01
    )
    expected = kept_by_brute_force(in_order, 0.01)
    assert sum(other < 500 <= index for index, other in expected.items()) > 100  # across
    assert pairs(kept) == expected


def test_what_is_like_only_a_duplicate_is_kept() -> None:
    angles = np.array([0.0, 0.1, 0.2])  # cos 0.1 = 0.995, cos 0.2 = 0.980
    chain = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    _, kept = find(chain, chain[:1], eps=0.01)
    assert pairs(kept) == {1: 0}
    assert kept.cosines[1] == pytest.approx(np.cos(0.1), abs=1e-7)


def test_of_several_kept_ones_the_most_similar_is_named() -> None:
    angles = np.array([0.0, 0.2, 0.11])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    _, kept = find(vectors, vectors[:1], eps=0.01)
    assert pairs(kept) == {2: 1}


def test_of_many_that_are_identical_the_first_stays() -> None:
    vectors = np.tile(topics(1, 8, spread=0.1, num_topics=1), (3000, 1))
    _, kept = find(vectors, vectors[:1], eps=1e-6)
    assert pairs(kept) == dict.fromkeys(range(1, 3000), 0)


def test_zeros_are_like_nothing() -> None:
    vectors = np.zeros((5, 8), np.float32)
    vectors[3:, 0] = 1
    _, kept = find(vectors, np.eye(2, 8, dtype=np.float32), eps=0.5)
    assert pairs(kept) == {4: 3}


def test_the_least_cosine_is_that_of_eps_to_the_last_digits() -> None:
    base = topics(200, 32, spread=1.0, num_topics=200)
    vectors = np.concatenate([base, at_cosine(base[:100], 0.95 + 1e-6), at_cosine(base[100:], 0.95 - 1e-6)])
    _, kept = find(vectors, vectors[:1], eps=0.05)
    assert pairs(kept) == {200 + index: index for index in range(100)}


@pytest.mark.parametrize("dimensions", [8, 32, 33, 200])
def test_the_product_of_two_heads_is_at_least_that_of_their_vectors(dimensions: int) -> None:
    vectors = topics(400, dimensions, spread=1.0, num_topics=5)
    vectors = np.concatenate([vectors, at_cosine(vectors, 0.999), np.zeros((1, dimensions), np.float32)])
    heads = np.empty((len(vectors), head_size(dimensions)), np.float32)
    fill_heads(vectors, head_axes(vectors, seed=0), heads)
    assert (heads @ heads.T >= vectors.astype(np.float64) @ vectors.T - 1e-6).all()
    if dimensions <= 32:
        assert heads @ heads.T == pytest.approx(vectors @ vectors.T, abs=1e-5)


def test_torch_finds_what_numpy_finds() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    vectors = topics(2000, 24, spread=0.5, num_topics=40)
    vectors[1500:] = at_cosine(vectors[:500], 0.995)
    _, expected = find(vectors, vectors[:20], eps=0.01)
    from curation.dedup.products import TorchProducts

    _, found = find(vectors, vectors[:20], eps=0.01, products=TorchProducts("cpu"))
    assert pairs(found) == pairs(expected)
    assert len(pairs(found)) >= 500
    with pytest.raises(ValueError, match="device 'nowhere'"):
        products_on("nowhere")
