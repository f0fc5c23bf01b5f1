"""What is known of a clip before its end is."""

from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from curation.clipping.recipe import ClipRecipe
from curation.clipping.shot_tracker import ClipPlanner, ClipRules, ShotTracker
from curation.timeline import FrameSpan, FrameTimeline, clips_from_shots
from curation.video.encode import EncoderSettings
from tests.test_timeline import crops, seconds_with_two_places, timelines_with_shots


def recipe(window_size: int, remainder_threshold: int) -> ClipRecipe:
    return ClipRecipe(
        encoder=EncoderSettings(encoder="libx264", preset="ultrafast", crf=23),
        copies=False,
        keep_audio=False,
        window_size=window_size,
        remainder_threshold=remainder_threshold,
        requests=(),
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(4, 40), st.integers(1, 40), st.integers(1, 200), st.integers(1, 200))
def test_every_window_that_a_clip_comes_to_have_was_thought_possible(
    window_size: int, remainder_threshold: int, one: int, other: int
) -> None:
    rules = recipe(window_size, min(remainder_threshold, window_size))
    at_least, num_frames = sorted((one, other))
    possible = rules.possible_windows(num_frames, at_least=at_least)
    for end in range(at_least, num_frames + 1):
        for window in rules.windows(end):
            alike = [each for each in possible if each.span.start == window.start]
            whole_or_last = window.end == end, window.end == window.start + window_size
            assert any(whole_or_last)
            assert any(each.nearest_end <= window.end <= each.span.end for each in alike)
            if window.end < end:
                assert any(each.span == window and not each.is_open for each in alike)


@given(st.integers(4, 40), st.integers(1, 400))
def test_of_a_clip_with_a_certain_end_all_windows_are_certain(window_size: int, num_frames: int) -> None:
    rules = recipe(window_size, window_size)
    possible = rules.possible_windows(num_frames, at_least=num_frames)
    assert [each.span for each in possible] == rules.windows(num_frames)
    assert not any(each.is_open for each in possible)


@settings(deadline=None)
@given(
    timelines_with_shots(),
    seconds_with_two_places,
    st.none() | seconds_with_two_places,
    st.sampled_from(["stride", "truncate"]),
    crops,
)
def test_no_clip_ends_before_its_nearest_end(
    case: tuple[FrameTimeline, list[FrameSpan]],
    minimum_s: float,
    maximum_s: float | None,
    mode: Literal["stride", "truncate"],
    crop_s: float,
) -> None:
    timeline, shots = case
    rules = ClipRules(minimum_s, maximum_s, mode, crop_s)
    planner = ClipPlanner(ShotTracker(0, threshold=0.4), timeline, rules)
    for clip in clips_from_shots(
        timeline, shots, min_length_s=minimum_s, max_length_s=maximum_s, max_length_mode=mode, crop_s=crop_s
    ):
        assert clip.start < planner.nearest_end(clip.start) <= clip.end
