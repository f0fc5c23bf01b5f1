"""The one YAML of a run: every setting, its default, and all mistakes at once with line and key."""

import copy
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from curation.storage import S3Options
from jobs.clip_settings import (
    ClipSettings,
    FilterSettings,
    LimitSettings,
    PreviewSettings,
    SplitSettings,
    WindowSettings,
)
from jobs.config_errors import (
    ConfigError,
    Location,
    Source,
    described,
    key_lines,
    no_settings,
    not_readable,
    override_place,
    places_of,
)
from jobs.model_settings import (
    CAPTION_RESOURCES,
    T5_RESOURCES,
    CaptionSettings,
    EmbeddingSettings,
    ModelSettings,
    T5Settings,
)
from jobs.setting_words import group_model
from jobs.settings import (
    AggregateSettings,
    AnnotateSettings,
    DatasetSettings,
    LocalSettings,
    NonNegativeInt,
    PlanSettings,
    S3Settings,
    Settings,
    SlurmSettings,
    WorkerSettings,
)
from jobs.split_json import ARGUMENTS, is_split_pipeline, split_settings
from jobs.yaml_text import Dumper, Loader

__all__ = [
    "ConfigError",
    "ReadConfig",
    "RunConfig",
    "absolute",
    "load_config",
    "read_config",
    "to_yaml",
]


