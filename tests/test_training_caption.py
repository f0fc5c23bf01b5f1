"""Which caption of a window is trained on: the same one for its entry in a meta and for the window itself."""

from typing import Any

import pytest

from curation.model import CaptionOutcome, Window
from curation.training_caption import caption_of, caption_of_window
from curation.writing.captions import window_captions


@pytest.mark.parametrize(
    ("window", "caption"),
    [
        pytest.param({"start_frame": 0}, None, id="no caption"),
        pytest.param({"qwen_caption": "one"}, "one", id="a caption"),
        pytest.param({"qwen_caption": "one", "qwen_lm_enhanced_caption": "two"}, "two", id="an enhanced one wins"),
        pytest.param({"qwen_lm_enhanced_caption": "two", "qwen_caption": "one"}, "two", id="wherever it stands"),
        pytest.param({"qwen_caption": "one", "qwen_lm_enhanced_caption": ""}, "one", id="not when it is empty"),
        pytest.param({"qwen_caption": "one", "nemotron_caption": "two"}, "one", id="the first of two"),
        pytest.param({"qwen_caption": None, "nemotron_caption": "two"}, "two", id="the first that is there"),
        pytest.param({"qwen_caption": "one", "qwen_status": "truncated"}, "one", id="a truncated one"),
        pytest.param({"qwen_caption": "one", "qwen_status": "error"}, None, id="not what stands beside an error"),
        pytest.param(
            {"qwen_caption": "one", "qwen_lm_enhanced_caption": "two", "qwen_lm_status": "error"},
            "one",
            id="not what stands beside an error of the enhancement",
        ),
    ],
)
def test_the_caption_to_train_on(window: dict[str, Any], caption: str | None) -> None:
    assert caption_of(window) == caption


OUTCOMES: list[dict[str, CaptionOutcome]] = [
    {},
    {"qwen": CaptionOutcome("success"), "qwen_lm": CaptionOutcome("success")},
    {"qwen": CaptionOutcome("truncated"), "qwen_lm": CaptionOutcome("error", "too long")},
    {"qwen": CaptionOutcome("error", "too long"), "qwen_lm": CaptionOutcome("error", "no caption")},
]


@pytest.mark.parametrize("outcomes", OUTCOMES, ids=lambda each: "-".join(one.status for one in each.values()) or "none")
@pytest.mark.parametrize("enhanced", [{}, {"qwen_lm": "two"}, {"qwen_lm": ""}], ids=str)
@pytest.mark.parametrize("captions", [{}, {"qwen": "one"}, {"qwen": "one", "nemotron": "three"}, {"qwen": ""}], ids=str)
def test_a_window_and_its_entry_in_a_meta_have_the_same_one(
    captions: dict[str, str], enhanced: dict[str, str], outcomes: dict[str, CaptionOutcome]
) -> None:
    window = Window(0, 9, caption=captions, enhanced_caption=enhanced, caption_outcomes=outcomes)
    assert caption_of_window(window) == caption_of(window_captions(window))
