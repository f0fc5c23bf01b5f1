"""Clips that have frames in the size of the tiny Cosmos-Embed1, as the tests of its stages need them."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from curation.model import Clip, Video, VideoTask
from tests.embedding.tiny_cosmos import NUM_FRAMES, SIDE

SHAPE = (NUM_FRAMES, SIDE, SIDE, 3)


def noise(num_clips: int, *, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (num_clips, *SHAPE), dtype=np.uint8)


def tasks_of(frames: NDArray[np.uint8], *, clips_per_task: Sequence[int]) -> list[VideoTask]:
    """Clips with these frames in their order, so many in each video; a clip's uuid is its place."""
    clips = [Clip(UUID(int=k), "v", (0.0, 1.0), cosmos_embed1_frames=rows) for k, rows in enumerate(frames)]
    whose = iter(clips)
    return [
        VideoTask(f"v{k}", "test", Video(Path(f"v{k}"), clips=list(itertools.islice(whose, number))))
        for k, number in enumerate(clips_per_task)
    ]


def vectors_of(tasks: Sequence[VideoTask]) -> dict[int, NDArray[np.float32] | None]:
    return {clip.uuid.int: clip.cosmos_embed1_embedding for task in tasks for clip in task.data.clips}
