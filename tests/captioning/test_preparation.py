"""What a captioner is given of each window: the right frames at their true times, from the one decode or alone."""

import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.captioning.models import CAPTION_MODELS
from curation.captioning.preparation import CaptionPreparationStage
from curation.captioning.prompts import caption_prompt
from curation.clipping.fixed_stride import FixedStrideExtractorStage
from curation.clipping.reader import VideoReaderStage
from curation.clipping.transcoding import ClipTranscodingStage
from curation.model import Clip, Video, VideoTask, Window
from curation.pipeline import Pipeline, Stage
from curation.preview.preview import PreviewStage
from tests.footage import footage, small_footage
from tests.remembering_detector import Detector
from tests.splitting import Alone, splitting, task_of
from tests.synthetic import make_video, read_number


def prepared(source: Path, *stages: Stage, **settings: Any) -> list[Clip]:
    """A video's clips, their frames sampled while they were cut."""
    asked: dict[str, Any] = {"clip_len_s": 1000.0, "preset": "ultrafast"} | settings
    pipeline = splitting(**asked)
    for stage in stages or [CaptionPreparationStage()]:
        pipeline.add_stage(stage)
    tasks = pipeline.run([task_of(source)])
    assert [task.data.failure for task in tasks if task.data.failure] == []
    return [clip for task in tasks for clip in task.data.clips]


def prepared_alone(clip: Clip, stage: CaptionPreparationStage) -> Clip:
    """A clip that has only its mp4, through the stage alone."""
    bare = Clip(clip.uuid, clip.source_video, clip.span, buffer=clip.buffer)
    Pipeline("captions").add_stage(stage).run([VideoTask("v", "test", Video(Path("v"), clips=[bare]))])
    return bare


def given_to_model(window: Window) -> tuple[Any, Any]:
    """The frames and their times."""
    assert window.qwen_llm_input is not None
    return window.qwen_llm_input["multi_modal_data"]["video"], window.qwen_llm_input["times_s"]


def numbers_of(window: Window) -> list[int]:
    return [read_number(frame) for frame in given_to_model(window)[0]]


