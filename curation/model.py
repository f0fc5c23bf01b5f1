"""What flows through the pipeline: videos, their clips, the clips' windows (docs/rules.md, Data model).

Field names, order and methods are those of NeMo Curator's ``nemo_curator.tasks.video``; fields after the blank line in
a class are clipmill's own and come last, so that positional construction stays the same.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from curation.errors import Failure
from curation.sizes import bytes_held
from curation.source_files import RemoteFile, is_uri
from curation.source_profile import SourceProfile
from curation.timeline import FrameSpan, FrameTimeline
from curation.written import WrittenFiles

logger = logging.getLogger(__name__)

_REFERENCE_DURATION_S = 300.0  # a five-minute video weighs 1 (docs/rules.md, Data model)


@dataclass(frozen=True, slots=True)
class Rejection:
    """A filter's verdict: ``measure`` was beyond ``limit``."""

    filter: str
    measure: float
    limit: float


@dataclass(frozen=True, slots=True)
class CaptionOutcome:
    """What became of a caption.

    Attributes:
        status: ``truncated`` when the limit of output tokens cut it off.
        reason: why it is an error; empty otherwise.
        prompt_tokens: of the prompt, frames included.
        output_tokens: that were generated.
        flags: what someone should look at: ``empty``, ``repeated`` (tokens go round in a circle), ``stage2_failed``.
    """

    status: Literal["success", "truncated", "error"]
    reason: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    flags: tuple[str, ...] = ()


@dataclass
class _Window:
    """A part of a clip that is captioned and previewed by itself.

    ``end_frame`` is inclusive, as in every file and folder name.
    """

    start_frame: int
    end_frame: int
    mp4_bytes: bytes | None = None
    qwen_llm_input: dict[str, Any] | None = None
    x1_input: Any | None = None
    caption: dict[str, str] = field(default_factory=dict)
    enhanced_caption: dict[str, str] = field(default_factory=dict)
    webp_bytes: bytes | None = None

    caption_outcomes: dict[str, CaptionOutcome] = field(default_factory=dict)  # by key of caption or enhanced caption
    t5_xxl_embedding: NDArray[np.float16] | None = None  # of the caption that is trained on: a row for each token
    t5_xxl_truncated: bool = False  # whether that caption had more tokens than the encoder took

    @property
    def span(self) -> FrameSpan:
        """The window's frames, half-open, relative to the clip."""
        return FrameSpan(self.start_frame, self.end_frame + 1)

    @property
    def has_caption(self) -> bool:
        """Whether a model said something of it; an error says nothing."""
        errors = {key for key, outcome in self.caption_outcomes.items() if outcome.status == "error"}
        return any(text for key, text in self.caption.items() if key not in errors)

    def get_major_size(self) -> int:
        """Bytes held by the window: encoded media, model inputs and captions."""
        return bytes_held(
            self.mp4_bytes,
            self.qwen_llm_input,
            self.x1_input,
            self.caption,
            self.enhanced_caption,
            self.webp_bytes,
            self.t5_xxl_embedding,
        )


Window = _Window


