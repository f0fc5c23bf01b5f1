"""A video's clips as tasks of their own: memory does not grow with how many there are."""

from collections.abc import Iterator
from copy import copy

from curation.model import Clip, VideoTask

MAX_PART_BYTES = 8 * 2**20
"""Of clips that travel together."""


def in_chunks(task: VideoTask, clips: Iterator[Clip], *, clips_per_chunk: int) -> Iterator[VideoTask]:
    """Tasks of some clips each, which make up chunks; only the last knows how many. No clips: one empty chunk."""
    part: list[Clip] = []
    index = num_in_chunk = num_bytes = 0
    for clip in clips:
        is_full = num_in_chunk == clips_per_chunk
        if is_full or num_bytes >= MAX_PART_BYTES:
            yield part_task(task, part, index=index, goes_on=not is_full)
            part, num_bytes = [], 0
        if is_full:
            index, num_in_chunk = index + 1, 0
        part.append(clip)
        num_in_chunk += 1
        num_bytes += clip.get_major_size()
    last = part_task(task, part, index=index, goes_on=False)
    last.data.num_clip_chunks = index + 1
    yield last


def part_task(task: VideoTask, clips: list[Clip], *, index: int, goes_on: bool) -> VideoTask:
    """A task of its own for some clips of a chunk."""
    video = copy(task.data)
    video.clips, video.filtered_clips = clips, []
    video.clip_chunk_index, video.clip_chunk_goes_on = index, goes_on
    video.num_clip_chunks = 0
    video.errors = dict(task.data.errors)
    video.timeline = None  # what its clips need of it they have, and it grows with the video's length
    return VideoTask(task.task_id, task.dataset_name, video)
