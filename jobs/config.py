"""The one YAML of a run: every setting, its default, and all mistakes at once with line and key."""

import copy
import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from jobs.model_settings import (
    CAPTION_RESOURCES,
    T5_RESOURCES,
    CaptionSettings,
    EmbeddingSettings,
    ModelSettings,
    T5Settings,
)
from jobs.settings import (
    SECRET_INPUT,
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
from jobs.split_json import is_split_pipeline, split_settings
from jobs.yaml_text import Dumper, Loader


class ConfigError(ValueError):
    """A config with mistakes; ``problems`` holds one line for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


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
        text = path.read_text(encoding="utf-8")
        is_json = path.suffix.lower() == ".json"
        document = json.loads(text) if is_json else yaml.load(text, Loader=Loader)
        keys = [] if is_json else list(_keys(yaml.compose(text, Loader=Loader)))
    except OSError as error:
        return ReadConfig(None, [f"{path}: {error.strerror}"], frozenset())
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a scalar that is not what its tag says
        return ReadConfig(None, [f"{path}: not {'JSON' if path.suffix == '.json' else 'YAML'}: {error}"], frozenset())
    if not isinstance(document, dict):
        problem = f"{path}: expected keys with values, found {type(document).__name__}"
        return ReadConfig(None, [problem], frozenset())
    # a group whose keys are all commented out is that group with its defaults
    document = {key: {} if value is None and _known_keys([str(key)]) else value for key, value in document.items()}
    places, problems = _places(path, keys)
    notes: list[str] = []
    if is_split_pipeline(document):
        document, problems, notes = split_settings(document, path)
    for override in overrides:
        problems += _override(document, override, places)
    if isinstance(document.get("annotate"), dict) and document["annotate"].get("annotation_version") is not None:
        document.setdefault("previews", {"generate_previews": False})  # like all else: only where it is asked for
    try:
        return ReadConfig(absolute(RunConfig.model_validate(document)), problems, frozenset(), notes)
    except ValidationError as error:
        problems += [_describe(path, places, dict(problem)) for problem in error.errors()]
    config, mistaken = _without_mistakes(document)
    return ReadConfig(None if config is None else absolute(config), problems, mistaken)


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


def _override(document: dict[str, Any], override: str, places: dict[tuple[str, ...], str]) -> list[str]:
    """Set one dotted key in place, and say so in ``places``; gives the problem when it can't."""
    key, separator, value = override.partition("=")
    if not separator or not key:
        return [f"--set {override}: expected key=value"]
    *parents, last = path = key.split(".")
    target = document
    for parent in parents:
        below = target.setdefault(parent, {})
        if not isinstance(below, dict):
            return [f"--set {override}: {parent} is not a group of settings"]
        target = below
    try:
        target[last] = yaml.load(value, Loader=Loader)
    except (yaml.YAMLError, ValueError):
        return [f"--set {override}: {value!r} is not a YAML value"]
    places[tuple(path)] = f"--set {override}"
    return []


def _keys(node: yaml.Node | None, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Each key in the file, as often as it stands there, and its line counted from 1."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*prefix, str(key.value))
            yield path, key.start_mark.line + 1
            yield from _keys(value, path)


def _places(path: Path, keys: Iterable[tuple[tuple[str, ...], int]]) -> tuple[dict[tuple[str, ...], str], list[str]]:
    """Where each key stands, and a problem for each that stands there again: YAML would take the last in silence."""
    places: dict[tuple[str, ...], str] = {}
    problems = []
    for key, line in keys:
        if key in places:
            problems.append(f"{path}:{line}: {'.'.join(key)}: stands in {places[key]} too")
        places[key] = f"{path}:{line}"
    return places, problems


def _describe(path: Path, places: Mapping[tuple[str, ...], str], problem: Mapping[str, Any]) -> str:
    location = tuple(str(part) for part in problem["loc"])
    where = next((places[location[:n]] for n in range(len(location), 0, -1) if location[:n] in places), str(path))
    key = ".".join(location)
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(location[-1], _known_keys(location[:-1]), n=1)
        message = f"unknown key{f'; did you mean {nearest[0]!r}?' if nearest else ''}"
    elif problem["type"] == "missing":
        message = "this key is needed"
    elif problem["type"] == SECRET_INPUT:
        pass  # what was found may hold a password
    elif problem.get("input") is not None and not isinstance(problem["input"], dict):
        message += f", found {problem['input']!r}"
    return f"{where}: {key}: {message}" if key else f"{where}: {message}"


def _known_keys(location: Sequence[str]) -> list[str]:
    model: type[BaseModel] = RunConfig
    for part in location:
        below = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(below, type) and issubclass(below, BaseModel)):
            return []
        model = below
    return list(model.model_fields)


def to_yaml(config: RunConfig) -> str:
    """The resolved config, every setting written out."""
    return str(yaml.dump(config.model_dump(mode="json"), Dumper=Dumper, sort_keys=False, allow_unicode=True))


def starter_yaml() -> str:
    """A config to begin with: every setting with its default and what it means."""
    lines = [
        "# A clipmill run. Lines that begin with '# ' before a key show its default: take the mark away to change it."
    ]
    for name, each in RunConfig.model_fields.items():
        group = each.annotation
        if isinstance(group, type) and issubclass(group, Settings):
            lines += ["", f"# {name}:  # {' '.join((group.__doc__ or '').split())}"]
            lines += [
                f"#   {key}: {_yaml_value(getattr(each.default, key))}  # {f.description}"
                for key, f in group.model_fields.items()
            ]
        else:
            value = _STARTER[name] if name in _STARTER else _yaml_value(each.default)
            mark = "" if name in _STARTER else "# "
            lines.append(f"{mark}{name}: {value}  # {each.description}")
    return "\n".join(lines) + "\n"


_STARTER = {
    "run_dir": "runs/first",
    "input_video_path": "/path/to/videos",
    "output_clip_path": "processed/v0",
    "output_dataset_path": "webdataset",
    "cluster": "local",
}


def _yaml_value(value: object) -> str:
    if isinstance(value, str | float):  # not in JSON's way: other readers of YAML take 1e-06 for a text
        return str(yaml.safe_dump(value, width=1000)).splitlines()[0]
    return json.dumps(value)
