"""Clips of a video whose pictures change their size: cut there, on the frame, each clip in its own size."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import pytest

from curation.clipping.fixed_stride import FixedStrideExtractorStage
from curation.clipping.transcoding import ClipTranscodingStage
from curation.model import Clip, Video
from curation.video.frames import FrameRequest
from curation.video.probe import probe_video
from tests.clipping.test_sparse_cutting import Case, assert_alike
from tests.nasty_videos import joined_streams, two_sample_descriptions
from tests.splitting import clips_of, mp4_of, numbers_of, task_of
from tests.synthetic import frames_of, make_video, orientation_of, read_number
from tests.video.test_smartcopy import remuxed

CLOSED_GOPS = {"x264-params": "keyint=15:bframes=3:scenecut=0"}
SMALL, LARGE, PORTRAIT = (96, 64), (192, 128), (64, 96)
ENCODINGS: list[Literal["transcode", "smart-copy"]] = ["transcode", "smart-copy"]


def joined(folder: Path, *sizes: tuple[int, int], **settings: Any) -> Path:
    """30 frames of each size."""
    parts = [{"options": CLOSED_GOPS, "width": width, "height": height, **settings} for width, height in sizes]
    return joined_streams(folder, parts)


def spans_of(clips: Sequence[Clip]) -> list[tuple[int, int]]:
    return [(clip.frame_span.start, clip.frame_span.end) for clip in clips if clip.frame_span is not None]


def sizes_of(clip: Clip) -> set[tuple[int, int]]:
    return {(rgb.shape[1], rgb.shape[0]) for _, rgb in frames_of(mp4_of(clip))}


def numbers_alone(clip: Clip) -> list[int]:
    """For upright pictures."""
    return [read_number(rgb) for _, rgb in frames_of(mp4_of(clip))]


# At regular times


@pytest.mark.parametrize("clip_encoding", ENCODINGS)
def test_a_clip_ends_where_the_size_changes_and_the_next_has_its_own(tmp_path: Path, clip_encoding: str) -> None:
    path = joined(tmp_path, SMALL, LARGE, SMALL)
    clips = clips_of(path, clip_len_s=10.0, clip_encoding=clip_encoding)
    assert spans_of(clips) == [(0, 30), (30, 60), (60, 90)]
    assert [sizes_of(clip) for clip in clips] == [{SMALL}, {LARGE}, {SMALL}]
    assert [number for clip in clips for number in numbers_of(clip)] == list(range(90))
    sizes = [((metadata := clip.extract_metadata() or {})["width"], metadata["height"]) for clip in clips]
    assert sizes == [SMALL, LARGE, SMALL]


@pytest.mark.parametrize("clip_encoding", ENCODINGS)
def test_landscape_that_becomes_portrait_keeps_its_shape(tmp_path: Path, clip_encoding: str) -> None:
    clips = clips_of(joined(tmp_path, SMALL, PORTRAIT), clip_len_s=10.0, clip_encoding=clip_encoding)
    assert [sizes_of(clip) for clip in clips] == [{SMALL}, {PORTRAIT}]
    assert [numbers_alone(clip) for clip in clips] == [list(range(30)), list(range(30, 60))]
    assert {orientation_of(rgb) for clip in clips for _, rgb in frames_of(mp4_of(clip))} == {"upright"}


def test_the_stride_stays_where_it_is(tmp_path: Path) -> None:
    clips = clips_of(joined(tmp_path, SMALL, LARGE), clip_len_s=0.7)
    assert spans_of(clips) == [(0, 21), (21, 30), (30, 42), (42, 60)]


def test_clips_that_overlap_are_each_cut(tmp_path: Path) -> None:
    clips = clips_of(joined(tmp_path, SMALL, LARGE), clip_len_s=1.0, clip_stride_s=0.5)
    assert spans_of(clips) == [(0, 30), (15, 30), (30, 45), (30, 60), (45, 60)]
    assert [sizes_of(clip) for clip in clips] == [{SMALL}, {SMALL}, {LARGE}, {LARGE}, {LARGE}]
    assert [numbers_of(clip) for clip in clips] == [list(range(*span)) for span in spans_of(clips)]


@pytest.mark.parametrize("first_turned", [False, True])
def test_a_clip_of_another_size_is_turned_as_its_video_asks(tmp_path: Path, first_turned: bool) -> None:
    """In mp4, whose parameter sets of the second size lie among the samples."""
    degrees = 90 if first_turned else 0
    first = make_video(tmp_path / "1.mp4", num_frames=30, width=96, height=64, rotation_degrees=degrees)
    second = make_video(tmp_path / "2.mp4", num_frames=30, width=192, height=128, first_number=30)
    clips = clips_of(remuxed(first, tmp_path / "v.mp4", other=second), clip_len_s=10.0)
    turned = [size[::-1] if first_turned else size for size in (SMALL, LARGE)]
    assert [sizes_of(clip) for clip in clips] == [{size} for size in turned]
    assert [number for clip in clips for number in numbers_of(clip)] == list(range(60))


@pytest.mark.parametrize("clip_encoding", ENCODINGS)
def test_each_sample_description_of_an_mp4_has_its_size(tmp_path: Path, clip_encoding: str) -> None:
    clips = clips_of(two_sample_descriptions(tmp_path), clip_len_s=10.0, clip_encoding=clip_encoding)
    assert [sizes_of(clip) for clip in clips] == [{SMALL}, {LARGE}]
    assert [numbers_of(clip) for clip in clips] == [list(range(30)), list(range(30, 60))]


def test_pixels_of_another_shape_are_made_square_by_their_own_aspect(tmp_path: Path) -> None:
    parts: list[dict[str, object]] = [
        {"width": 180, "height": 144, "sample_aspect_ratio": Fraction(64, 45)},  # 256x144
        {"width": 192, "height": 108},
        {"width": 180, "height": 144, "sample_aspect_ratio": Fraction(16, 15)},  # 192x144
    ]
    clips = clips_of(joined_streams(tmp_path, parts), clip_len_s=10.0)
    assert [sizes_of(clip) for clip in clips] == [{(256, 144)}, {(192, 108)}, {(192, 144)}]
    assert [number for clip in clips for number in numbers_of(clip)] == list(range(90))


def test_sampled_frames_have_the_shape_of_their_clip(tmp_path: Path) -> None:
    stage = ClipTranscodingStage(preset="ultrafast")
    stage.request_frames([FrameRequest("all", 30.0, 48, "rgb24", scope="clip")])
    video = one_video(joined(tmp_path, SMALL, PORTRAIT))
    shapes = [clip.extracted_frames["all"].shape for clip in stage.finished_clips(video)]
    assert shapes == [(30, 48, 72, 3), (30, 48, 32, 3)]


def one_video(path: Path) -> Video:
    task = task_of(path)
    probe_video(task.data)
    list(FixedStrideExtractorStage(10.0, None, 0.0).process(task))
    return task.data


# What no packet tells


def test_frames_of_another_size_in_a_clip_are_scaled_and_counted(tmp_path: Path) -> None:
    """Motion JPEG has no headers that are read beforehand."""
    parts: list[dict[str, object]] = [
        {"codec": "mjpeg", "pix_fmt": "yuvj420p", "width": width, "height": height} for width, height in (SMALL, LARGE)
    ]
    path = joined_streams(tmp_path, parts, suffix=".mkv")
    (clip,) = clips_of(path, clip_len_s=10.0)
    assert clip.notes == {"frames_scaled": "30 of another size than the first, 96x64"}
    assert sizes_of(clip) == {SMALL}
    first, second = clips_of(path, clip_len_s=1.0)
    assert (first.notes, second.notes) == ({}, {})
    assert [sizes_of(first), sizes_of(second)] == [{SMALL}, {LARGE}]


# Copied


@pytest.mark.parametrize("sizes", [(SMALL, LARGE, SMALL), (SMALL, PORTRAIT)], ids=str)
@pytest.mark.parametrize("length_s", [0.3, 0.7, 10.0])
def test_sparsely_cut_clips_are_those_of_one_who_decodes_everything(
    tmp_path: Path, sizes: Sequence[tuple[int, int]], length_s: float
) -> None:
    whole = FrameRequest("whole", 3.0, 24, "rgb24", scope="clip")
    found = assert_alike(joined(tmp_path, *sizes), Case(length_s=length_s, requests=[whole]))
    assert [clip["errors"] for clip in found.clips] == [{}] * len(found.clips)
    assert all(clip["notes"]["clip_encoding"] == "smart-copy" for clip in found.clips)
    num_encoded, num_frames = (int(word) for word in found.clips[0]["notes"]["frames_encoded"].split(" of "))
    assert num_encoded < num_frames
