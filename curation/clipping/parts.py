"""A long video in parts: which of its shots and clips are a part's, and when it can't be done in parts at all.

A part has the clips that begin in its range of frames (with shot detection: those of the shots that begin there,
wherever they end). Together the parts have each clip of the whole video once, and each is what the whole would give.
"""

from collections.abc import Mapping

import numpy as np

from curation.clipping.recipe import ClipRecipe
from curation.errors import FailureReason, VideoError
from curation.model import Video
from curation.timeline import FrameSpan
from curation.video.clean_start import CleanStart
from curation.video.source import profile_needed, timeline_needed


def own_frames(video: Video, within: FrameSpan) -> range:
    """The frames in which the video's own shots and clips begin, of those that are wanted of it."""
    if video.part is None:
        return range(within.start, within.end)
    starts = [within.start + len(within) * k // video.part.count for k in (video.part.index, video.part.index + 1)]
    return range(*starts)


def check_splitter(video: Video, *, limit_clips: int) -> None:
    """Whether a video that is given as a part can be split in parts; says nothing of a whole one.

    Raises:
        VideoError: NOT_IN_PARTS, the same for all parts of the video.
    """
    if video.part is None:
        return
    timeline = timeline_needed(video)
    furthest = int(np.diff(timeline.idr_frames, append=timeline.num_frames).max(initial=0))
    _refuse(
        video,
        {
            "it has no IDRs to begin at": len(timeline.idr_frames) == 0,
            "its IDRs are further apart than a part is long": furthest > timeline.num_frames / video.part.count,
            "its chroma is not subsampled": "444" in (video.metadata.pixel_format or ""),  # see CleanStart
            "clips are counted from its start (limit_clips)": limit_clips > 0,
            "a range of it is wanted (start_s)": bool(video.start_s),
        },
    )


def check_recipe(video: Video, recipe: ClipRecipe) -> None:
    """As ``check_splitter``, of how clips are made."""
    _refuse(
        video,
        {
            "its packets are copied (smart-copy)": recipe.copies,
            "its motion is measured (motion_filter)": recipe.motion is not None,
        },
    )


def _refuse(video: Video, reasons: Mapping[str, bool]) -> None:
    why = next((why for why, is_so in reasons.items() if is_so), None)
    if video.part is not None and why is not None:
        raise VideoError(FailureReason.NOT_IN_PARTS, f"{video.id}: {why}")


def begin_at(video: Video, wanted: int) -> CleanStart | None:
    """From where a part is decoded when its frames from ``wanted`` on are wanted; None for a whole video.

    Raises:
        VideoError: NOT_IN_PARTS.
    """
    if video.part is None:
        return None
    return CleanStart(profile_needed(video), timeline_needed(video), wanted=wanted, name=video.id)
