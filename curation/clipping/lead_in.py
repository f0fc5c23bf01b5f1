"""Where a detector of shots begins in the middle of a video, so that it finds what it finds from the start. Pure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curation.clipping.transnetv2_windows import MARGIN_FRAMES, STEP_FRAMES
from curation.timeline import FrameSpan, FrameTimeline


@dataclass(frozen=True, slots=True)
class LeadIn:
    """Frames before those that are asked about.

    Attributes:
        first_frame: the detector's first: it begins the margin of a window of the whole video.
        known_from: the first whose probability is known.
    """

    first_frame: int
    known_from: int


def lead_in(timeline: FrameTimeline, within: FrameSpan, frame: int, *, step: int) -> LeadIn | None:
    """The lead-in for the shots that begin at ``frame`` or later, one window long at least; None: from the start.

    Args:
        within: what is wanted of the video.
        step: as for ``looked_at``.
    """
    seen = looked_at(timeline.ticks[within.start : within.end], step=step)
    place = int(np.searchsorted(seen, frame - within.start))
    first_known = (place // STEP_FRAMES - 1) * STEP_FRAMES
    if first_known < STEP_FRAMES:
        return None
    return LeadIn(within.start + int(seen[first_known - MARGIN_FRAMES]), within.start + int(seen[first_known]))


def looked_at(ticks: NDArray[np.int64], *, step: int) -> NDArray[np.int64]:
    """Indices of the frames that the detector is shown: the first, and each ``step`` ticks or more after the last."""
    if len(ticks) < 2 or int(np.diff(ticks).min()) >= step:
        return np.arange(len(ticks), dtype=np.int64)
    found, due = [], int(ticks[0])
    for index, tick in enumerate(ticks.tolist()):
        if tick >= due:
            found.append(index)
            due = tick + step
    return np.array(found, dtype=np.int64)
