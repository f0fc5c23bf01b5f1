"""The nearest vectors are those that comparing with each of them finds, in the same order."""

from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from curation.search.index import VectorIndex
from curation.search.nearest import nearest
from tests.search.tables import random_ids, random_units


def index_of(vectors: NDArray[np.float32], ids: list[str]) -> VectorIndex:
    raw = np.frombuffer(b"".join(UUID(each).bytes for each in ids), dtype=np.uint8).reshape(-1, 16)
    return VectorIndex(vectors, raw, {}, 0)


def brute_force(vectors: NDArray[np.float32], ids: list[str], query: NDArray[np.floating], top: int) -> list[str]:
    """Every cosine in the widest numbers there are; equal ones in the order of the ids' texts."""
    wide, wanted = vectors.astype(np.longdouble), query.astype(np.longdouble)
    cosines = (wide @ wanted) / np.sqrt((wide * wide).sum(axis=1)) / np.sqrt(wanted @ wanted)
    return [ids[k] for k in sorted(range(len(ids)), key=lambda k: (-cosines[k], ids[k]))[:top]]


def found(index: VectorIndex, query: NDArray[np.floating], top: int) -> list[str]:
    return [str(each.clip) for each in nearest(index, query, top=top)]


@settings(deadline=None)
@given(
    number=st.integers(1, 300),
    dimensions=st.integers(2, 40),
    top=st.integers(1, 40),
    seed=st.integers(0, 10**6),
)
def test_those_found_are_those_of_brute_force(number: int, dimensions: int, top: int, seed: int) -> None:
    vectors, ids = random_units(number, dimensions, seed=seed), random_ids(number, seed=seed)
    query = np.random.default_rng(seed + 1).standard_normal(dimensions)
    assert found(index_of(vectors, ids), query, top) == brute_force(vectors, ids, query, top)


def test_more_vectors_than_are_compared_at_once() -> None:
    vectors, ids = random_units(70_000, 96), random_ids(70_000)  # 26 MiB, two blocks
    for query in random_units(3, 96, seed=9):
        assert found(index_of(vectors, ids), query, 25) == brute_force(vectors, ids, query, 25)


def test_equal_vectors_come_in_the_order_of_their_ids() -> None:
    vectors, ids = random_units(1000, 256), random_ids(1000)
    copies = np.random.default_rng(3).choice(1000, 40, replace=False)
    vectors[copies] = vectors[copies[0]]
    index = index_of(vectors, ids)
    hits = nearest(index, vectors[copies[0]], top=40)
    assert [str(hit.clip) for hit in hits] == sorted(ids[k] for k in copies)
    assert {hit.cosine for hit in hits} == {hits[0].cosine}
    assert found(index, vectors[copies[0]], 7) == sorted(ids[k] for k in copies)[:7]


def test_what_float32_takes_for_equal_is_still_told_apart() -> None:
    query = random_units(1, 512)[0]
    off = random_units(400, 512, seed=1).astype(np.float64) * 3e-5  # 1 - cosine is of the order of 1e-10
    vectors = (query + off).astype(np.float32)
    vectors = (vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)).astype(np.float32)
    ids = random_ids(400)
    assert len(set((vectors @ query).tolist())) < 20
    assert found(index_of(vectors, ids), query, 50) == brute_force(vectors, ids, query, 50)


def test_cosines_are_those_of_the_vectors_whatever_the_length_of_the_query() -> None:
    vectors, ids = random_units(50, 16), random_ids(50)
    query = random_units(1, 16, seed=5)[0]
    for hit in nearest(index_of(vectors, ids), 250 * query, top=50):
        assert str(hit.clip) == ids[hit.row]
        assert hit.cosine == pytest.approx(float(vectors[hit.row] @ query), abs=1e-6)


def test_the_clip_itself_is_left_out_and_others_take_its_place() -> None:
    vectors, ids = random_units(30, 8), random_ids(30)
    index = index_of(vectors, ids)
    everything = brute_force(vectors, ids, vectors[11], 30)
    assert everything[0] == ids[11]
    assert [str(hit.clip) for hit in nearest(index, vectors[11], top=5, without=11)] == everything[1:6]
    assert [str(hit.clip) for hit in nearest(index, vectors[11], top=99, without=11)] == everything[1:]


@pytest.mark.parametrize(
    ("query", "top"),
    [
        pytest.param(np.ones(7), 1, id="too few numbers"),
        pytest.param(np.zeros(8), 1, id="no direction"),
        pytest.param(np.full(8, np.nan), 1, id="no numbers"),
        pytest.param(np.ones(8), 0, id="no clip asked for"),
    ],
)
def test_what_makes_no_sense_is_refused(query: NDArray[np.float64], top: int) -> None:
    with pytest.raises(ValueError, match="need"):
        nearest(index_of(random_units(4, 8), random_ids(4)), query, top=top)
