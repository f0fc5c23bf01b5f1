"""Split runs made by hand, of clips that are each one window: their bytes are packed as they are, whatever they are."""

import hashlib
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from curation.dataset import DatasetSettings
from curation.documents import content_of, to_json
from curation.storage import Storage, storage_for

SETTINGS = DatasetSettings(target_tar_size_mb=10_000 / 2**20)
_NAMESPACE = UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")


def clip_uuid(name: str) -> str:
    return str(uuid5(_NAMESPACE, name))


def clip(name: str, *, caption: str = "a caption", num_frames: int = 100, **changes: Any) -> dict[str, Any]:
    """A clip as a list has it: one window, or two of 256 frames and the rest from 384 frames on."""
    uuid, content = clip_uuid(name), mp4_of(name)
    windows = [[0, num_frames - 1]] if num_frames < 384 else [[0, 255], [256, num_frames - 1]]
    meta = {
        "span_uuid": uuid,
        "duration_span": [0.0, num_frames / 25],
        "width": 1280,
        "height": 720,
        "windows": [{"start_frame": start, "end_frame": end, "qwen_caption": caption} for start, end in windows],
        "video_id": "video",
    }
    return {
        "uuid": uuid,
        "span": [0.0, num_frames / 25],
        "width": 1280,
        "height": 720,
        "num_frames": num_frames,
        "num_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "windows": windows,
        "valid": True,
        "valid_reason": None,
        "metas": {"v0": meta},
        "content": {"v0": content_of(to_json(meta))},
        **changes,
    }


def mp4_of(name: str) -> bytes:
    """What stands for a clip's mp4: 500 to 2,500 bytes."""
    return random.Random(name).randbytes(500 + random.Random(f"size of {name}").randrange(2001))


def chunk(entries: Iterable[Mapping[str, Any]], *, video: str = "video") -> dict[str, Any]:
    return {"video_id": video, "clips": list(entries), "filtered_clips": []}


def clips_below(folder: Path, names: Iterable[str]) -> Storage:
    """A split run with these clips' files."""
    storage = storage_for(str(folder))
    for name in names:
        storage.write(f"clips/{clip_uuid(name)}.mp4", mp4_of(name))
    return storage


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file and what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
