"""Videos through the stages that every run has, as the tests of these stages need them."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from curation.clipping.clips import new_clip
from curation.clipping.fixed_stride import FixedStrideExtractorStage
from curation.clipping.reader import VideoReaderStage
from curation.clipping.transcoding import ClipTranscodingStage
from curation.model import Clip, Video, VideoTask
from curation.pipeline import Pipeline, Stage
from curation.timeline import FrameSpan
from curation.video.probe import probe_video
from tests.synthetic import frames_of, read_number, upright


def task_of(source: Path, video_id: str = "", **fields: Any) -> VideoTask:
    return VideoTask(video_id or source.name, "test", Video(source, id=video_id, **fields))


def splitting(
    *,
    clip_len_s: float = 1.0,
    clip_stride_s: float | None = None,
    limit_clips: int = 0,
    allow_truncated: bool = False,
    **transcoding: Any,
) -> Pipeline:
    """Read, cut at regular times, transcode."""
    return (
        Pipeline("split")
        .add_stage(VideoReaderStage(allow_truncated=allow_truncated))
        .add_stage(FixedStrideExtractorStage(clip_len_s, clip_stride_s, 0.0, limit_clips))
        .add_stage(ClipTranscodingStage(**transcoding))
    )


def clips_of(source: Path, *, start_s: float | None = None, end_s: float | None = None, **settings: Any) -> list[Clip]:
    """The clips of a video that can be processed."""
    tasks = splitting(**settings).run([task_of(source, start_s=start_s, end_s=end_s)])
    assert [task.data.failure for task in tasks if task.data.failure] == []
    return [clip for task in tasks for clip in task.data.clips]


def smart_copy(path: Path, span: FrameSpan, **settings: Any) -> bytes:
    """The frames of a span as a clip that copies what it can."""
    video = task_of(path).data
    probe_video(video)
    assert video.timeline is not None
    video.clips = [new_clip(video, video.timeline, span, "")]
    (clip,) = ClipTranscodingStage(clip_encoding="smart-copy", encoder="libx264", **settings).finished_clips(video)
    return mp4_of(clip)


def mp4_of(clip: Clip) -> bytes:
    assert clip.errors == {}
    assert clip.buffer is not None
    return clip.buffer


def one_clip(source: Path, **settings: Any) -> bytes:
    """The mp4 of a whole video as one clip."""
    (clip,) = clips_of(source, clip_len_s=1000.0, **settings)
    return mp4_of(clip)


def numbers_of(clip: Clip) -> list[int]:
    return [read_number(upright(rgb)) for _, rgb in frames_of(mp4_of(clip))]


def times_of(clip: Clip) -> list[Fraction]:
    return [time_s for time_s, _ in frames_of(mp4_of(clip))]


class Alone(Stage):
    """A stage that does not share its decode with the next."""

    name = "alone"

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def process(self, task: VideoTask) -> Iterator[VideoTask]:
        yield from self._stage.process(task)
