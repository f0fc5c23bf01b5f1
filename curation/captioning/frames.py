"""Which frames of a window a model looks at, and in which size: the rules of the models' authors."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curation.timeline import FrameSpan
from curation.video.frames import FrameRequest

_FLOOR = 1.05  # a frame's share of the budget is never less than so many times the smallest size
_MOST_TOKENS = 28_672  # of frames: a context of 32768 has to hold the timestamps, the text and the answer as well
_MIN_FRAMES, _MAX_FRAMES = 4, 768
_FORGIVEN_S = 5e-7  # 1/rate and the timestamps are rounded binary numbers


@dataclass(frozen=True, slots=True)
class FrameSizes:
    """Which picture sizes a model takes.

    A model turns ``temporal_patch`` frames after each other and ``factor`` x ``factor`` pixels into one token.

    Attributes:
        factor: pixels; both sides are multiples of it.
        min_pixels: of a frame; a smaller picture is enlarged.
        max_pixels: of a frame; a larger picture is reduced.
        total_tokens: that the frames of one video may take: each frame has an even share of them.
        temporal_patch: frames that become tokens together.
        keeps_aspect: otherwise pictures are squeezed into a square of ``max_pixels``.

    Source:
        ``smart_resize`` and ``fetch_video`` of qwen-vl-utils 0.0.14, which the authors of Qwen2.5-VL and Qwen3-VL give
        out with them.
    """

    factor: int
    min_pixels: int
    max_pixels: int
    total_tokens: int = 24_576
    temporal_patch: int = 2
    keeps_aspect: bool = True

    def size(self, width: int, height: int, num_frames: int) -> tuple[int, int]:
        """Width and height that pictures of ``width`` x ``height`` get in a video of ``num_frames``.

        Where the authors' rule would give more tokens than a context holds (very wide pictures), they get smaller.
        """
        if not self.keeps_aspect:
            side = math.isqrt(self.max_pixels) // self.factor * self.factor
            return side, side
        found = self._fitting(width, height, self.min_pixels, self._max_pixels(num_frames))
        if self._tokens(*found, num_frames) > _MOST_TOKENS:
            most = _MOST_TOKENS // self._num_patches(num_frames)
            found = self._fitting(width, height, 0, most * self.factor**2)
            found = min(found[0], most * self.factor), min(found[1], most * self.factor)
        return found

    def num_tokens(self, width: int, height: int, num_frames: int) -> int:
        """Tokens of a video with so many frames of pictures that are ``width`` x ``height`` before they are resized."""
        return self._tokens(*self.size(width, height, num_frames), num_frames)

    @property
    def max_frames(self) -> int:
        """Frames of a video, even: more would not fit a context in the smallest size that a frame may have."""
        smallest = self.max_pixels if not self.keeps_aspect else int(self.min_pixels * _FLOOR)
        patches = _MOST_TOKENS * self.factor**2 // smallest
        return min(_MAX_FRAMES, patches * self.temporal_patch // 2 * 2)

    def _max_pixels(self, num_frames: int) -> int:
        """The even share of a frame, between what the model takes at most and a little more than the least."""
        share = self.total_tokens * self.factor**2 * self.temporal_patch // num_frames
        return max(min(self.max_pixels, share), int(self.min_pixels * _FLOOR))

    def _fitting(self, width: int, height: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
        """The multiples of ``factor`` nearest to the picture's sides, or those that keep its area within the limits."""
        factor = self.factor
        pixels = round(width / factor) * round(height / factor) * factor**2
        if pixels > max_pixels:
            scale = math.sqrt(width * height / max_pixels)
            return self._multiple(math.floor, width / scale), self._multiple(math.floor, height / scale)
        if pixels < min_pixels:
            scale = math.sqrt(min_pixels / (width * height))
            return self._multiple(math.ceil, width * scale), self._multiple(math.ceil, height * scale)
        return self._multiple(round, width), self._multiple(round, height)

    def _multiple(self, rounding: Callable[[float], int], side: float) -> int:
        return max(self.factor, rounding(side / self.factor) * self.factor)

    def _num_patches(self, num_frames: int) -> int:
        return math.ceil(num_frames / self.temporal_patch)

    def _tokens(self, width: int, height: int, num_frames: int) -> int:
        return width * height // self.factor**2 * self._num_patches(num_frames)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionFrameRequest(FrameRequest):
    """The frames of each window that a model looks at, each window under a key of its own.

    Attributes:
        sizes: that the model takes.
        is_resized: whether pictures get such a size; otherwise they keep their own.
    """

    sizes: FrameSizes
    is_resized: bool = True

    def indices(self, times_s: NDArray[np.float64], end_s: float) -> NDArray[np.int64]:
        """As ``caption_frame_indices``."""
        del end_s
        return caption_frame_indices(times_s, self.rate_hz, max_frames=self.sizes.max_frames)

    def candidates(self, times_s: NDArray[np.float64], end_s: float, *, at_least: int) -> NDArray[np.int64]:
        """The regular ones, and for windows that have too few or too many of these all that may stand for them."""
        del end_s
        regular, most = _regular_frames(times_s, self.rate_hz), self.sizes.max_frames
        ends = np.arange(at_least, len(times_s) + 1)
        inside = np.searchsorted(regular, ends - 1)
        numbers = inside + inside % 2  # as _with_last
        irregular = ends[(numbers < _MIN_FRAMES) | (numbers > most)].tolist()
        instead = [caption_frame_indices(times_s[:end], self.rate_hz, max_frames=most) for end in irregular]
        return np.unique(np.concatenate([regular, *instead]))

    def size(self, width: int, height: int, num_frames: int) -> tuple[int, int]:
        """As ``FrameSizes.size``, or the picture's own."""
        return self.sizes.size(width, height, num_frames) if self.is_resized else (width, height)

    def place(self, window: FrameSpan) -> str:
        """A key for each window: their frames may differ in size."""
        return f"{self.key}/{window.start}_{window.end - 1}"


