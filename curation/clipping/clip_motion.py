"""The motion of one clip while it is made, and whether it is made at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from curation.model import Clip
from curation.timeline import FrameSpan, FrameTimeline
from curation.video.motion import MotionRequest, MotionTrack, is_still, score
from curation.video.motion_vectors import MotionSample


class ClipMotion:
    """What of a video's motion is of one clip; one that is certain to be still is let go of, where that is asked."""

    def __init__(self, track: MotionTrack, span: FrameSpan, timeline: FrameTimeline, *, end_is_known: bool) -> None:
        """Begin; ``span.end`` is the clip's end, or the furthest that it may be."""
        self._track, self._timeline = track, timeline
        self._span, self._end_is_known = span, end_is_known
        self._limits = track.request.drops_below
        self._is_over = False

    def end_at(self, end: int) -> None:
        """Say where the clip ends."""
        self._span, self._end_is_known = FrameSpan(self._span.start, end), True

    def give(self, clip: Clip) -> None:
        """All frames have come: put on the clip what was measured."""
        clip.decoded_motion_data = self._samples(self._span.end)
        self._is_over = True

    @property
    def num_missing(self) -> int:
        """How many frames are still to be measured."""
        return self._num_planned - len(self._samples(self._span.end))

    def may_be_dropped(self, index: int) -> bool:
        """Whether pictures had better wait at a frame: up to there nothing was seen that moves enough."""
        if self._limits is None or self.is_dropped:
            return False
        samples = self._samples(index + 1)
        return not samples or is_still(score(samples), self._limits)

    @property
    def is_dropped(self) -> bool:
        """Whether the clip is certain to be still, and not wanted then."""
        if self._limits is None or not self._end_is_known:
            return False
        samples = self._samples(self._span.end)
        is_certain = self._is_over or len(samples) == self._num_planned
        return is_certain and len(samples) > 0 and is_still(score(samples), self._limits)

    @property
    def _num_planned(self) -> int:
        length = self._timeline.boundary(self._span.end) - self._timeline.boundary(self._span.start)
        return self._track.request.num_samples(float(length))

    def _samples(self, until: int) -> list[MotionSample]:
        return self._track.samples_of(self._span.start, min(until, self._span.end))[: self._num_planned]


@dataclass(frozen=True, slots=True)
class MotionPlan:
    """Which frames of a clip are due to be measured, by timestamp.

    Attributes:
        due: rising.
        following: the frames after those.
    """

    due: tuple[int, ...]
    following: frozenset[int]

    @classmethod
    def of(cls, request: MotionRequest, timeline: FrameTimeline, span: FrameSpan) -> "MotionPlan":
        """For a clip of which not every frame is decoded."""
        step = request.step(timeline.average_rate)
        due = np.arange(-(-span.start // step) * step, span.end, step)
        following = due[due + 1 < span.end] + 1
        return cls(tuple(timeline.ticks[due].tolist()), frozenset(timeline.ticks[following].tolist()))

    def needed(self, ticks: Sequence[int], *, at_most: int) -> set[int]:
        """The frames of a group that must be decoded so that those that are due can be measured.

        Args:
            ticks: of the group's frames in the order of the file, from an IDR on.
            at_most: so many are still to be measured.
        """
        if at_most == 0:
            return set()
        if len(ticks) == 1:  # one of many intra pictures: two neighbours are compared
            return {tick for tick in ticks if tick in self.due or tick in self.following}
        newest, anchors = ticks[0], []
        for tick in ticks[1:]:
            if tick > newest:  # nothing that is shown later came before it: no B-frame
                anchors.append(tick)
                newest = tick
        inside = set(ticks)
        due = [tick for tick in self.due if tick in inside]
        needed: set[int] = set()
        for tick in due[: at_most + 2]:  # a clip's first frame may not count, and an intra picture does not
            needed |= {tick, *islice((anchor for anchor in anchors if anchor >= tick), 2)}
        return needed
