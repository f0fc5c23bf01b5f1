"""Cut points where the picture changes, found by TransNetV2."""

import logging
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray

from curation.clipping.clips import set_clips, split_hash
from curation.clipping.cutting import first_frame
from curation.clipping.lead_in import lead_in
from curation.clipping.parts import begin_at, check_splitter, own_frames
from curation.clipping.reader import wanted_frames
from curation.clipping.shot_model import GPU_BATCH, ShotModel
from curation.clipping.shot_tracker import ClipRules, ShotTracker
from curation.clipping.transcoding import ClipTranscodingStage
from curation.clipping.transnetv2_windows import WindowedPredictor
from curation.errors import FailureReason, VideoError
from curation.model import VideoTask
from curation.pipeline import Stage
from curation.timeline import FrameSpan, clips_from_shots
from curation.video.decode import MediaFrame, SeeFrame, SeePacket, SmallRgb
from curation.video.source import decode_video, profile_needed, timeline_needed

logger = logging.getLogger(__name__)

_MIN_STEP_S = Fraction(3, 100)
"""Frames nearer than this are not shown to the detector: it was trained at some 25-30 frames a second."""


class TransNetV2ClipExtractionStage(Stage):
    """Finds the shots of each video and keeps a clip of each."""

    name = "transnetv2"
    in_child = True
    gpu_memory_gb = 4.0  # CUDA's own, and the activations of 16 windows by their sizes; not measured

    def __init__(
        self,
        model_dir: str | Path | None = None,
        threshold: float = 0.4,
        min_length_s: float = 2.0,
        max_length_s: float | None = 60.0,
        max_length_mode: Literal["stride", "truncate"] = "stride",
        crop_s: float = 0.5,
        limit_clips: int = 0,
        batch_size: int = 0,
        device: str = "auto",
        skip_static: bool = False,
        snap_to_idr: bool = False,
    ) -> None:
        """Settings as docs/rules.md, Splitting.

        Args:
            model_dir: folder that holds the weights; None takes those of the installed package.
            batch_size: detector windows of several videos that a GPU takes at once; 0 takes 16. A CPU takes each alone.
            device: ``auto`` takes CUDA where it works.
            skip_static: leave out the detector where nothing changes.
            snap_to_idr: as ``clips_from_shots``.
        """
        self.threshold = threshold
        self.rules = ClipRules(
            min_length_s=float(min_length_s),
            max_length_s=float(max_length_s) if max_length_s is not None else None,
            max_length_mode=max_length_mode,
            crop_s=float(crop_s),
            snap_to_idr=snap_to_idr,
        )
        self.limit_clips = limit_clips
        self.skip_static = skip_static
        self.model = ShotModel(model_dir, device, max_batch=batch_size or GPU_BATCH)
        settings = {"splitting_algorithm": "transnetv2", "threshold": threshold, **asdict(self.rules)}
        if not snap_to_idr:
            del settings["snap_to_idr"]  # ids stay those of before there was a choice
        self.settings_hash = split_hash(settings | ({"skip_static": True} if skip_static else {}))

    def joined(self, following: Stage) -> Stage | None:
        """With the transcoder behind it, both share one decode."""
        if not isinstance(following, ClipTranscodingStage):
            return None
        from curation.clipping.one_pass import OnePassStage  # it is made of this stage

        return OnePassStage(self, following)

    def setup(self) -> None:
        """Load the network; raises as ``ShotModel.setup``."""
        self.model.setup()

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        """Decode the video once, small, and put the clips on it, without pictures."""
        video = task.data
        check_splitter(video, limit_clips=self.limit_clips)
        shots = self.find_shots(task)
        timeline = timeline_needed(video)
        spans = clips_from_shots(timeline, shots, **asdict(self.rules))
        set_clips(video, timeline, spans, settings_hash=self.settings_hash, limit=self.limit_clips)
        starts = [shot.start for shot in shots]
        for clip in video.clips:
            begins = first_frame(clip)
            shot_start = starts[bisect_right(starts, begins) - 1]
            clip.notes |= self.rules.notes(timeline, begins, shot_start=shot_start)
        logger.info("event=split video=%s shots=%d clips=%d", video.id, len(shots), len(video.clips))
        yield task

    def find_shots(self, task: VideoTask) -> list[FrameSpan]:
        """The shots of the range of the video that the manifest asks for, as spans of source frames.

        Of a part of a video those that begin in it.

        Raises:
            VideoError: DECODE_ERROR, NO_FRAMES, EMPTY_RANGE or NOT_IN_PARTS.
        """
        look = ShotLook(self, task)
        for frame in wanted_pictures(task, look.within, wanted=look.first_frame, with_audio=False):
            assert isinstance(frame, av.VideoFrame)
            look.at(frame)
            if look.is_over:
                break
        else:
            look.finish()
        return [shot for shot in look.tracker.finished if shot.start in look.own]


