"""Shots and clips that become known while the frames still come: the same as from all of them at once. Pure."""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Literal

from curation.timeline import (
    FrameSpan,
    FrameTimeline,
    clips_from_shots,
    exact_seconds,
    frames_between,
    snapped_start,
)


class ShotTracker:
    """Finds shots as the detector's probabilities arrive, some 75 frames behind the pictures.

    Frames are named by their index in the source. Not every frame is looked at by the detector; those between two that
    are help to place a cut.

    A run of marked frames is one transition. The shot before it ends with its first frame (the last frame of a shot
    belongs to it), the next begins after its last; the frames between, a dissolve's middle, belong to no shot. Between
    two neighbouring frames that were looked at, a cut lies on the frame that differs most from the one before it.
    Nothing marked, or everything: one shot.

    At a forced cut a shot ends and another begins, whatever is marked: marked frames next to it, on either side, are
    taken as this cut. The parts between forced cuts are sequences of their own.

    Source:
        ``predictions_to_scenes`` of the TransNetV2 authors, restated for half-open spans.

    Attributes:
        finished: shots whose end is known, in order.
        open_start: first frame of the shot whose end is not known yet; None between two shots.
        certain_until: what is known of every frame below this index will not change.
        first_calm: the first frame that is not marked. Shots that begin after it are the same wherever it began.
    """

    def __init__(self, first_frame: int, *, threshold: float, forced_cuts: Iterable[int] = ()) -> None:
        """Begin at a frame; ``forced_cuts`` are rising frames that begin a shot."""
        self.finished: list[FrameSpan] = []
        self.open_start: int | None = None
        self.first_calm: int | None = None
        self.certain_until = first_frame
        self._first_frame = first_frame
        self._threshold = threshold
        self._unknown: deque[int] = deque()  # looked at, and the probability still to come
        self._changes: deque[tuple[int, float]] = deque()  # of the frames since the last known one
        self._run: FrameSpan | None = None  # the marked frames of a transition that goes on, first to last known
        self._run_length = 0
        self._forced = deque(cut for cut in forced_cuts if cut > first_frame)
        self._follows_forced = False  # so far every frame since a forced cut is marked

    def look(self, frame: int, change: float, *, is_looked_at: bool) -> None:
        """Take note of the next frame: how much it differs from the one before, and whether the detector sees it."""
        self._changes.append((frame, change))
        if is_looked_at:
            self._unknown.append(frame)

    def know(self, probabilities: Iterable[float]) -> None:
        """Take the probabilities of the next frames that were looked at."""
        for probability in probabilities:
            frame = self._unknown.popleft()
            self._force_cuts(frame)
            if probability <= self._threshold:
                self._leave_transition(frame)
            elif self._follows_forced:
                self.certain_until = frame + 1
            else:
                self._mark(frame)
            while self._changes and self._run is None and self._changes[0][0] <= frame:
                self._changes.popleft()

    def finish(self, end: int) -> None:
        """The video ends before frame ``end``; every probability has come."""
        self._force_cuts(end - 1)
        if self._run is not None and self.open_start is not None:
            is_last_frame = self._run_length == 1
            self.finished.append(FrameSpan(self.open_start, end if is_last_frame else self._run.start + 1))
        elif self._run is not None and not self.finished:  # marked from the first frame on: one shot
            self.finished.append(FrameSpan(self._first_frame, end))
        elif self._run is None and self.open_start is not None:
            self.finished.append(FrameSpan(self.open_start, end))
        self.open_start = None
        self.certain_until = end

    def _force_cuts(self, until: int) -> None:
        """End a shot at each forced cut up to a frame, and begin the next."""
        while self._forced and self._forced[0] <= until:
            cut = self._forced.popleft()
            self.finished.append(FrameSpan(self._first_frame if self.open_start is None else self.open_start, cut))
            self.open_start = self.certain_until = cut
            self._run, self._run_length, self._follows_forced = None, 0, True

    def _mark(self, frame: int) -> None:
        if self._run is None:
            self._run, self._run_length = FrameSpan(frame, frame + 1), 1
            self.certain_until = frame + 1 if self.open_start is not None else frame
        else:
            self._run_length += 1

    def _leave_transition(self, frame: int) -> None:
        run, start, self._follows_forced = self._run, self.open_start, False
        self.first_calm = frame if self.first_calm is None else self.first_calm
        if run is None:
            self.open_start = self._first_frame if start is None and not self.finished else start
        elif start is None:  # a transition at the very first frame has no shot before it
            self.open_start = frame
        else:
            end = self._place_cut(run.start, frame) if self._run_length == 1 else run.start + 1
            self.finished.append(FrameSpan(start, end))
            self.open_start = end if self._run_length == 1 else frame
        self._run = None
        self.certain_until = frame + 1

    def _place_cut(self, last: int, first: int) -> int:
        """The frame after ``last``, up to ``first``, that differs most from the one before it."""
        between = [(change, -frame) for frame, change in self._changes if last < frame <= first]
        return -max(between)[1]


@dataclass(frozen=True)
class ClipRules:
    """How shots become clips; see ``clips_from_shots``."""

    min_length_s: float
    max_length_s: float | None
    max_length_mode: Literal["stride", "truncate"]
    crop_s: float
    snap_to_idr: bool = False

    def notes(self, timeline: FrameTimeline, clip_start: int, *, shot_start: int) -> dict[str, str]:
        """How long after its shot's start a clip begins, where that was moved to an IDR."""
        cut = timeline.boundary(shot_start)
        is_snapped = self.snap_to_idr and clip_start == snapped_start(timeline, shot_start, crop_s=self.crop_s)
        if not is_snapped or clip_start == timeline.first_frame_at_or_after(cut + exact_seconds(self.crop_s)):
            return {}
        return {"snapped_to_idr": f"begins {float(timeline.boundary(clip_start) - cut):.3f} s after the cut"}


