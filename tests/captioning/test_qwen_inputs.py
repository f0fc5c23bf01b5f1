"""Inputs of Qwen's models against the processors of their authors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from curation.captioning.engines.chat import ChatTemplate
from curation.captioning.engines.qwen_inputs import (
    PATCH_RULES,
    grid_times_s,
    patches,
    repair_positions,
    resized,
    text_behind_videos,
)
from curation.captioning.engines.transformers_inputs import InputMaker
from curation.captioning.requests import CaptionRequest, EngineSettings, RequestRefusedError, SamplingRules

torch = pytest.importorskip("torch")

_TEXT = "What happens in this video?"
_FAMILIES = {"qwen2.5-vl": "tiny_qwen_vl", "qwen3-vl": "tiny_qwen3_vl"}

Weights = Callable[[str], Path]


@pytest.fixture
def weights(request: pytest.FixtureRequest, needs_vllm: None) -> Weights:
    """The tiny checkpoint of a family; vLLM's environment has the torchvision that the authors' processors need."""
    return lambda family: Path(request.getfixturevalue(_FAMILIES[family]))


def _frames(num_frames: int, height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(num_frames).integers(0, 256, (num_frames, height, width, 3), np.uint8)


def _ours(folder: Path, family: str, requests: list[CaptionRequest], **settings: Any) -> dict[str, Any]:
    engine_settings = EngineSettings(str(folder), family, SamplingRules(0, 1), **settings)
    maker = InputMaker(engine_settings, ChatTemplate(engine_settings))
    prompts = [maker.prompt(request) for request in requests]
    return maker.batch(prompts, device=torch.device("cpu"), dtype=torch.float32)


def _theirs(folder: Path, frames: NDArray[np.uint8], metadata: dict[str, Any]) -> Any:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    message = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": _TEXT}]}
    prompt = processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    return processor(
        text=[prompt],
        videos=[frames],
        video_metadata=[metadata],
        do_sample_frames=False,
        do_resize=False,
        return_tensors="pt",
    )


@pytest.mark.parametrize("family", _FAMILIES)
@pytest.mark.parametrize(
    ("num_frames", "tokens_high", "tokens_wide"),
    [
        pytest.param(4, 2, 2, id="the fewest frames"),
        pytest.param(16, 3, 5, id="wide"),
        pytest.param(6, 9, 2, id="upright"),
        pytest.param(7, 4, 3, id="an odd number of frames"),
        pytest.param(1, 2, 4, id="one frame"),
        pytest.param(40, 1, 1, id="many small frames"),
    ],
)
def test_inputs_are_those_of_the_authors_processor(
    family: str, num_frames: int, tokens_high: int, tokens_wide: int, weights: Weights
) -> None:
    side = 28 if family == "qwen2.5-vl" else 32
    frames = _frames(num_frames, tokens_high * side, tokens_wide * side)
    indices = list(range(num_frames))
    metadata = {"fps": 2.0, "total_num_frames": num_frames, "frames_indices": indices}
    request = CaptionRequest("a", _TEXT, frames, np.array(indices) / 2.0)
    ours = _ours(weights(family), family, [request])
    theirs = _theirs(weights(family), frames, metadata)
    if num_frames == 1:
        theirs.pop("second_per_grid_ts", None)  # there is no second step that it could be the distance of
        ours.pop("second_per_grid_ts", None)
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        torch.testing.assert_close(value.float(), torch.as_tensor(theirs[name]).float(), rtol=0, atol=1e-6, msg=name)


def test_the_times_of_frames_are_the_true_ones(weights: Weights) -> None:
    # of a film of 24000/1001 frames a second, each as near to a half of a second as there is one
    indices = np.round(np.arange(12) * 0.5 * 24000 / 1001).astype(int)
    frames, rate_hz = _frames(12, 64, 64), 24000 / 1001
    metadata = {"fps": rate_hz, "total_num_frames": 140, "frames_indices": indices.tolist()}
    ours = _ours(weights("qwen3-vl"), "qwen3-vl", [CaptionRequest("a", _TEXT, frames, indices / rate_hz)])
    theirs = _theirs(weights("qwen3-vl"), frames, metadata)
    assert ours["input_ids"].tolist() == theirs["input_ids"].tolist()


def test_a_step_is_shown_halfway_between_its_frames() -> None:
    times_s = np.array([0.0, 0.5, 1.0, 1.7, 2.0])
    assert grid_times_s(times_s, PATCH_RULES["qwen3-vl"]) == pytest.approx([0.25, 1.35, 2.0])


@pytest.mark.parametrize("family", _FAMILIES)
def test_padding_on_the_left_changes_no_other_input(family: str, weights: Weights) -> None:
    side = 28 if family == "qwen2.5-vl" else 32
    clips = [_frames(num_frames, 2 * side, 3 * side) for num_frames in (4, 10)]
    requests = [CaptionRequest(str(len(clip)), _TEXT, clip, np.arange(len(clip)) / 2.0) for clip in clips]
    short, long = (_ours(weights(family), family, [request]) for request in requests)
    both = _ours(weights(family), family, requests)
    assert both["input_ids"][0][both["attention_mask"][0] == 1].tolist() == short["input_ids"][0].tolist()
    assert both["attention_mask"][0].diff().min() >= 0
    assert both["input_ids"][1].tolist() == long["input_ids"][0].tolist()
    assert torch.equal(
        both["pixel_values_videos"], torch.cat([short["pixel_values_videos"], long["pixel_values_videos"]])
    )


@pytest.mark.parametrize("family", _FAMILIES)
@pytest.mark.parametrize(("name", "bits"), [("float16", 11), ("bfloat16", 8)])
def test_pixel_values_are_computed_in_the_type_that_is_asked(family: str, name: str, bits: int) -> None:
    rules = PATCH_RULES[family]
    frames = torch.from_numpy(_frames(4, 4 * rules.patch, 2 * rules.patch))
    coarse, exact = patches(frames, rules, getattr(torch, name)), patches(frames, rules, torch.float32)
    assert coarse.dtype == getattr(torch, name)
    # mean, deviation, difference and quotient are rounded; values reach 2.7, differences 255 and deviations are >= 66
    torch.testing.assert_close(coarse.float(), exact, rtol=0, atol=2.0**-bits * (3 * 2.7 + 2 * 255 / 66))


def test_pictures_are_resized_as_the_authors_do(needs_vllm: None) -> None:
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resize

    y, x, channel = np.mgrid[0:90, 0:161, 0:3]
    waves = 127.5 + 100 * np.sin(x / 7 + channel) * np.cos(y / 5)
    frames = torch.from_numpy(waves[None].astype(np.uint8))
    theirs = resize(frames.permute(0, 3, 1, 2), [56, 84], InterpolationMode.BICUBIC, antialias=True)
    ours = resized(frames, 84, 56).permute(0, 3, 1, 2)
    assert ours.dtype == torch.uint8
    assert (ours.int() - theirs.int()).abs().max() <= 1  # theirs rounds after each of the two directions


@pytest.mark.parametrize(
    ("num_frames", "height", "width"),
    [
        pytest.param(4, 56, 60, id="no multiple of a token's size"),
        pytest.param(0, 56, 56, id="no frame"),
        pytest.param(4, 56, 0, id="no pixel"),
    ],
)
def test_frames_that_make_no_patches_are_refused(num_frames: int, height: int, width: int) -> None:
    with pytest.raises(RequestRefusedError, match="multiples of 28 pixels"):
        PATCH_RULES["qwen2.5-vl"].grid(num_frames, height, width)


def _by_the_authors(kinds: list[int], grid: tuple[int, int, int], step: float) -> NDArray[np.int64]:
    """Positions as in ``get_rope_index`` of transformers 4: whatever follows begins at the largest so far, plus one."""
    found: list[tuple[int, int, int]] = []
    start, place = 0, 0
    while place < len(kinds):
        if kinds[place] == 0:
            part = [(start, start, start)]
        else:
            t, h, w = grid[0], grid[1] // 2, grid[2] // 2
            part = [(start + int(k * step), start + i, start + j) for k in range(t) for i in range(h) for j in range(w)]
        found += part
        place += len(part)
        start = max(max(position) for position in found) + 1
    return np.array(found).T


def _long_clips(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A batch of a long clip and a wide one, and the arguments of ``get_rope_index``."""
    shapes = [(16, 56, 84), (4, 56, 140)]
    clips = [_frames(*shape) for shape in shapes]
    requests = [CaptionRequest(str(len(clip)), _TEXT, clip, np.arange(len(clip)) / 2.0) for clip in clips]
    inputs = _ours(folder, "qwen2.5-vl", requests)
    names = ("input_ids", "mm_token_type_ids", "video_grid_thw", "second_per_grid_ts", "attention_mask")
    return inputs, {name: inputs[name] for name in names}


