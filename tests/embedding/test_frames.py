"""Which frames of a clip an embedding model sees."""

from uuid import UUID

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from curation.embedding.frames import EmbeddingFrameRequest, embedding_frame_indices, spread_over_time
from curation.model import Clip
from curation.video.frames import ClipSampler

Times = NDArray[np.float64]


def regular(num_frames: int, fps: float) -> Times:
    return np.arange(num_frames) / fps


def indices(times_s: Times, end_s: float, *, num_frames: int = 8, rate_hz: float = 2.0) -> list[int]:
    return [int(index) for index in embedding_frame_indices(times_s, end_s, rate_hz, num_frames=num_frames)]


@st.composite
def clips(draw: st.DrawFn) -> tuple[Times, float]:
    """Rising times, the steps regular or not, and the end of the last frame."""
    num_frames = draw(st.integers(1, 300))
    steps = draw(st.lists(st.integers(1, 90), min_size=num_frames, max_size=num_frames))
    is_regular = draw(st.booleans())
    ticks = np.cumsum([0, *([steps[0]] * num_frames if is_regular else steps)])
    times_s = ticks / draw(st.sampled_from([24.0, 90.0, 1000.0]))
    return times_s[:-1], float(times_s[-1])


@given(clips(), st.sampled_from([4, 8]))
def test_a_clip_gives_as_many_frames_as_the_model_takes_or_all_that_it_has(clip: tuple[Times, float], n: int) -> None:
    chosen = indices(*clip, num_frames=n)
    assert len(chosen) == min(n, len(clip[0]))
    assert chosen == sorted(set(chosen))
    assert chosen[0] == 0
    assert chosen[-1] < len(clip[0])


def test_frames_of_a_long_clip_are_among_those_at_the_target_rate() -> None:
    chosen = indices(regular(240, 24.0), 10.0)  # seen at 0, 0.5, ... 9.5 s: each twelfth
    assert all(index % 12 == 0 for index in chosen)
    assert chosen[-1] == 228


@given(st.integers(16, 120), st.sampled_from([24.0, 25.0, 30.0, 60.0]), st.sampled_from([4, 8]))
def test_frames_are_spread_evenly_as_far_as_the_target_rate_lets_them(half_s: int, fps: float, n: int) -> None:
    times_s = regular(int(half_s * fps / 2), fps)
    end_s = len(times_s) / fps
    chosen = times_s[indices(times_s, end_s, num_frames=n)]
    evenly = np.linspace(chosen[0], chosen[-1], n)
    assert np.abs(chosen - evenly).max() <= 0.25 + 1 / fps  # half of a step at 2 Hz


@pytest.mark.parametrize(
    ("num_frames", "fps", "expected"),
    [
        pytest.param(96, 24.0, [0, 12, 24, 36, 48, 60, 72, 84], id="4 s: eight at 2 Hz, the rate is enough"),
        pytest.param(48, 24.0, [0, 6, 12, 18, 24, 30, 36, 42], id="2 s: four at 2 Hz, eight at 4 Hz"),
        pytest.param(24, 24.0, [0, 3, 6, 9, 12, 15, 18, 21], id="1 s: eight at 8 Hz"),
        pytest.param(10, 5.0, [0, 1, 2, 3, 5, 6, 7, 8], id="2 s of 5 a second: those seen at 0, 0.25, ... 1.75 s"),
        pytest.param(9, 24.0, [0, 1, 2, 3, 5, 6, 7, 8], id="one more than the model takes: all but the middle one"),
        pytest.param(8, 24.0, [0, 1, 2, 3, 4, 5, 6, 7], id="as many as the model takes"),
        pytest.param(5, 24.0, [0, 1, 2, 3, 4], id="fewer than that: none twice"),
    ],
)
def test_the_rate_is_doubled_until_it_gives_enough(num_frames: int, fps: float, expected: list[int]) -> None:
    assert indices(regular(num_frames, fps), num_frames / fps) == expected


def test_what_counts_is_time_and_not_the_number_of_a_frame() -> None:
    crowded = np.concatenate([np.arange(100) / 100, np.arange(1, 20)])  # 100 in the first second, then one a second
    chosen = crowded[indices(crowded, 20.0, num_frames=4)]
    np.testing.assert_allclose(chosen, [0, 6, 13, 19], atol=0.5)


def test_evenly_spread_frames_are_the_nearest_ones() -> None:
    times_s = np.array([0.0, 0.9, 2.2, 2.9, 4.0])
    assert spread_over_time(times_s, 3).tolist() == [0, 2, 4]  # 2.2 is nearer to 2 than 2.9
    assert spread_over_time(times_s, 1).tolist() == [0]


def test_of_two_frames_equally_near_the_earlier_is_taken_however_their_times_are_rounded() -> None:
    for noise in (-1e-9, 0.0, 1e-9):
        assert spread_over_time(np.array([0.0, 1.0, 2.0 + noise, 3.0]), 3).tolist() == [0, 1, 3]


@settings(max_examples=200, deadline=None)
@given(clips(), st.data(), st.sampled_from([4, 8]))
def test_what_a_clip_of_any_length_wants_is_among_the_candidates(
    clip: tuple[Times, float], data: st.DataObject, n: int
) -> None:
    times_s, end_s = clip
    at_least = data.draw(st.integers(1, len(times_s)))
    end = data.draw(st.integers(at_least, len(times_s)))
    request = EmbeddingFrameRequest(key="e", rate_hz=2.0, height=16, width=16, num_frames=n)
    candidates = request.candidates(times_s, end_s, at_least=at_least).tolist()
    wanted = request.indices(times_s[:end], float(np.append(times_s, end_s)[end]))
    assert set(wanted.tolist()) <= {*candidates, end - 1}


def picture(index: int) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.full((24, 32, 3), index, dtype=np.uint8), format="rgb24").reformat(
        format="yuv420p"
    )


def sampled(num_frames: int, times_s: Times, *, furthest: int) -> Clip:
    """What a clip gets that might have gone on to ``furthest``, of at least 20 frames."""
    clip = Clip(UUID(int=1), "v", (0.0, float(times_s[num_frames])), frame_times_s=times_s[:num_frames])
    request = EmbeddingFrameRequest(key="e", rate_hz=2.0, height=16, width=16, num_frames=8)
    nearest = 20 if furthest > num_frames else None
    sampler = ClipSampler(
        [request], times_s=times_s[:furthest], end_s=float(times_s[furthest]), windows=[], nearest_end=nearest
    )
    for index in range(num_frames):
        sampler.add(index, picture(index))
    sampler.give(clip)
    return clip


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 180), st.sampled_from([5.0, 12.0, 30.0]))
def test_a_clip_with_an_unknown_end_gets_what_it_gets_when_the_end_is_known(num_frames: int, fps: float) -> None:
    times_s = np.arange(202) / fps
    known = sampled(num_frames, times_s, furthest=num_frames)
    unknown = sampled(num_frames, times_s, furthest=200)
    np.testing.assert_array_equal(known.extracted_frame_indices["e"], unknown.extracted_frame_indices["e"])
    np.testing.assert_array_equal(known.extracted_frames["e"], unknown.extracted_frames["e"])
    assert known.extracted_frames["e"].shape == (8, 16, 16, 3)


def test_a_model_needs_a_frame() -> None:
    with pytest.raises(ValueError, match="num_frames=0"):
        EmbeddingFrameRequest(key="e", rate_hz=2.0, height=16, num_frames=0)
