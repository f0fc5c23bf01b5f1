"""The groups of settings of a run: every key, its default and what it means."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from curation.captioning.models import CAPTION_MODELS, TEXT_MODELS, caption_model, text_model
from curation.captioning.prompts import caption_prompt, enhancement_prompt
from curation.registry import EMBEDDERS
from curation.storage.options import MIB, S3Options, endpoint_problem
from curation.timeline import MIN_WINDOW_FRAMES
from jobs.slurm import time_minutes

SECRET_INPUT = "secret_input"
"""The type of a mistake whose value is not shown, since it may hold a password."""

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]


def _wall_time(text: str) -> str:
    try:
        time_minutes(text)
    except ValueError:
        raise ValueError("expected a Slurm wall time such as 90, 04:00:00 or 1-12") from None
    return text


WallTime = Annotated[str, AfterValidator(_wall_time)]
"""Slurm's formats: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS."""


def _sbatch_value(value: object) -> object:
    if not isinstance(value, bool | int | str):
        raise ValueError("expected a text, a whole number or true")
    return value


SbatchValue = Annotated[bool | int | str, BeforeValidator(_sbatch_value)]
"""True is an option without a value, such as --exclusive."""


EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Settings(BaseModel):
    """A group: frozen, and it knows all its keys."""

    # numbers where a text is wanted: a wall time of 60 minutes, an account 1234
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


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
            raise ValueError(f"must not exceed window_size {size}")
        return value


class PreviewSettings(Settings):
    """Previews of windows."""

    generate_previews: bool = Field(True, description="write an animated WebP for each window")
    target_fps: PositiveFloat = Field(1.0, description="pictures a second")
    target_height: Annotated[int, Field(ge=2)] = Field(240, description="pixels; the width keeps the aspect")
    compression_level: Annotated[int, Field(ge=0, le=6)] = Field(6, description="effort 0..6, never lossless")
    quality: Annotated[int, Field(ge=0, le=100)] = Field(50, description="0..100, higher is better")


class ModelSettings(Settings):
    """Where the weights of captioners and text models lie."""

    model_dir: str = Field("models", description="folder of all models, on the file system that the nodes share")
    copy_weights_to: str | None = Field(
        None, description="folder on each node's own disk; weights are copied there once and read from there"
    )


def _caption_model(name: str) -> str:
    caption_model(name)
    return name


def _text_model(name: str) -> str:
    text_model(name)
    return name


def _prompt_variant(name: str) -> str:
    caption_prompt(name)
    return name


def _enhancement_variant(name: str) -> str:
    enhancement_prompt(name)
    return name


def _prompt_file(path: str) -> str:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"can't be read: {error}") from None
    if not text.strip():
        raise ValueError("the file is empty")
    return path


