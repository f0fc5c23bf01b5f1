"""How the clips of a video are made, and what is sampled of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curation.model import Clip
from curation.timeline import MIN_WINDOW_FRAMES, FrameSpan, caption_windows
from curation.video.encode import EncoderSettings
from curation.video.frames import FrameRequest, PossibleWindow, planned_frames
from curation.video.motion import MotionRequest


@dataclass(frozen=True)
class ClipRecipe:
    """How every clip is made."""

    encoder: EncoderSettings
    copies: bool
    keep_audio: bool
    window_size: int
    remainder_threshold: int
    requests: Sequence[FrameRequest]
    motion: MotionRequest | None = None
    keeps_whole: bool = False  # whether a source that already is the clip is taken as it is

    def windows(self, num_frames: int) -> list[FrameSpan]:
        """The windows of a clip."""
        return caption_windows(num_frames, size=self.window_size, remainder_threshold=self.remainder_threshold)

    def sampled_frames(self, clip: Clip) -> NDArray[np.int64]:
        """Which frames of a clip the requests ask for, relative to its first, rising."""
        assert clip.frame_times_s is not None
        windows = self.windows(len(clip.frame_times_s))
        planned = [planned_frames(request, clip, windows) for request in self.requests]
        indices = [np.empty(0, np.int64), *(found for windows in planned for _, found in windows)]
        return np.unique(np.concatenate(indices))

    def possible_windows(self, num_frames: int, *, at_least: int) -> list[PossibleWindow]:
        """All windows that a clip of at least and at most so many frames may have.

        Each may be whole, or the clip's last: then it may take in a short rest after it, or be one itself.
        """
        if at_least == num_frames:
            return [PossibleWindow(window, window.end) for window in self.windows(num_frames)]
        shortest = max(self.remainder_threshold, MIN_WINDOW_FRAMES)
        possible = []
        for start in range(0, num_frames, self.window_size):
            whole, furthest = start + self.window_size, min(start + self.window_size + shortest - 1, num_frames)
            nearest = max(at_least, start + (shortest if start else MIN_WINDOW_FRAMES))
            if whole <= num_frames:
                possible.append(PossibleWindow(FrameSpan(start, whole), whole))
            if nearest <= furthest:
                possible.append(PossibleWindow(FrameSpan(start, furthest), nearest))
        return possible
