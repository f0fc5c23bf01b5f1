"""Sampling frames for the stages that look at pictures: they ask beforehand, one decode serves all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from curation.model import Clip
from curation.timeline import FrameSpan, sample_at_rate
from curation.video.decode import PictureNormalizer, decode_frames, pack_yuv420p, yuv_planes
from curation.video.probe import probe_bytes
from curation.video.profile import even


@dataclass(frozen=True, slots=True)
class FrameRequest:
    """Frames that a stage needs of every clip.

    Attributes:
        key: under which they stand in ``Clip.extracted_frames``.
        rate_hz: how many a second, by timestamp.
        height: pixels; the width keeps the display aspect (both even) unless it is given.
        pixel_format: ``rgb24`` gives uint8 (num_frames, height, width, 3); ``yuv420p`` FFmpeg's packed planes, uint8
            (num_frames, height * 3 // 2, width), for what is encoded again.
        width: pixels; the picture is squeezed into it.
        scope: whether the seconds begin anew with each window, or count from the clip's start. A clip too short for a
            window is sampled in the second case only.
    """

    key: str
    rate_hz: float
    height: int
    pixel_format: Literal["rgb24", "yuv420p"]
    width: int | None = None
    scope: Literal["window", "clip"] = "window"


class ClipSampler:
    """Collects what the requests ask of one clip while its frames go by."""

    def __init__(
        self,
        requests: Sequence[FrameRequest],
        *,
        times_s: NDArray[np.float64],
        end_s: float,
        windows: Sequence[FrameSpan],
    ) -> None:
        """Plan for the longest clip that it may become.

        Args:
            times_s: of its frames, float64 seconds, shape (num_frames,).
            end_s: when the last of them stops being shown, on the same clock.
            windows: all that the clip may come to have; they may overlap.
        """
        self._requests = list(requests)
        self._wanted = [set(planned_frames(r, times_s, end_s, windows)) for r in self._requests]
        self._reformatters = [VideoReformatter() for _ in self._requests]
        self._pictures: list[dict[int, NDArray[np.uint8]]] = [{} for _ in self._requests]

    def add(self, index: int, frame: av.VideoFrame) -> None:
        """Look at frame ``index`` of the clip, an upright yuv420p picture."""
        for k, request in enumerate(self._requests):
            if index in self._wanted[k]:
                self._pictures[k][index] = _scaled(frame, request, self._reformatters[k])

    def give(self, clip: Clip) -> None:
        """Put on the clip what its windows ask for, with the indices of the frames."""
        assert clip.frame_times_s is not None
        windows = [window.span for window in clip.windows]
        for request, pictures in zip(self._requests, self._pictures, strict=True):
            end_s = float(clip.frame_times_s[0]) + clip.duration
            planned = planned_frames(request, clip.frame_times_s, end_s, windows)
            indices = [index for index in planned if index in pictures]
            if indices:
                clip.extracted_frames[request.key] = np.stack([pictures[index] for index in indices])
                clip.extracted_frame_indices[request.key] = np.array(indices, dtype=np.int64)


def planned_frames(
    request: FrameRequest, times_s: NDArray[np.float64], end_s: float, windows: Sequence[FrameSpan]
) -> list[int]:
    """Indices of the frames seen at multiples of 1 / rate seconds from the start of each window, or of the clip."""
    parts = windows if request.scope == "window" else [FrameSpan(0, len(times_s))]
    planned: list[int] = []
    for part in parts:
        end = float(times_s[part.end]) if part.end < len(times_s) else end_s
        planned += (part.start + sample_at_rate(times_s[part.start : part.end], end, request.rate_hz)).tolist()
    return planned


def sample_clip(clip: Clip, requests: Sequence[FrameRequest]) -> None:
    """Decode a clip that has only its mp4 and sample what is asked, for stages that run alone.

    Raises:
        ValueError: the clip has no buffer.
        VideoError: it can't be decoded.
    """
    if clip.buffer is None:
        raise ValueError(f"clip {clip.uuid} has neither sampled frames nor a buffer to take them from")
    probed = probe_bytes(clip.buffer, name=f"clip {clip.uuid}")
    timeline = probed.timeline
    clip.frame_times_s = timeline.clip_times_s(FrameSpan(0, timeline.num_frames))
    sampler = ClipSampler(
        requests,
        times_s=clip.frame_times_s,
        end_s=float(timeline.duration),
        windows=[window.span for window in clip.windows],
    )
    normalize = PictureNormalizer(probed.profile)
    for frame in decode_frames(clip.buffer, probed.profile, timeline, name=f"clip {clip.uuid}"):
        assert isinstance(frame, av.VideoFrame)
        assert frame.pts is not None
        index = int(np.searchsorted(timeline.ticks, frame.pts))
        sampler.add(index, normalize(frame))
    sampler.give(clip)


def _scaled(frame: av.VideoFrame, request: FrameRequest, reformatter: VideoReformatter) -> NDArray[np.uint8]:
    width = even(request.width or frame.width * request.height / frame.height)
    small = reformatter.reformat(
        frame,
        width=width,
        height=even(request.height),
        format=request.pixel_format,
        interpolation=Interpolation.BICUBIC,
        threads=1,
    )
    if request.pixel_format == "rgb24":
        return np.asarray(small.to_ndarray(), dtype=np.uint8)  # a view of a frame of its own: a copy costs a third more
    return pack_yuv420p(yuv_planes(small))
