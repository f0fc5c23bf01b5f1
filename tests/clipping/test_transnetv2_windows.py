"""The streaming windows against the authors' rule, with a fake network whose values tell what it was shown."""

import math
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from curation.clipping.transnetv2_windows import WindowedPredictor, WindowFunction
from tests.small_frames import STILL_FRAMES, dissolve, static_shot

num_frames_of_videos = st.integers(0, 420)


def numbered_frame(number: int) -> NDArray[np.uint8]:
    """A frame, uint8, shape (27, 48, 3), whose first pixel holds its number."""
    frame = np.zeros((27, 48, 3), np.uint8)
    frame[0, 0, :2] = divmod(number, 256)
    return frame


def numbers_of(windows: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Frame numbers, shape (batch, 100), of windows (batch, 100, 27, 48, 3)."""
    digits = windows[:, :, 0, 0, :2].astype(np.float64)
    return np.asarray(digits @ np.array([256.0, 1.0]), np.float64)


def own_number(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
    return numbers_of(windows).astype(np.float32)


def place_in_window(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.tile(np.arange(100, dtype=np.float32), (len(windows), 1))


def fingerprint_of_window(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Values that change with every frame of the window, its place and the place that is asked for."""
    weights = np.sin(np.arange(100 * 100).reshape(100, 100))
    return np.asarray(np.sin(np.sin(numbers_of(windows)) @ weights), np.float32)


def predict_stream(predict: WindowFunction, *, num_frames: int) -> NDArray[np.float32]:
    predictor = WindowedPredictor(predict)
    for number in range(num_frames):
        predictor.feed(numbered_frame(number))
    return predictor.finish()


def predict_padded_video(predict: WindowFunction, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The authors' rule on a whole video in memory, one window at a time."""
    remainder = len(frames) % 50
    num_after = 25 + 50 - (remainder if remainder != 0 else 50)
    padded = np.concatenate([frames[:1].repeat(25, axis=0), frames, frames[-1:].repeat(num_after, axis=0)])
    middles = [predict(padded[None, start : start + 100])[0, 25:75] for start in range(0, len(padded) - 99, 50)]
    return np.concatenate(middles)[: len(frames)]


@given(num_frames_of_videos)
def test_each_frame_gets_its_own_value_once_and_in_order(num_frames: int) -> None:
    values = predict_stream(own_number, num_frames=num_frames)
    assert values.dtype == np.float32
    assert values.tolist() == list(range(num_frames))


@given(num_frames_of_videos)
def test_each_value_comes_from_the_middle_of_a_window(num_frames: int) -> None:
    places = predict_stream(place_in_window, num_frames=num_frames)
    assert places.tolist() == [25 + number % 50 for number in range(num_frames)]


@given(st.integers(1, 420))
@settings(deadline=None)
def test_a_stream_gives_what_the_authors_rule_gives_for_the_whole_video(num_frames: int) -> None:
    frames = np.stack([numbered_frame(number) for number in range(num_frames)])
    streamed = predict_stream(fingerprint_of_window, num_frames=num_frames)
    np.testing.assert_allclose(streamed, predict_padded_video(fingerprint_of_window, frames), rtol=0, atol=1e-6)


@given(num_frames_of_videos)
def test_the_network_sees_one_window_for_each_50_frames_alone(num_frames: int) -> None:
    sizes: list[int] = []

    def record_size(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        sizes.append(len(windows))
        return own_number(windows)

    predict_stream(record_size, num_frames=num_frames)
    assert sizes == [1] * math.ceil(num_frames / 50)


def test_a_value_is_known_when_the_74th_frame_after_its_own_has_come() -> None:
    predictor = WindowedPredictor(own_number)
    num_known, behind = 0, []
    for number in range(1000):
        predictor.feed(numbered_frame(number))
        num_known += len(predictor.take_known())
        behind.append(number + 1 - num_known)
    assert max(behind) == 74


def test_no_frames_give_no_values() -> None:
    assert WindowedPredictor(own_number).finish().shape == (0,)


def test_a_frame_may_be_overwritten_after_it_was_fed() -> None:
    predictor = WindowedPredictor(own_number)
    frame = numbered_frame(0)
    for number in range(60):
        frame[:] = numbered_frame(number)
        predictor.feed(frame)
    assert predictor.finish().tolist() == list(range(60))


def test_memory_does_not_grow_with_the_video() -> None:
    def peak_bytes(num_frames: int) -> int:
        tracemalloc.start()
        try:
            predict_stream(own_number, num_frames=num_frames)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    window_bytes = 100 * 27 * 48 * 3
    held_and_given_to_the_network = 2 * window_bytes
    slack = 100_000  # the values themselves, 4 bytes a frame, and Python's own objects
    assert peak_bytes(5000) < held_and_given_to_the_network + slack


# Windows in which nothing changes


def shots(num_shots: int) -> list[NDArray[np.uint8]]:
    """Real shots of bikes.mp4 as uint8 RGB, shape (num_frames, 27, 48, 3)."""
    with np.load(Path(__file__).with_name("transnetv2_reference.npz")) as arrays:
        frames = np.asarray(arrays["frames"], np.uint8)
    starts = [0, 30, 76, 137, 187, 242]  # seen by eye in the footage
    return [frames[start:end] for start, end in pairwise(starts)][:num_shots]


def skipping(video: NDArray[np.uint8]) -> list[bool]:
    """For each frame, whether the window that gives its value was not shown to the network."""
    predictor = WindowedPredictor(lambda windows: np.ones((1, 100), np.float32), skip_static=True)
    for frame in video:
        predictor.feed(frame)
    return [value == 0 for value in predictor.finish().tolist()]


def test_what_is_static_is_not_shown_to_the_network() -> None:
    video = static_shot(shots(1)[0][0], num_frames=500)
    assert all(skipping(video))


@pytest.mark.parametrize("gain", [pytest.param(1.0, id="bright"), pytest.param(0.1, id="at night")])
@pytest.mark.parametrize("num_frames", [0, 12, 25, 50, 100])
@pytest.mark.parametrize("pair", list(pairwise(range(5))))
def test_a_cut_or_dissolve_of_up_to_4_s_is_shown(pair: tuple[int, int], num_frames: int, gain: float) -> None:
    before, after = (shots(5)[place][0] for place in pair)
    is_skipped = skipping(dissolve(before, after, num_frames=num_frames, gain=gain))
    assert not any(is_skipped[STILL_FRAMES - 1 : STILL_FRAMES + num_frames + 1])


@pytest.mark.parametrize("num_frames", [0, 12, 25, 50, 100])
def test_a_fade_from_black_is_shown(num_frames: int) -> None:
    picture = shots(1)[0][0]
    is_skipped = skipping(dissolve(np.zeros_like(picture), picture, num_frames=num_frames))
    assert not any(is_skipped[STILL_FRAMES - 1 : STILL_FRAMES + num_frames + 1])


def test_a_title_that_appears_on_black_is_shown() -> None:
    black = np.zeros((27, 48, 3), np.uint8)
    titled = black.copy()
    titled[20:23, 10:38] = 235
    assert not any(skipping(dissolve(black, titled, num_frames=0))[STILL_FRAMES - 1 : STILL_FRAMES + 1])


def test_without_the_option_everything_is_shown() -> None:
    black = np.zeros((27, 48, 3), np.uint8)
    predictor = WindowedPredictor(lambda windows: np.ones((1, 100), np.float32))
    for _ in range(120):
        predictor.feed(black)
    assert predictor.finish().tolist() == [1.0] * 120
