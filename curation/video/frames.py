"""Sampling frames for the stages that look at pictures: they ask beforehand, one decode serves all of them."""

from collections.abc import Iterator, Sequence
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
    """Frames that a stage needs of every clip; a subclass may choose others, and other sizes.

    Attributes:
        key: under which they stand in ``Clip.extracted_frames``.
        rate_hz: how many a second, by timestamp.
        height: pixels; None keeps the picture's own size.
        pixel_format: ``rgb24`` gives uint8 (num_frames, height, width, 3); ``yuv420p`` FFmpeg's packed planes, uint8
            (num_frames, height * 3 // 2, width), for what is encoded again.
        width: pixels; the picture is squeezed into it. None keeps the display aspect.
        scope: whether the seconds begin anew with each window, or count from the clip's start. A clip too short for a
            window is sampled in the second case only.
    """

    key: str
    rate_hz: float
    height: int | None
    pixel_format: Literal["rgb24", "yuv420p"]
    width: int | None = None
    scope: Literal["window", "clip"] = "window"

    def indices(self, times_s: NDArray[np.float64], end_s: float) -> NDArray[np.int64]:
        """Which frames of a window are wanted: those seen at multiples of 1 / rate seconds from its start.

        Args:
            times_s: float64, shape (num_frames,), rising, of the window's frames.
            end_s: when the last of them stops being shown, on the same clock.

        Returns:
            int64 indices into ``times_s``, strictly rising.
        """
        return sample_at_rate(times_s, end_s, self.rate_hz)

    def candidates(self, times_s: NDArray[np.float64], end_s: float, *, at_least: int) -> NDArray[np.int64]:
        """Which frames may be wanted of a window with an end that is not known yet.

        Args:
            times_s: as for ``indices``, of the longest that it may become.
            end_s: of the longest.
            at_least: frames that it has.

        Returns:
            int64 indices: all that ``indices`` may give for one of these windows, but for the window's last frame.
        """
        del at_least
        return self.indices(times_s, end_s)

    def size(self, width: int, height: int, num_frames: int) -> tuple[int, int]:
        """Width and height, both even, that the pictures of a window get.

        Args:
            width: of the clip's pictures.
            height: of the clip's pictures.
            num_frames: how many of the window are wanted.
        """
        del num_frames
        new_height = self.height if self.height is not None else height
        return even(self.width or width * new_height / height), even(new_height)

    def place(self, window: FrameSpan) -> str:
        """Under which key in ``Clip.extracted_frames`` the frames of a window stand; several windows may share one."""
        del window
        return self.key


@dataclass(frozen=True, slots=True)
class PossibleWindow:
    """A window that a clip may come to have.

    Attributes:
        span: the longest that it may be.
        nearest_end: the shortest ends before this frame; ``span.end`` where the end is certain.
    """

    span: FrameSpan
    nearest_end: int

    @property
    def is_open(self) -> bool:
        """Whether the clip ends with this window, nobody knows where."""
        return self.nearest_end < self.span.end


class ClipSampler:
    """Collects what the requests ask of one clip while its frames go by."""

    def __init__(
        self,
        requests: Sequence[FrameRequest],
        *,
        times_s: NDArray[np.float64],
        end_s: float,
        windows: Sequence[PossibleWindow],
        nearest_end: int | None = None,
    ) -> None:
        """Plan for the longest clip that it may become.

        Args:
            times_s: of its frames, float64 seconds, shape (num_frames,).
            end_s: when the last of them stops being shown, on the same clock.
            windows: all that the clip may come to have; they may overlap.
            nearest_end: frames that the clip has at least; None where it has all of these.
        """
        whole = PossibleWindow(FrameSpan(0, len(times_s)), len(times_s) if nearest_end is None else nearest_end)
        self._samplers = [
            _RequestSampler(request, times_s, end_s, windows if request.scope == "window" else [whole])
            for request in requests
        ]

    def add(self, index: int, frame: av.VideoFrame) -> None:
        """Look at frame ``index`` of the clip, an upright yuv420p picture; all of a clip have one size."""
        for sampler in self._samplers:
            sampler.add(index, frame)

    def give(self, clip: Clip) -> None:
        """Put on the clip what its windows ask for, with the indices of the frames."""
        for sampler in self._samplers:
            sampler.give(clip)