@dataclass
class Clip:
    """The span kept of a shot, the unit of output. ``span`` is in seconds on the source."""

    uuid: UUID
    source_video: str
    span: tuple[float, float]
    buffer: bytes | None = None
    extracted_frames: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    decoded_motion_data: Any | None = None
    motion_score_global_mean: float | None = None
    motion_score_per_patch_min_256: float | None = None
    aesthetic_score: float | None = None
    cosmos_embed1_frames: NDArray[np.uint8] | None = None
    cosmos_embed1_embedding: NDArray[np.float32] | None = None
    intern_video_2_frames: NDArray[np.uint8] | None = None
    intern_video_2_embedding: NDArray[np.float32] | None = None
    windows: list[_Window] = field(default_factory=list)
    egomotion: dict[str, bytes] = field(default_factory=dict)
    cosmos_embed1_text_match: tuple[str, float] | None = None
    intern_video_2_text_match: tuple[str, float] | None = None
    errors: dict[str, str] = field(default_factory=dict)

    frame_span: FrameSpan | None = None
    frame_times_s: NDArray[np.float64] | None = None
    extracted_frame_indices: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    encoder: str = ""
    notes: dict[str, str] = field(default_factory=dict)
    rejection: Rejection | None = None
    written: WrittenFiles | None = None
    efficientnet_lite0_frames: NDArray[np.uint8] | None = None
    efficientnet_lite0_embedding: NDArray[np.float32] | None = None
    earlier: Mapping[str, Any] | None = None  # what the list of an earlier annotation version says of it

    def extract_metadata(self) -> dict[str, Any] | None:
        """Width, height, framerate, num_frames, video_codec and num_bytes of the clip's own mp4.

        Raises:
            VideoError: the buffer is not a readable video.
        """
        if self.buffer is None:
            return None
        from curation.video.probe import probe_bytes  # above this module: only this method needs a decoder

        metadata = probe_bytes(self.buffer, name=f"clip {self.uuid}").metadata
        return {
            "width": metadata.width,
            "height": metadata.height,
            "framerate": metadata.framerate,
            "num_frames": metadata.num_frames,
            "video_codec": metadata.video_codec,
            "num_bytes": len(self.buffer),
        }

    @property
    def duration(self) -> float:
        """Seconds from the start of the first frame to the end of the last."""
        return self.span[1] - self.span[0]

    def get_major_size(self) -> int:
        """Bytes held by the clip and its windows, every array counted."""
        return bytes_held(
            self.buffer,
            self.extracted_frames,
            self.extracted_frame_indices,
            self.decoded_motion_data,
            self.cosmos_embed1_frames,
            self.cosmos_embed1_embedding,
            self.intern_video_2_frames,
            self.intern_video_2_embedding,
            self.efficientnet_lite0_frames,
            self.efficientnet_lite0_embedding,
            self.egomotion,
            self.frame_times_s,
        ) + sum(window.get_major_size() for window in self.windows)


@dataclass
class ClipStats:
    """Counts over clips; adding those of all videos gives those of the run."""

    num_filtered_by_motion: int = 0
    num_filtered_by_aesthetic: int = 0
    num_passed: int = 0
    num_transcoded: int = 0
    num_with_embeddings: int = 0
    num_with_caption: int = 0
    num_with_webp: int = 0
    total_clip_duration: float = 0.0
    max_clip_duration: float = 0.0

    def combine(self, other: "ClipStats") -> None:
        """Add ``other`` to this one: sums, and the longer of both maxima."""
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            setattr(self, each.name, max(mine, theirs) if each.name == "max_clip_duration" else mine + theirs)

    @classmethod
    def of(cls, kept: Iterable[Clip], filtered: Iterable[Clip]) -> "ClipStats":
        """Count clips: durations and ``num_transcoded`` over all of them, ``num_with_*`` over the kept (per clip)."""
        stats = cls()
        for clip in kept:
            stats._count(clip)
            stats.num_passed += 1
            vectors = (
                clip.cosmos_embed1_embedding,
                clip.intern_video_2_embedding,
                clip.efficientnet_lite0_embedding,
            )
            stats.num_with_embeddings += any(vector is not None for vector in vectors)
            stats.num_with_caption += any(window.has_caption for window in clip.windows)
            num_written = clip.written.num_previews if clip.written is not None else 0
            stats.num_with_webp += num_written > 0 or any(window.webp_bytes for window in clip.windows)
        for clip in filtered:
            stats._count(clip)
            by = clip.rejection.filter if clip.rejection else ""
            stats.num_filtered_by_motion += by == "motion"
            stats.num_filtered_by_aesthetic += by == "aesthetic"
        return stats

    def _count(self, clip: Clip) -> None:
        self.num_transcoded += clip.buffer is not None or clip.written is not None
        self.total_clip_duration += clip.duration
        self.max_clip_duration = max(self.max_clip_duration, clip.duration)


@dataclass
class VideoMetadata:
    """What a probe says of a video. Sizes are display sizes (upright, square pixels); bit rate in kbit/s."""

    size: int | None = None
    height: int | None = None
    width: int | None = None
    framerate: float | None = None
    num_frames: int | None = None
    duration: float | None = None
    video_codec: str | None = None
    pixel_format: str | None = None
    audio_codec: str | None = None
    bit_rate_k: int | None = None


@dataclass
class DecodeCount:
    """How many pictures of a source were decoded, in all passes over it."""

    num_frames: int = 0