class ClipPlanner:
    """Which clip a frame belongs to, as soon as that is certain. Gives the clips of ``clips_from_shots``.

    A shot's frames may be released once no cut can come within the crop after them. That the shot will be long enough
    for a clip is then not yet certain: such a clip is begun and, if its shot ends too early, dropped.
    """

    def __init__(self, tracker: ShotTracker, timeline: FrameTimeline, rules: ClipRules) -> None:
        self._tracker, self._timeline, self._rules = tracker, timeline, rules
        self._crop, self._minimum = exact_seconds(rules.crop_s), exact_seconds(rules.min_length_s)
        self._longest = exact_seconds(rules.max_length_s) if rules.max_length_s is not None else None
        self._num_seen = 0
        self.clips: list[FrameSpan] = []  # those of finished shots, in order
        self._released: tuple[object, int] = (None, 0)  # the last answer, and to what
        self._piece: tuple[object, range, tuple[int, FrameSpan | None] | None] = (None, range(0), None)

    def update(self) -> list[FrameSpan]:
        """Take in what the tracker learnt; gives the clips of the shots that ended since the last call."""
        if len(self._tracker.finished) == self._num_seen:
            return []
        shots = self._tracker.finished[self._num_seen :]
        self._num_seen += len(shots)
        found = clips_from_shots(self._timeline, shots, **asdict(self._rules))
        self.clips += found
        return found

    def released_until(self, *, speculate: bool) -> int:
        """Frames below this index may be used: it is known to which clip they belong, if that becomes one.

        Args:
            speculate: begin clips of which it is not certain that they will be long enough.
        """
        question = self._tracker.open_start, self._tracker.certain_until, speculate
        if self._released[0] != question:  # asked for every frame, and what is known changes with every window
            self._released = question, self._released_until(*question)
        return self._released[1]

    def _released_until(self, start: int | None, certain: int, speculate: bool) -> int:
        if start is None:
            return certain
        inside_until, begins = self._timeline.boundary(certain) - self._crop, self._begins(start)
        if begins is None:
            return start
        if not speculate and inside_until - begins < self._minimum:
            return start
        return max(start, self._timeline.first_frame_at_or_after(max(inside_until, Fraction(0))))

    def clip_of(self, frame: int) -> tuple[int, FrameSpan | None] | None:
        """First frame of the clip that a released frame belongs to, and its span if that is certain; None outside."""
        start = self._tracker.open_start
        if start is None or frame < start:
            position = bisect_right(self.clips, frame, key=lambda clip: clip.start) - 1
            inside = position >= 0 and frame < self.clips[position].end
            return (self.clips[position].start, self.clips[position]) if inside else None
        known = start, self._tracker.certain_until
        if self._piece[0] != known or frame not in self._piece[1]:
            self._piece = known, *self._piece_of(frame, start)
        return self._piece[2]

    def furthest_end(self, start: int, end: int) -> int:
        """The frame before which a clip that begins at ``start`` must end, in a video that ends before ``end``."""
        if self._longest is None:
            return end
        return min(end, self._timeline.first_frame_at_or_after(self._timeline.boundary(start) + self._longest) + 1)

    def nearest_end(self, start: int) -> int:
        """The frame before which no clip that begins at ``start`` ends: a shorter one is left out."""
        begins = self._timeline.boundary(max(start - 1, 0))  # seconds: a clip may begin between two frames
        return max(start + 1, self._timeline.first_frame_at_or_after(begins + self._minimum))

    def is_over(self, start: int) -> bool:
        """Whether the shot has ended in which a clip might have begun at ``start``."""
        return self._tracker.open_start is None or start < self._tracker.open_start

    def shot_start(self, frame: int) -> int:
        """First frame of the shot that a frame of a clip belongs to."""
        start = self._tracker.open_start
        if start is not None and start <= frame:
            return start
        shots = self._tracker.finished
        return shots[bisect_right(shots, frame, key=lambda shot: shot.start) - 1].start

    def _begins(self, start: int) -> Fraction | None:
        """Where the first clip of the open shot begins; None while its IDR may be one of the next shot."""
        snapped = None
        if self._rules.snap_to_idr:
            snapped = snapped_start(self._timeline, start, crop_s=self._rules.crop_s)
        if snapped is None:
            return self._timeline.boundary(start) + self._crop
        return self._timeline.boundary(snapped) if snapped < self._tracker.certain_until else None

    def _piece_of(self, frame: int, start: int) -> tuple[range, tuple[int, FrameSpan | None] | None]:
        """The piece of the open shot: whole once its end is certain to lie inside the shot; and for which frames."""
        begins = self._begins(start)
        assert begins is not None
        since = self._timeline.boundary(frame) - begins
        if since < 0:
            return range(frame, frame + 1), None
        rest = range(frame, self._timeline.num_frames)
        if self._longest is None:
            return rest, (self._timeline.first_frame_at_or_after(begins), None)
        piece = since // self._longest
        if piece > 0 and self._rules.max_length_mode == "truncate":
            return rest, None
        begins += piece * self._longest
        ends = begins + self._longest
        inside_until = self._timeline.boundary(self._tracker.certain_until) - self._crop
        span = frames_between(self._timeline, begins, ends)
        assert span is not None
        is_whole = ends <= inside_until and self._longest >= self._minimum
        return range(span.start, span.end), (span.start, span if is_whole else None)
