"""What a sample holds: the frames of its window, and the clip's metadata with this window alone."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from curation import layout
from curation.dataset.metas import MetasAside
from curation.dataset.packing import LeftOut, WindowSample
from curation.errors import VideoError
from curation.storage import Storage
from curation.video.cut import cut_window
from curation.video.encode import EncoderSettings
from curation.video.smartcopy_files import copy_window


@dataclass(frozen=True, slots=True)
class SampleContent:
    """A sample's two members.

    Attributes:
        mp4: the frames of the window and their sound.
        meta: the clip's metadata in one annotation version; ``windows`` holds this window only.
    """

    mp4: bytes
    meta: Mapping[str, Any]

    @property
    def window(self) -> Mapping[str, Any]:
        """The window's own metadata: its captions."""
        window: Mapping[str, Any] = self.meta["windows"][0]
        return window


def read_sample(
    clips: Storage, sample: WindowSample, *, annotation_version: str, encoder: EncoderSettings, metas: MetasAside
) -> SampleContent | LeftOut:
    """Read and cut one sample; what can't be had is left out with its reason. By several threads at once.

    Args:
        metas: of the clips whose lists have them; others are read from the split run.
        encoder: of the frames at the ends of a window that no key frame covers; a clip that copies its source's packets
            may have such.

    Raises:
        StorageError: the storage failed, which says nothing about the sample.
    """
    meta = _read_meta(clips, sample, annotation_version, metas)
    if isinstance(meta, LeftOut):
        return meta
    try:
        clip = clips.read(sample.clip_path)
    except FileNotFoundError:
        return LeftOut.of(sample, f"no clip {sample.clip_path}")
    found = hashlib.sha256(clip).hexdigest()
    if found != sample.clip_sha256:
        return LeftOut.of(sample, f"{sample.clip_path} has sha256 {found}, its chunk says {sample.clip_sha256}")
    try:
        if meta.get("notes", {}).get("clip_encoding") == "smart-copy":
            first, last = sample.start_frame, sample.end_frame
            mp4 = copy_window(clip, start_frame=first, end_frame=last, settings=encoder, name=sample.key)
        else:
            mp4 = cut_window(clip, start_frame=sample.start_frame, end_frame=sample.end_frame, name=sample.key)
    except VideoError as error:
        return LeftOut.of(sample, f"{error.reason}: {error.message}")
    return SampleContent(mp4, meta)


def _read_meta(
    clips: Storage, sample: WindowSample, annotation_version: str, metas: MetasAside
) -> dict[str, Any] | LeftOut:
    path = layout.meta(UUID(sample.clip_uuid), annotation_version)
    meta: dict[str, Any]
    try:
        meta = metas.read(sample.meta_place) if sample.meta_place is not None else json.loads(clips.read(path))
    except FileNotFoundError:
        return LeftOut.of(sample, f"no metadata {path}")
    except ValueError as error:
        return LeftOut.of(sample, f"{path} is not JSON: {error}")
    span = (sample.start_frame, sample.end_frame)
    windows = [window for window in meta["windows"] if (window["start_frame"], window["end_frame"]) == span]
    if len(windows) != 1:
        return LeftOut.of(sample, f"{path} has {len(windows)} windows {span[0]}..{span[1]}")
    return {"key": sample.key, **meta, "windows": windows}