@dataclass(frozen=True, slots=True)
class VideoPart:
    """One of the time ranges in which a long video is processed; its clips are those that the whole video would give.

    Attributes:
        index: from 0, in the order of the video.
        count: ranges of the video, at least 2.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"a part needs 0 <= index < count, got {self.index} of {self.count}")


@dataclass
class Video:
    """A source video, and what became of it."""

    input_video: Path | str  # a URI such as s3://bucket/key, which a Path would mangle, stays a text
    source_bytes: bytes | None = None
    metadata: VideoMetadata = field(default_factory=VideoMetadata)
    frame_array: NDArray[np.uint8] | None = None
    clips: list[Clip] = field(default_factory=list)
    filtered_clips: list[Clip] = field(default_factory=list)
    num_total_clips: int = 0
    num_clip_chunks: int = 0
    clip_chunk_index: int = 0
    clip_stats: ClipStats = field(default_factory=ClipStats)
    errors: dict[str, str] = field(default_factory=dict)

    id: str = ""
    start_s: float | None = None
    end_s: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    profile: SourceProfile | None = None
    timeline: FrameTimeline | None = None
    is_vfr: bool | None = None
    clip_chunk_goes_on: bool = False  # these are not all clips of the chunk
    failure: Failure | None = None
    decode_count: DecodeCount = field(default_factory=DecodeCount)
    part: VideoPart | None = None  # of which the clips are; None: of the whole video
    staged: Path | RemoteFile | None = None  # where the bytes of a URI are to be read
    earlier: Mapping[str, Any] | None = None  # its record in an earlier annotation version

    def __post_init__(self) -> None:
        if not (isinstance(self.input_video, str) and is_uri(self.input_video)):
            self.input_video = Path(self.input_video)
        self.id = self.id or PurePosixPath(self.input_video).name

    @property
    def key(self) -> str:
        """What is worked on by itself: the video, or a part of it. No id has an empty segment as the latter has."""
        return self.id if self.part is None else f"{self.id}//{self.part.index}of{self.part.count}"

    def populate_metadata(self) -> None:
        """Fill ``metadata`` from ``source_bytes``.

        Raises:
            ValueError: there are no source bytes.
            VideoError: they are not a readable video.
        """
        if self.source_bytes is None:
            raise ValueError(f"video {self.id!r} has no source_bytes to read metadata from")
        from curation.video.probe import probe_video  # above this module: only this method needs a decoder

        probe_video(self)

    @property
    def fraction(self) -> float:
        """The share of the video's clips that are in this object (a chunk holds some of them), 1.0 without clips."""
        if self.num_total_clips == 0:
            return 1.0
        return (len(self.clips) + len(self.filtered_clips)) / self.num_total_clips

    @property
    def weight(self) -> float:
        """Work in units of a five-minute video, 0 while the size is unknown."""
        if not self.metadata.size:
            return 0.0
        return (self.metadata.duration or 0.0) / _REFERENCE_DURATION_S * self.fraction

    def get_major_size(self) -> int:
        """Bytes held by the video and its clips."""
        clips = [*self.clips, *self.filtered_clips]
        line = self.timeline
        times = [line.ticks, line.idr_frames, line.size_changes] if line is not None else []
        return bytes_held(self.source_bytes, self.frame_array, times) + sum(c.get_major_size() for c in clips)

    def has_metadata(self) -> bool:
        """Whether the fields that every video has are known; a video may have no audio codec."""
        needed = (each.name for each in fields(VideoMetadata) if each.name != "audio_codec")
        return all(getattr(self.metadata, name) is not None for name in needed)

    def is_10_bit_color(self) -> bool | None:
        """Whether the pixel format says 10 bits; None while it is unknown."""
        if self.metadata.pixel_format is None:
            return None
        return "10le" in self.metadata.pixel_format or "10be" in self.metadata.pixel_format

    @property
    def input_path(self) -> str:
        """The input video's path as a string."""
        return str(self.input_video)


@dataclass
class VideoTask:
    """One video on its way through a pipeline."""

    task_id: str
    dataset_name: str
    data: Video = field(default_factory=lambda: Video(Path()))

    def validate(self) -> bool:
        """Whether the video's local file is there; logs a warning when it is not."""
        file = self.data.staged or self.data.input_video
        if self.data.source_bytes is not None or not isinstance(file, Path) or file.is_file():
            return True
        logger.warning("event=missing_input video=%s path=%s", self.data.id, self.data.input_path)
        return False

    @property
    def num_items(self) -> int:
        """Videos in this task: always one."""
        return 1
