"""At a change of size a shot ends, whatever the detector says; in one decode as in two."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from curation.clipping.reader import VideoReaderStage
from curation.clipping.shot_model import ShotModel
from curation.clipping.transcoding import ClipTranscodingStage
from curation.clipping.transnetv2 import TransNetV2ClipExtractionStage
from curation.model import Clip
from curation.pipeline import Pipeline, Stage
from tests.clipping.test_one_pass import outcome
from tests.clipping.test_size_changes import (
    ENCODINGS,
    LARGE,
    PORTRAIT,
    SMALL,
    joined,
    numbers_alone,
    sizes_of,
    spans_of,
)
from tests.remembering_detector import Detector
from tests.splitting import Alone, task_of


class FixedModel(ShotModel):
    """Gives every frame the same probability."""

    def __init__(self, probability: float) -> None:
        super().__init__(None, "cpu")
        self._probability = probability

    def setup(self) -> None:
        """Needs no weights."""

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.full(batch.shape[:2], self._probability, np.float32)


class FixedDetector(TransNetV2ClipExtractionStage):
    def __init__(self, probability: float, **rules: Any) -> None:
        super().__init__(None, **rules)
        self.model = FixedModel(probability)


def shots_as_clips(splitter: Stage, path: Path) -> list[Clip]:
    pipeline = Pipeline("p").add_stage(VideoReaderStage()).add_stage(splitter)
    tasks = pipeline.add_stage(ClipTranscodingStage(preset="ultrafast")).run([task_of(path)])
    return [clip for task in tasks for clip in task.data.clips]


@pytest.mark.parametrize("probability", [0.0, 1.0], ids=["nothing marked", "everything marked"])
def test_a_change_of_size_is_a_boundary_whatever_the_detector_says(tmp_path: Path, probability: float) -> None:
    path = joined(tmp_path, SMALL, LARGE, PORTRAIT)
    clips = shots_as_clips(FixedDetector(probability, min_length_s=0.0, crop_s=0.0), path)
    assert spans_of(clips) == [(0, 30), (30, 60), (60, 90)]
    assert [sizes_of(clip) for clip in clips] == [{SMALL}, {LARGE}, {PORTRAIT}]
    assert [number for clip in clips for number in numbers_alone(clip)] == list(range(90))


def test_at_a_change_of_size_shots_are_cropped_as_at_any_boundary(tmp_path: Path) -> None:
    path = joined(tmp_path, SMALL, LARGE)
    assert spans_of(shots_as_clips(FixedDetector(0.0, min_length_s=0.0, crop_s=0.2), path)) == [(6, 24), (36, 54)]
    assert shots_as_clips(FixedDetector(0.0, min_length_s=0.7, crop_s=0.2), path) == []


@pytest.mark.parametrize("clip_encoding", ENCODINGS)
@pytest.mark.parametrize(
    "rules",
    [
        pytest.param({"min_length_s": 0.0, "crop_s": 0.0}, id="plain"),
        pytest.param({"min_length_s": 0.2, "crop_s": 0.1, "max_length_s": 0.5}, id="in pieces"),
        pytest.param({"min_length_s": 0.2, "crop_s": 0.2, "snap_to_idr": True}, id="snapped"),
    ],
)
@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_one_decode_gives_what_two_give(
    tmp_path: Path, probability: float, rules: dict[str, Any], clip_encoding: Literal["transcode", "smart-copy"]
) -> None:
    path = joined(tmp_path, SMALL, LARGE, PORTRAIT)
    together = outcome(FixedDetector(probability, **rules), path, clip_encoding=clip_encoding)
    apart = outcome(Alone(FixedDetector(probability, **rules)), path, clip_encoding=clip_encoding)
    assert together
    assert together == apart


def test_the_boundary_that_the_real_detector_sees_lies_on_the_frame(tmp_path: Path, transnetv2_weights: Path) -> None:
    path = joined(tmp_path, SMALL, PORTRAIT, LARGE)
    detector = Detector(transnetv2_weights.parent, min_length_s=0.0, crop_s=0.0)
    together = outcome(detector, path)
    assert {30, 60} <= {clip["frames"].start for clip in together}
    assert {30, 60} <= {clip["frames"].end for clip in together}
    assert together == outcome(Alone(Detector(transnetv2_weights.parent, min_length_s=0.0, crop_s=0.0)), path)