class RunConfig(Settings):
    """A run: one config applied to one manifest."""

    run_dir: str = Field(description="folder of the run's state, on the file system that the nodes share")
    annotate: AnnotateSettings = AnnotateSettings()
    input_video_path: str | None = Field(
        None, description="folder, or s3://bucket/prefix, of videos; also the root of relative paths"
    )
    manifest: str | None = Field(
        None,
        validate_default=True,
        description=".txt, .json, .jsonl or .csv list of videos, local or s3://, instead of a folder",
    )
    output_clip_path: str = Field(description="folder, or s3://bucket/prefix, of clips, metas, previews and records")
    output_dataset_path: str | None = Field(
        None, description="folder or s3://bucket/prefix of the training dataset; null: none"
    )
    input_s3_profile_name: str | None = Field(None, description="boto3's profile that reads s3:// input; null: default")
    output_s3_profile_name: str | None = Field(
        None, description="boto3's profile that writes s3:// clips and dataset; null: default"
    )
    cluster: Literal["slurm", "local", "debug"] = Field("slurm", description="where shards run; changes nothing else")
    limit: NonNegativeInt = Field(0, description="at most so many videos; 0: all")
    limit_clips: NonNegativeInt = Field(0, description="at most so many clips of each video; 0: all")
    split: SplitSettings = SplitSettings()
    clips: ClipSettings = ClipSettings()
    limits: LimitSettings = LimitSettings()
    windows: WindowSettings = WindowSettings()
    filters: FilterSettings = FilterSettings()
    previews: PreviewSettings = PreviewSettings()
    embeddings: EmbeddingSettings = EmbeddingSettings(generate_embeddings=False)
    captions: CaptionSettings = CaptionSettings(generate_captions=False)
    t5: T5Settings = T5Settings()
    models: ModelSettings = ModelSettings()
    dataset: DatasetSettings = DatasetSettings()
    aggregate: AggregateSettings = AggregateSettings()
    plan: PlanSettings = PlanSettings()
    worker: WorkerSettings = WorkerSettings()
    local: LocalSettings = LocalSettings()
    slurm: SlurmSettings = SlurmSettings()
    s3: S3Settings = S3Settings()

    @field_validator("manifest")
    @classmethod
    def _has_input(cls, value: str | None, info: ValidationInfo) -> str | None:
        is_annotation = info.data.get("annotate", AnnotateSettings()).annotation_version is not None
        given = value if value is not None else info.data.get("input_video_path", "" if not is_annotation else None)
        if is_annotation and given is not None:
            raise ValueError("an annotation run reads the clips in output_clip_path, and no videos")
        if not is_annotation and given is None:
            raise ValueError("give input_video_path (a folder) or manifest (a list of videos)")
        return value

    @field_validator("t5")
    @classmethod
    def _has_captions(cls, value: T5Settings, info: ValidationInfo) -> T5Settings:
        captions, annotate = info.data.get("captions"), info.data.get("annotate", AnnotateSettings())
        is_made_of_nothing = captions is not None and not captions.generate_captions
        if value.generate_t5 and is_made_of_nothing and annotate.annotation_version is None:
            raise ValueError("there are no captions to encode: write the group captions, too")
        return value

    @property
    def input_s3(self) -> S3Options:
        """How storage of the input and the manifest is reached, where it is S3."""
        return self.s3.options(self.input_s3_profile_name)

    @property
    def output_s3(self) -> S3Options:
        """How storage of the clips and the dataset is reached, where it is S3."""
        return self.s3.options(self.output_s3_profile_name)

    @property
    def content_hash(self) -> str:
        """Names the settings that decide what the output holds; places and resources are not among them."""
        if self.annotate.annotation_version is None:
            groups = {"limit_clips", "split", "clips", "windows", "previews"}
        else:
            anew = {"windows": self.annotate.rewindow, "previews": self.previews.generate_previews}
            groups = {name for name, is_used in anew.items() if is_used}
        used = {"captions": self.captions.generate_captions, "embeddings": self.embeddings.generate_embeddings}
        used |= {"filters": self.filters != FilterSettings(), "t5": self.t5.generate_t5}
        deciding = self.model_dump(
            include=groups | {name for name, is_used in used.items() if is_used},
            # places, and what only decides how fast it goes
            exclude={
                "split": {"transnetv2_model_dir"},
                "captions": CAPTION_RESOURCES,
                "embeddings": {"embedding_gpu_memory_gb"},
                "t5": T5_RESOURCES,
            },
        )
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class ReadConfig:
    """What a file of settings holds.

    Attributes:
        config: the settings, those with a mistake at their defaults; None where nothing can be made of the file.
        problems: every mistake, with file, line and key.
        mistaken: the known keys, such as ``slurm.partition``, whose value is a mistake or missing.
        notes: what stands there in vain.
    """

    config: RunConfig | None
    problems: list[str]
    mistaken: frozenset[str]
    notes: Sequence[str] = ()


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply ``a.b=c`` overrides, make paths absolute and check everything.

    Relative paths in the file count from the current folder, as on a command line.

    Raises:
        ConfigError: every mistake, with file, line and key.
    """
    found = read_config(path, overrides)
    if found.problems or found.config is None:
        raise ConfigError(found.problems)
    return found.config


def read_config(path: Path, overrides: Sequence[str] = ()) -> ReadConfig:
    """See ``load_config``; with mistakes, what can be known of the rest all the same, for it may have more of them."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        return ReadConfig(None, [f"{path}: {error.strerror}"], frozenset())
    except UnicodeDecodeError as error:
        return ReadConfig(None, [not_readable(path, "", error)], frozenset())
    try:
        document, keys = _document(text, is_json=path.suffix.lower() == ".json")
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a scalar that is not what its tag says
        return ReadConfig(None, [not_readable(path, text, error)], frozenset())
    if not isinstance(document, dict):
        return ReadConfig(None, [no_settings(path, document, text)], frozenset())
    # a group whose keys are all commented out is that group with its defaults
    document = {key: {} if value is None and _known_keys([str(key)]) else value for key, value in document.items()}
    places, problems = places_of(path, keys)
    notes: list[str] = []
    if is_split_pipeline(document):
        document, problems, notes = split_settings(document, path)
        places = {
            tuple(key.split(".")): places[("args", name)] for name, key in ARGUMENTS.items() if ("args", name) in places
        }
    for override in overrides:
        problems += _override(document, override, places)
    if isinstance(document.get("annotate"), dict) and document["annotate"].get("annotation_version") is not None:
        document.setdefault("previews", {"generate_previews": False})  # like all else: only where it is asked for
    try:
        return ReadConfig(absolute(RunConfig.model_validate(document)), problems, frozenset(), notes)
    except ValidationError as error:
        problems += described(error, RunConfig, Source(path, places))
    config, mistaken = _without_mistakes(document)
    return ReadConfig(None if config is None else absolute(config), problems, mistaken)


