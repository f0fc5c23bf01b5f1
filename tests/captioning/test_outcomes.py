"""What replies say of their windows."""

import pytest

from curation.captioning.outcomes import goes_round, outcome_of
from curation.captioning.requests import CaptionReply


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        pytest.param([], False, id="nothing"),
        pytest.param([7] * 31, False, id="one word 31 times"),
        pytest.param([7] * 32, True, id="one word 32 times"),
        pytest.param(list(range(500)), False, id="no word twice"),
        pytest.param([*range(100), *[1, 2, 3, 4] * 8], True, id="four words eight times after a good beginning"),
        pytest.param([*[1, 2, 3, 4] * 8, *range(100, 200)], True, id="four words eight times before a good end"),
        pytest.param([*[1, 2, 3, 4] * 7, 1, 2, 3], False, id="four words not quite eight times"),
        pytest.param(list(range(16)) * 2, False, id="a sentence of sixteen words said twice"),
        pytest.param(list(range(16)) * 3, True, id="a sentence of sixteen words said three times"),
        pytest.param(list(range(17)) * 9, False, id="a longer piece is not a loop of words"),
    ],
)
def test_tokens_go_round_when_a_piece_of_16_or_fewer_stands_3_times_over_32_tokens(
    tokens: list[int], expected: bool
) -> None:
    assert goes_round(tokens) is expected


def test_an_empty_caption_is_flagged() -> None:
    assert outcome_of(CaptionReply("w", " \n", "success", "", 10, 1, (5,))).flags == ("empty",)


def test_a_failed_caption_keeps_its_reason_and_has_no_flags() -> None:
    outcome = outcome_of(CaptionReply.refused("w", "too long"))
    assert (outcome.status, outcome.reason, outcome.flags) == ("error", "too long", ())


def test_a_caption_that_is_cut_off_in_a_loop_is_both_truncated_and_flagged() -> None:
    outcome = outcome_of(CaptionReply("w", "a a a", "truncated", "", 10, 64, (5,) * 64))
    assert (outcome.status, outcome.flags) == ("truncated", ("repeated",))
