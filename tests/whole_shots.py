"""Shots of a whole sequence at once, the plain way: what the tracker must find while the frames still come."""

from collections.abc import Sequence
from itertools import pairwise, zip_longest

import numpy as np
from numpy.typing import NDArray

from curation.timeline import FrameSpan


def shots_from_transitions(probabilities: NDArray[np.float32], *, threshold: float) -> list[FrameSpan]:
    """Shots between the transitions that a detector marked.

    A run of marked frames ``i..j`` is one transition. The shot before it ends with frame i (the last frame of a shot
    belongs to it), the next begins at j + 1; the frames between, a dissolve's middle, belong to no shot.

    Args:
        probabilities: float32, shape (num_frames,): that a transition follows this frame.

    Returns:
        Spans in order, without overlap. One span of everything when nothing is marked, or when everything is.

    Source:
        ``predictions_to_scenes`` of the TransNetV2 authors, restated for half-open spans.
    """
    marked = probabilities > threshold
    num_frames = len(marked)
    if num_frames == 0:
        return []
    edges = np.flatnonzero(np.diff(np.concatenate(([False], marked, [False])).astype(np.int8)))
    shots = []
    start = 0
    for first, stop in zip(edges[::2], edges[1::2], strict=True):
        if first > 0:  # a transition at the very first frame has no shot before it
            shots.append(FrameSpan(start, int(first) + 1))
        start = int(stop)
    if start < num_frames:
        shots.append(FrameSpan(start, num_frames))
    return shots or [FrameSpan(0, num_frames)]


def shots_between_cuts(
    is_looked_at: Sequence[bool],
    change: Sequence[float],
    probabilities: Sequence[float],
    *,
    threshold: float,
    forced_cuts: Sequence[int] = (),
) -> list[FrameSpan]:
    """Shots of a sequence in which forced cuts begin shots, too.

    The parts between them are sequences of their own, in which marked frames next to a forced cut are not marked.

    Args:
        is_looked_at: of each frame, the first is.
        probabilities: of the frames that were looked at.
        forced_cuts: frames, rising.
    """
    given = iter(probabilities)
    of_frame = [next(given) if is_looked else None for is_looked in is_looked_at]
    bounds = [0, *forced_cuts, len(is_looked_at)]
    shots = []
    for start, end in pairwise(bounds):
        looked_at = [frame for frame in range(start, end) if of_frame[frame] is not None]
        values = [of_frame[frame] or 0.0 for frame in looked_at]
        if start in forced_cuts:
            values = unmarked_start(values, threshold=threshold)
        if end in forced_cuts:
            values = unmarked_start(values[::-1], threshold=threshold)[::-1]
        found = shots_from_transitions(np.array(values, np.float32), threshold=threshold)
        places = np.array(looked_at, np.int64) - start
        mapped = map_shots(found, places, np.array(change[start:end], np.float32)) or [FrameSpan(0, end - start)]
        first = FrameSpan(0 if start in forced_cuts else mapped[0].start, mapped[0].end)
        shots += [FrameSpan(start + shot.start, start + shot.end) for shot in [first, *mapped[1:]]]
    return shots


def unmarked_start(values: Sequence[float], *, threshold: float) -> list[float]:
    """The same without the marks before the first frame that has none."""
    count = next((place for place, value in enumerate(values) if value <= threshold), len(values))
    return [0.0] * count + list(values[count:])


def map_shots(shots: Sequence[FrameSpan], looked_at: NDArray[np.int64], change: NDArray[np.float32]) -> list[FrameSpan]:
    """Carry shots found on a thinned sequence back to the frames of the source.

    Between two neighbouring shots of which only a part of the frames was looked at, the cut lies on the frame that
    differs most from the one before it. Around a dissolve nothing is known of the frames between, so none is claimed.

    Args:
        shots: spans over the thinned sequence, in order.
        looked_at: int64, shape (num_looked_at,): the source frame behind each thinned frame, rising from 0.
        change: float32, shape (num_frames,): how much each source frame differs from the one before.
    """
    num_frames = len(change)
    bounds = np.append(looked_at, num_frames)
    mapped = []
    start = int(bounds[shots[0].start]) if shots else 0
    for shot, following in zip_longest(shots, shots[1:]):
        if following is None:
            reached_end = shot.end == len(looked_at)
            end, next_start = (num_frames if reached_end else int(bounds[shot.end - 1]) + 1), num_frames
        elif following.start == shot.end:  # a hard cut between two thinned frames
            last, first = int(bounds[shot.end - 1]), int(bounds[following.start])
            end = next_start = last + 1 + int(np.argmax(change[last + 1 : first + 1]))
        else:
            end, next_start = int(bounds[shot.end - 1]) + 1, int(bounds[following.start])
        mapped.append(FrameSpan(start, end))
        start = next_start
    return mapped
