"""Which frames of a window a captioner sees and how large, beside the processors of the models' authors."""

from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from curation.captioning.frames import CaptionFrameRequest, FrameSizes, caption_frame_indices, true_fps
from curation.captioning.models import CAPTION_MODELS
from curation.model import Clip, Window
from curation.timeline import FrameSpan
from curation.video.frames import ClipSampler, PossibleWindow

CONTEXT_TOKENS, ANSWER_TOKENS = 32_768, 512
SEERS = [model.sizes for model in CAPTION_MODELS.values() if model.sizes is not None]


def sizes_of(variant: str) -> FrameSizes:
    sizes = CAPTION_MODELS[variant].sizes
    assert sizes is not None
    return sizes


sides = st.integers(32, 4320)
even_numbers = st.integers(2, 213).map(lambda half: 2 * half)


# Sizes


def processor_of(variant: str) -> Any:
    """The authors' own, with the budget of qwen-vl-utils: 24576 tokens a video."""
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    if variant == "qwen":
        return Qwen2VLVideoProcessor(max_video_tokens=24_576 / 0.9, cap_pixels_per_frame=True)
    budget = {"shortest_edge": 128 * 32**2, "longest_edge": 2 * 24_576 * 32**2}  # pixels of 2 frames make a token
    return Qwen3VLVideoProcessor(size=budget, cap_pixels_per_frame=True)


def size_by(processor: Any, width: int, height: int, num_frames: int) -> tuple[int, int]:
    """What the processor makes of such pictures, without the pictures."""
    import torch
    from transformers.image_utils import SizeDict

    resized = processor.resize(
        torch.empty((1, num_frames, 3, height, width), dtype=torch.uint8, device="meta"),
        SizeDict(**dict(processor.size)),
        processor.resample,
        processor.patch_size * processor.merge_size,
        temporal_factor=processor.temporal_patch_size,
        cap_pixels_per_frame=True,
    )
    return int(resized.shape[-1]), int(resized.shape[-2])


@pytest.mark.usefixtures("needs_transformers")
@pytest.mark.parametrize("variant", ["qwen", "qwen3-vl"])
def test_sizes_are_those_of_the_models_own_processor(variant: str) -> None:
    processor, sizes = processor_of(variant), sizes_of(variant)
    rng = np.random.default_rng(0)
    seen = 0
    for width, height in rng.integers(360, 4320, (150, 2)).tolist():
        for num_frames in (2 * rng.integers(2, 213, 4)).tolist():
            assert sizes.size(width, height, num_frames) == size_by(processor, width, height, num_frames)
            seen += 1
    assert seen == 600


@pytest.mark.usefixtures("needs_transformers")
def test_small_pictures_are_enlarged_as_by_the_processor_of_qwen2_5_vl() -> None:
    processor, sizes = processor_of("qwen"), sizes_of("qwen")
    for width, height in np.random.default_rng(1).integers(32, 400, (150, 2)).tolist():
        assert sizes.size(width, height, 16) == size_by(processor, width, height, 16)


@pytest.mark.usefixtures("needs_transformers")
@pytest.mark.parametrize("variant", ["qwen", "qwen3-vl"])
@pytest.mark.parametrize(("width", "height", "num_frames"), [(640, 480, 4), (1280, 720, 6), (360, 640, 70)])
def test_tokens_are_those_that_the_processor_makes(variant: str, width: int, height: int, num_frames: int) -> None:
    processor, sizes = processor_of(variant), sizes_of(variant)
    video = np.zeros((num_frames, height, width, 3), np.uint8)
    made = processor(videos=[video], do_sample_frames=False, return_tensors="pt")
    num_patches = int(made["video_grid_thw"].prod())
    assert len(made["pixel_values_videos"]) == num_patches
    assert sizes.num_tokens(width, height, num_frames) == num_patches // processor.merge_size**2


@pytest.mark.usefixtures("needs_transformers")
@pytest.mark.parametrize("variant", ["qwen", "qwen3-vl"])
def test_a_processor_leaves_frames_of_our_size_alone(variant: str) -> None:
    processor, sizes = processor_of(variant), sizes_of(variant)
    for width, height in [(1920, 1080), (640, 360), (1080, 1920), (320, 240)]:
        size = sizes.size(width, height, 16)
        assert size_by(processor, *size, 16) == size


def test_a_nemotron_frame_is_one_tile_of_256_tokens() -> None:
    """(512 / 16)^2 patches, of which 2 x 2 become a token."""
    sizes = sizes_of("nemotron")
    assert sizes.size(1920, 1080, 20) == sizes.size(240, 426, 112) == (512, 512)
    assert sizes.num_tokens(1920, 1080, 20) == 20 * 256