def _document(text: str, *, is_json: bool) -> tuple[Any, list[tuple[Location, int]]]:
    """What a file says, and the line of each key."""
    if is_json:  # which is YAML but for its tabs, that stand only between its values
        return json.loads(text), list(key_lines(yaml.compose(text.replace("\t", " "), Loader=Loader)))
    loader = Loader(text)
    node = loader.get_single_node()
    keys = list(key_lines(node))
    return None if node is None else loader.construct_document(node), keys


def _without_mistakes(document: dict[str, Any]) -> tuple[RunConfig | None, frozenset[str]]:
    """The settings with every mistake at its default, and a needed one that is not there empty; and those keys."""
    document, mistaken = copy.deepcopy(document), set[str]()
    for _ in range(10):  # one mistake may hide another, seldom a third
        try:
            return RunConfig.model_validate(document), frozenset(mistaken)
        except ValidationError as error:
            taken: set[tuple[str, ...]] = set()  # a value that may be of two kinds has a problem for each
            for problem in error.errors():
                location = tuple(map(str, problem["loc"]))
                if any(location[: len(each)] == each for each in taken):
                    continue
                *group, key = _taken_out(document, location) or location[:1]
                taken.add((*group, key))
                if key in _known_keys(group):
                    mistaken.add(".".join((*group, key)))
                if problem["type"] == "missing" or location == ("manifest",):
                    document[location[0]] = ""
    return None, frozenset(mistaken)


def _taken_out(document: dict[str, Any], location: Sequence[str]) -> list[str]:
    """Take the innermost setting that stands there out of a document; gives its keys, none when there is none."""
    target: Any = document
    for depth, key in enumerate(location):
        inner = target.get(key) if isinstance(target, dict) else None
        if isinstance(inner, dict) and depth + 1 < len(location) and location[depth + 1] in inner:
            target = inner
        elif isinstance(target, dict) and key in target:
            del target[key]
            return list(location[: depth + 1])
        else:
            return []
    return []


def absolute(config: RunConfig) -> RunConfig:
    """The same config with local paths made absolute: a job does not start in the folder where it was submitted."""
    names = ("run_dir", "input_video_path", "manifest", "output_clip_path", "output_dataset_path")
    split = config.split.model_copy(update={"transnetv2_model_dir": _absolute(config.split.transnetv2_model_dir)})
    models = config.models.model_copy(
        update={name: _absolute(getattr(config.models, name)) for name in ("model_dir", "copy_weights_to")}
    )
    dataset = config.dataset.model_copy(update={"duplicates": _absolute(config.dataset.duplicates)})
    groups = {"split": split, "models": models, "captions": config.captions.with_file_read(), "dataset": dataset}
    return config.model_copy(update={name: _absolute(getattr(config, name)) for name in names} | groups)


def _absolute(path: str | None) -> str | None:
    return path if path is None or "://" in path else os.path.abspath(os.path.expanduser(path))


def _override(document: dict[str, Any], override: str, places: dict[Location, str]) -> list[str]:
    """Set one dotted key in place, and say so in ``places``; gives the problem when it can't."""
    place = override_place(override)
    key, separator, value = override.partition("=")
    if not separator or not all(key.split(".")):
        return [f"{place}: expected key=value, such as --set split.transnetv2_crop_s=0"]
    *parents, last = path = key.split(".")
    target = document
    for parent in parents:
        below = target.setdefault(parent, {})
        if not isinstance(below, dict):
            return [f"{place}: {parent} is not a group of settings"]
        target = below
    try:
        target[last] = yaml.load(value, Loader=Loader)
    except (yaml.YAMLError, ValueError):
        return [f"{place}: the value can't be read: a [, a {{ or a quote is not closed, or the whole needs quotes"]
    for known in [each for each in places if each[: len(path)] == tuple(path)]:
        del places[known]
    places[tuple(path)] = place
    return []


def _known_keys(location: Sequence[str]) -> list[str]:
    model: type[BaseModel] = RunConfig
    for part in location:
        below = group_model(model.model_fields.get(part))
        if below is None:
            return []
        model = below
    return list(model.model_fields)


def to_yaml(config: RunConfig) -> str:
    """The resolved config, every setting written out."""
    return str(yaml.dump(config.model_dump(mode="json"), Dumper=Dumper, sort_keys=False, allow_unicode=True))
