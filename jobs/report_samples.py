"""The sampled clips of a report: what their metas say in each annotation version, and their previews."""

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

from curation import layout
from curation.storage import Storage, read_ahead
from jobs.annotation import clips_storage
from jobs.comparing import ComparedClip, compared_clip
from jobs.config import RunConfig
from jobs.report_clips import clip_status

MAX_PREVIEW_MB = 24.0
_READERS = 8  # metas and previews are small: reading them is waiting, mostly
_HEAD = "data:image/webp;base64,"
_NO_ROOM = 0.02  # of the budget: with less left, no further preview is read


def sampled_documents(
    config: RunConfig, uuids: Sequence[str], *, versions: Sequence[str], max_preview_bytes: int, folder: Path
) -> list[dict[str, Any]]:
    """What the page shows of each clip; those without a meta in any of the versions are left out.

    Args:
        versions: annotation versions, the last of them first where one has to be chosen.
        max_preview_bytes: of all previews together; every clip gets its first one before any its second.
        folder: of the page, where links begin.

    Raises:
        StorageError: the outputs can't be read.
    """
    storage = clips_storage(config)

    def read(uuid: str) -> ComparedClip | None:
        try:
            return compared_clip(config, versions, uuid)
        except ValueError:  # removed since
            return None

    found = read_ahead(read, uuids, num_threads=_READERS, at_most=4 * _READERS)
    clips = [clip for clip in found if clip is not None]
    documents = [_clip_document(clip, storage, folder) for clip in clips]
    windows = [window for document in documents for window in _places(document)]
    windows.sort(key=lambda window: window[0])
    _add_previews(storage, windows, versions, max_preview_bytes)
    return documents


def _clip_document(clip: ComparedClip, storage: Storage, folder: Path) -> dict[str, Any]:
    meta = next(meta for meta in reversed(list(clip.metas.values())) if meta is not None)
    start_s, end_s = meta["duration_span"]
    match = meta.get("text_match")
    return {
        "uuid": clip.uuid,
        "source": meta["source_video"],
        "video_id": meta["video_id"],
        "span": [start_s, end_s],
        "width": meta["width"],
        "height": meta["height"],
        "duration_s": end_s - start_s,
        "status": clip_status(meta),
        "rejection": meta["rejection"],
        "errors": meta["errors"],
        "scores": _scores(meta),
        "text_match": match,
        "clip_href": _clip_link(storage, meta["clip_location"], folder),
        "windows": [
            {
                "start_frame": start,
                "end_frame": end,
                "preview": None,
                "captions": {version: clip.captions(version, (start, end)) for version in clip.metas},
            }
            for start, end in clip.windows()
        ],
    }


def _scores(meta: Mapping[str, Any]) -> dict[str, float]:
    """Only what was measured."""
    motion = meta.get("motion_score") or {}
    scores = {
        "motion_global": motion.get("global_mean"),
        "motion_patch": motion.get("per_patch_min_256"),
        "aesthetic": meta.get("aesthetic_score"),
    }
    return {name: value for name, value in scores.items() if value is not None}


def _clip_link(storage: Storage, path: str, folder: Path) -> str | None:
    """A relative URL from the page to the mp4; None where it is no file of this machine."""
    file = storage.local_path(path)
    return link(file, folder) if file is not None and file.is_file() else None


def link(path: Path, folder: Path) -> str:
    """A relative URL from a page in a folder to a file."""
    return quote(os.fsencode(os.path.relpath(path.absolute(), folder)))  # names need not be UTF-8


def _places(document: Mapping[str, Any]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Which of its clip's windows each one is, its clip, and its part of the document."""
    for index, window in enumerate(document["windows"]):
        yield index, document["uuid"], window


def _add_previews(
    storage: Storage, windows: Sequence[tuple[int, str, dict[str, Any]]], versions: Sequence[str], max_bytes: int
) -> None:
    """Put previews into the document of each window, in this order, as long as there is room."""

    def read(window: tuple[int, str, dict[str, Any]]) -> tuple[dict[str, Any], bytes | None]:
        _, uuid, document = window
        path = layout.preview(UUID(uuid), document["start_frame"], document["end_frame"])
        for version in dict.fromkeys([*reversed(versions), layout.FIRST_VERSION]):
            try:
                return document, storage.read(layout.versioned(path, version))
            except FileNotFoundError:
                continue
        return document, None

    left = max_bytes
    previews = read_ahead(read, windows if max_bytes else (), num_threads=_READERS, at_most=2 * _READERS)
    for document, webp in previews:
        if webp is None:
            continue
        text = f"{_HEAD}{base64.b64encode(webp).decode('ascii')}"
        if len(text) <= left:
            document["preview"] = text
            left -= len(text)
        if left < _NO_ROOM * max_bytes:
            previews.close()
            return
