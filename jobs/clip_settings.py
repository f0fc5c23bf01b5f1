"""The groups of settings that decide which clips there are, and what stands beside them."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from curation.timeline import MIN_WINDOW_FRAMES
from jobs.settings import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Settings


def _with_dashes(name: object) -> object:
    """Both spellings are in use: fixed-stride and fixed_stride."""
    return name.replace("_", "-") if isinstance(name, str) else name


class SplitSettings(Settings):
    """How videos are cut."""

    splitting_algorithm: Annotated[Literal["transnetv2", "fixed-stride"], BeforeValidator(_with_dashes)] = Field(
        "transnetv2", description="shot detection, or cuts at regular times"
    )
    fixed_stride_split_duration: PositiveFloat = Field(10.0, description="seconds of a clip, fixed-stride")
    fixed_stride_min_clip_length_s: NonNegativeFloat = Field(2.0, description="a shorter last clip is left out")
    transnetv2_threshold: Annotated[float, Field(gt=0, lt=1)] = Field(0.4, description="probability that is a cut")
    transnetv2_min_length_s: NonNegativeFloat = Field(2.0, description="a shorter clip is left out")
    transnetv2_max_length_s: PositiveFloat | None = Field(60.0, description="a longer shot is cut; null: no limit")
    transnetv2_max_length_mode: Literal["stride", "truncate"] = Field("stride", description="cut in pieces, or drop")
    transnetv2_crop_s: NonNegativeFloat = Field(0.5, description="seconds left out at both ends of each shot")
    transnetv2_snap_to_idr: bool = Field(
        False, description="begin at an H.264 shot's own first IDR within max(crop, 1 s); smart-copy then encodes less"
    )
    transnetv2_batch_size: NonNegativeInt = Field(
        0, description="windows of several videos that a GPU takes at once; 0: 16; a CPU takes each alone"
    )
    transnetv2_skip_static: bool = Field(False, description="leave out the detector where nothing changes")
    transnetv2_model_dir: str | None = Field(None, description="folder with the weights; null: the installed package")

    @property
    def is_fixed_stride(self) -> bool:
        """Whether cuts are made at regular times."""
        return self.splitting_algorithm != "transnetv2"


class ClipSettings(Settings):
    """How clips are encoded."""

    encoder: Literal["auto", "h264_nvenc", "libx264", "libopenh264", "libsvtav1", "libvpx-vp9"] = Field(
        "auto", description="auto takes the first H.264 encoder that really encodes on the node"
    )
    clip_encoding: Literal["transcode", "smart-copy"] = Field(
        "transcode", description="smart-copy copies H.264 packets and encodes only what no IDR covers, where it can"
    )
    preset: str = Field("superfast", description="the encoder's speed name (libx264, libsvtav1)")
    crf: Annotated[int, Field(ge=0, le=63)] = Field(23, description="constant quality, lower is better")
    encoder_threads: PositiveInt = Field(1, description="threads of one encoder; 1 gives the same bytes everywhere")
    keep_audio: bool = Field(True, description="re-encode the sound to AAC; false drops it")
    num_clips_per_chunk: PositiveInt = Field(32, description="clips that are listed in one file")
    allow_truncated: bool = Field(False, description="use what a cut-off file still holds, instead of failing it")


class LimitSettings(Settings):
    """The largest video that is taken; what is larger fails with the reason limits."""

    max_pixels: PositiveInt = Field(36_000_000, description="of one picture; 8192x4320 has 35.4 million")
    max_duration_s: PositiveFloat = Field(86_400.0, description="seconds")
    max_frames: PositiveInt = Field(5_200_000, description="a day at 60 Hz has 5.18 million")
    max_streams: PositiveInt = Field(64, description="video, audio, subtitles and all other streams of a file")


class WindowSettings(Settings):
    """How clips are tiled with windows."""

    window_size: Annotated[int, Field(ge=MIN_WINDOW_FRAMES)] = Field(256, description="frames of a window")
    remainder_threshold: PositiveInt = Field(128, description="a shorter rest joins the window before it")

    @field_validator("remainder_threshold")
    @classmethod
    def _fits_window(cls, value: int, info: ValidationInfo) -> int:
        size = info.data.get("window_size")  # absent when it is wrong itself
        if size is not None and value > size:
            raise ValueError(f"expected at most window_size ({size})")
        return value


class PreviewSettings(Settings):
    """Previews of windows."""

    generate_previews: bool = Field(True, description="write an animated WebP for each window")
    target_fps: PositiveFloat = Field(1.0, description="pictures a second")
    target_height: Annotated[int, Field(ge=2)] = Field(240, description="pixels; the width keeps the aspect")
    compression_level: Annotated[int, Field(ge=0, le=6)] = Field(6, description="effort 0..6, never lossless")
    quality: Annotated[int, Field(ge=0, le=100)] = Field(50, description="0..100, higher is better")


class FilterSettings(Settings):
    """Which clips are left out: they go to filtered_clips with filter, measure and limit."""

    motion_filter: Literal["disable", "enable", "score-only"] = Field(
        "disable", description="enable leaves out clips in which nothing moves; score-only measures them"
    )
    motion_global_mean_threshold: NonNegativeFloat = Field(0.00098, description="less motion on the mean is still")
    motion_per_patch_min_256_threshold: NonNegativeFloat = Field(
        0.000001, description="less motion in the stillest patch of 256 x 256 is still"
    )
    motion_decode_target_fps: PositiveFloat = Field(2.0, description="frames a second that are looked at")
    motion_decode_target_duration_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="how much of each clip is looked at, from its start on"
    )
    motion_encode_rejected: bool = Field(True, description="still clips get an mp4, too, in filtered_clips")
    aesthetic_threshold: float | None = Field(None, description="clips with a lower score are left out; null: off")
    aesthetic_reduction: Literal["min", "mean"] = Field("min", description="of the scores of a clip's frames")
    aesthetic_fps: PositiveFloat = Field(1.0, description="frames a second that are scored")