def caption_frame_indices(
    times_s: NDArray[np.float64], rate_hz: float, *, min_frames: int = _MIN_FRAMES, max_frames: int = _MAX_FRAMES
) -> NDArray[np.int64]:
    """Which frames of a window a model looks at: the first, the last, and those nearest to each 1 / rate seconds.

    Their number is even: where it would be odd, the last but one is left out. Where they are too few or too many,
    frames nearest to times that are evenly spread over the window stand for them.

    What is wanted of a window but for its last frame does not depend on how far it goes on: that is not known while the
    frames of a shot go by.

    Args:
        times_s: float64, shape (num_frames,), rising, of the window's frames.
        max_frames: an even number.

    Returns:
        int64 indices, strictly rising: no frame stands twice. Fewer than ``min_frames`` where there are no more.

    Source:
        docs/rules.md, Captions.
    """
    chosen = _with_last(_regular_frames(times_s, rate_hz), len(times_s))
    if min_frames <= len(chosen) <= max_frames:
        return chosen
    most = min(max_frames, len(times_s) // 2 * 2)
    return _spread_frames(times_s, min(max(len(chosen), min_frames), most))


def true_fps(times_s: NDArray[np.float64]) -> float:
    """Frames a second of frames that are shown at these times, at least two."""
    return float((len(times_s) - 1) / (times_s[-1] - times_s[0]))


def _regular_frames(times_s: NDArray[np.float64], rate_hz: float) -> NDArray[np.int64]:
    """Frames nearest to 0, 1/rate, 2/rate, ... seconds after the first, up to the last; each once."""
    num_steps = int((times_s[-1] - times_s[0] + _FORGIVEN_S) * rate_hz) + 1
    return np.unique(_nearest(times_s, times_s[0] + np.arange(num_steps) / rate_hz))


def _with_last(regular: NDArray[np.int64], end: int) -> NDArray[np.int64]:
    """The regular frames of a window that ends before frame ``end``, and its last: an even number."""
    inside = regular[: int(np.searchsorted(regular, end - 1))]
    return np.append(inside[:-1] if len(inside) % 2 == 0 else inside, end - 1)


def _spread_frames(times_s: NDArray[np.float64], num_frames: int) -> NDArray[np.int64]:
    """As many frames, not more than there are, nearest to times that are evenly spread from the first to the last."""
    nearest = _nearest(times_s, np.linspace(times_s[0], times_s[-1], num_frames))
    steps = np.arange(num_frames)
    beyond_the_one_before = np.maximum.accumulate(nearest - steps)
    return np.asarray(np.minimum(beyond_the_one_before, len(times_s) - num_frames) + steps, dtype=np.int64)


def _nearest(times_s: NDArray[np.float64], wanted_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """The frame nearest in time to each, of two the earlier."""
    after = np.searchsorted(times_s, wanted_s).clip(1, len(times_s) - 1)
    is_before = wanted_s - times_s[after - 1] <= times_s[after] - wanted_s + _FORGIVEN_S
    return np.asarray(after - is_before, dtype=np.int64)
