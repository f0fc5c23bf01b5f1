"""Which frames of a clip an embedding model looks at: a fixed number of them, spread over the clip by time."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curation.timeline import sample_at_rate
from curation.video.frames import FrameRequest

_FORGIVEN_S = 5e-7  # the timestamps are rounded binary numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingFrameRequest(FrameRequest):
    """The frames of each clip that an embedding model looks at.

    Attributes:
        num_frames: that the model takes. A clip that has fewer gives all that it has.
        height, width: that the model takes; the picture is squeezed into it.
    """

    pixel_format: Literal["rgb24", "yuv420p"] = "rgb24"
    scope: Literal["window", "clip"] = "clip"
    num_frames: int

    def __post_init__(self) -> None:
        if not 0 < self.rate_hz < float("inf"):
            raise ValueError(f"need a finite target_fps > 0, got {self.rate_hz}")
        if self.num_frames < 1:
            raise ValueError(f"a model needs at least one frame, got num_frames={self.num_frames}")

    def indices(self, times_s: NDArray[np.float64], end_s: float) -> NDArray[np.int64]:
        """As ``embedding_frame_indices``."""
        return embedding_frame_indices(times_s, end_s, self.rate_hz, num_frames=self.num_frames)

    def candidates(self, times_s: NDArray[np.float64], end_s: float, *, at_least: int) -> NDArray[np.int64]:
        """The frames at ``rate_hz``, and for clips that have too few of these all that may stand for them."""
        regular = sample_at_rate(times_s, end_s, self.rate_hz)
        ends = np.arange(at_least, len(times_s) + 1)
        inside = np.searchsorted(regular, ends)
        irregular = ends[inside <= self.num_frames].tolist()  # one that has just enough may lose it to rounding
        ends_s = np.append(times_s, end_s)
        instead = [self.indices(times_s[:end], float(ends_s[end])) for end in irregular]
        return np.unique(np.concatenate([regular, *instead]))


def embedding_frame_indices(
    times_s: NDArray[np.float64], end_s: float, rate_hz: float, *, num_frames: int
) -> NDArray[np.int64]:
    """Sample a clip at ``rate_hz``, twice as fast until that gives enough, and spread ``num_frames`` over what it gave.

    Args:
        times_s: float64, shape (num_frames,), rising presentation times in seconds of the clip's frames.
        end_s: when the last of them stops being shown.

    Returns:
        int64 indices, strictly rising: no frame stands twice. Fewer than ``num_frames`` where there are no more.

    Raises:
        ValueError: ``rate_hz`` is not positive.

    Source:
        docs/rules.md, Embeddings.
    """
    sampled = _sampled(times_s, end_s, rate_hz, num_frames)
    return sampled[spread_over_time(times_s[sampled], num_frames)]


def _sampled(times_s: NDArray[np.float64], end_s: float, rate_hz: float, num_frames: int) -> NDArray[np.int64]:
    """The frames at the first of ``rate_hz``, its double, ... that is enough; all where none below their own is."""
    own_rate_hz = len(times_s) / (end_s - float(times_s[0]))
    sampled = sample_at_rate(times_s, end_s, rate_hz)
    while len(sampled) < num_frames and rate_hz < own_rate_hz:
        rate_hz *= 2
        sampled = sample_at_rate(times_s, end_s, rate_hz)
    return sampled if len(sampled) >= num_frames else np.arange(len(times_s), dtype=np.int64)


def spread_over_time(times_s: NDArray[np.float64], num_frames: int) -> NDArray[np.int64]:
    """The frames nearest to times that are evenly spread from the first frame to the last, of two the earlier.

    Returns:
        int64 indices into ``times_s``, strictly rising; all where there are not more than ``num_frames``. Of one that
        is asked for, the first.
    """
    if len(times_s) <= num_frames:
        return np.arange(len(times_s), dtype=np.int64)
    wanted_s = np.linspace(times_s[0], times_s[-1], num_frames)
    gaps_s = np.abs(times_s - wanted_s[:, np.newaxis])
    nearest = np.argmax(gaps_s <= gaps_s.min(axis=1, keepdims=True) + _FORGIVEN_S, axis=1)
    steps = np.arange(num_frames)
    beyond_the_one_before = np.maximum.accumulate(nearest - steps)
    return np.asarray(np.minimum(beyond_the_one_before, len(times_s) - num_frames) + steps, dtype=np.int64)
