"""Spans of frames and seconds: strides, shots, crops, lengths, caption windows. Pure: no file, no frame, no model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

MIN_WINDOW_FRAMES = 4
"""A captioner needs at least this many frames; a shorter clip has no window (docs/rules.md, Windows and previews)."""


_MIN_SNAP_S = Fraction(1)


@dataclass(frozen=True, slots=True, order=True)
class FrameSpan:
    """Frames ``start <= i < end`` of one video, counted from 0 in presentation order."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"a span needs 0 <= start < end, got [{self.start}, {self.end})")

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, eq=False)
class FrameTimeline:
    """When each frame of a video is presented, exactly.

    Attributes:
        ticks: int64, shape (num_frames,), strictly rising presentation timestamps in units of ``time_base``.
        time_base: seconds per tick.
        end_tick: when the last frame stops being shown.
        idr_frames: int64, rising indices of the frames at which an H.264 stream begins anew: no frame from there on
            refers to one before, nor is shown before it. Empty for other codecs, and where the packets do not tell.
        size_changes: int64, rising indices above 0 of the frames from which on pictures have another size, or pixels of
            another shape, as far as the packets tell. No clip goes across one.

    Zero is the first presented frame: a container's own offset does not count.
    """

    ticks: NDArray[np.int64]
    time_base: Fraction
    end_tick: int
    idr_frames: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    size_changes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __post_init__(self) -> None:
        if len(self.ticks) == 0:
            raise ValueError("a timeline needs at least one frame")
        if len(self.ticks) > 1 and int(np.diff(self.ticks).min()) <= 0:
            raise ValueError("timestamps must rise strictly")
        if self.end_tick <= int(self.ticks[-1]):
            raise ValueError(f"the last frame needs a duration: end {self.end_tick}, last {int(self.ticks[-1])}")

    @property
    def num_frames(self) -> int:
        return len(self.ticks)

    @property
    def duration(self) -> Fraction:
        """Seconds from the first presented frame to the end of the last."""
        return self.boundary(self.num_frames)

    @property
    def average_rate(self) -> Fraction:
        """Frames per second over the whole duration."""
        return self.num_frames / self.duration

    @property
    def is_vfr(self) -> bool:
        """True where some frame is shown more than 10 % longer or shorter than the median frame.

        The tolerance forgives containers whose clock can't count the rate (Matroska's milliseconds).
        """
        if self.num_frames < 3:
            return False
        steps = np.diff(self.ticks)
        median = float(np.median(steps))
        return bool(np.any(np.abs(steps - median) > max(0.1 * median, 1.0)))

    def tick(self, index: int) -> int:
        """The tick at which frame ``index`` begins; ``num_frames`` means the end of the video."""
        return self.end_tick if index == self.num_frames else int(self.ticks[index])

    def boundary(self, index: int) -> Fraction:
        """Seconds at which frame ``index`` begins; ``num_frames`` means the end of the video."""
        return (self.tick(index) - int(self.ticks[0])) * self.time_base

    def seconds(self, span: FrameSpan) -> tuple[float, float]:
        """Start and end of a span of frames in seconds."""
        return float(self.boundary(span.start)), float(self.boundary(span.end))

    def first_frame_at_or_after(self, seconds: Fraction) -> int:
        """Index of the first frame presented at ``seconds`` or later; ``num_frames`` when there is none."""
        # exact: compare ticks as integers with the ceiling of the wanted tick
        wanted = seconds / self.time_base + int(self.ticks[0])
        return int(np.searchsorted(self.ticks, -(-wanted.numerator // wanted.denominator), side="left"))

    def clip_times_s(self, span: FrameSpan) -> NDArray[np.float64]:
        """Presentation times of a span's frames relative to its first, float64 seconds, shape (len(span),)."""
        ticks = self.ticks[span.start : span.end]
        return np.asarray((ticks - ticks[0]) * float(self.time_base), dtype=np.float64)


def frames_between(timeline: FrameTimeline, start: Fraction, end: Fraction) -> FrameSpan | None:
    """The frames presented in ``start <= t < end`` seconds, or None when there are none."""
    first = timeline.first_frame_at_or_after(max(start, Fraction(0)))
    stop = timeline.first_frame_at_or_after(end)
    return FrameSpan(first, stop) if first < stop else None


def fixed_stride_clips(
    timeline: FrameTimeline, within: FrameSpan, *, clip_len_s: float, clip_stride_s: float, min_clip_length_s: float
) -> list[FrameSpan]:
    """Cut ``within`` every ``clip_stride_s`` seconds into clips of ``clip_len_s``; the last may be shorter.

    A clip across a change of size becomes one on either side; the stride goes on as if there were none.
    With stride = length and no minimum the clips cover each frame exactly once.

    Raises:
        ValueError: a length or the stride is not positive.

    Source:
        docs/rules.md, Splitting: spans ``[t, min(t + len, duration))``, cut where pictures change their size; what is
        then shorter than the minimum is left out.
    """
    if clip_len_s <= 0 or clip_stride_s <= 0:
        raise ValueError(f"clip_len_s and clip_stride_s must be positive, got {clip_len_s} and {clip_stride_s}")
    length, stride, minimum = (exact_seconds(s) for s in (clip_len_s, clip_stride_s, min_clip_length_s))
    origin, stop = timeline.boundary(within.start), timeline.boundary(within.end)
    clips = []
    start = origin
    while start < stop:
        for begins, ends in _pieces_of_one_size(timeline, start, min(start + length, stop)):
            span = frames_between(timeline, begins, ends)
            if span is not None and ends - begins >= minimum:
                clips.append(span)
        start += stride
    return clips


def _pieces_of_one_size(timeline: FrameTimeline, start: Fraction, end: Fraction) -> list[tuple[Fraction, Fraction]]:
    """Seconds ``start <= t < end``, cut at the changes of size within."""
    first, stop = (timeline.first_frame_at_or_after(seconds) for seconds in (start, end))
    low, high = np.searchsorted(timeline.size_changes, [first, stop])
    inside = [timeline.boundary(int(frame)) for frame in timeline.size_changes[low:high]]
    return list(pairwise([start, *inside, end]))


def clips_from_shots(
    timeline: FrameTimeline,
    shots: Sequence[FrameSpan],
    *,
    min_length_s: float,
    max_length_s: float | None,
    max_length_mode: Literal["stride", "truncate"],
    crop_s: float,
    snap_to_idr: bool = False,
) -> list[FrameSpan]:
    """Turn shots into clips: crop both ends of each shot, then bound its length.

    With ``snap_to_idr`` a clip at a shot's start begins at ``snapped_start`` instead, where the shot has one.

    A shot longer than ``max_length_s`` is cut into pieces of that length (``stride``; the inner cuts are not cropped)
    or loses what is beyond it (``truncate``). What is shorter than ``min_length_s`` is left out.

    Raises:
        ValueError: a negative crop or a maximum that is not positive.

    Source:
        docs/rules.md, Splitting. Cropping comes before striding, so that no frame is lost at an inner cut.
    """
    if crop_s < 0 or (max_length_s is not None and max_length_s <= 0):
        raise ValueError(f"need crop_s >= 0 and max_length_s > 0, got {crop_s} and {max_length_s}")
    minimum = exact_seconds(min_length_s)
    longest = exact_seconds(max_length_s) if max_length_s is not None else None
    clips = []
    for shot in shots:
        start, end = _cropped(timeline, shot, crop_s=crop_s, snap_to_idr=snap_to_idr)
        if longest is not None and max_length_mode == "truncate":
            end = min(end, start + longest)
        while start < end:
            stop = end if longest is None else min(start + longest, end)
            span = frames_between(timeline, start, stop)
            if span is not None and stop - start >= minimum:
                clips.append(span)
            start = stop
    return clips


def _cropped(
    timeline: FrameTimeline, shot: FrameSpan, *, crop_s: float, snap_to_idr: bool
) -> tuple[Fraction, Fraction]:
    """What is left of a shot, in seconds."""
    crop = exact_seconds(crop_s)
    snapped = snapped_start(timeline, shot.start, crop_s=crop_s) if snap_to_idr else None
    if snapped is None or snapped >= shot.end:
        return timeline.boundary(shot.start) + crop, timeline.boundary(shot.end) - crop
    return timeline.boundary(snapped), timeline.boundary(shot.end) - crop


def snapped_start(timeline: FrameTimeline, shot_start: int, *, crop_s: float) -> int | None:
    """The first IDR of a shot, if it comes within ``crop_s`` seconds or one, which is longer; else None.

    It may lie beyond the end of the shot, which is not asked.

    Source:
        docs/rules.md, Splitting. Encoders put an IDR on most hard cuts, from which on a clip can be copied.
    """
    place = int(np.searchsorted(timeline.idr_frames, shot_start))
    if place == len(timeline.idr_frames):
        return None
    frame = int(timeline.idr_frames[place])
    limit = max(exact_seconds(crop_s), _MIN_SNAP_S)
    return frame if timeline.boundary(frame) - timeline.boundary(shot_start) <= limit else None


def caption_windows(num_frames: int, *, size: int = 256, remainder_threshold: int = 128) -> list[FrameSpan]:
    """Tile a clip with windows of ``size`` frames, each captioned by itself.

    A rest of at least ``remainder_threshold`` frames (and never fewer than MIN_WINDOW_FRAMES) is a window of its own; a
    shorter one joins the last window.

    Returns:
        Spans relative to the clip, in order, that cover each frame exactly once; none below MIN_WINDOW_FRAMES frames.

    Raises:
        ValueError: ``size`` is below MIN_WINDOW_FRAMES, or ``remainder_threshold`` is not in 1..``size``.

    Source:
        docs/rules.md, Windows and previews (the rule of NeMo Curator and Cosmos-Curate, restated for half-open spans).
    """
    if size < MIN_WINDOW_FRAMES:
        raise ValueError(f"size must be at least {MIN_WINDOW_FRAMES}, got {size}")
    if not 1 <= remainder_threshold <= size:
        raise ValueError(f"remainder_threshold must be in 1..{size}, got {remainder_threshold}")
    if num_frames < MIN_WINDOW_FRAMES:
        return []
    full, rest = divmod(num_frames, size)
    starts = [size * k for k in range(full)]
    if rest >= max(remainder_threshold, MIN_WINDOW_FRAMES) or not starts:
        starts.append(size * full)
    return [FrameSpan(a, b) for a, b in zip(starts, [*starts[1:], num_frames], strict=True)]


def sample_at_rate(times_s: NDArray[np.float64], end_s: float, rate_hz: float) -> NDArray[np.int64]:
    """Which frames a viewer sees at 0, 1/rate, 2/rate, ... seconds after the first, before ``end_s``.

    Args:
        times_s: float64, shape (num_frames,), rising presentation times in seconds.
        end_s: when the last frame stops being shown.

    Returns:
        int64 indices into ``times_s``, strictly rising: a frame shown through several ticks is taken once.

    Raises:
        ValueError: ``rate_hz`` is not positive.
    """
    if rate_hz <= 0:
        raise ValueError(f"rate_hz must be positive, got {rate_hz}")
    # half a microsecond forgives that 1/rate and the timestamps are rounded binary numbers
    num_ticks = max(1, int(np.ceil((end_s - times_s[0]) * rate_hz - 1e-6)))
    ticks = times_s[0] + np.arange(num_ticks) / rate_hz
    shown = np.searchsorted(times_s, ticks + 5e-7, side="right") - 1
    return np.unique(shown).astype(np.int64)


def exact_seconds(seconds: float) -> Fraction:
    """The decimal number that a person wrote: 0.1 is a tenth, not the binary number next to it."""
    return Fraction(repr(float(seconds))) if isinstance(seconds, float) else Fraction(seconds)
