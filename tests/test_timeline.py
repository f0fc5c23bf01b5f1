"""Laws of spans, and the same answers as slow, plain reckoning with fractions."""

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from random import Random
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from curation.timeline import (
    MIN_WINDOW_FRAMES,
    FrameSpan,
    FrameTimeline,
    caption_windows,
    clips_from_shots,
    exact_seconds,
    fixed_stride_clips,
    frames_between,
    sample_at_rate,
)
from tests.whole_shots import map_shots, shots_from_transitions

TIME_BASES = [Fraction(1, 90000), Fraction(1, 1000), Fraction(1, 12800), Fraction(1001, 30000)]
RATES = [Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(60)]


def timeline_of(ticks: Sequence[int], time_base: Fraction, *, last: int = 1) -> FrameTimeline:
    """A timeline whose last frame is shown for ``last`` ticks."""
    return FrameTimeline(np.array(ticks, dtype=np.int64), time_base, ticks[-1] + last)


def steady(num_frames: int, rate: Fraction, time_base: Fraction) -> FrameTimeline:
    """Frames at a constant rate, each at the nearest tick, as a muxer writes them."""
    ticks = [round(k / rate / time_base) for k in range(num_frames + 1)]
    return FrameTimeline(np.array(ticks[:-1], dtype=np.int64), time_base, ticks[-1])


@st.composite
def timelines(draw: st.DrawFn, max_frames: int = 60) -> FrameTimeline:
    """Constant and variable rates, in several clocks, begun at any time."""
    time_base = draw(st.sampled_from(TIME_BASES))
    if draw(st.booleans()):
        rate = draw(st.sampled_from([rate for rate in RATES if rate * time_base <= 1]))
        even = steady(draw(st.integers(1, max_frames)), rate, time_base)
        offset = draw(st.integers(-1000, 10**6))
        return FrameTimeline(even.ticks + offset, time_base, even.end_tick + offset)
    longest = max(1, int(draw(st.sampled_from([Fraction(1, 20), Fraction(1), Fraction(7)])) / time_base))
    steps = draw(st.lists(st.integers(1, longest), min_size=1, max_size=max_frames))
    first = draw(st.integers(-1000, 10**6))
    ticks = first + np.concatenate(([0], np.cumsum(steps)))
    return FrameTimeline(ticks[:-1].astype(np.int64), time_base, int(ticks[-1]))


@st.composite
def timelines_with_span(draw: st.DrawFn) -> tuple[FrameTimeline, FrameSpan]:
    timeline = draw(timelines())
    start = draw(st.integers(0, timeline.num_frames - 1))
    return timeline, FrameSpan(start, draw(st.integers(start + 1, timeline.num_frames)))


def times_of(timeline: FrameTimeline) -> list[Fraction]:
    """Exact seconds at which each frame begins, the first at 0."""
    ticks = timeline.ticks.tolist()
    return [(tick - ticks[0]) * timeline.time_base for tick in ticks]


def numbers(spans: Sequence[FrameSpan]) -> list[int]:
    return [index for span in spans for index in range(span.start, span.end)]


def pairs(spans: Sequence[FrameSpan]) -> list[tuple[int, int]]:
    return [(span.start, span.end) for span in spans]


exact_times = st.fractions(-2, 900, max_denominator=10**5)
seconds_with_two_places = st.integers(50, 2000).map(lambda hundredths: hundredths / 100)


# Spans and timelines


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (3, 3), (4, 3)])
def test_a_span_without_frames_cannot_be_made(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="0 <= start < end"):
        FrameSpan(start, end)


def test_the_length_of_a_span_is_its_number_of_frames() -> None:
    assert len(FrameSpan(3, 10)) == 7