class ShotLook:
    """The detector's view of one video: every frame small, what changed, and the shots as they become known.

    Attributes:
        within: frames that are wanted of the video.
        own: those among which its own shots begin: all of them, but for a part of a video.
        first_frame: the first that must come.
        known_from: the first of which something will be known.
    """

    def __init__(self, stage: TransNetV2ClipExtractionStage, task: VideoTask) -> None:
        self._video = task.data
        self._timeline = timeline_needed(task.data)
        self.within = wanted_frames(task, self._timeline)
        self.own = own_frames(task.data, self.within)
        self._step = math.ceil(_MIN_STEP_S / self._timeline.time_base)  # ticks
        lead = lead_in(self._timeline, self.within, self.own.start, step=self._step) if task.data.part else None
        self.first_frame = lead.first_frame if lead is not None else self.within.start
        self.known_from = lead.known_from if lead is not None else self.within.start
        self._is_midway = lead is not None
        cuts = self._timeline.size_changes.tolist()
        self.tracker = ShotTracker(self.known_from, threshold=stage.threshold, forced_cuts=cuts)
        self._detector = WindowedPredictor(stage.model, skip_static=stage.skip_static, has_margin=self._is_midway)
        self._shrink = SmallRgb(profile_needed(task.data), width=48, height=27)
        self._before: NDArray[np.uint8] | None = None
        self._due: int | None = None
        self._next = self.within.start  # the frame that should come
        self._num_decoded = 0

    def at(self, frame: av.VideoFrame) -> int:
        """Look at the next frame; gives its index in the source."""
        assert frame.pts is not None
        self._num_decoded += 1
        ticks, index = self._timeline.ticks, self._next
        if index >= len(ticks) or ticks[index] != frame.pts:
            index = int(np.searchsorted(ticks, frame.pts))
        self._next = index + 1
        small = self._shrink(frame)
        change = _mean_difference(small, self._before) if self._before is not None else 0.0
        self._before = small
        if index < self.first_frame:
            return index
        is_due = self._due is None or frame.pts >= self._due
        if index >= self.known_from:
            self.tracker.look(index, change, is_looked_at=is_due)
        if is_due:
            self._due = frame.pts + self._step
            self._detector.feed(small)
            if self._detector.has_known:
                self._know(self._detector.take_known().tolist())
        return index

    @property
    def is_over(self) -> bool:
        """Whether all shots that begin in a part are known."""
        start, own = self.tracker.open_start, self.own
        is_own_open = start is not None and start in own
        return self._video.part is not None and not is_own_open and self.tracker.certain_until >= own.stop

    def _know(self, probabilities: list[float]) -> None:
        """Take what the detector says.

        Raises:
            VideoError: NOT_IN_PARTS, where a part begins in a transition that is longer than the lead-in.
        """
        self.tracker.know(probabilities)
        calm = self.tracker.first_calm
        if self._is_midway and calm is not None and calm >= self.own.start:
            message = f"{self._video.id}: at {self.own.start} a transition goes on that is longer than a window"
            raise VideoError(FailureReason.NOT_IN_PARTS, message)

    def finish(self) -> None:
        """All frames have come.

        Raises:
            VideoError: NO_FRAMES.
        """
        expected = len(self.within)
        if self._num_decoded == 0:
            raise VideoError(FailureReason.NO_FRAMES, f"{self._video.id}: none of its {expected} frames decoded")
        if self._num_decoded < expected and self._video.part is None:  # a part fails where one of its frames is missing
            self._video.errors["frames"] = f"{expected} frames in the packets, {self._num_decoded} decoded"
        self._know(self._detector.finish().tolist())
        self.tracker.finish(self.within.end)


def _mean_difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Mean absolute difference of two pictures, in levels."""
    difference = np.subtract(one, other, dtype=np.int16)
    return int(np.abs(difference, out=difference).sum(dtype=np.int64)) / difference.size


def wanted_pictures(
    task: VideoTask,
    within: FrameSpan,
    *,
    wanted: int,
    with_audio: bool,
    see_packet: SeePacket | None = None,
    see_motion: SeeFrame | None = None,
) -> Iterator[MediaFrame]:
    """Decode the frames that the manifest asks for, and if wanted the sound beside them.

    Args:
        wanted: the first frame that a part of a video needs; some may come before it.
    """
    video, timeline = task.data, timeline_needed(task.data)
    stop = timeline.tick(within.end)
    from_tick = timeline.tick(within.start) if within.start > 0 else None
    for frame in decode_video(
        video,
        from_tick=from_tick,
        with_audio=with_audio,
        see_packet=see_packet,
        see_motion=see_motion,
        begin=begin_at(video, wanted),
    ):
        if isinstance(frame, av.VideoFrame) and frame.pts is not None and frame.pts >= stop:
            return
        yield frame
