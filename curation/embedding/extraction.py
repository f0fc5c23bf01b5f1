"""Frames of clips for whoever wants them: the first, the one in the middle, the last, or a sequence."""

import enum
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from curation.embedding.frames import EmbeddingFrameRequest, spread_over_time
from curation.errors import VideoError
from curation.model import Clip, VideoTask
from curation.pipeline import Stage
from curation.video.frames import FrameRequest, sample_clip
from curation.video.progress import alive

logger = logging.getLogger(__name__)

_DEFAULT_FPS = 2.0


class FrameExtractionPolicy(enum.Enum):
    """Which frames of a clip."""

    first = 0
    middle = 1
    last = 2
    sequence = 3


class FramePurpose(enum.Enum):
    """What a sequence of frames is for; the value is how many a second."""

    AESTHETICS = 1
    EMBEDDINGS = 2


@dataclass(frozen=True, slots=True)
class FrameExtractionSignature:
    """Under which key frames stand in ``Clip.extracted_frames``."""

    extraction_policy: FrameExtractionPolicy
    target_fps: float

    def to_str(self) -> str:
        """The key, as NeMo Curator writes it: ``FrameExtractionPolicy.sequence-2000``."""
        return f"{self.extraction_policy!s}-{int(self.target_fps * 1000)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFrameRequest(FrameRequest):
    """Frames of each clip by a policy; the rate matters for a sequence only."""

    pixel_format: Literal["rgb24", "yuv420p"] = "rgb24"
    scope: Literal["window", "clip"] = "clip"
    policy: FrameExtractionPolicy

    def indices(self, times_s: NDArray[np.float64], end_s: float) -> NDArray[np.int64]:
        """Frames that are seen at the start, half-way, at the end, or at multiples of 1 / rate."""
        if self.policy is FrameExtractionPolicy.sequence:
            return FrameRequest.indices(self, times_s, end_s)
        middle_s = (float(times_s[0]) + end_s) / 2
        seen = {
            FrameExtractionPolicy.first: 0,
            FrameExtractionPolicy.middle: int(np.searchsorted(times_s, middle_s, side="right")) - 1,
            FrameExtractionPolicy.last: len(times_s) - 1,
        }
        return np.array([seen[self.policy]], dtype=np.int64)

    def candidates(self, times_s: NDArray[np.float64], end_s: float, *, at_least: int) -> NDArray[np.int64]:
        """Of the middle all between where it is in the shortest clip and in the longest."""
        longest = self.indices(times_s, end_s)
        if self.policy is not FrameExtractionPolicy.middle or at_least >= len(times_s):
            return longest
        shortest = self.indices(times_s[:at_least], float(times_s[at_least]))
        return np.arange(int(shortest[0]), int(longest[0]) + 1, dtype=np.int64)


class ClipFrameExtractionStage(Stage):
    """Puts frames on each clip, under keys that ``FrameExtractionSignature`` writes; they stay on it."""

    name = "clip_frame_extraction"
    in_child = True

    def __init__(
        self,
        extraction_policies: Sequence[FrameExtractionPolicy] = (FrameExtractionPolicy.sequence,),
        extract_purposes: Sequence[FramePurpose] | None = None,
        target_res: tuple[int, int] | None = (-1, -1),
        verbose: bool = False,
        num_cpus: int = 3,
        target_fps: Sequence[float] | None = None,
    ) -> None:
        """Settings as docs/rules.md, Embeddings.

        Args:
            extraction_policies: which frames.
            extract_purposes: each stands for a rate.
            target_res: height and width, even; -1 keeps the picture's own.
            verbose: log each clip.
            num_cpus: accepted for NeMo Curator's sake: one decode serves all stages.
            target_fps: frames a second of a sequence, one key for each; None takes those of the purposes, 2 without.

        Raises:
            ValueError: there is no policy, or a rate or a size is out of its range.
        """
        del num_cpus
        rates = _rates(extract_purposes) if target_fps is None else target_fps
        if not extraction_policies or not rates or not all(0 < rate < math.inf for rate in rates):
            raise ValueError(f"need a policy and finite rates > 0, got {extraction_policies} and {rates}")
        height, width = (_side(side) for side in target_res or (-1, -1))
        self._verbose = verbose
        self._requests = [
            PolicyFrameRequest(
                key=FrameExtractionSignature(policy, rate).to_str(),
                rate_hz=rate,
                height=height,
                width=width,
                policy=policy,
            )
            for policy in dict.fromkeys(extraction_policies)
            for rate in dict.fromkeys(rates)
        ]

    def frame_requests(self) -> list[FrameRequest]:
        """A request for each policy and rate."""
        return list(self._requests)

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        """Decode clips whose frames nobody sampled; one that can't be decoded gets an error."""
        for clip in task.data.clips:
            missing = [request for request in self._requests if request.key not in clip.extracted_frames]
            if missing and clip.buffer is not None:
                alive()
                try:
                    sample_clip(clip, missing)
                except VideoError as error:
                    clip.errors["frame_extraction"] = f"{error.reason}: {error.message}"
                    logger.warning("event=frame_extraction_failed clip=%s reason=%s", clip.uuid, error.reason)
            if self._verbose:
                numbers = {key: len(clip.extracted_frames.get(key, ())) for key in self._keys()}
                logger.info("event=frames_extracted clip=%s frames=%s", clip.uuid, numbers)
        yield task

    def _keys(self) -> list[str]:
        return [request.key for request in self._requests]


def _rates(purposes: Sequence[FramePurpose] | None) -> list[float]:
    return [float(purpose.value) for purpose in purposes or ()] or [_DEFAULT_FPS]


def _side(side: int) -> int | None:
    if side == -1:
        return None
    if side < 2 or side % 2:
        raise ValueError(f"target_res takes even numbers of pixels, or -1 for the picture's own, got {side}")
    return side


def frames_extracted_before(clip: Clip, request: EmbeddingFrameRequest) -> NDArray[np.uint8] | None:
    """Frames for a model out of a sequence at its rate that is on the clip already.

    Returns:
        uint8 RGB, shape (num_frames, height, width, 3) in the model's size, or fewer where the sequence has not as
        many; None where there is no sequence.
    """
    key = FrameExtractionSignature(FrameExtractionPolicy.sequence, request.rate_hz).to_str()
    frames, indices = clip.extracted_frames.get(key), clip.extracted_frame_indices.get(key)
    if frames is None or not len(frames):
        return None
    if indices is None or clip.frame_times_s is None:  # somebody else's: they tell no times
        times_s = np.arange(len(frames), dtype=np.float64)
    else:
        times_s = clip.frame_times_s[indices]
    chosen = frames[spread_over_time(times_s, request.num_frames)]
    size = request.size(chosen.shape[2], chosen.shape[1], len(chosen))
    return np.stack([_resized(frame, size) for frame in chosen])


def _resized(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if frame.shape[1::-1] == size:
        return frame
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    small = VideoReformatter().reformat(picture, width=size[0], height=size[1], interpolation=Interpolation.BICUBIC)
    return np.asarray(small.to_ndarray(), dtype=np.uint8)