class _RequestSampler:
    """One request's part of a clip."""

    def __init__(
        self,
        request: FrameRequest,
        times_s: NDArray[np.float64],
        end_s: float,
        windows: Sequence[PossibleWindow],
    ) -> None:
        self._request = request
        self._plans = [_Plan.of(request, times_s, end_s, window) for window in windows]
        self._reformatter = VideoReformatter()
        self._pictures: dict[tuple[int, tuple[int, int]], NDArray[np.uint8]] = {}
        self._undecided: dict[int, av.VideoFrame] = {}  # those of which the size depends on where the clip ends
        self._latest: tuple[int, av.VideoFrame] | None = None  # may turn out to be the last

    def add(self, index: int, frame: av.VideoFrame) -> None:
        """Look at a frame of the clip."""
        self._latest = index, frame
        self._settle(index)
        self._decide(index, frame)

    def _decide(self, index: int, frame: av.VideoFrame) -> None:
        """Scale a frame if it is wanted in one size, keep it if it may be wanted in several."""
        sizes = {
            self._request.size(frame.width, frame.height, number)
            for plan in self._plans
            if index in plan.indices
            for number in plan.numbers
        }
        if len(sizes) == 1:
            self._scale(index, frame, sizes.pop())
        elif sizes:
            self._undecided[index] = frame

    def _settle(self, index: int) -> None:
        """Forget the windows with which the clip would have ended before a frame."""
        if any(plan.ends_before(index) for plan in self._plans):
            self._plans = [plan for plan in self._plans if not plan.ends_before(index)]
            undecided, self._undecided = self._undecided, {}
            for each, frame in undecided.items():
                self._decide(each, frame)

    def _scale(self, index: int, frame: av.VideoFrame, size: tuple[int, int]) -> NDArray[np.uint8]:
        picture = _scaled(frame, size, self._request.pixel_format, self._reformatter)
        self._pictures[index, size] = picture
        return picture

    def give(self, clip: Clip) -> None:
        """Put on the clip what its windows ask for."""
        if self._latest is None:
            return
        self._undecided |= dict([self._latest])
        width, height = self._latest[1].width, self._latest[1].height
        found: dict[str, list[tuple[int, NDArray[np.uint8]]]] = {}
        for window, indices in planned_frames(self._request, clip, [window.span for window in clip.windows]):
            size = self._request.size(width, height, len(indices))
            found.setdefault(self._request.place(window), []).extend(self._found(indices, size))
        for key, pictures in found.items():
            if pictures:
                clip.extracted_frames[key] = np.stack([picture for _, picture in pictures])
                clip.extracted_frame_indices[key] = np.array([index for index, _ in pictures], dtype=np.int64)

    def _found(self, indices: NDArray[np.int64], size: tuple[int, int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Those frames that could be decoded."""
        for index in indices.tolist():
            picture = self._pictures.get((index, size))
            if picture is None and index in self._undecided:
                picture = self._scale(index, self._undecided[index], size)
            if picture is not None:
                yield index, picture


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a request may want of a possible window.

    Attributes:
        indices: of the frames, counted from the clip's first.
        numbers: how many frames it may want.
    """

    window: PossibleWindow
    indices: frozenset[int]
    numbers: range

    @classmethod
    def of(cls, request: FrameRequest, times_s: NDArray[np.float64], end_s: float, window: PossibleWindow) -> "_Plan":
        """A plan for a window of a clip with frames at these times."""
        span = window.span
        longest = times_s[span.start : span.end], _end_s(times_s, end_s, span.end)
        indices = request.indices(*longest)
        numbers = range(len(indices), len(indices) + 1)
        if window.is_open:
            shortest = times_s[span.start : window.nearest_end], _end_s(times_s, end_s, window.nearest_end)
            numbers = range(len(request.indices(*shortest)), len(indices) + 1)
            indices = request.candidates(*longest, at_least=window.nearest_end - span.start)
        return cls(window, frozenset((span.start + indices).tolist()), numbers)

    def ends_before(self, index: int) -> bool:
        """Whether the clip would have ended before a frame."""
        return self.window.is_open and self.window.span.end <= index


def planned_frames(
    request: FrameRequest, clip: Clip, windows: Sequence[FrameSpan]
) -> Iterator[tuple[FrameSpan, NDArray[np.int64]]]:
    """The windows that a request looks at, with the indices of the frames that it wants of each, from the clip's first.

    Args:
        clip: with the times of its frames.
        windows: of the clip.
    """
    times_s = clip.frame_times_s
    assert times_s is not None
    end_s = float(times_s[0]) + clip.duration
    for window in windows if request.scope == "window" else [FrameSpan(0, len(times_s))]:
        indices = request.indices(times_s[window.start : window.end], _end_s(times_s, end_s, window.end))
        yield window, window.start + indices


def _end_s(times_s: NDArray[np.float64], end_s: float, end: int) -> float:
    """When the frame before ``end`` stops being shown."""
    return float(times_s[end]) if end < len(times_s) else end_s


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
        windows=[PossibleWindow(window.span, window.span.end) for window in clip.windows],
    )
    normalize = PictureNormalizer(probed.profile)
    for frame in decode_frames(clip.buffer, probed.profile, timeline, name=f"clip {clip.uuid}"):
        assert isinstance(frame, av.VideoFrame)
        assert frame.pts is not None
        index = int(np.searchsorted(timeline.ticks, frame.pts))
        sampler.add(index, normalize(frame))
    sampler.give(clip)


def _scaled(
    frame: av.VideoFrame,
    size: tuple[int, int],
    pixel_format: Literal["rgb24", "yuv420p"],
    reformatter: VideoReformatter,
) -> NDArray[np.uint8]:
    small = reformatter.reformat(
        frame, width=size[0], height=size[1], format=pixel_format, interpolation=Interpolation.BICUBIC, threads=1
    )
    if pixel_format == "rgb24":
        return np.asarray(small.to_ndarray(), dtype=np.uint8)  # a view of a frame of its own: a copy costs a third more
    return pack_yuv420p(yuv_planes(small))
