"""Long videos in time ranges: planned and processed like videos, and joined when the last of them is done."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from curation.model import VideoPart
from curation.storage import storage_for
from curation.writing.parts import VideoParts
from jobs.config import RunConfig
from jobs.planner import BYTES_PER_GB, PlannedVideo, PlannedVideos, Shard, split_long
from jobs.rundir import RunDir

_LEAST_GB = 1.0  # of a part, where nobody said how much: each begins with a look at the whole file


def in_parts(videos: Sequence[PlannedVideo], config: RunConfig) -> PlannedVideos:
    """The videos, those that cost more than ``plan.max_part_gb`` as parts of equal cost.

    Nothing is split where the settings ask for what only a whole video tells (``curation.clipping.parts``).
    """
    table = PlannedVideos.of(videos)
    budget = _budget(table, config)
    if budget is None:
        return table
    return split_long(table, lambda video: _parts_of(video, int(-(-video.cost // budget))), above_cost=budget)


def _budget(videos: PlannedVideos, config: RunConfig) -> float | None:
    """What a part may cost; None where nothing is split."""
    plan = config.plan
    is_divisible = config.clips.clip_encoding == "transcode" and config.filters.motion_filter == "disable"
    is_split_run = config.annotate.annotation_version is None
    if plan.max_part_gb is None or not is_divisible or config.limit_clips or not is_split_run:
        return None
    if plan.max_part_gb != "shard":
        return plan.max_part_gb * BYTES_PER_GB
    shard = videos.cost / plan.num_shards if plan.num_shards else plan.target_shard_gb * BYTES_PER_GB
    return max(shard, _LEAST_GB * BYTES_PER_GB)


def _parts_of(video: PlannedVideo, count: int) -> list[PlannedVideo]:
    ends = [video.cost * k // count for k in range(count + 1)]
    return [replace(video, cost=max(1, ends[k + 1] - ends[k]), part=k, num_parts=count) for k in range(count)]


def part_of(video: PlannedVideo) -> VideoPart | None:
    """The part that was planned; None for a whole video."""
    return VideoPart(video.part, video.num_parts) if video.num_parts > 1 else None


def video_of(key: str) -> str:
    """The id of the video that something in a log is about, a part of it or all of it."""
    return key.partition("//")[0]


def video_parts(run: RunDir, config: RunConfig, video_id: str, count: int) -> VideoParts:
    """What is known of the parts of a video; of other settings they are others."""
    return VideoParts(
        clips=storage_for(config.output_clip_path, config.output_s3),
        files=storage_for(parts_path(run, config)),
        video_id=video_id,
        count=count,
    )


def parts_path(run: RunDir, config: RunConfig) -> str:
    """The folder of what became of parts."""
    return str(run.root / "parts" / config.content_hash[:16])


def planned_parts(shards: Iterable[Shard]) -> dict[int, list[PlannedVideo]]:
    """The parts of each video that was planned in parts, by offset, in order."""
    found: dict[int, list[PlannedVideo]] = {}
    for shard in shards:
        for video in PlannedVideos.of(shard.videos).special.values():
            if video.num_parts > 1:
                found.setdefault(video.offset, []).append(video)
    return {offset: sorted(parts, key=lambda each: each.part) for offset, parts in found.items()}


def parts_begun(begun: Mapping[str, int]) -> dict[str, dict[int, int]]:
    """Of what was begun, by key, what are parts: by video and part."""
    found: dict[str, dict[int, int]] = {}
    for key, count in begun.items():
        video_id, _, part = key.partition("//")
        if part:
            found.setdefault(video_id, {})[int(part.partition("of")[0])] = count
    return found


def parts_to_do(planned: Sequence[PlannedVideo], parts: VideoParts) -> list[PlannedVideo]:
    """What is left of a video without a record: the parts that are not done.

    Where it is to be processed whole, that is the part that says so; where all are done, the last, to join them.
    """
    whole_by = parts.whole_by()
    if whole_by is not None:
        return [replace(planned[whole_by], cost=sum(each.cost for each in planned))]
    left = [each for each in planned if not parts.has(each.part)]
    return left or [replace(planned[-1], cost=1)]