@settings(deadline=None)
@given(st.sampled_from(SEERS), st.integers(2, 8000), st.integers(2, 8000), even_numbers)
def test_sides_are_multiples_of_the_factor(sizes: FrameSizes, width: int, height: int, num_frames: int) -> None:
    assert [side % sizes.factor for side in sizes.size(width, height, num_frames)] == [0, 0]
    assert min(sizes.size(width, height, num_frames)) > 0


@settings(deadline=None)
@given(st.sampled_from(SEERS), st.integers(2, 8000), st.integers(2, 8000), even_numbers)
def test_whatever_the_picture_a_prompt_fits_the_context(
    sizes: FrameSizes, width: int, height: int, num_frames: int
) -> None:
    num_frames = min(num_frames, sizes.max_frames)
    timestamps = 20 * num_frames if sizes.temporal_patch == 1 else 10 * num_frames // 2  # each a short text
    text = 1000
    tokens = sizes.num_tokens(width, height, num_frames) + timestamps
    assert tokens + text + ANSWER_TOKENS <= CONTEXT_TOKENS


def test_a_window_of_the_default_length_is_never_thinned_for_qwen() -> None:
    assert sizes_of("qwen").max_frames >= 256 + 127
    assert sizes_of("qwen3-vl").max_frames >= 256 + 127


# Which frames


@st.composite
def times(draw: st.DrawFn, *, min_frames: int = 4, max_frames: int = 150) -> NDArray[np.float64]:
    """Constant or variable frame rate, with freezes."""
    num_steps = draw(st.integers(min_frames, max_frames)) - 1
    steady = st.sampled_from([1 / 60, 1001 / 30000, 1 / 25, 0.2, 1.0]).map(lambda step: [step] * num_steps)
    uneven = st.lists(st.sampled_from([0.001, 1 / 60, 0.04, 0.5, 7.0]), min_size=num_steps, max_size=num_steps)
    return np.concatenate([[0.0], np.cumsum(draw(steady | uneven))])


rates = st.sampled_from([0.5, 1.0, 2.0, 4.0, 30.0])


@settings(deadline=None)
@given(times(), rates, st.sampled_from([4, 12, 768]))
def test_frames_rise_are_even_in_number_and_reach_from_the_first_to_the_last(
    times_s: NDArray[np.float64], rate_hz: float, max_frames: int
) -> None:
    indices = caption_frame_indices(times_s, rate_hz, max_frames=max_frames)
    assert (np.diff(indices) > 0).all()
    assert len(indices) % 2 == 0
    assert (indices[0], indices[-1]) == (0, len(times_s) - 1)
    assert min(4, len(times_s)) <= len(indices) <= max_frames


@settings(deadline=None)
@given(st.integers(2, 60), st.sampled_from([10, 24, 25, 30, 60]))
def test_whole_seconds_give_two_frames_each(seconds: int, fps: int) -> None:
    times_s = np.arange(seconds * fps) / fps
    assert len(caption_frame_indices(times_s, 2.0)) == 2 * seconds


@settings(deadline=None)
@given(times(min_frames=2), rates)
def test_the_number_of_frames_is_that_of_the_rate_to_one_on_either_side(
    times_s: NDArray[np.float64], rate_hz: float
) -> None:
    steps = np.diff(times_s)
    if steps.max() * rate_hz >= 0.5:  # a freeze, or too few frames for the rate
        return
    num_frames = len(caption_frame_indices(times_s, rate_hz))
    asked = times_s[-1] * rate_hz + 1  # first and last included
    assert abs(num_frames - asked) <= 1 + 1e-4 or num_frames == 4 > asked


@settings(deadline=None)
@given(times(), rates)
def test_all_but_the_last_frame_are_nearest_to_a_multiple_of_the_rate(
    times_s: NDArray[np.float64], rate_hz: float
) -> None:
    indices = caption_frame_indices(times_s, rate_hz)
    distances = abs(times_s[:, None] - np.arange(int(times_s[-1] * rate_hz) + 2) / rate_hz)
    is_nearest = distances <= distances.min(axis=0) + 1e-6  # of two that are equally near either will do
    if len(indices) > 4:
        assert is_nearest[indices[:-1]].any(axis=1).all()


@settings(deadline=None)
@given(times(min_frames=4, max_frames=9))
def test_where_there_are_few_frames_all_are_taken_but_for_one_of_an_odd_number(times_s: NDArray[np.float64]) -> None:
    indices = caption_frame_indices(times_s, 1e4)
    assert len(indices) == len(times_s) // 2 * 2


