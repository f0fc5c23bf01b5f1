"""What models are asked."""

import hashlib

import pytest

from curation.captioning.prompts import (
    CAPTION_PROMPTS,
    ENHANCEMENT_PROMPTS,
    caption_prompt,
    enhancement_prompt,
    prompt_hash,
    stage2_prompt,
)

VARIANTS = ["default", "av", "av-surveillance"]


def test_captions_and_their_enhancement_have_the_same_variants() -> None:
    assert list(CAPTION_PROMPTS) == list(ENHANCEMENT_PROMPTS) == VARIANTS


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_caption_begins_with_the_camera_goes_on_with_the_first_picture_and_then_tells_the_action(
    variant: str,
) -> None:
    prompt = caption_prompt(variant)
    assert 0 < prompt.index("camera") < prompt.index("opening picture") < prompt.index("what happens, in order")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("word", ["logos", "watermarks", "clocks", "number plates", "English", "one paragraph"])
def test_every_caption_prompt_says_what_to_leave_out_and_in_which_form_to_answer(variant: str, word: str) -> None:
    assert word in caption_prompt(variant)


@pytest.mark.parametrize("build", [caption_prompt, enhancement_prompt])
def test_a_text_of_the_users_own_wins(build: type) -> None:
    assert build("av", "Tell me all.") == "Tell me all."


@pytest.mark.parametrize("build", [caption_prompt, enhancement_prompt])
def test_an_unknown_variant_names_those_that_there_are(build: type) -> None:
    with pytest.raises(ValueError, match=r"'drone'.*default, av, av-surveillance"):
        build("drone")


@pytest.mark.parametrize("text", [None, "Make it longer."])
def test_the_second_request_ends_with_the_first_caption(text: str | None) -> None:
    prompt = stage2_prompt(text, "A red car turns left.")
    assert prompt.endswith("A red car turns left.")
    assert prompt.startswith(text or "Below is a first caption")


def test_a_prompt_is_named_by_its_sha256() -> None:
    assert prompt_hash("Größe") == hashlib.sha256("Größe".encode()).hexdigest()[:16]
