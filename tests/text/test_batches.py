"""Texts of like length go together, and what a text is padded to depends on nothing but its own length."""

from hypothesis import given
from hypothesis import strategies as st

from curation.text.batches import padded_batches, single_batches

LENGTHS = st.lists(st.integers(1, 512), max_size=60)


@given(LENGTHS, st.integers(1, 4096))
def test_every_text_is_in_one_batch_that_holds_it(lengths: list[int], budget: int) -> None:
    batches = list(padded_batches(lengths, tokens_per_batch=budget))
    assert sorted(place for batch in batches for place in batch.places) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch.places) <= batch.num_rows
        assert max(lengths[place] for place in batch.places) <= batch.num_tokens
        assert batch.num_rows == 1 or batch.num_rows * batch.num_tokens <= budget


@given(LENGTHS, LENGTHS, st.integers(1, 512), st.integers(1, 4096))
def test_the_batch_of_a_text_has_the_same_size_whatever_else_is_there(
    before: list[int], others: list[int], length: int, budget: int
) -> None:
    def size_in(lengths: list[int], place: int) -> tuple[int, int]:
        (batch,) = [each for each in padded_batches(lengths, tokens_per_batch=budget) if place in each.places]
        return batch.num_rows, batch.num_tokens

    assert size_in([*before, length], len(before)) == size_in([length, *others], 0)


@given(LENGTHS)
def test_little_is_padded(lengths: list[int]) -> None:
    for batch in padded_batches(lengths, tokens_per_batch=1024):
        assert all(batch.num_tokens - lengths[place] < 64 for place in batch.places)


@given(LENGTHS)
def test_a_single_text_is_not_padded(lengths: list[int]) -> None:
    found = [(batch.places, batch.num_rows, batch.num_tokens) for batch in single_batches(lengths)]
    assert found == [((place,), 1, length) for place, length in enumerate(lengths)]
