"""Cut points at regular times."""

from collections.abc import Iterable

from curation.clipping.clips import set_clips, split_hash
from curation.clipping.parts import check_splitter, own_frames
from curation.clipping.reader import wanted_frames
from curation.errors import FailureReason, VideoError
from curation.model import VideoTask
from curation.pipeline import Stage
from curation.timeline import fixed_stride_clips
from curation.video.source import timeline_needed


class FixedStrideExtractorStage(Stage):
    """Splits each video every ``clip_stride_s`` seconds; nothing is decoded."""

    name = "fixed_stride"
    in_child = True

    def __init__(
        self,
        clip_len_s: float = 10.0,
        clip_stride_s: float | None = None,
        min_clip_length_s: float = 2.0,
        limit_clips: int = 0,
    ) -> None:
        """Seconds throughout; the stride is the length unless given; ``limit_clips`` 0 means no limit."""
        self._clip_len_s = float(clip_len_s)
        self._clip_stride_s = float(clip_stride_s if clip_stride_s is not None else clip_len_s)
        self._min_clip_length_s = float(min_clip_length_s)
        self._limit_clips = limit_clips
        self._hash = split_hash(
            {
                "splitting_algorithm": "fixed-stride",
                "clip_len_s": self._clip_len_s,
                "clip_stride_s": self._clip_stride_s,
                "min_clip_length_s": self._min_clip_length_s,
            }
        )

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        """Put the clips on the video, without pictures."""
        timeline = timeline_needed(task.data)
        check_splitter(task.data, limit_clips=self._limit_clips)
        within = wanted_frames(task, timeline)
        spans = fixed_stride_clips(
            timeline,
            within,
            clip_len_s=self._clip_len_s,
            clip_stride_s=self._clip_stride_s,
            min_clip_length_s=self._min_clip_length_s,
        )
        own = own_frames(task.data, within)
        if task.data.part is not None and spans and spans[0].start > 0:  # the whole video is decoded from there on
            raise VideoError(FailureReason.NOT_IN_PARTS, f"{task.data.id}: its first clip begins later than it")
        spans = [span for span in spans if span.start in own]
        set_clips(task.data, timeline, spans, settings_hash=self._hash, limit=self._limit_clips)
        yield task