@pytest.mark.parametrize(
    ("ticks", "end", "message"),
    [
        pytest.param([], 1, "at least one frame", id="no frames"),
        pytest.param([0, 1, 1], 2, "rise strictly", id="a time twice"),
        pytest.param([0, 2, 1], 3, "rise strictly", id="back in time"),
        pytest.param([0, 1], 1, "needs a duration", id="a last frame that is not shown"),
    ],
)
def test_impossible_timelines_are_refused(ticks: list[int], end: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrameTimeline(np.array(ticks, dtype=np.int64), Fraction(1, 1000), end)


@given(timelines())
def test_boundaries_count_from_the_first_presented_frame(timeline: FrameTimeline) -> None:
    assert [timeline.boundary(index) for index in range(timeline.num_frames)] == times_of(timeline)


@given(timelines())
def test_the_duration_lasts_to_the_end_of_the_last_frame(timeline: FrameTimeline) -> None:
    shown_s = (timeline.end_tick - int(timeline.ticks[-1])) * timeline.time_base
    assert timeline.duration == times_of(timeline)[-1] + shown_s == timeline.boundary(timeline.num_frames)


@given(timelines())
def test_the_average_rate_times_the_duration_is_the_number_of_frames(timeline: FrameTimeline) -> None:
    assert timeline.average_rate * timeline.duration == timeline.num_frames


@given(timelines_with_span())
def test_the_seconds_of_a_span_are_where_its_frames_begin_and_end(case: tuple[FrameTimeline, FrameSpan]) -> None:
    timeline, span = case
    bounds = [*times_of(timeline), timeline.duration]
    assert timeline.seconds(span) == (float(bounds[span.start]), float(bounds[span.end]))


@given(timelines_with_span())
def test_clip_times_count_from_the_first_frame_of_the_clip(case: tuple[FrameTimeline, FrameSpan]) -> None:
    timeline, span = case
    times = times_of(timeline)[span.start : span.end]
    expected = [float(time - times[0]) for time in times]
    np.testing.assert_allclose(timeline.clip_times_s(span), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("rate", [*RATES, Fraction(120000, 1001), Fraction(240)], ids=str)
@pytest.mark.parametrize("time_base", TIME_BASES[:3], ids=str)
def test_a_constant_rate_is_not_variable_in_any_clock(rate: Fraction, time_base: Fraction) -> None:
    assert not steady(300, rate, time_base).is_vfr


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([33] * 100 + [200] * 20, id="30 to 5 frames a second"),
        pytest.param([40] * 50 + [80] + [40] * 50, id="one frame missing"),
        pytest.param([40, 20, 40, 60] * 20, id="jitter"),
    ],
)
def test_a_changing_rate_is_variable(steps: list[int]) -> None:
    assert timeline_of(np.cumsum([0, *steps]).tolist(), Fraction(1, 1000), last=33).is_vfr


# Which frames are shown between two times


@given(timelines(), exact_times)
def test_the_first_frame_at_or_after_a_time_is_exact(timeline: FrameTimeline, seconds: Fraction) -> None:
    later = [index for index, time in enumerate(times_of(timeline)) if time >= seconds]
    assert timeline.first_frame_at_or_after(seconds) == (later[0] if later else timeline.num_frames)


@given(timelines())
def test_the_first_frame_at_the_time_of_a_frame_is_that_frame(timeline: FrameTimeline) -> None:
    found = [timeline.first_frame_at_or_after(time) for time in times_of(timeline)]
    assert found == list(range(timeline.num_frames))


@given(timelines(), exact_times, exact_times)
def test_frames_between_two_times_are_exactly_those(timeline: FrameTimeline, start: Fraction, end: Fraction) -> None:
    inside = [index for index, time in enumerate(times_of(timeline)) if start <= time < end]
    span = frames_between(timeline, start, end)
    assert (numbers([span]) if span else []) == inside


@pytest.mark.parametrize(
    ("seconds", "exact"),
    [
        pytest.param(0.1, Fraction(1, 10), id="a tenth"),
        pytest.param(1e8, Fraction(10**8), id="a large number"),
        pytest.param(1e-7, Fraction(1, 10**7), id="a small number"),
        pytest.param(2, Fraction(2), id="a whole number"),
        pytest.param(np.float64(0.1), Fraction(1, 10), id="a number of numpy"),
    ],
)
def test_seconds_are_the_decimal_number_that_was_written(seconds: float, exact: Fraction) -> None:
    assert exact_seconds(seconds) == exact


# Clips at regular times


@given(timelines_with_span(), seconds_with_two_places)
@settings(deadline=None)
def test_fixed_stride_clips_cover_each_frame_exactly_once(
    case: tuple[FrameTimeline, FrameSpan], length_s: float
) -> None:
    timeline, within = case
    clips = fixed_stride_clips(timeline, within, clip_len_s=length_s, clip_stride_s=length_s, min_clip_length_s=0)
    assert numbers(clips) == list(range(within.start, within.end))


