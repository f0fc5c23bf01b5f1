"""Which windows go into the dataset, and into which tar. Pure."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from uuid import UUID

from curation import layout
from curation.dataset.buckets import RESOLUTION_BINS, Bucket, bucket_of
from curation.timeline import MIN_WINDOW_FRAMES, FrameSpan


@dataclass(frozen=True, slots=True)
class WindowSample:
    """One caption window of one clip: what a training sample is made of.

    Attributes:
        start_frame: relative to the clip; ``end_frame`` is inclusive.
        num_bytes: estimated size of its mp4: its share of the clip's frames.
        clip_path: the clip's mp4, relative to the root of the split run.
        clip_bytes: size of the clip's mp4.
        meta_place: of the clip's meta in ``MetasAside``; None where its list does not have it.
    """

    key: str
    clip_uuid: str
    video_id: str
    start_frame: int
    end_frame: int
    bucket: Bucket
    num_bytes: int
    clip_path: str
    clip_sha256: str
    clip_bytes: int = field(default=0, compare=False)
    meta_place: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(layout.KEY_PATTERN, self.key):
            raise ValueError(f"a key needs the form {layout.KEY_PATTERN}, got {self.key!r}")

    @property
    def num_frames(self) -> int:
        return self.end_frame - self.start_frame + 1


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A window, or a clip without any (``start_frame`` None), that is not in the dataset, and why."""

    clip_uuid: str
    start_frame: int | None
    reason: str

    @classmethod
    def of(cls, sample: WindowSample, reason: str) -> "LeftOut":
        """A planned sample that can't be had."""
        return cls(sample.clip_uuid, sample.start_frame, reason)


@dataclass(frozen=True, slots=True)
class TarPlan:
    """Samples of one tar in their order."""

    samples: tuple[WindowSample, ...]

    @property
    def num_bytes(self) -> int:
        """Estimated bytes of mp4."""
        return sum(sample.num_bytes for sample in self.samples)


def samples_of(
    clip_entries: Iterable[Mapping[str, Any]],
    *,
    video_id: str,
    resolution_bins: Sequence[int] = RESOLUTION_BINS,
    meta_places: Mapping[str, int] = MappingProxyType({}),
) -> tuple[list[WindowSample], list[LeftOut]]:
    """The windows of the kept clips of a video's chunk, and what has to stay out.

    Args:
        clip_entries: ``clips`` of a chunk document (``curation.writing.records.clip_entry``).
        meta_places: of clips whose metas were kept, by uuid.
    """
    samples: list[WindowSample] = []
    left_out: list[LeftOut] = []
    for entry in clip_entries:
        reason = _why_left_out(entry)
        if reason is None:
            place = meta_places.get(entry["uuid"])
            samples += [_sample(entry, start, end, video_id, resolution_bins, place) for start, end in entry["windows"]]
        else:
            starts = [start for start, _ in entry["windows"]] or [None]
            left_out += [LeftOut(entry["uuid"], start, reason) for start in starts]
    return samples, left_out


def _why_left_out(entry: Mapping[str, Any]) -> str | None:
    if not entry["valid"]:
        return str(entry["valid_reason"])
    if not entry["windows"]:
        too_short = entry["num_frames"] < MIN_WINDOW_FRAMES
        return f"fewer than {MIN_WINDOW_FRAMES} frames" if too_short else "no caption window"
    return None


def _sample(
    entry: Mapping[str, Any],
    start_frame: int,
    end_frame: int,
    video_id: str,
    resolution_bins: Sequence[int],
    meta_place: int | None,
) -> WindowSample:
    num_frames = len(FrameSpan(start_frame, end_frame + 1))
    return WindowSample(
        key=layout.sample_key(entry["uuid"], start_frame, end_frame),
        clip_uuid=entry["uuid"],
        video_id=video_id,
        start_frame=start_frame,
        end_frame=end_frame,
        bucket=bucket_of(entry["width"], entry["height"], start_frame, resolution_bins=resolution_bins),
        num_bytes=round(entry["num_bytes"] * num_frames / entry["num_frames"]),
        clip_path=layout.clip(UUID(entry["uuid"])),
        clip_sha256=entry["sha256"],
        clip_bytes=entry["num_bytes"],
        meta_place=meta_place,
    )


def plan_tars(
    samples: Iterable[WindowSample], *, target_bytes: int, min_clips_per_tar: int, drop_small: bool, seed: int
) -> tuple[dict[Bucket, list[TarPlan]], list[LeftOut]]:
    """Shuffle each bucket's samples and cut them into tars of at most ``target_bytes``.

    The plan does not depend on the order of the input. A single sample may exceed the target. A last tar of fewer than
    ``min_clips_per_tar`` samples joins the one before it; a bucket of fewer is kept, or left out with ``drop_small``.

    Returns:
        The tars of each bucket, in order of the buckets; those left out.

    Raises:
        ValueError: two samples have the same key.
    """
    in_bucket: defaultdict[Bucket, list[WindowSample]] = defaultdict(list)
    for sample in samples:
        in_bucket[sample.bucket].append(sample)
    _check_unique(sample.key for each in in_bucket.values() for sample in each)
    plan: dict[Bucket, list[TarPlan]] = {}
    left_out: list[LeftOut] = []
    for bucket in sorted(in_bucket):
        shuffled = sorted(in_bucket[bucket], key=lambda sample: _shuffle_rank(sample.key, seed))
        if drop_small and len(shuffled) < min_clips_per_tar:
            reason = f"bucket {bucket.folder} has {len(shuffled)} samples, fewer than {min_clips_per_tar}"
            left_out += [LeftOut.of(sample, reason) for sample in shuffled]
        else:
            plan[bucket] = _cut(shuffled, target_bytes=target_bytes, min_clips_per_tar=min_clips_per_tar)
    return plan, left_out


def _check_unique(keys: Iterable[str]) -> None:
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} keys are not unique, the first is {min(twice)}")


def _shuffle_rank(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


def _cut(samples: Sequence[WindowSample], *, target_bytes: int, min_clips_per_tar: int) -> list[TarPlan]:
    groups: list[list[WindowSample]] = []
    filled = 0
    for sample in samples:
        if not groups or filled + sample.num_bytes > target_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(sample)
        filled += sample.num_bytes
    while len(groups) > 1 and len(groups[-1]) < min_clips_per_tar:
        tail = groups.pop()
        groups[-1] += tail
    return [TarPlan(tuple(group)) for group in groups]
