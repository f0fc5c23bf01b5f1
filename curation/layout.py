"""Every path and file name of an output, relative to its root (docs/rules.md). Pure."""

import hashlib
from uuid import UUID

KEY_PATTERN = r"[A-Za-z0-9_-]+"
"""A webdataset key: a dot would cut it."""

SUMMARY = "summary.json"
FIRST_VERSION = "v0"
"""The annotation version that a split run writes."""
MAX_PREFIX_BYTES = 280
"""Of an output's root in a bucket: a key holds 1,024 bytes, and the longest path below a root has some 740."""

_MAX_NAME_BYTES = 700
_MAX_SEGMENT_BYTES = 200  # a file name holds 255, and a record has a longer name while it is written aside

WINDOW_FRAMES = 256  # frames in one bucket of the frame-window axis (docs/rules.md, Training dataset)


def versioned(path: str, version: str) -> str:
    """Where a path of an annotation version is: those of v0 are at the output's root, of others in their folders."""
    return path if version == FIRST_VERSION else f"{version}/{path}"


def clip(uuid: UUID, *, filtered: bool = False) -> str:
    """A clip's mp4; a rejected clip lies apart."""
    return f"{'filtered_clips' if filtered else 'clips'}/{uuid}.mp4"


def preview(uuid: UUID, start_frame: int, end_frame: int) -> str:
    """A window's preview; ``end_frame`` is inclusive."""
    return f"previews/{uuid}/{start_frame}_{end_frame}.webp"


def meta(uuid: UUID, version: str) -> str:
    """A clip's metadata in one annotation version."""
    return f"metas/{version}/{uuid}.json"


def all_window_captions(version: str) -> str:
    """The captions of all windows of a run in one annotation version."""
    return f"{version}/all_window_captions.json"


def record(video_id: str) -> str:
    """The record of a video: where it exists, the video is done."""
    return f"processed_videos/{_name(video_id)}.json"


def _name(video_id: str) -> str:
    """An id as part of a path: itself, unless it is longer than a key or, in a segment, a file name has room for."""
    segments = [_shortened(segment, _MAX_SEGMENT_BYTES) for segment in video_id.split("/")]
    return _shortened("/".join(segments), _MAX_NAME_BYTES)


def _shortened(name: str, max_bytes: int) -> str:
    """A long name's beginning and its hash."""
    encoded = name.encode()
    if len(encoded) <= max_bytes:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:32]
    return f"{encoded[: max_bytes - 33].decode(errors='ignore').rstrip('/')}-{digest}"


def embedding_table(name: str, number: int) -> str:
    """A table of vectors; ``name`` says which model's."""
    return f"{name}_parquet/{number:06d}.parquet"


def embedding_pickle(name: str, uuid: UUID) -> str:
    """One clip's vector by itself."""
    return f"{name}/{uuid}.pickle"


def clip_chunk(video_id: str, chunk: int) -> str:
    """What became of one chunk of a video's clips."""
    return f"processed_clip_chunks/{_name(video_id)}_{chunk}.json"


def t5_vectors(video_id: str, chunk: int, version: str) -> str:
    """The T5 vectors of all captions of one chunk of a video's clips."""
    return f"t5_xxl/{version}/{_name(video_id)}_{chunk}.npy"


def sample_key(uuid: str, start_frame: int, end_frame: int) -> str:
    """The key of a training sample: one caption window of one clip; ``end_frame`` is inclusive."""
    return f"{uuid}_{start_frame}_{end_frame}"


def bucket(resolution: str, aspect_ratio: str, length: str, *, split: str | None = None) -> str:
    """The folder of a bucket; ``length`` is that of its frame window, or its bin of durations."""
    folder = f"resolution_{resolution}/aspect_ratio_{aspect_ratio}/{length}"
    return f"{split}/{folder}" if split else folder


def frame_window(start_frame: int) -> str:
    """The name of the frame window that a caption window beginning with ``start_frame`` belongs to."""
    first = start_frame // WINDOW_FRAMES * WINDOW_FRAMES
    return f"frames_{first}_{first + WINDOW_FRAMES - 1}"


def duration_bin(start_s: float, end_s: float | None) -> str:
    """The name of one bin of the duration axis; None: it has no end."""
    return f"duration_{start_s:g}_{'inf' if end_s is None else f'{end_s:g}'}"


def tar(tree: str, index: int, *, max_tars_per_part: int) -> str:
    """A tar's path in its bucket; numbers are dense over the parts."""
    part, number = divmod(index, max_tars_per_part)
    return f"{tree}/part_{part:06d}/{number:06d}.tar"