@given(timelines_with_span(), st.sets(st.integers(1, 400)), seconds_with_two_places, seconds_with_two_places)
@settings(deadline=None)
def test_changes_of_size_cut_the_clips_that_there_were_without(
    case: tuple[FrameTimeline, FrameSpan], changes: set[int], length_s: float, stride_s: float
) -> None:
    timeline, within = case
    changes = {frame for frame in changes if frame < timeline.num_frames}
    changing = replace(timeline, size_changes=np.array(sorted(changes), dtype=np.int64))
    lengths = {"clip_len_s": length_s, "clip_stride_s": stride_s, "min_clip_length_s": 0.0}
    expected = []
    for clip in fixed_stride_clips(timeline, within, **lengths):
        bounds = [clip.start, *sorted(frame for frame in changes if clip.start < frame < clip.end), clip.end]
        expected += [FrameSpan(start, end) for start, end in pairwise(bounds)]
    assert fixed_stride_clips(changing, within, **lengths) == expected


def test_a_piece_beside_a_change_of_size_must_have_the_minimum_length() -> None:
    """Ten frames a second; clips of 2 s would begin at frames 0, 20 and 40."""
    timeline = replace(steady(60, Fraction(10), Fraction(1, 10)), size_changes=np.array([5, 30], dtype=np.int64))
    clips = fixed_stride_clips(timeline, FrameSpan(0, 60), clip_len_s=2.0, clip_stride_s=2.0, min_clip_length_s=1.0)
    assert clips == [FrameSpan(5, 20), FrameSpan(20, 30), FrameSpan(30, 40), FrameSpan(40, 60)]


@given(timelines_with_span(), seconds_with_two_places, seconds_with_two_places, seconds_with_two_places)
@settings(deadline=None)
def test_fixed_stride_clips_hold_the_frames_of_their_times(
    case: tuple[FrameTimeline, FrameSpan], length_s: float, stride_s: float, minimum_s: float
) -> None:
    timeline, within = case
    times = times_of(timeline)
    length, stride, minimum = (Fraction(str(value)) for value in (length_s, stride_s, minimum_s))
    begin, stop = times[within.start], [*times, timeline.duration][within.end]
    expected = []
    for number in range(math.ceil((stop - begin) / stride)):
        start = begin + number * stride
        end = min(start + length, stop)
        inside = [index for index, time in enumerate(times) if start <= time < end]
        if inside and end - start >= minimum:
            expected.append((inside[0], inside[-1] + 1))
    clips = fixed_stride_clips(
        timeline, within, clip_len_s=length_s, clip_stride_s=stride_s, min_clip_length_s=minimum_s
    )
    assert pairs(clips) == expected


@pytest.mark.parametrize(
    ("num_frames", "spans"),
    [
        pytest.param(250, [(0, 250)], id="exactly one length"),
        pytest.param(299, [(0, 250)], id="a last clip shorter than the minimum is left out"),
        pytest.param(300, [(0, 250), (250, 300)], id="a last clip as long as the minimum stays"),
        pytest.param(49, [], id="a video shorter than the minimum has none"),
    ],
)
def test_the_last_clip_is_kept_from_the_minimum_on(num_frames: int, spans: list[tuple[int, int]]) -> None:
    timeline = steady(num_frames, Fraction(25), Fraction(1, 12800))
    clips = fixed_stride_clips(
        timeline, FrameSpan(0, num_frames), clip_len_s=10.0, clip_stride_s=10.0, min_clip_length_s=2.0
    )
    assert pairs(clips) == spans


def test_a_stride_longer_than_any_video_gives_the_whole_video() -> None:
    timeline = steady(1000, Fraction(30000, 1001), Fraction(1, 90000))
    clips = fixed_stride_clips(timeline, FrameSpan(0, 1000), clip_len_s=1e8, clip_stride_s=1e8, min_clip_length_s=2.0)
    assert pairs(clips) == [(0, 1000)]


@pytest.mark.parametrize(("length_s", "stride_s"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (1.0, -1.0)])
def test_a_length_or_stride_that_is_not_positive_is_refused(length_s: float, stride_s: float) -> None:
    timeline = steady(10, Fraction(25), Fraction(1, 1000))
    with pytest.raises(ValueError, match="must be positive"):
        fixed_stride_clips(timeline, FrameSpan(0, 10), clip_len_s=length_s, clip_stride_s=stride_s, min_clip_length_s=0)


