"""Leaves out clips in which nothing moves, as far as the decoder of their source tells."""

import logging
import math
from collections.abc import Iterable

import av
import numpy as np

from curation.errors import VideoError
from curation.model import Clip, Rejection, Video, VideoTask
from curation.pipeline import Stage
from curation.video.decode import decode_frames
from curation.video.frames import FrameRequest
from curation.video.motion import (
    MotionLimits,
    MotionRequest,
    MotionScore,
    MotionTrack,
    is_still,
    motion_request,
    score,
)
from curation.video.motion_vectors import MotionSample
from curation.video.probe import probe_bytes
from curation.video.progress import alive

logger = logging.getLogger(__name__)


class MotionVectorDecodeStage(Stage):
    """Asks the decode of the source for the motion of each clip; what has only its mp4 is decoded here.

    ``MotionFilterStage`` asks for it as well: this stage is needed only for other settings than the usual ones.
    """

    name = "motion_vector_decoding"
    in_child = True

    def __init__(
        self,
        num_cpus_per_worker: float = 6.0,
        verbose: bool = False,
        target_fps: float = 2.0,
        target_duration_ratio: float = 0.5,
    ) -> None:
        """Settings as docs/rules.md, Filters.

        Args:
            num_cpus_per_worker: accepted for NeMo Curator's sake; a clip is measured by the thread that decodes it.
            verbose: log each clip.
            target_fps: frames a second that are looked at.
            target_duration_ratio: how much of each clip is looked at, from its start on.

        Raises:
            ValueError: a setting is out of its range.
        """
        if not 0 < target_fps < math.inf or not 0 < target_duration_ratio <= 1:
            raise ValueError(
                f"need finite target_fps > 0 and target_duration_ratio in (0, 1], got {target_fps} and "
                f"{target_duration_ratio}"
            )
        del num_cpus_per_worker
        self._verbose = verbose
        self._request = motion_request(target_fps, target_duration_ratio)

    def frame_requests(self) -> list[FrameRequest]:
        """No pictures: the motion of each clip."""
        return [self._request]

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        """Put ``decoded_motion_data`` on every clip that has none and can be decoded."""
        for clip in task.data.clips:
            measure_alone(clip, self._request)
            if self._verbose:
                logger.info("event=motion_decoded clip=%s samples=%d", clip.uuid, len(clip.decoded_motion_data or ()))
        yield task


class MotionFilterStage(Stage):
    """Scores the motion of each clip and moves the clips that are still to ``filtered_clips``.

    A clip that cannot be measured stays, with the reason in ``errors["motion"]``.
    """

    name = "motion_filter"
    in_child = True

    def __init__(
        self,
        score_only: bool = False,
        global_mean_threshold: float = 0.00098,
        per_patch_min_256_threshold: float = 0.000001,
        num_gpus_per_worker: float = 0,
        motion_filter_batch_size: int = 256,
        verbose: bool = False,
        *,
        encode_rejected: bool = True,
    ) -> None:
        """Settings as docs/rules.md, Filters.

        Args:
            score_only: score the clips and leave out none.
            global_mean_threshold: a clip with a lower score is left out, see ``curation.video.motion``.
            per_patch_min_256_threshold: the same.
            num_gpus_per_worker: accepted for NeMo Curator's sake; a clip's motion is some hundred numbers.
            motion_filter_batch_size: the same.
            verbose: log each clip.
            encode_rejected: a clip that is left out still gets its mp4. Otherwise it is let go of once it is certain
                to be still, which is in its middle; until then pictures wait, as far as memory allows, unencoded.

        Raises:
            ValueError: a threshold is no number.
        """
        if math.isnan(global_mean_threshold) or math.isnan(per_patch_min_256_threshold):
            raise ValueError(f"need thresholds, got {global_mean_threshold} and {per_patch_min_256_threshold}")
        del num_gpus_per_worker, motion_filter_batch_size
        self._score_only, self._verbose = score_only, verbose
        self._limits = MotionLimits(global_mean=global_mean_threshold, per_patch_min_256=per_patch_min_256_threshold)
        self._request = motion_request(drops_below=None if score_only or encode_rejected else self._limits)

    def frame_requests(self) -> list[FrameRequest]:
        """No pictures: the motion of each clip."""
        return [self._request]

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        """Score the clips; keep those that move, and those of which nobody knows."""
        video = task.data
        clips, video.clips = video.clips, []
        for clip in clips:
            measure_alone(clip, self._request)
            found = _score(clip)
            if found is not None and not self._score_only and is_still(found, self._limits):
                self._reject(video, clip, found)
            else:
                video.clips.append(clip)
        yield task

    def _reject(self, video: Video, clip: Clip, found: MotionScore) -> None:
        limits = self._limits
        if found.global_mean < limits.global_mean:
            clip.rejection = Rejection("motion", found.global_mean, limits.global_mean)
        else:
            clip.rejection = Rejection("motion", found.per_patch_min_256, limits.per_patch_min_256)
        clip.extracted_frames.clear()  # asked for by stages that will not look at it
        clip.extracted_frame_indices.clear()
        video.filtered_clips.append(clip)
        if self._verbose:
            logger.info("event=still clip=%s mean=%g patch=%g", clip.uuid, found.global_mean, found.per_patch_min_256)


def _score(clip: Clip) -> MotionScore | None:
    """Put the scores on a clip; None, and the reason on it, where it was not measured."""
    samples: list[MotionSample] | None = clip.decoded_motion_data
    clip.decoded_motion_data = None
    if not samples:
        clip.errors.setdefault("motion", "no frame has motion vectors, or a neighbour to be compared with")
        return None
    found = score(samples)
    clip.motion_score_global_mean, clip.motion_score_per_patch_min_256 = found.global_mean, found.per_patch_min_256
    clip.notes["motion_source"] = f"{found.source} of {found.num_samples} frames"
    return found


def measure_alone(clip: Clip, request: MotionRequest) -> None:
    """Decode a clip that has only its mp4 and measure that; why it can't be is noted on it."""
    if clip.decoded_motion_data is not None:
        return
    if clip.buffer is None:
        clip.errors["motion"] = "it has no mp4 to measure"
        return
    alive()
    try:
        clip.decoded_motion_data = measure_mp4(clip.buffer, request, name=f"clip {clip.uuid}")
    except VideoError as error:
        clip.errors["motion"] = f"{error.reason}: {error.message}"


def measure_mp4(mp4: bytes, request: MotionRequest, *, name: str) -> list[MotionSample]:
    """The motion of a whole video.

    Raises:
        VideoError: it can't be decoded.
    """
    probed = probe_bytes(mp4, name=name)
    timeline = probed.timeline
    track, end = MotionTrack(request, rate=timeline.average_rate), timeline.num_frames
    num_planned = request.num_samples(float(timeline.duration))

    def see_motion(frame: av.VideoFrame) -> None:
        assert frame.pts is not None
        track.add(int(np.searchsorted(timeline.ticks, frame.pts)), frame)

    for _ in decode_frames(mp4, probed.profile, timeline, name=name, see_motion=see_motion):
        if len(track.samples_of(0, end)) >= num_planned:
            break
    return track.samples_of(0, end)[:num_planned]
