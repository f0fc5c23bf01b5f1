"""What a sample holds: the frames of its window, the clip's metadata with this window alone, and its T5 vectors."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from curation import layout
from curation.dataset.plan_files import PlannedSample
from curation.dataset.t5_members import NoVectorsError, T5Members
from curation.errors import VideoError
from curation.storage import Storage
from curation.video.cut import cut_window
from curation.video.encode import EncoderSettings
from curation.video.smartcopy_files import copy_window

VIDEO, METAS, T5 = "video", "metas", "t5_xxl"
"""The trees of a dataset: a tar of each holds the same keys in the same order."""

_NEEDED = ("windows", "duration_span", "width", "height")  # of a meta


class LeftOut(NamedTuple):
    """A planned window that is not in the dataset, and why."""

    clip_uuid: str
    video_id: str
    start_frame: int
    reason: str

    @classmethod
    def of(cls, sample: PlannedSample, reason: str) -> "LeftOut":
        return cls(sample.clip_uuid, sample.video_id, sample.start_frame, reason)


@dataclass(frozen=True, slots=True)
class SampleContent:
    """A sample's members.

    Attributes:
        mp4: the frames of the window and their sound.
        meta: the clip's metadata in one annotation version; ``windows`` holds this window only.
        t5: the T5 vectors of its caption, as ``t5_member`` gives them; None in a dataset that has none.
    """

    mp4: bytes
    meta: Mapping[str, Any]
    t5: bytes | None = None

    @property
    def window(self) -> Mapping[str, Any]:
        """The window's own metadata: its captions."""
        window: Mapping[str, Any] = self.meta["windows"][0]
        return window

    def members(self, key: str) -> dict[str, tuple[str, bytes]]:
        """Tree -> name and content of the sample's member in a tar of that tree."""
        members = {VIDEO: (f"{key}.mp4", self.mp4), METAS: (f"{key}.json", orjson.dumps(self.meta))}
        return members if self.t5 is None else {**members, T5: (f"{key}.pickle", self.t5)}


class _NotHadError(Exception):
    """A sample can't be had; the message is the reason."""


class SampleReader:
    """Reads and cuts samples; by several threads at once.

    Args:
        encoder: of the frames at the ends of a window that no key frame covers; a clip that copies its source's packets
            may have such.
        has_t5: whether samples have T5 vectors.
    """

    def __init__(self, clips: Storage, *, annotation_version: str, encoder: EncoderSettings, has_t5: bool) -> None:
        self._clips = clips
        self._annotation_version = annotation_version
        self._encoder = encoder
        self._t5 = T5Members(clips) if has_t5 else None

    def read(self, sample: PlannedSample) -> SampleContent | LeftOut:
        """One sample; what can't be had is left out with its reason.

        Raises:
            StorageError: the storage failed, which says nothing about the sample.
        """
        try:
            meta = self._meta(sample)
            t5 = self._t5.read(sample) if self._t5 is not None else None
            return SampleContent(self._mp4(sample, meta), meta, t5)
        except VideoError as error:
            return LeftOut.of(sample, f"{error.reason}: {error.message}")
        except (_NotHadError, NoVectorsError) as error:
            return LeftOut.of(sample, str(error))

    def _meta(self, sample: PlannedSample) -> dict[str, Any]:
        path = layout.meta(UUID(sample.clip_uuid), self._annotation_version)
        try:
            text = sample.meta if sample.meta is not None else self._clips.read(path)
            meta = orjson.loads(text)
        except FileNotFoundError as error:
            raise _NotHadError(f"no metadata {path}") from error
        except ValueError as error:
            raise _NotHadError(f"{path} is not JSON: {error}") from error
        lacking = [name for name in _NEEDED if not isinstance(meta, dict) or meta.get(name) is None]
        if lacking:
            raise _NotHadError(f"{path} has no {', '.join(lacking)}")
        span = (sample.start_frame, sample.end_frame)
        windows = [each for each in meta["windows"] if (each.get("start_frame"), each.get("end_frame")) == span]
        if len(windows) != 1:
            raise _NotHadError(f"{path} has {len(windows)} windows {span[0]}..{span[1]}")
        return {"key": sample.key, **meta, "windows": windows}

    def _mp4(self, sample: PlannedSample, meta: Mapping[str, Any]) -> bytes:
        clip = self._clip(sample)
        start, end = sample.start_frame, sample.end_frame
        if (start, end + 1) == (0, sample.clip_num_frames):
            return clip  # its checksum says that these are the frames that were counted when it was written
        notes = meta.get("notes", {})
        if notes.get("clip_encoding") == "smart-copy" or "windows" in notes:  # no key frame where it begins, perhaps
            return copy_window(clip, start_frame=start, end_frame=end, settings=self._encoder, name=sample.key)
        return cut_window(clip, start_frame=start, end_frame=end, name=sample.key)

    def _clip(self, sample: PlannedSample) -> bytes:
        try:
            clip = self._clips.read(sample.clip_path)
        except FileNotFoundError as error:
            raise _NotHadError(f"no clip {sample.clip_path}") from error
        found = hashlib.sha256(clip).hexdigest()
        if found != sample.clip_sha256:
            raise _NotHadError(f"{sample.clip_path} has sha256 {found}, its chunk says {sample.clip_sha256}")
        return clip