# Shots


def scenes_of(marked: Sequence[bool]) -> list[tuple[int, int]]:
    """The authors' walk over the frames, in inclusive ends, then the ends moved by one.

    Source:
        predictions_to_scenes of TransNetV2, told again: a scene ends where marks begin, the next begins where they end.
    """
    inclusive: list[tuple[int, int]] = []
    begin, before = 0, False
    for index, mark in enumerate(marked):
        if before and not mark:
            begin = index
        if mark and not before and index > 0:
            inclusive.append((begin, index))
        before = mark
    if not before:
        inclusive.append((begin, len(marked) - 1))
    return [(first, last + 1) for first, last in inclusive] or [(0, len(marked))]


def shots_of(marked: Sequence[bool]) -> list[FrameSpan]:
    probabilities = np.where(np.array(marked, dtype=bool), 0.9, 0.1).astype(np.float32)
    return shots_from_transitions(probabilities, threshold=0.4)


marks = st.lists(st.booleans(), min_size=1, max_size=80)


@given(marks)
def test_shots_are_the_scenes_of_the_authors(marked: list[bool]) -> None:
    assert pairs(shots_of(marked)) == scenes_of(marked)


@pytest.mark.parametrize(
    ("marked", "shots"),
    [
        pytest.param("......", [(0, 6)], id="nothing marked: everything"),
        pytest.param("xxxxxx", [(0, 6)], id="all marked: everything"),
        pytest.param("..x...", [(0, 3), (3, 6)], id="one marked frame is the last of its shot"),
        pytest.param("..xxx.", [(0, 3), (5, 6)], id="the middle of a dissolve belongs to no shot"),
        pytest.param("x.....", [(1, 6)], id="no shot before a marked first frame"),
        pytest.param("xx....", [(2, 6)], id="no shot before a run at the start"),
        pytest.param("....xx", [(0, 5)], id="nothing after a run at the end"),
        pytest.param(".....x", [(0, 6)], id="a marked last frame"),
        pytest.param(".x.x..", [(0, 2), (2, 4), (4, 6)], id="two cuts"),
        pytest.param("x", [(0, 1)], id="a single marked frame"),
        pytest.param(".", [(0, 1)], id="a single frame"),
        pytest.param("", [], id="no frames"),
    ],
)
def test_shots_of_marked_frames(marked: str, shots: list[tuple[int, int]]) -> None:
    assert pairs(shots_of([mark == "x" for mark in marked])) == shots


@given(marks)
def test_shots_are_in_order_and_do_not_overlap(marked: list[bool]) -> None:
    shots = shots_of(marked)
    assert all(before.end <= after.start for before, after in pairwise(shots))


@given(st.sets(st.integers(1, 78), max_size=30))
def test_single_frame_transitions_lose_no_frame(cuts: set[int]) -> None:
    lone = {cut for cut in cuts if cut - 1 not in cuts}
    assert numbers(shots_of([index in lone for index in range(80)])) == list(range(80))


def test_a_probability_at_the_threshold_is_no_transition() -> None:
    assert pairs(shots_from_transitions(np.array([0, 0.5, 0], dtype=np.float32), threshold=0.5)) == [(0, 3)]


# Shots of a thinned sequence


@st.composite
def thinned_marks(draw: st.DrawFn) -> tuple[list[bool], NDArray[np.int64], NDArray[np.float32]]:
    """Marks on a thinned sequence, the source frames behind it, and the change of each source frame."""
    marked = draw(marks)
    steps = draw(st.lists(st.integers(1, 4), min_size=len(marked), max_size=len(marked)))
    bounds = np.concatenate(([0], np.cumsum(steps)))
    change = draw(st.permutations(range(int(bounds[-1]))))
    return marked, bounds[:-1].astype(np.int64), np.array(change, dtype=np.float32)


@given(marks, st.randoms(use_true_random=False))
def test_shots_stay_when_every_frame_was_looked_at(marked: list[bool], random: Random) -> None:
    change = np.array([random.random() for _ in marked], dtype=np.float32)
    assert map_shots(shots_of(marked), np.arange(len(marked)), change) == shots_of(marked)


