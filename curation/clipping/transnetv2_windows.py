"""Cut a stream of frames into the overlapping windows that TransNet V2 was trained on."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

WINDOW_SIZE_FRAMES = 100
STEP_FRAMES = 50
MARGIN_FRAMES = 25  # at each end of a window: context for the 50 in the middle, its own predictions are dropped
FRAME_SHAPE = (27, 48, 3)  # height, width, RGB

STATIC_DISTANCES_FRAMES = (1, 12, 50)  # a cut shows at each, a dissolve or fade of some seconds at the longer ones
STATIC_CHANGE = 0.25
"""Of the contrast. People who cross a street change 0.2; no transition that the network found changed less than 1.1."""
_NOISE_LEVELS = 2.0  # of 255, added to the contrast: noise in a black picture is no change

WindowFunction: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Maps windows, uint8 RGB (1, 100, 27, 48, 3), to probabilities, float32 (1, 100)."""


class WindowedPredictor:
    """Predicts one value for each frame of one video while its frames arrive.

    Windows of 100 frames start every 50 frames and give the values of their middle 50. The first frame is repeated 25
    times before the video, the last one 25 times after it plus as often as fills the last 50: then each frame of the
    video stands in exactly one middle. Never holds more than 100 frames, however long the video; the value of a frame
    is known at the latest when the 74th after it was fed.

    Source:
        ``predict_frames`` in inference/transnetv2.py of the authors' repository, soCzech/TransNetV2.
    """

    def __init__(self, predict: WindowFunction, *, skip_static: bool = False, has_margin: bool = False) -> None:
        """Begin before the first frame.

        Args:
            skip_static: windows in which nothing changes are not shown to the network: their values are 0.
            has_margin: the first 25 frames fed stand before those of which the values are wanted, which begin at a
                multiple of 50 frames of the video; nothing is repeated before them.
        """
        self._predict = predict
        self._skip_static = skip_static
        self._frames = np.empty((WINDOW_SIZE_FRAMES, *FRAME_SHAPE), np.uint8)
        self._num_held = 0  # frames of self._frames that are filled, padding included
        self._has_margin = has_margin
        self._num_fed = -MARGIN_FRAMES if has_margin else 0  # of which the values are wanted
        self._num_taken = 0
        self._probabilities: list[NDArray[np.float32]] = []

    def feed(self, frame: NDArray[np.uint8]) -> None:
        """Take the next frame, uint8 RGB, shape (27, 48, 3); it is copied. Predicts when a window is full."""
        if self._num_held == 0 and not self._has_margin:
            self._append(frame, times=MARGIN_FRAMES)
        self._append(frame, times=1)
        self._num_fed += 1

    @property
    def has_known(self) -> bool:
        """Whether ``take_known`` has something to give."""
        return bool(self._probabilities)

    def take_known(self) -> NDArray[np.float32]:
        """The probabilities that became known since the last call; for callers that do not wait for ``finish``."""
        known: NDArray[np.float32] = np.concatenate([*self._probabilities, np.empty(0, np.float32)])
        self._probabilities = []
        self._num_taken += len(known)
        return known

    def finish(self) -> NDArray[np.float32]:
        """Predict what is left. The last call: a further frame would follow the padding.

        Returns:
            One probability for each frame fed whose probability was not taken yet, float32, shape (num_frames,).
        """
        if self._num_fed <= 0:
            return np.empty(0, np.float32)
        last_frame = self._frames[self._num_held - 1].copy()
        self._append(last_frame, times=MARGIN_FRAMES + -self._num_fed % STEP_FRAMES)
        already_taken = self._num_taken
        return self.take_known()[: self._num_fed - already_taken]

    def _append(self, frame: NDArray[np.uint8], *, times: int) -> None:
        for _ in range(times):
            self._frames[self._num_held] = frame
            self._num_held += 1
            if self._num_held == WINDOW_SIZE_FRAMES:
                self._probabilities.append(self._predict_window())
                self._frames[:STEP_FRAMES] = self._frames[STEP_FRAMES:]
                self._num_held = STEP_FRAMES

    def _predict_window(self) -> NDArray[np.float32]:
        """The values of the middle of the window that is held."""
        if self._skip_static and is_static(self._frames):
            return np.zeros(STEP_FRAMES, np.float32)
        return self._predict(self._frames[None].copy())[0, MARGIN_FRAMES:-MARGIN_FRAMES].astype(np.float32)


def is_static(frames: NDArray[np.uint8]) -> bool:
    """Whether a window holds no change that could be a transition.

    What changes between two frames is compared with their contrast, both as mean absolute differences (between the
    frames, and from the frame's own mean colour): pictures of two shots differ by about their contrast or more, however
    dark or pale they are.

    Args:
        frames: uint8 RGB, shape (num_frames, 27, 48, 3).
    """
    values = frames.reshape(len(frames), -1, 3).astype(np.float32)
    contrast = np.abs(values - values.mean(axis=1, keepdims=True)).mean(axis=(1, 2)) + _NOISE_LEVELS
    for distance in STATIC_DISTANCES_FRAMES:
        changes = np.abs(values[distance:] - values[:-distance]).mean(axis=(1, 2))
        if np.any(changes > STATIC_CHANGE * (contrast[distance:] + contrast[:-distance]) / 2):
            return False
    return True
