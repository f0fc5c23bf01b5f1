"""Which text fits a clip best, and how surely."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.embedding.text_match import TextMatch, unit_vectors


def at(*degrees: float) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Unit vectors in the plane."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_the_probability_is_the_softmax_of_a_hundred_cosines() -> None:
    texts = np.array([[0.50, math.sqrt(0.75)], [0.49, math.sqrt(1 - 0.49**2)]], dtype=np.float32)
    text, probability = TextMatch(["near", "a little further"], texts).best(np.array([1, 0], dtype=np.float32))
    assert text == "near"
    assert probability == pytest.approx(1 / (1 + math.exp(-1.0)), abs=1e-5)  # 100 (0.50 - 0.49) = 1


@given(st.lists(st.floats(-180, 180), min_size=1, max_size=8), st.floats(-180, 180))
def test_the_best_text_is_the_one_with_the_smallest_angle(degrees: list[float], of_clip: float) -> None:
    match = TextMatch([str(k) for k in range(len(degrees))], at(*degrees))
    text, probability = match.best(at(of_clip)[0])
    apart = [abs((degree - of_clip + 180) % 360 - 180) for degree in degrees]
    assert apart[int(text)] == pytest.approx(min(apart), abs=0.1)
    assert 1 / len(degrees) - 1e-9 <= probability <= 1


def test_a_single_text_is_certain() -> None:
    assert TextMatch(["alone"], at(77)).best(at(-10)[0]) == ("alone", 1.0)


def test_of_two_alike_the_first_is_named() -> None:
    text, probability = TextMatch(["first", "second"], at(30, 30)).best(at(30)[0])
    assert (text, probability) == ("first", 0.5)


def test_how_long_the_vectors_of_texts_are_says_nothing() -> None:
    long = TextMatch(["a", "b"], at(10, 12) * np.array([[3.0], [0.2]], dtype=np.float32))
    short = TextMatch(["a", "b"], at(10, 12))
    assert long.best(at(11.5)[0])[1] == pytest.approx(short.best(at(11.5)[0])[1], abs=1e-4)


@pytest.mark.parametrize(
    ("texts", "rows"),
    [
        pytest.param([], np.empty((0, 2)), id="no text"),
        pytest.param(["a", "b"], np.ones((1, 2)), id="a vector too few"),
        pytest.param(["a"], np.zeros((1, 2)), id="a vector without a direction"),
        pytest.param(["a"], np.full((1, 2), np.nan), id="no numbers"),
    ],
)
def test_texts_without_usable_vectors_are_refused(
    texts: list[str], rows: np.ndarray[tuple[int, int], np.dtype[np.float64]]
) -> None:
    with pytest.raises(ValueError, match="vector"):
        TextMatch(texts, rows.astype(np.float32))


def test_vectors_are_made_one_long_and_what_has_no_direction_is_none() -> None:
    unit, nothing, infinite = unit_vectors(np.array([[3.0, 4.0], [0.0, 0.0], [np.inf, 1.0]]))
    assert unit is not None
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, [0.6, 0.8], rtol=1e-6)
    assert nothing is None
    assert infinite is None