def test_each_window_has_its_own_frames_at_their_times_from_its_first(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", num_frames=420, width=96, height=64)  # 30 fps, windows 0-255 and 256-419
    (clip,) = prepared(path)
    first, second = clip.windows
    assert numbers_of(first) == [*range(0, 255, 15), 255]
    assert numbers_of(second) == [*range(256, 406, 15), 406, 419]
    np.testing.assert_allclose(given_to_model(second)[1], (np.array(numbers_of(second)) - 256) / 30, atol=1e-9)


def test_frames_are_contiguous_rgb_of_the_models_size(tmp_path: Path) -> None:
    (clip,) = prepared(make_video(tmp_path / "v.mp4", num_frames=60, width=640, height=360))
    frames, times_s = given_to_model(clip.windows[0])
    assert frames.dtype == np.uint8
    assert frames.shape == (4, 364, 644, 3)  # the multiples of 28 nearest to the sides
    assert frames.flags["C_CONTIGUOUS"]
    assert times_s.dtype == np.float64


def test_the_model_does_the_resizing_where_it_is_asked_to(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", num_frames=60, width=640, height=360)
    (clip,) = prepared(path, CaptionPreparationStage(model_does_preprocess=True))
    assert given_to_model(clip.windows[0])[0].shape == (4, 360, 640, 3)


def test_nemotron_gets_tiles(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", num_frames=60, width=640, height=360)
    (clip,) = prepared(path, CaptionPreparationStage("nemotron"))
    assert given_to_model(clip.windows[0])[0].shape == (4, 512, 512, 3)


def test_windows_of_one_clip_may_have_pictures_of_different_sizes(tmp_path: Path) -> None:
    """At 1 frame a second 160 frames are 160 s: their share of 24576 tokens is less than that of 128."""
    path = make_video(tmp_path / "v.mp4", num_frames=416, rate=Fraction(1), width=640, height=360)
    (clip,) = prepared(path)
    sizes = CAPTION_MODELS["qwen"].sizes
    assert sizes is not None
    found = {}
    for window in clip.windows:
        frames, _ = given_to_model(window)
        assert frames.shape[2:0:-1] == sizes.size(640, 360, len(frames))
        assert numbers_of(window) == list(range(window.start_frame, window.end_frame + 1))
        found[len(frames)] = frames.shape[1:3]
    assert found.keys() == {256, 160}
    assert found[256] < found[160]


def test_the_clip_lets_go_of_what_its_windows_hold(tmp_path: Path) -> None:
    (clip,) = prepared(make_video(tmp_path / "v.mp4", num_frames=60))
    assert clip.extracted_frames == {}
    assert clip.extracted_frame_indices == {}
    assert clip.get_major_size() > given_to_model(clip.windows[0])[0].nbytes


@pytest.mark.parametrize("variant", ["default", "av", "av-surveillance"])
def test_the_prompt_is_that_of_the_variant(variant: str, tmp_path: Path) -> None:
    (clip,) = prepared(make_video(tmp_path / "v.mp4", num_frames=60), CaptionPreparationStage(prompt_variant=variant))
    window = clip.windows[0]
    assert window.qwen_llm_input is not None
    assert window.qwen_llm_input["prompt"] == caption_prompt(variant)


SOURCES = {
    "bikes": lambda: footage("bikes.mp4"),
    "bunny": lambda: small_footage("big_buck_bunny_2.mp4"),
    "city": lambda: footage("cityCC0.mpg"),  # odd height, late first timestamp
}


@pytest.mark.parametrize("name", SOURCES)
def test_alone_from_a_clip_it_finds_the_frames_of_the_one_decode(name: str) -> None:
    """The same frames at the same times; their pictures have gone through the clip's encoder."""
    clips = prepared(SOURCES[name](), clip_len_s=3.3)
    assert len(clips) > 1
    for clip in clips:
        alone = prepared_alone(clip, CaptionPreparationStage())
        assert [window.span for window in alone.windows] == [window.span for window in clip.windows]
        for window, again in zip(clip.windows, alone.windows, strict=True):
            (frames, times_s), (frames_again, times_again) = given_to_model(window), given_to_model(again)
            np.testing.assert_allclose(times_again, times_s, atol=1e-4)  # an mp4's clock
            assert frames_again.shape == frames.shape
            difference = abs(frames.astype(int) - frames_again).mean(axis=(1, 2, 3))
            assert difference.max() < 6


def test_alone_it_makes_windows_of_the_asked_size(tmp_path: Path) -> None:
    (clip,) = prepared(make_video(tmp_path / "v.mp4", num_frames=100))
    alone = prepared_alone(clip, CaptionPreparationStage(window_size=40, remainder_threshold=30))
    assert [(window.start_frame, window.end_frame) for window in alone.windows] == [(0, 39), (40, 99)]
    assert [numbers_of(window)[-1] for window in alone.windows] == [39, 99]


@pytest.mark.parametrize(("name", "sampling_fps"), [("bunny", 2.0), ("bikes", 13.0)])
def test_clips_that_begin_before_their_end_is_known_get_the_same(
    name: str, sampling_fps: float, transnetv2_weights: Path
) -> None:
    """One decode finds the shots and makes the clips, against a decode for each."""
    pytest.importorskip("torch", reason="the shot detector needs torch: pip install 'clipmill[models]'")
    stages: list[Stage] = [Detector(transnetv2_weights.parent, min_length_s=0.5, crop_s=0.1)]
    stages.append(Alone(stages[0]))
    found = []
    for splitter in stages:
        pipeline = Pipeline("p").add_stage(VideoReaderStage()).add_stage(splitter)
        pipeline.add_stage(ClipTranscodingStage(preset="ultrafast", window_size=40, remainder_threshold=20))
        pipeline.add_stage(CaptionPreparationStage(sampling_fps=sampling_fps))
        tasks = pipeline.run([task_of(SOURCES[name]())])
        found.append([window for task in tasks for clip in task.data.clips for window in clip.windows])
    assert len(found[0]) == len(found[1]) >= 5
    for window, again in zip(*found, strict=True):
        assert window.span == again.span
        for each, other in zip(given_to_model(window), given_to_model(again), strict=True):
            np.testing.assert_array_equal(each, other)


@pytest.mark.parametrize("name", SOURCES)
def test_captions_cost_no_decoded_frame_more(name: str) -> None:
    counts = []
    for stages in ([], [CaptionPreparationStage(), PreviewStage()]):
        pipeline = Pipeline("p").add_stage(VideoReaderStage()).add_stage(FixedStrideExtractorStage(3.3))
        pipeline.add_stage(ClipTranscodingStage(preset="ultrafast"))
        for stage in stages:
            pipeline.add_stage(stage)
        task = task_of(SOURCES[name]())
        pipeline.run([task])
        counts.append(task.data.decode_count.num_frames)
    assert counts[0] == counts[1] > 0


def test_a_clip_that_cannot_be_decoded_has_an_outcome_on_each_window(tmp_path: Path) -> None:
    (clip,) = prepared(make_video(tmp_path / "v.mp4", num_frames=60))
    clip.buffer = b"no video"
    clip.windows = [Window(0, 59)]
    (task,) = (
        Pipeline("p").add_stage(CaptionPreparationStage()).run([VideoTask("v", "t", Video(Path("v"), clips=[clip]))])
    )
    assert task.data.failure is None
    assert "caption_preparation" in clip.errors
    outcome = clip.windows[0].caption_outcomes["qwen"]
    assert (outcome.status, outcome.reason) == ("error", clip.errors["caption_preparation"])
    assert clip.windows[0].qwen_llm_input is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_variant": "gpt"}, "gpt.*qwen"),
        ({"prompt_variant": "drone"}, "drone.*av-surveillance"),
        ({"preprocess_dtype": "int8"}, "int8.*float32"),
        ({"sampling_fps": 0.0}, "sampling_fps"),
        ({"window_size": 3}, "size"),
        ({"remainder_threshold": 257}, "remainder_threshold"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CaptionPreparationStage(**settings)


def test_the_stage_goes_into_a_decode_child() -> None:
    stage = CaptionPreparationStage("nemotron", sampling_fps=1.5)
    assert stage.in_child
    assert pickle.loads(pickle.dumps(stage)).frame_requests() == stage.frame_requests()