@given(thinned_marks())
def test_mapped_shots_are_in_order_and_keep_their_number(
    case: tuple[list[bool], NDArray[np.int64], NDArray[np.float32]],
) -> None:
    marked, looked_at, change = case
    mapped = map_shots(shots_of(marked), looked_at, change)
    assert len(mapped) == len(shots_of(marked))
    assert all(before.end <= after.start for before, after in pairwise(mapped))


@given(thinned_marks())
def test_a_mapped_shot_holds_exactly_the_looked_at_frames_of_its_shot(
    case: tuple[list[bool], NDArray[np.int64], NDArray[np.float32]],
) -> None:
    marked, looked_at, change = case
    shots = shots_of(marked)
    seen = [
        [k for k, frame in enumerate(looked_at) if m.start <= frame < m.end]
        for m in map_shots(shots, looked_at, change)
    ]
    assert seen == [list(range(shot.start, shot.end)) for shot in shots]


@given(thinned_marks())
def test_a_hard_cut_lies_on_the_largest_change_between_its_neighbours(
    case: tuple[list[bool], NDArray[np.int64], NDArray[np.float32]],
) -> None:
    marked, looked_at, change = case
    shots = shots_of(marked)
    mapped = map_shots(shots, looked_at, change)
    for place, (shot, after) in enumerate(pairwise(shots)):
        if shot.end == after.start:
            between = range(int(looked_at[shot.end - 1]) + 1, int(looked_at[after.start]) + 1)
            cut = max(between, key=lambda frame: float(change[frame]))
            assert (mapped[place].end, mapped[place + 1].start) == (cut, cut)


@given(thinned_marks())
def test_of_a_dissolve_nothing_between_the_neighbours_is_claimed(
    case: tuple[list[bool], NDArray[np.int64], NDArray[np.float32]],
) -> None:
    marked, looked_at, change = case
    shots = shots_of(marked)
    mapped = map_shots(shots, looked_at, change)
    for place, (shot, after) in enumerate(pairwise(shots)):
        if shot.end < after.start:
            assert mapped[place].end == looked_at[shot.end - 1] + 1
            assert mapped[place + 1].start == looked_at[after.start]


@given(thinned_marks())
def test_shots_reach_the_ends_of_the_video_where_they_reached_those_of_the_thinned_one(
    case: tuple[list[bool], NDArray[np.int64], NDArray[np.float32]],
) -> None:
    marked, looked_at, change = case
    shots = shots_of(marked)
    mapped = map_shots(shots, looked_at, change)
    assert (mapped[0].start == 0) == (shots[0].start == 0)
    if shots[-1].end == len(looked_at):
        assert mapped[-1].end == len(change)
    else:
        assert mapped[-1].end == looked_at[shots[-1].end - 1] + 1


def test_no_shots_stay_none() -> None:
    assert map_shots([], np.array([0, 2]), np.zeros(4, dtype=np.float32)) == []


# Clips of shots


@st.composite
def timelines_with_shots(draw: st.DrawFn) -> tuple[FrameTimeline, list[FrameSpan]]:
    timeline = draw(timelines())
    marked = draw(st.lists(st.booleans(), min_size=timeline.num_frames, max_size=timeline.num_frames))
    return timeline, shots_of(marked)


crops = st.integers(0, 80).map(lambda hundredths: hundredths / 100)


def cropped(timeline: FrameTimeline, shot: FrameSpan, crop_s: float) -> tuple[Fraction, Fraction]:
    bounds = [*times_of(timeline), timeline.duration]
    return bounds[shot.start] + Fraction(str(crop_s)), bounds[shot.end] - Fraction(str(crop_s))


@given(
    timelines_with_shots(),
    seconds_with_two_places,
    st.none() | seconds_with_two_places,
    st.sampled_from(["stride", "truncate"]),
    crops,
)
@settings(deadline=None)
def test_clips_are_the_frames_of_the_cropped_and_bounded_shots(
    case: tuple[FrameTimeline, list[FrameSpan]],
    minimum_s: float,
    maximum_s: float | None,
    mode: Literal["stride", "truncate"],
    crop_s: float,
) -> None:
    timeline, shots = case
    expected = []
    for shot in shots:
        begin, stop = cropped(timeline, shot, crop_s)
        longest = Fraction(str(maximum_s)) if maximum_s is not None else max(stop - begin, Fraction(1))
        num_pieces = max(0, math.ceil((stop - begin) / longest))
        for number in range(min(num_pieces, 1) if mode == "truncate" else num_pieces):
            start, end = begin + number * longest, min(begin + (number + 1) * longest, stop)
            inside = [index for index, time in enumerate(times_of(timeline)) if start <= time < end]
            if inside and end - start >= Fraction(str(minimum_s)):
                expected.append((inside[0], inside[-1] + 1))
    clips = clips_from_shots(
        timeline, shots, min_length_s=minimum_s, max_length_s=maximum_s, max_length_mode=mode, crop_s=crop_s
    )
    assert pairs(clips) == expected