class CaptionSettings(Settings):
    """Captions of windows; writing this group turns them on."""

    generate_captions: bool = Field(True, description="true where this group is written, unless it says false")
    captioning_algorithm: Annotated[str, AfterValidator(_caption_model)] = Field(
        "qwen", description=f"one of {', '.join(CAPTION_MODELS)}"
    )
    captioning_prompt_variant: Annotated[str, AfterValidator(_prompt_variant)] = Field(
        "default", description="a built-in prompt: default, av or av-surveillance"
    )
    captioning_prompt_text: str | None = Field(None, description="your own prompt instead")
    captioning_prompt_file: Annotated[str, AfterValidator(_prompt_file)] | None = Field(
        None, description="a file that holds your own prompt; the run keeps its text"
    )
    captioning_sampling_fps: PositiveFloat = Field(2.0, description="frames a second of each window, by timestamp")
    captioning_model_does_preprocess: bool = Field(
        False, description="frames keep their size, and the model's own processor resizes them"
    )
    captioning_preprocess_dtype: Literal["float32", "float16", "bfloat16", "uint8"] = Field(
        "float32", description="of pixel values that are made outside vLLM"
    )
    captioning_batch_size: PositiveInt = Field(8, description="windows at once in transformers, not in vLLM")
    captioning_max_output_tokens: PositiveInt = Field(512, description="a longer caption is cut off: truncated")
    captioning_use_fp8_weights: bool = Field(False, description="quantize weights to FP8 while they are loaded")
    generate_stage2_caption: bool = Field(False, description="ask again, with the frames and the first caption")
    stage2_prompt_text: str | None = Field(None, description="what is then asked; null: a built-in text")
    disable_mmcache: bool = Field(True, description="vLLM keeps no processed frames; windows hardly come twice")
    engine: Literal["auto", "vllm", "transformers"] = Field("auto", description="auto: vLLM where it is installed")
    engine_arguments: dict[str, Any] = Field({}, description="further arguments of the engine, by its own names")
    windows_in_engine: PositiveInt = Field(64, description="windows that one engine works on at once")
    max_held_gb: PositiveFloat = Field(4.0, description="GiB that clips on their way through the captioner may hold")
    max_model_len: PositiveInt = Field(32_768, description="tokens of a prompt and its answer")
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = Field(
        0.85, description="share of each GPU for all models of a worker"
    )
    tensor_parallel_size: NonNegativeInt = Field(
        0, description="GPUs that share a copy of the model; 0: as few as hold it, and more copies on the others"
    )
    engine_stall_timeout_s: PositiveFloat = Field(600.0, description="an engine without a sign of life is replaced")
    enhance_captions: bool = Field(False, description="a language model tells each caption anew, in more detail")
    enhance_captions_algorithm: Annotated[str, AfterValidator(_text_model)] = Field(
        "qwen_lm", description=f"one of {', '.join(TEXT_MODELS)}"
    )
    enhance_captions_prompt_variant: Annotated[str, AfterValidator(_enhancement_variant)] = Field(
        "default", description="a built-in prompt: default, av or av-surveillance"
    )
    enhance_captions_prompt_text: str | None = Field(None, description="your own prompt instead")
    enhance_captions_batch_size: PositiveInt = Field(128, description="captions at once")
    enhance_captions_max_output_tokens: PositiveInt = Field(512, description="a longer text is cut off: truncated")
    enhance_captions_use_fp8_weights: bool = Field(False, description="quantize weights to FP8 while they are loaded")
    enhance_captions_gpu: Literal["after", "beside"] = Field(
        "after", description="after: takes turns with the captioner; beside: both share the GPU all the time"
    )
    enhance_captions_gpu_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.4, description="its part of gpu_memory_utilization, beside"
    )
    enhance_captions_round_windows: PositiveInt = Field(
        4096, description="captions that wait for a turn, after; each turn loads both models anew"
    )

    @field_validator("captioning_prompt_file")
    @classmethod
    def _one_prompt(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("captioning_prompt_text") is not None:
            raise ValueError("give captioning_prompt_text or captioning_prompt_file, not both")
        return value

    @property
    def prompt(self) -> str:
        """What the captioner is asked."""
        return caption_prompt(self.captioning_prompt_variant, self.captioning_prompt_text)

    def with_file_read(self) -> "CaptionSettings":
        """The text of the prompt file in its place: a run does not change when the file does."""
        if self.captioning_prompt_file is None:
            return self
        text = Path(self.captioning_prompt_file).expanduser().read_text(encoding="utf-8").strip()
        return self.model_copy(update={"captioning_prompt_text": text, "captioning_prompt_file": None})


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


def _embedder(name: str) -> str:
    if name not in EMBEDDERS:
        raise ValueError(f"unknown model that embeds: {name!r}; known: {', '.join(EMBEDDERS)}")
    return name


class EmbeddingSettings(Settings):
    """Embeddings of clips; writing this group turns them on."""

    generate_embeddings: bool = Field(True, description="true where this group is written, unless it says false")
    embedding_algorithm: Annotated[str, AfterValidator(_embedder)] = Field(
        "cosmos-embed1-224p", description=f"one of {', '.join(EMBEDDERS)}"
    )
    embedding_target_fps: PositiveFloat = Field(2.0, description="frames a second among which the model's are chosen")
    embedding_gpu_memory_gb: PositiveFloat = Field(20.0, description="of each GPU, for the model and its batches")
    texts_to_verify: list[str] = Field([], description="of these texts the one that fits best stands in each meta")
    write_embedding_pickles: bool = Field(False, description="a pickle of each clip's vector, beside the tables")


class DatasetSettings(Settings):
    """The training dataset."""

    annotation_version: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] = Field("v0", description="which metas")
    target_tar_size_mb: PositiveFloat = Field(500.0, description="MiB of mp4 in one tar")
    max_tars_per_part: PositiveInt = Field(100, description="tars in one part folder")
    min_clips_per_tar: NonNegativeInt = Field(
        0, description="a bucket's last tar with fewer samples joins the one before"
    )
    drop_small_shards: bool = Field(False, description="leave out (and list) a bucket below min_clips_per_tar")
    shuffle_seed: NonNegativeInt = Field(0, description="samples are shuffled before packing; kept in the report")


def _endpoint(url: str) -> str:
    if problem := endpoint_problem(url):
        raise PydanticCustomError(SECRET_INPUT, "{problem}", {"problem": problem})
    return url


class S3Settings(Settings):
    """How S3 is spoken to; credentials come from boto3's own chain (profiles, environment, roles), never from here."""

    endpoint_url: Annotated[str, AfterValidator(_endpoint)] | None = Field(
        None, description="of a server that is not AWS; null: the profile's, or AWS; all paths of a run share it"
    )
    region: str | None = Field(None, description="null: the profile's or AWS_REGION's")
    path_style: bool | None = Field(
        None, description="https://host/bucket/key instead of https://bucket.host/key; null: where endpoint_url is set"
    )
    part_size_mb: Annotated[float, Field(ge=5, le=5120)] = Field(
        16.0, description="MiB of a part of a multipart upload or download; an object has at most 10,000"
    )
    requests_at_once: PositiveInt = Field(4, description="parts of one object that are on their way at once")
    max_tries: PositiveInt = Field(10, description="of one request, with growing random pauses: about a minute in all")

    def options(self, profile_name: str | None) -> S3Options:
        """As storage takes them, with the profile whose credentials are used."""
        return S3Options(
            profile_name=profile_name,
            endpoint_url=self.endpoint_url,
            region=self.region,
            path_style=self.path_style,
            part_size_bytes=round(self.part_size_mb * MIB),
            requests_at_once=self.requests_at_once,
            max_tries=self.max_tries,
        )


