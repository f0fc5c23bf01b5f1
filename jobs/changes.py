"""What a setting decides, and what has to be done again when it changes. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.config import RunConfig
from jobs.model_settings import CAPTION_RESOURCES, T5_RESOURCES
from jobs.settings import Settings

RUN = "run"  # where it reads and writes: with another value it is another run
PLACE = "place"  # where and how fast it goes; nothing in the output
DATASET = "dataset"  # the aggregation makes it, from what is there
LIMITS = "limits"  # which videos fail as too large

DECIDES: Mapping[str, str] = {
    **dict.fromkeys(("run_dir", "annotate", "input_video_path", "manifest", "output_clip_path", "limit"), RUN),
    **dict.fromkeys(("cluster", "models", "plan", "worker", "local", "slurm", "aggregate"), PLACE),
    **dict.fromkeys(("s3", "input_s3_profile_name", "output_s3_profile_name"), PLACE),
    **dict.fromkeys(("split.transnetv2_model_dir", "embeddings.embedding_gpu_memory_gb"), PLACE),
    **{f"captions.{key}": PLACE for key in CAPTION_RESOURCES},
    **{f"t5.{key}": PLACE for key in T5_RESOURCES},
    **dict.fromkeys(("dataset", "output_dataset_path"), DATASET),
    "limits": LIMITS,
    "limit_clips": "splitting",
    "split": "splitting",
    "clips": "clips",
    "filters": "filters",
    "windows": "windows",
    "previews": "previews",
    "embeddings": "embeddings",
    "captions": "captions",
    "t5": "t5",
}
"""What the settings of a group, or one setting, decide."""

FOLLOWS: Mapping[str, tuple[str, ...]] = {
    "splitting": ("clips", "filters", "windows", "previews", "embeddings", "captions", "enhancement", "t5", DATASET),
    "clips": ("filters", "windows", "previews", "embeddings", "captions", "enhancement", "t5", DATASET),
    "filters": ("previews", "embeddings", "captions", "enhancement", "t5", DATASET),
    "windows": ("previews", "captions", "enhancement", "t5", DATASET),
    "previews": (DATASET,),
    "embeddings": (DATASET,),
    "captions": ("enhancement", "t5", DATASET),
    "enhancement": ("t5", DATASET),
    "t5": (DATASET,),
}
"""What is made from what, and so is made anew with it."""


@dataclass(frozen=True)
class Change:
    """A setting with another value than before, and what it decides."""

    key: str
    before: Any
    now: Any

    @property
    def decides(self) -> str:
        return decides(self.key)

    def __str__(self) -> str:
        return f"{self.key}: {self.before!r} -> {self.now!r}"


@dataclass(frozen=True)
class Consequence:
    """What changed settings ask for.

    Attributes:
        changes: the settings that ask for it.
        stages: what is made anew, what decides it first.
        everything: all videos are processed again.
        limits: those that failed as too large are.
    """

    changes: Sequence[Change]
    stages: Sequence[str] = ()
    everything: bool = False
    limits: bool = False

    @property
    def why(self) -> str:
        """The changed settings in one line."""
        return ", ".join(map(str, self.changes))


def decides(key: str) -> str:
    """What a setting decides, by its dotted key.

    Raises:
        KeyError: nobody said so.
    """
    if key.startswith("captions.enhance_") and key not in DECIDES:
        return "enhancement"
    return DECIDES[key] if key in DECIDES else DECIDES[key.partition(".")[0]]


def changes_between(before: RunConfig, now: RunConfig) -> list[Change]:
    """Every setting with another value."""
    old, new = flat_settings(before), flat_settings(now)
    return [Change(key, old.get(key), new[key]) for key in new if old.get(key) != new[key]]


def consequence(before: RunConfig, now: RunConfig) -> Consequence:
    """What the videos of a run are done again for; settings that decide nothing there are left out.

    Every document of an output names the hash of the settings that decide what it holds, so that a video is wholly
    processed again where it changes: no run holds outputs of two kinds.
    """
    found = changes_between(before, now)
    deciding = [change for change in found if change.decides in FOLLOWS]
    limits = [change for change in found if change.decides == LIMITS]
    if before.content_hash != now.content_hash:
        used = [change for change in deciding if _is_used(change.decides, before) or _is_used(change.decides, now)]
        return Consequence(used, _made_anew(used, now), everything=True)
    if any(change.now < change.before for change in limits):
        return Consequence(limits, everything=True)
    return Consequence(limits, limits=bool(limits))


def _made_anew(changes: Sequence[Change], now: RunConfig) -> list[str]:
    """The stages that these changes decide and those that follow, less what the run has no longer."""
    begun = {change.decides for change in changes}
    wanted = begun | {later for stage in begun for later in FOLLOWS[stage]}
    return [stage for stage in ("splitting", *FOLLOWS["splitting"]) if stage in wanted and _is_used(stage, now)]


def _is_used(stage: str, config: RunConfig) -> bool:
    """Whether a run has a stage; the settings of one that is turned off do not matter."""
    captions = config.captions
    is_on = {
        "filters": config.filters != type(config.filters)(),
        "previews": config.previews.generate_previews,
        "embeddings": config.embeddings.generate_embeddings,
        "captions": captions.generate_captions,
        "enhancement": captions.generate_captions and captions.enhance_captions,
        "t5": config.t5.generate_t5,
        DATASET: config.output_dataset_path is not None,
    }
    return is_on.get(stage, True)


def flat_settings(config: RunConfig) -> dict[str, Any]:
    """Every setting by its dotted key; a setting that is a mapping itself is one value."""
    flat: dict[str, Any] = {}
    for name, value in config:
        if isinstance(value, Settings):
            flat |= {f"{name}.{key}": each for key, each in value}
        else:
            flat[name] = value
    return flat