@given(timelines_with_shots(), seconds_with_two_places)
def test_inner_cuts_lose_no_frame(case: tuple[FrameTimeline, list[FrameSpan]], maximum_s: float) -> None:
    timeline, shots = case
    clips = clips_from_shots(
        timeline, shots, min_length_s=0, max_length_s=maximum_s, max_length_mode="stride", crop_s=0
    )
    assert numbers(clips) == numbers(shots)


@given(timelines_with_shots(), seconds_with_two_places, crops)
def test_cropping_takes_frames_at_the_ends_of_shots_only(
    case: tuple[FrameTimeline, list[FrameSpan]], maximum_s: float, crop_s: float
) -> None:
    timeline, shots = case
    times = times_of(timeline)
    inside = [
        index
        for shot in shots
        for index in range(shot.start, shot.end)
        if cropped(timeline, shot, crop_s)[0] <= times[index] < cropped(timeline, shot, crop_s)[1]
    ]
    clips = clips_from_shots(
        timeline, shots, min_length_s=0, max_length_s=maximum_s, max_length_mode="stride", crop_s=crop_s
    )
    assert numbers(clips) == inside


@given(timelines_with_shots(), seconds_with_two_places, st.sampled_from(["stride", "truncate"]), crops)
def test_the_frames_of_a_clip_begin_within_the_maximum(
    case: tuple[FrameTimeline, list[FrameSpan]],
    maximum_s: float,
    mode: Literal["stride", "truncate"],
    crop_s: float,
) -> None:
    timeline, shots = case
    times = times_of(timeline)
    clips = clips_from_shots(
        timeline, shots, min_length_s=0, max_length_s=maximum_s, max_length_mode=mode, crop_s=crop_s
    )
    assert all(times[clip.end - 1] - times[clip.start] < Fraction(str(maximum_s)) for clip in clips)


@pytest.mark.parametrize(
    ("maximum_s", "mode", "crop_s", "clips"),
    [
        pytest.param(60.0, "stride", 0.5, [(5, 95), (105, 295)], id="half a second less at both ends"),
        pytest.param(None, "stride", 0.0, [(0, 100), (100, 300)], id="no limit"),
        pytest.param(
            4.0,
            "stride",
            0.5,
            [(5, 45), (45, 85), (105, 145), (145, 185), (185, 225), (225, 265), (265, 295)],
            id="pieces of the maximum, what is left over too short",
        ),
        pytest.param(4.0, "truncate", 0.5, [(5, 45), (105, 145)], id="the first part only"),
        pytest.param(None, "truncate", 5.0, [(150, 250)], id="nothing is left of a shot as long as both crops"),
    ],
)
def test_clips_of_two_shots_of_ten_and_twenty_seconds(
    maximum_s: float | None, mode: Literal["stride", "truncate"], crop_s: float, clips: list[tuple[int, int]]
) -> None:
    timeline = steady(300, Fraction(10), Fraction(1, 1000))
    shots = [FrameSpan(0, 100), FrameSpan(100, 300)]
    found = clips_from_shots(
        timeline, shots, min_length_s=2.0, max_length_s=maximum_s, max_length_mode=mode, crop_s=crop_s
    )
    assert pairs(found) == clips


@pytest.mark.parametrize(("crop_s", "maximum_s"), [(-0.5, 60.0), (0.5, 0.0), (0.5, -1.0)])
def test_a_negative_crop_or_an_empty_maximum_is_refused(crop_s: float, maximum_s: float) -> None:
    timeline = steady(10, Fraction(25), Fraction(1, 1000))
    with pytest.raises(ValueError, match="crop_s >= 0 and max_length_s > 0"):
        clips_from_shots(timeline, [], min_length_s=0, max_length_s=maximum_s, max_length_mode="stride", crop_s=crop_s)


