"""Videos as small as the shot detector sees them: uint8 RGB, shape (num_frames, 27, 48, 3)."""

from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

STILL_FRAMES = 120  # before and after a dissolve


def small_frames(path: Path) -> NDArray[np.uint8]:
    """All frames of a video."""
    shrink = VideoReformatter()
    with av.open(str(path)) as container:
        small = [
            shrink.reformat(frame, 48, 27, "rgb24", interpolation=Interpolation.AREA, threads=1).to_ndarray()
            for frame in container.decode(video=0)
        ]
    return np.stack(small).astype(np.uint8)


def static_shot(picture: NDArray[np.uint8], *, num_frames: int) -> NDArray[np.uint8]:
    """A still with the noise of a sensor, and something small that crosses it again and again."""
    noise = np.random.default_rng(7).normal(0.0, 2.0, (num_frames, *picture.shape))
    video = np.clip(picture + noise, 0, 255).astype(np.uint8)
    for number in range(num_frames):
        left = number % 44
        video[number, 12:19, left : left + 3] = 255 - picture[12:19, left : left + 3]
    return video


def dissolve(
    before: NDArray[np.uint8], after: NDArray[np.uint8], *, num_frames: int, gain: float = 1.0
) -> NDArray[np.uint8]:
    """120 frames of a still, ``num_frames`` that go over to another, 120 of that; the gain makes all of it darker."""
    steps = np.arange(2 * STILL_FRAMES + num_frames) - (STILL_FRAMES - 1)
    shares = np.clip(steps / (num_frames + 1), 0, 1)[:, None, None, None]
    return np.asarray(np.rint(gain * ((1 - shares) * before + shares * after)), np.uint8)
