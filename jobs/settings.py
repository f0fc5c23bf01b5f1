"""The groups of settings of a run: every key, its default and what it means; those of clips and models stand apart."""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from curation.bucket_bins import ASPECT_RATIO_BINS, DURATION_BINS_S, RESOLUTION_BINS, BucketAxis, check_bins
from curation.layout import FIRST_VERSION
from curation.storage.options import MIB, S3Options, endpoint_problem
from jobs.setting_words import Expected, kinds
from jobs.slurm import time_minutes

SECRET_INPUT = "secret_input"
"""The type of a mistake whose value is not shown, since it may hold a password."""

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]


_WALL_TIME = "a Slurm wall time such as 90 (minutes), 04:00:00 or 1-12 (days-hours)"


def _wall_time(text: str) -> str:
    try:
        time_minutes(text)
    except ValueError:
        raise ValueError(f"expected {_WALL_TIME}") from None
    return text


WallTime = Annotated[str, AfterValidator(_wall_time), Expected(_WALL_TIME)]
"""Slurm's formats: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS."""


_SBATCH_VALUE = "a text, a whole number or true"


def _sbatch_value(value: object) -> object:
    if not isinstance(value, bool | int | str):
        raise ValueError(f"expected {_SBATCH_VALUE}")
    return value


SbatchValue = Annotated[bool | int | str, BeforeValidator(_sbatch_value), Expected(_SBATCH_VALUE)]
"""True is an option without a value, such as --exclusive."""


EnvironmentName = Annotated[
    str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), Expected("a name of letters, digits and _, no digit first")
]
VersionName = Annotated[
    str,
    Field(pattern=r"^v[0-9][A-Za-z0-9_-]*$"),
    Expected("a version such as v1: v, a digit, then letters, digits, _ or -"),
]
"""Of what is said of clips; docs/rules.md, Annotation versions."""


class Settings(BaseModel):
    """A group: frozen, and it knows all its keys."""

    # numbers where a text is wanted: a wall time of 60 minutes, an account 1234
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth(cls, value: object, info: ValidationInfo) -> object:
        """To pydantic true is 1 where a number is wanted; here a key that takes numbers takes no true."""
        possible = set(kinds(cls.model_fields[info.field_name or ""].annotation))
        if isinstance(value, bool) and possible & {int, float} and bool not in possible:
            raise PydanticCustomError("number_type", "expected a number")
        return value


class DatasetSettings(Settings):
    """The training dataset."""

    annotation_version: (
        Annotated[
            str, Field(pattern=r"^[A-Za-z0-9_-]+$"), Expected("a version such as v1, of letters, digits, _ and -")
        ]
        | None
    ) = Field(None, description="which metas; null: those that the run makes, v0 without annotate")
    target_tar_size_mb: PositiveFloat = Field(500.0, description="MiB of mp4 in one tar")
    max_tars_per_part: PositiveInt = Field(100, description="tars in one part folder")
    min_clips_per_tar: NonNegativeInt = Field(
        0, description="a bucket's last tar with fewer samples joins the one before"
    )
    drop_small_shards: bool = Field(False, description="leave out (and list) a bucket below min_clips_per_tar")
    shuffle_seed: NonNegativeInt = Field(0, description="samples are shuffled before packing; kept in the report")
    resolution_bins: list[PositiveInt] = Field(
        list(RESOLUTION_BINS), description="lower bounds of the shorter side, falling"
    )
    aspect_ratio_bins: dict[str, PositiveFloat | None] = Field(
        dict(ASPECT_RATIO_BINS),
        description="name -> width / height up to and with which it goes, rising; the last: null, no bound",
    )
    bucket_axis: BucketAxis = Field(
        "frames", description="the third axis: where in its clip a window begins (frames), or how long it is (duration)"
    )
    duration_bins_s: list[PositiveFloat] = Field(
        list(DURATION_BINS_S), description="where a bin of the duration axis begins; what is shorter has its own"
    )
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of the videos whose windows go to val/, the others' go to train/; 0: no split"
    )
    t5: bool | None = Field(
        None, description="with T5 vectors, leaving out windows without; null: where a clip has some"
    )
    duplicates: str | None = Field(
        None, description="folder or s3://bucket/prefix of a `clipmill dedup` output; duplicates are left out"
    )

    @model_validator(mode="after")
    def _check_bins(self) -> "DatasetSettings":
        check_bins(self.resolution_bins, list(self.aspect_ratio_bins.items()), self.duration_bins_s)
        return self


def _endpoint(url: str) -> str:
    if problem := endpoint_problem(url):
        raise PydanticCustomError(SECRET_INPUT, "{problem}", {"problem": problem})
    return url


class S3Settings(Settings):
    """How S3 is spoken to; credentials come from boto3's own chain (profiles, environment, roles), never from here."""

    endpoint_url: (
        Annotated[str, AfterValidator(_endpoint), Expected("a URL such as https://s3.example.org:9000")] | None
    ) = Field(None, description="of a server that is not AWS; null: the profile's, or AWS; all paths of a run share it")
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


class AggregateSettings(Settings):
    """How many jobs pack the training dataset, and what each of them is given; the aggregation itself: see slurm."""

    num_tasks: PositiveInt = Field(
        1, description="tasks that pack at once, in an array after the aggregation; 1: the aggregation packs"
    )
    cpus_per_task: PositiveInt = Field(2, description="CPUs of a packing task: one reads, cuts and hashes, one writes")
    mem_gb: PositiveFloat = Field(4.0, description="memory of a packing task, GiB")
    time: WallTime = Field("04:00:00", description="wall time of a packing task")


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


class AnnotateSettings(Settings):
    """Annotates clips that are there, without touching them: a further version of what is said of them."""

    annotation_version: VersionName | None = Field(
        None, description="the version to make, such as v1, of the output in output_clip_path; null: a split run"
    )
    from_annotation_version: VersionName = Field(
        FIRST_VERSION, validate_default=True, description="what is not made anew is carried from this one"
    )
    rewindow: bool = Field(False, description="caption windows as the group windows says; false: those of the clips")

    @field_validator("from_annotation_version")
    @classmethod
    def _is_another(cls, value: str, info: ValidationInfo) -> str:
        version = info.data.get("annotation_version")
        if version is not None and version in (value, FIRST_VERSION):
            raise ValueError(f"a version other than {version} is needed to start from, and v0 is the split run's own")
        return value


class PlanSettings(Settings):
    """How videos become shards."""

    num_shards: PositiveInt | None = Field(None, description="array tasks; null: by target_shard_gb")
    target_shard_gb: PositiveFloat = Field(20.0, description="GB of video in one shard")
    max_part_gb: PositiveFloat | Literal["shard"] | None = Field(
        "shard", description="a larger video is processed in time ranges; shard: as large as one; null: never"
    )