def with_idr_frames(*frames: int) -> FrameTimeline:
    """Sixty frames at 10 Hz."""
    return FrameTimeline(np.arange(60, dtype=np.int64), Fraction(1, 10), 60, np.array(frames, dtype=np.int64))


@pytest.mark.parametrize(
    ("idr_frames", "crop_s", "start"),
    [
        pytest.param([0, 20, 40], 0.5, 20, id="at the cut"),
        pytest.param([0, 23, 26], 0.5, 23, id="the first of two"),
        pytest.param([0, 30], 0.5, 30, id="one second after the cut"),
        pytest.param([0, 31], 0.5, 25, id="later than that"),
        pytest.param([0, 35], 1.5, 35, id="as long after it as is cropped"),
        pytest.param([0, 36], 1.5, 35, id="longer after it than is cropped"),
        pytest.param([0, 19], 0.5, 25, id="before the cut"),
        pytest.param([], 0.5, 25, id="none"),
    ],
)
def test_a_snapped_clip_begins_at_the_first_idr_of_its_shot_that_comes_soon(
    idr_frames: list[int], crop_s: float, start: int
) -> None:
    timeline, shot = with_idr_frames(*idr_frames), FrameSpan(20, 60)
    clips = clips_from_shots(
        timeline,
        [shot],
        min_length_s=0,
        max_length_s=None,
        max_length_mode="stride",
        crop_s=crop_s,
        snap_to_idr=True,
    )
    assert pairs(clips) == [(start, 60 - round(crop_s * 10))]


def test_the_idr_of_the_next_shot_is_not_that_of_a_short_one() -> None:
    clips = clips_from_shots(
        with_idr_frames(8),
        [FrameSpan(0, 6), FrameSpan(6, 30)],
        min_length_s=0,
        max_length_s=None,
        max_length_mode="stride",
        crop_s=0.1,
        snap_to_idr=True,
    )
    assert pairs(clips) == [(1, 5), (8, 29)]


def test_only_the_first_piece_of_a_shot_is_snapped_and_lengths_count_from_there() -> None:
    snapped: dict[str, Any] = {"min_length_s": 0, "max_length_s": 2.0, "crop_s": 0.5, "snap_to_idr": True}
    timeline, shots = with_idr_frames(3, 28, 50), [FrameSpan(0, 60)]
    assert pairs(clips_from_shots(timeline, shots, max_length_mode="stride", **snapped)) == [
        (3, 23),
        (23, 43),
        (43, 55),
    ]
    assert pairs(clips_from_shots(timeline, shots, max_length_mode="truncate", **snapped)) == [(3, 23)]


@given(timelines_with_shots(), st.sets(st.integers(0, 200)), crops)
def test_a_snapped_clip_differs_from_one_that_is_not_in_its_start_alone(
    case: tuple[FrameTimeline, list[FrameSpan]], idr_frames: set[int], crop_s: float
) -> None:
    timeline, shots = case
    known = sorted(frame for frame in idr_frames if frame < timeline.num_frames)
    timeline = replace(timeline, idr_frames=np.array(known, dtype=np.int64))
    rules: dict[str, Any] = {"min_length_s": 0, "max_length_s": None, "max_length_mode": "stride", "crop_s": crop_s}
    plain = {clip.end: clip.start for clip in clips_from_shots(timeline, shots, **rules)}
    for clip in clips_from_shots(timeline, shots, **rules, snap_to_idr=True):
        assert clip.start in known or plain[clip.end] == clip.start


# Caption windows


@pytest.mark.parametrize(
    ("num_frames", "inclusive"),
    [
        (3, []),
        (4, [(0, 3)]),
        (127, [(0, 126)]),
        (255, [(0, 254)]),
        (256, [(0, 255)]),
        (300, [(0, 299)]),
        (383, [(0, 382)]),
        (384, [(0, 255), (256, 383)]),
        (600, [(0, 255), (256, 599)]),
        (640, [(0, 255), (256, 511), (512, 639)]),
    ],
)
def test_caption_windows_of_the_contract(num_frames: int, inclusive: list[tuple[int, int]]) -> None:
    assert [(window.start, window.end - 1) for window in caption_windows(num_frames)] == inclusive


@st.composite
def window_settings(draw: st.DrawFn) -> tuple[int, int]:
    size = draw(st.integers(MIN_WINDOW_FRAMES, 300))
    return size, draw(st.integers(1, size))