def test_a_short_window_is_spread_evenly() -> None:
    times_s = np.arange(31) / 30  # one second and a frame: 3 frames at 2 Hz
    assert caption_frame_indices(times_s, 2.0).tolist() == [0, 10, 20, 30]


def test_too_many_frames_are_thinned_evenly() -> None:
    assert caption_frame_indices(np.arange(101) / 10, 10.0, max_frames=6).tolist() == [0, 20, 40, 60, 80, 100]


def test_ten_seconds_at_thirty_frames_a_second() -> None:
    """By hand: every 15th, and the last in the place of the one that would make their number odd."""
    assert caption_frame_indices(np.arange(300) / 30, 2.0).tolist() == [*range(0, 285, 15), 299]


def test_frames_a_second_are_counted_between_the_first_and_the_last() -> None:
    assert true_fps(np.array([3.0, 3.5, 4.0, 4.5])) == 2.0


# Before the end of a window is known


def request(sizes: FrameSizes, rate_hz: float = 2.0) -> CaptionFrameRequest:
    return CaptionFrameRequest(key="caption", rate_hz=rate_hz, height=None, pixel_format="rgb24", sizes=sizes)


@settings(max_examples=50, deadline=None)
@given(times(max_frames=90), st.integers(4, 90), rates, st.sampled_from([2, 3, 50]))
def test_whatever_may_be_wanted_of_a_window_that_goes_on_is_known_beforehand(
    times_s: NDArray[np.float64], at_least: int, rate_hz: float, most_patches: int
) -> None:
    asked = request(FrameSizes(4, 28_672 * 16 // most_patches, 2**20), rate_hz)  # at most so many pairs of frames
    candidates = set(asked.candidates(times_s, 0.0, at_least=at_least).tolist())
    for end in range(at_least, len(times_s) + 1):
        wanted = asked.indices(times_s[:end], 0.0)
        assert set(wanted[:-1].tolist()) <= candidates


def test_few_frames_more_are_sampled_because_an_end_is_not_known() -> None:
    asked, times_s = request(sizes_of("qwen")), np.arange(383) / 30
    assert len(asked.candidates(times_s, 383 / 30, at_least=60)) <= len(asked.indices(times_s, 383 / 30)) + 1


def picture(number: int) -> av.VideoFrame:
    """A grey that tells frames apart, 64x48."""
    return av.VideoFrame.from_ndarray(np.full((72, 64), number, np.uint8), format="yuv420p")


def sampled(
    num_frames: int,
    windows: list[PossibleWindow],
    ends: list[FrameSpan],
    *,
    times_s: NDArray[np.float64],
    furthest: int,
) -> Clip:
    """What a clip of so many frames gets that might have gone on to ``furthest``."""
    clip = Clip(uuid=None, source_video="v", span=(0.0, float(times_s[num_frames])))  # type: ignore[arg-type]
    clip.windows = [Window(span.start, span.end - 1) for span in ends]
    clip.frame_times_s = times_s[:num_frames]
    # a budget so small that the size depends on the number of frames
    asked = request(FrameSizes(factor=4, min_pixels=64, max_pixels=2048, total_tokens=256))
    sampler = ClipSampler([asked], times_s=times_s[:furthest], end_s=float(times_s[furthest]), windows=windows)
    for index in range(num_frames):
        sampler.add(index, picture(index))
    sampler.give(clip)
    return clip


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 200), st.sampled_from([2.0, 5.0, 30.0]))
def test_a_clip_with_an_unknown_end_gets_what_it_gets_when_the_end_is_known(num_frames: int, fps: float) -> None:
    times_s, furthest = np.arange(241) / fps, 240
    rest = num_frames - 60 if num_frames >= 80 else 0
    ends = [FrameSpan(0, num_frames - rest)] + ([FrameSpan(60, num_frames)] if rest else [])
    known = [PossibleWindow(span, span.end) for span in ends]
    unknown = [
        PossibleWindow(FrameSpan(0, 60), 60),
        PossibleWindow(FrameSpan(0, 79), 4),
        PossibleWindow(FrameSpan(60, furthest), 80),
    ]
    first = sampled(num_frames, known, ends, times_s=times_s, furthest=num_frames)
    second = sampled(num_frames, unknown, ends, times_s=times_s, furthest=furthest)
    assert list(first.extracted_frames) == [f"caption/{span.start}_{span.end - 1}" for span in ends]
    assert first.extracted_frames.keys() == second.extracted_frames.keys()
    for key, frames in first.extracted_frames.items():
        np.testing.assert_array_equal(frames, second.extracted_frames[key])
        np.testing.assert_array_equal(first.extracted_frame_indices[key], second.extracted_frame_indices[key])
