"""The first stage: what is this file, and when is each of its frames shown."""

from collections.abc import Iterable

from curation.errors import FailureReason, VideoError
from curation.model import VideoTask
from curation.pipeline import Stage
from curation.timeline import FrameSpan, FrameTimeline, exact_seconds, frames_between
from curation.video.probe import DEFAULT_LIMITS, SourceLimits, probe_video


class VideoReaderStage(Stage):
    """Probes each video; the file is not loaded: later stages read it where it lies."""

    name = "video_reader"
    in_child = True

    def __init__(self, *, allow_truncated: bool = False, limits: SourceLimits = DEFAULT_LIMITS) -> None:
        """Choose what is taken.

        Args:
            allow_truncated: take what a cut-off file still holds, instead of failing it.
            limits: what is beyond them fails.
        """
        self._allow_truncated = allow_truncated
        self._limits = limits

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        """Fill ``metadata``, ``profile`` and ``timeline``."""
        probe_video(task.data, allow_truncated=self._allow_truncated, limits=self._limits)
        yield task


def wanted_frames(task: VideoTask, timeline: FrameTimeline) -> FrameSpan:
    """The frames that the manifest asks for with ``start_s`` and ``end_s``; all of them without.

    Raises:
        VideoError: EMPTY_RANGE.
    """
    video = task.data
    start = exact_seconds(video.start_s) if video.start_s is not None else timeline.boundary(0)
    end = exact_seconds(video.end_s) if video.end_s is not None else timeline.duration
    span = frames_between(timeline, start, end)
    if span is None:
        message = f"{video.id}: no frame between {float(start)} s and {float(end)} s of {float(timeline.duration)} s"
        raise VideoError(FailureReason.EMPTY_RANGE, message)
    return span