def _model(folder: Path) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder)


def test_text_goes_on_behind_the_last_moment_of_a_video(tiny_qwen_vl: Path) -> None:
    model, (inputs, arguments) = _model(tiny_qwen_vl), _long_clips(tiny_qwen_vl)
    repair_positions(model)
    positions, deltas = model.model.get_rope_index(**arguments)
    for row, grid in enumerate(inputs["video_grid_thw"].tolist()):
        keep = inputs["attention_mask"][row].bool()
        expected = _by_the_authors(inputs["mm_token_type_ids"][row, keep].tolist(), grid, step=2.0)
        assert positions[:, row, keep].tolist() == expected.tolist()
        assert deltas[row].item() == expected.max() + 1 - expected.shape[1]


def test_transformers_puts_text_inside_of_a_long_video(tiny_qwen_vl: Path) -> None:
    model, (inputs, arguments) = _model(tiny_qwen_vl), _long_clips(tiny_qwen_vl)
    before, _ = model.model.get_rope_index(**arguments)
    repair_positions(model)
    after, _ = model.model.get_rope_index(**arguments)
    if torch.equal(before, after):
        pytest.skip("this version of transformers has the fault mended")
    behind = inputs["mm_token_type_ids"][0].nonzero().max() + 1
    assert before[0, 0, behind] <= before[:, 0, :behind].max()  # the first token behind the clip is inside of it
    assert torch.equal(before[:, 1], after[:, 1])  # a clip that is wider than long is right from the start


