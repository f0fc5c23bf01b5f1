"""Frames of many clips through one network: each clip gets its own rows, or the reason why it has none."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from numpy.typing import NDArray

from curation.errors import StopRunError
from curation.filtering.frame_batches import frames_of_clip, rows_of_clips
from curation.model import Clip
from curation.video.frames import FrameRequest

torch = pytest.importorskip("torch", reason="needs torch: install the extra 'models'")

both = pytest.mark.parametrize("is_mixed", [pytest.param(True, id="mixed"), pytest.param(False, id="each by itself")])


def clip_of(*numbers: int) -> NDArray[np.uint8]:
    """A clip with frames of 2 x 2 pixels, each filled with its number."""
    return np.stack([np.full((2, 2, 3), number, np.uint8) for number in numbers])


class Mean:
    """A network that gives each frame its mean and twice that, and fails as it is told to."""

    def __init__(self, fails: Callable[[NDArray[np.uint8]], bool] = lambda batch: False) -> None:
        self._fails = fails
        self.batch_sizes: list[int] = []

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batch_sizes.append(len(batch))
        if self._fails(batch):
            raise RuntimeError(f"no memory for {len(batch)} frames")
        means = batch.mean(axis=(1, 2, 3))
        return np.stack([means, 2 * means], axis=1).astype(np.float32)


def firsts(rows: Any) -> Any:
    """The first number of each row, or the reason."""
    return rows if isinstance(rows, str) else rows[:, 0].tolist()


@both
@pytest.mark.parametrize("max_frames", [1, 2, 3, 7, 100])
def test_each_clip_gets_a_row_for_each_of_its_frames_in_order(max_frames: int, is_mixed: bool) -> None:
    clips = [clip_of(5, 6, 7), clip_of(1), clip_of(9, 8)]
    rows = rows_of_clips(Mean(), clips, max_frames=max_frames, is_mixed=is_mixed)
    assert [firsts(each) for each in rows] == [[5, 6, 7], [1], [9, 8]]


@both
def test_no_batch_is_larger_than_it_may_be(is_mixed: bool) -> None:
    network = Mean()
    rows_of_clips(network, [clip_of(*range(10)), clip_of(1, 2)], max_frames=4, is_mixed=is_mixed)
    assert max(network.batch_sizes) <= 4


def test_mixed_batches_have_one_size_so_that_rounding_does_not_depend_on_the_company() -> None:
    network = Mean()
    rows_of_clips(network, [clip_of(1, 2, 3), clip_of(4, 5)], max_frames=4, is_mixed=True)
    assert network.batch_sizes == [4, 4]


def test_by_itself_a_clip_is_in_the_same_batches_whatever_comes_with_it() -> None:
    network = Mean()
    rows_of_clips(network, [clip_of(1, 2, 3), clip_of(4, 5)], max_frames=2, is_mixed=False)
    assert network.batch_sizes == [2, 1, 2]


@both
def test_what_fits_only_in_smaller_batches_is_done_in_smaller_batches(is_mixed: bool) -> None:
    clips = [clip_of(5, 6, 7), clip_of(1), clip_of(9, 8)]
    rows = rows_of_clips(Mean(lambda batch: len(batch) > 1), clips, max_frames=8, is_mixed=is_mixed)
    assert [firsts(each) for each in rows] == [[5, 6, 7], [1], [9, 8]]


@both
def test_a_frame_that_fails_costs_its_clip_and_no_other(is_mixed: bool) -> None:
    clips = [clip_of(1, 2), clip_of(3, 200), clip_of(4)]
    rows = rows_of_clips(Mean(lambda batch: bool((batch == 200).any())), clips, max_frames=8, is_mixed=is_mixed)
    assert [firsts(each) for each in rows] == [[1, 2], "RuntimeError: no memory for 1 frames", [4]]


@both
def test_a_clip_without_frames_keeps_its_reason(is_mixed: bool) -> None:
    rows = rows_of_clips(Mean(), ["damaged", clip_of(4)], max_frames=8, is_mixed=is_mixed)
    assert [firsts(each) for each in rows] == ["damaged", [4]]


def test_numbers_that_are_not_finite_are_a_failure() -> None:
    def network(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.where(batch[:, 0, 0] == 3, np.nan, 1).astype(np.float32)

    rows = rows_of_clips(network, [clip_of(1, 3), clip_of(1)], max_frames=8, is_mixed=True)
    assert [firsts(each) for each in rows] == ["the network gave numbers that are not finite", [1]]


def test_nothing_to_do_is_no_batch() -> None:
    network = Mean()
    assert rows_of_clips(network, [], max_frames=8, is_mixed=True) == []
    assert network.batch_sizes == []


def test_a_broken_gpu_stops_the_run_and_no_clip_is_blamed() -> None:
    def network(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    with pytest.raises(StopRunError, match="unspecified launch failure"):
        rows_of_clips(network, [clip_of(1)], max_frames=8, is_mixed=True)


def clip_with(buffer: bytes | None) -> Clip:
    return Clip(UUID(int=1), "v", (0.0, 1.0), buffer=buffer)


REQUEST = FrameRequest("frames", 1.0, 64, "rgb24", scope="clip")


def test_sampled_frames_are_taken_as_they_are() -> None:
    clip = clip_with(None)
    clip.extracted_frames["frames"] = clip_of(1, 2)
    assert frames_of_clip(clip, REQUEST) is clip.extracted_frames["frames"]


def test_a_clip_with_neither_frames_nor_an_mp4_says_so() -> None:
    assert "neither sampled frames nor a buffer" in frames_of_clip(clip_with(None), REQUEST)


def test_a_clip_whose_mp4_is_damaged_says_why() -> None:
    reason = frames_of_clip(clip_with(b"no video at all"), REQUEST)
    assert isinstance(reason, str)
    assert reason.startswith("unreadable: ")