@given(st.integers(MIN_WINDOW_FRAMES, 5000), window_settings())
def test_caption_windows_cover_each_frame_exactly_once(num_frames: int, setting: tuple[int, int]) -> None:
    size, threshold = setting
    assert numbers(caption_windows(num_frames, size=size, remainder_threshold=threshold)) == list(range(num_frames))


@given(st.integers(MIN_WINDOW_FRAMES, 5000), window_settings())
def test_all_windows_but_the_last_have_the_full_size(num_frames: int, setting: tuple[int, int]) -> None:
    size, threshold = setting
    *others, last = caption_windows(num_frames, size=size, remainder_threshold=threshold)
    assert all(len(window) == size for window in others)
    assert len(last) < size + max(threshold, MIN_WINDOW_FRAMES)
    assert len(last) >= threshold or not others


@given(st.integers(0, 2000), window_settings())
def test_no_window_is_too_short_for_a_captioner(num_frames: int, setting: tuple[int, int]) -> None:
    size, threshold = setting
    windows = caption_windows(num_frames, size=size, remainder_threshold=threshold)
    assert all(len(window) >= MIN_WINDOW_FRAMES for window in windows)


@pytest.mark.parametrize(
    ("size", "threshold", "message"),
    [
        (256, 0, "remainder_threshold must be in 1..256, got 0"),
        (256, 257, "remainder_threshold must be in 1..256, got 257"),
        (3, 1, "size must be at least 4, got 3"),
    ],
)
def test_windows_that_cannot_tile_a_clip_are_refused(size: int, threshold: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        caption_windows(1000, size=size, remainder_threshold=threshold)


# Frames at a rate


@given(timelines(), st.sampled_from([Fraction(1, 2), Fraction(1), Fraction(2), Fraction(8), Fraction(30)]))
def test_sampled_frames_are_those_on_screen_at_each_tick(timeline: FrameTimeline, rate: Fraction) -> None:
    times = times_of(timeline)
    num_ticks = max(1, math.ceil(timeline.duration * rate))
    on_screen = {max(k for k, time in enumerate(times) if time <= tick / rate) for tick in range(num_ticks)}
    end_s = float(timeline.duration)
    sampled = sample_at_rate(np.array([float(time) for time in times]), end_s, float(rate))
    assert sampled.dtype == np.int64
    assert sampled.tolist() == sorted(on_screen)


@given(timelines(), st.floats(0.05, 120))
def test_sampling_begins_with_the_first_frame_and_invents_none(timeline: FrameTimeline, rate_hz: float) -> None:
    times = np.array([float(time) for time in times_of(timeline)])
    sampled = sample_at_rate(times, float(timeline.duration), rate_hz).tolist()
    assert sampled[0] == 0
    assert sampled == sorted(set(sampled))
    assert sampled[-1] < timeline.num_frames


@given(timelines(), st.sampled_from([1.0, 2.0, 8.0]), st.floats(-100, 4000))
def test_sampling_does_not_depend_on_when_the_first_frame_is_shown(
    timeline: FrameTimeline, rate_hz: float, begin_s: float
) -> None:
    times = np.array([float(time) for time in times_of(timeline)])
    end_s = float(timeline.duration)
    moved = sample_at_rate(times + begin_s, end_s + begin_s, rate_hz)
    assert moved.tolist() == sample_at_rate(times, end_s, rate_hz).tolist()


@pytest.mark.parametrize("rate", RATES, ids=str)
def test_sampling_at_the_rate_of_a_video_takes_every_frame(rate: Fraction) -> None:
    times = np.array([float(k / rate) for k in range(3000)])
    assert sample_at_rate(times, float(3000 / rate), float(rate)).tolist() == list(range(3000))


@pytest.mark.parametrize("begin_s", [k / 10 for k in range(40)])
def test_the_end_of_a_video_is_not_sampled_where_it_is_rounded_up(begin_s: float) -> None:
    times = np.arange(75) / 25 + begin_s
    assert sample_at_rate(times, 3.0 + begin_s, 2.0).tolist() == [0, 12, 25, 37, 50, 62]


@pytest.mark.parametrize("rate_hz", [0.0, -1.0])
def test_a_rate_that_is_not_positive_is_refused(rate_hz: float) -> None:
    with pytest.raises(ValueError, match="rate_hz must be positive"):
        sample_at_rate(np.array([0.0]), 1.0, rate_hz)