def test_positions_that_are_right_stay(tiny_qwen_vl: Path) -> None:
    model, (_, arguments) = _model(tiny_qwen_vl), _long_clips(tiny_qwen_vl)
    repair_positions(model)
    once = model.model.get_rope_index(**arguments)
    repair_positions(model)
    twice = model.model.get_rope_index(**arguments)
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


def test_qwen3_vl_needs_no_repair(tiny_qwen3_vl: Path) -> None:
    frames = _frames(20, 64, 64)
    inputs = _ours(tiny_qwen3_vl, "qwen3-vl", [CaptionRequest("a", _TEXT, frames, np.arange(20) / 2.0)])
    names = ("input_ids", "mm_token_type_ids", "video_grid_thw", "attention_mask")
    positions, _ = _model(tiny_qwen3_vl).model.get_rope_index(**{name: inputs[name] for name in names})
    _, h, w = inputs["video_grid_thw"][0].tolist()
    expected = _by_the_authors(inputs["mm_token_type_ids"][0].tolist(), (1, h, w), step=1.0)
    assert positions[:, 0].tolist() == expected.tolist()


@given(
    parts=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)), min_size=1),
    shortfall=st.integers(0, 5),
)
def test_each_text_begins_right_behind_the_video_before_it(
    parts: list[tuple[int, int, int, int]], shortfall: int
) -> None:
    kinds: list[int] = []
    right: list[tuple[int, ...]] = []
    wrong: list[tuple[int, ...]] = []
    start, too_low = 0, 0
    for num_words, t, h, w in [*parts, (3, 0, 0, 0)]:
        words = [(start + k,) * 3 for k in range(num_words)]
        start += num_words
        video = [(start + k, start + i, start + j) for k in range(t) for i in range(h) for j in range(w)]
        right += words + video
        wrong += [tuple(p - too_low for p in position) for position in words + video]
        kinds += [0] * len(words) + [2] * len(video)
        start, too_low = start + max(t, h, w), too_low + min(shortfall, max(t, h, w))
    moved = text_behind_videos(torch.tensor(wrong).T, torch.tensor(kinds))
    assert moved.T.tolist() == [list(position) for position in right]