class SlurmSettings(Settings):
    """What sbatch is asked for."""

    partition: str | None = Field(None, description="--partition; null: the site's default")
    account: str | None = Field(None, description="--account")
    qos: str | None = Field(None, description="--qos")
    time: WallTime = Field("04:00:00", description="wall time of a worker, Slurm's format")
    gpus_per_task: NonNegativeInt = Field(1, description="GPUs of a worker; 0 on a cluster without")
    cpus_per_task: PositiveInt = Field(8, description="CPUs of a worker")
    mem_gb: PositiveFloat = Field(32.0, description="memory of a worker, GiB")
    array_parallelism: PositiveInt = Field(64, description="workers at once")
    aggregate_mem_gb: PositiveFloat = Field(8.0, description="memory of the aggregation, GiB")
    aggregate_time: WallTime = Field("02:00:00", description="wall time of the aggregation")
    signal_delay_s: PositiveInt = Field(
        120, description="a worker is warned so long before its wall time, at most a quarter of that"
    )
    requeue: bool = Field(True, description="Slurm may start preempted workers and those of failed nodes again")
    modules: list[str] = Field([], description="environment modules that jobs load first")
    setup: list[str] = Field([], description="shell lines run before a job's command, such as conda activate")
    environment: dict[EnvironmentName, str] = Field({}, description="environment variables of the jobs")
    python: str | None = Field(
        None, description="interpreter of the jobs, such as a venv's bin/python; null: this one, in a container python3"
    )
    container_image: str | None = Field(None, description="image with clipmill in it that the jobs run in")
    container_runtime: Literal["pyxis", "apptainer"] = Field("pyxis", description="what runs container_image")
    container_mounts: list[str] = Field(
        [], description="further SOURCE[:TARGET] for the container; it sees the folders of this config anyway"
    )
    srun_arguments: list[str] = Field([], description="further arguments of the srun in each job")
    additional_parameters: dict[str, SbatchValue] = Field({}, description="further sbatch options by long name")
    exclude_bad_nodes_hours: NonNegativeFloat = Field(
        24.0, description="how long a node is left out that failed a worker's checks; 0: not at all"
    )


class LocalSettings(Settings):
    """How shards run without Slurm."""

    parallel_shards: PositiveInt = Field(1, description="workers at once on this machine (cluster: local)")
    gpus: list[str] | None = Field(
        None, description="GPUs to use, slurm.gpus_per_task for each worker; null: all that are visible; []: none"
    )
    threads_per_worker: NonNegativeInt = Field(0, description="threads of a worker's models; 0: the machine's share")


class WorkerSettings(Settings):
    """How a worker behaves."""

    videos_at_once: NonNegativeInt = Field(0, description="videos decoded at once; 0: one for each of the task's CPUs")
    max_attempts: PositiveInt = Field(
        3, description="a video that ended its process so often, its own or the worker's, has crashed"
    )
    child_memory_gb: PositiveFloat = Field(4.0, description="GiB that the process of one video may hold")
    stall_timeout_s: PositiveFloat = Field(120.0, description="seconds without progress that end a video as stalled")
    video_timeout_s: PositiveFloat = Field(21_600.0, description="seconds that one video may take")
    max_failure_rate: Annotated[float, Field(ge=0, le=1)] | None = Field(
        0.5, description="a worker ends when more of its videos fail, from 100 on; null: it never does"
    )
    lease_timeout_s: PositiveFloat = Field(60.0, description="a silent worker's shard may be taken over after this")
    scratch_dir: str | None = Field(
        None, description="folder for temporary files, $VARIABLES are the node's; null: SLURM_TMPDIR, TMPDIR or /tmp"
    )
    scratch_min_gb: NonNegativeFloat = Field(1.0, description="GB that must be free there before a worker begins")
    scratch_max_gb: NonNegativeFloat | None = Field(
        None, description="GB of s3:// input copied there at once; the rest is read where it lies; null: what is free"
    )


class PlanSettings(Settings):
    """How videos become shards."""

    num_shards: PositiveInt | None = Field(None, description="array tasks; null: by target_shard_gb")
    target_shard_gb: PositiveFloat = Field(20.0, description="GB of video in one shard")
    max_part_gb: PositiveFloat | Literal["shard"] | None = Field(
        "shard", description="a larger video is processed in time ranges; shard: as large as one; null: never"
    )
