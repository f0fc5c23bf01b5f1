"""A network over the frames of many clips, in batches that a memory holds."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from curation.errors import StopRunError, VideoError
from curation.model import Clip
from curation.video.frames import FrameRequest, sample_clip

logger = logging.getLogger(__name__)

FrameNetwork: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Maps frames of one shape to a row each; what comes of a frame does not depend on the others."""

_Place: TypeAlias = tuple[int, int]  # a clip's index, and a frame's in it


def frames_of_clip(clip: Clip, request: FrameRequest) -> NDArray[np.uint8] | str:
    """What was sampled of a clip for a request, else what its mp4 gives; or why there is nothing."""
    try:
        if request.key not in clip.extracted_frames:
            sample_clip(clip, [request])
    except VideoError as error:
        return f"{error.reason}: {error.message}"
    except ValueError as error:  # it has no mp4
        return str(error)
    return clip.extracted_frames.get(request.key, "none of its frames could be decoded")


def let_go(clip: Clip, request: FrameRequest) -> None:
    """Free the frames of a request."""
    clip.extracted_frames.pop(request.key, None)
    clip.extracted_frame_indices.pop(request.key, None)


def rows_of_clips(
    network: FrameNetwork, clips: Sequence[NDArray[np.uint8] | str], *, max_frames: int, is_mixed: bool
) -> list[NDArray[np.float32] | str]:
    """What a network says of the frames of clips.

    A batch that fails is tried again in halves, down to one frame: only the clip that this is of has no rows.

    Args:
        clips: the frames of each, at least one, all of one shape; or why there are none, which is passed on.
        max_frames: of a batch.
        is_mixed: whether a batch may have frames of several clips. It is then filled up with black ones: its size
            decides how a GPU rounds sums, and what comes together is chance. Otherwise each clip is by itself, which
            costs a CPU less than large batches do.

    Returns:
        For each clip, in order: float32, a row for each frame, or why there are none.

    Raises:
        StopRunError: the GPU itself failed.
    """
    found = {clip: frames for clip, frames in enumerate(clips) if not isinstance(frames, str)}
    reasons = {clip: reason for clip, reason in enumerate(clips) if isinstance(reason, str)}
    rows: dict[int, list[NDArray[np.float32]]] = {clip: [] for clip in found}
    for batch in _batches({clip: len(frames) for clip, frames in found.items()}, max_frames, is_mixed=is_mixed):
        frames = [found[clip][frame] for clip, frame in batch]
        results = _results(network, frames, num_filled=max_frames if is_mixed else len(frames))
        for (clip, _), result in zip(batch, results, strict=True):
            if isinstance(result, str):
                reasons.setdefault(clip, result)
            else:
                rows[clip].append(result)
    return [reasons[clip] if clip in reasons else np.stack(rows[clip]) for clip in range(len(clips))]


def _batches(num_frames: Mapping[int, int], max_frames: int, *, is_mixed: bool) -> Iterator[list[_Place]]:
    """Places of all frames in order; the number of frames is given by clip."""
    of_clips = [[(clip, frame) for frame in range(number)] for clip, number in num_frames.items()]
    for together in [list(chain(*of_clips))] if is_mixed else of_clips:
        waiting = iter(together)
        while batch := list(islice(waiting, max_frames)):
            yield batch


def _results(
    network: FrameNetwork, frames: Sequence[NDArray[np.uint8]], *, num_filled: int
) -> list[NDArray[np.float32] | str]:
    """A row for each frame, or why there is none."""
    batch = np.zeros((num_filled, *frames[0].shape), np.uint8)
    batch[: len(frames)] = frames
    try:
        rows = network(batch)[: len(frames)]
    except (RuntimeError, MemoryError) as error:
        if _is_broken_gpu(error):
            raise StopRunError(f"a GPU failed: {error}") from error
        reason = f"{type(error).__name__}: {error}"
    else:
        return [row if np.isfinite(row).all() else "the network gave numbers that are not finite" for row in rows]
    # beyond the except clause, so that nothing keeps the memory of what failed
    if len(frames) == 1:
        return [reason]
    logger.warning("event=batch_halved frames=%d reason=%s", len(frames), reason)
    middle = len(frames) // 2
    halves = frames[:middle], frames[middle:]
    return [result for half in halves for result in _results(network, half, num_filled=len(half))]


def _is_broken_gpu(error: Any) -> bool:
    """Whether no further work is possible in this process; memory that is missing can be had again."""
    import torch

    return isinstance(error, torch.AcceleratorError)
