"""Captions of several annotation versions of the same clips, for a sample of them."""

import hashlib
import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from curation import layout
from curation.storage import Storage, storage_for
from jobs.annotation import clips_storage, versioned_root
from jobs.chunk_lists import summary_videos
from jobs.config import RunConfig

_CAPTION = "_caption"


@dataclass(frozen=True, slots=True)
class ComparedClip:
    """A clip, and its meta in each version; None where a version does not have it."""

    uuid: str
    metas: Mapping[str, dict[str, Any] | None]

    @property
    def known(self) -> dict[str, Any]:
        """The meta of the first version that has it."""
        return next(meta for meta in self.metas.values() if meta is not None)

    def windows(self) -> list[tuple[int, int]]:
        """First and last frame of every window of any version."""
        metas = [meta for meta in self.metas.values() if meta is not None]
        return sorted({(window["start_frame"], window["end_frame"]) for meta in metas for window in meta["windows"]})

    def captions(self, version: str, span: tuple[int, int]) -> dict[str, str]:
        """All captions of a window in a version, by whose they are; none where it has no such window."""
        windows = (self.metas[version] or {"windows": []})["windows"]
        found = [window for window in windows if (window["start_frame"], window["end_frame"]) == span]
        return {
            name.removesuffix(_CAPTION): text
            for window in found
            for name, text in window.items()
            if name.endswith(_CAPTION)
        }

    @property
    def is_different(self) -> bool:
        """Whether any window has other captions in one version than in another."""
        said = [[self.captions(version, span) for span in self.windows()] for version in self.metas]
        return any(each != said[0] for each in said)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "uuid": self.uuid,
            "source_video": self.known["source_video"],
            "span": self.known["duration_span"],
            "windows": [
                {
                    "start_frame": span[0],
                    "end_frame": span[1],
                    "captions": {version: self.captions(version, span) for version in self.metas},
                }
                for span in self.windows()
            ],
        }


def sampled_clips(config: RunConfig, versions: Sequence[str], *, num_clips: int, seed: int) -> Iterator[ComparedClip]:
    """Clips of as many videos, chosen by a hash of seed and id: the same ones each time, whatever else is there.

    Raises:
        ValueError: the first version is not finished.
        StorageError: something can't be read.
    """
    first = storage_for(versioned_root(config, versions[0]), config.output_s3)

    def rank(name: str) -> bytes:
        return hashlib.sha256(f"{seed}:{name}".encode()).digest()

    done = ((rank(video.video_id), video) for video in summary_videos(first) if video.num_clip_chunks)
    for _, video in heapq.nsmallest(num_clips, done):
        index = int.from_bytes(rank(f"{video.video_id} list")[:4]) % video.num_clip_chunks
        entries = json.loads(first.read(layout.clip_chunk(video.video_id, index)))["clips"]
        if entries:
            chosen = min(entries, key=lambda entry: rank(entry["uuid"]))
            yield compared_clip(config, versions, chosen["uuid"])


def compared_clip(config: RunConfig, versions: Sequence[str], uuid: str) -> ComparedClip:
    """One clip.

    Raises:
        ValueError: no version has it.
    """
    clips = clips_storage(config)
    found = ComparedClip(uuid, {version: _meta(clips, uuid, version) for version in versions})
    if not any(found.metas.values()):
        raise ValueError(f"{clips.root} has no clip {uuid} in {' or '.join(versions)}")
    return found


def _meta(clips: Storage, uuid: str, version: str) -> dict[str, Any] | None:
    try:
        meta: dict[str, Any] = json.loads(clips.read(layout.meta(UUID(uuid), version)))
    except FileNotFoundError:
        return None
    return meta
