"""The JSON of a pipeline, ``{"pipeline": "shard", "args": {...}}``, as the settings of a dataset.

Source:
    the arguments of Cosmos-Curate's shard pipeline; what they mean there they mean here.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.config import ConfigError

_SETTINGS: Mapping[str, str] = {
    "input_clip_path": "output_clip_path",
    "output_dataset_path": "output_dataset_path",
    "input_semantic_dedup_path": "dataset.duplicates",
    "input_s3_profile_name": "input_s3_profile_name",
    "output_s3_profile_name": "output_s3_profile_name",
    **{
        name: f"dataset.{name}"
        for name in (
            "annotation_version",
            "max_tars_per_part",
            "target_tar_size_mb",
            "min_clips_per_tar",
            "drop_small_shards",
        )
    },
}
"""Arguments that are settings, by their dotted keys."""

_OWN = ("limit", "verbose", "semantic_dedup_epsilon", "input_semantic_dedup_s3_profile_name")

_WITHOUT_EFFECT: Mapping[str, str] = {
    "captioning_algorithm": "each sample has all captions of its window",
    "execution_mode": "there is one",
    "model_weights_path": "packing needs no model",
    **dict.fromkeys(
        (
            "perf_profile",
            "profile_tracing",
            "profile_tracing_sampling",
            "profile_tracing_otlp_endpoint",
            "profile_cpu",
            "profile_memory",
            "profile_gpu",
            "profile_cpu_exclude",
            "profile_memory_exclude",
            "profile_gpu_exclude",
        ),
        "the log tells how long it took",
    ),
}
"""Arguments that are known and change nothing here, and why."""

_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "limit": ((int,), "a whole number from 0"),
    "verbose": ((bool,), "true or false"),
    "semantic_dedup_epsilon": ((int, float), "a number from 0"),
}
_PROFILES = ("input_s3_profile_name", "output_s3_profile_name", "input_semantic_dedup_s3_profile_name")
_DEFAULT_PROFILE = "default"  # of Cosmos-Curate: the credentials that boto3 finds by itself


@dataclass(frozen=True, slots=True)
class ShardArguments:
    """What a shard pipeline is asked for.

    Attributes:
        settings: by dotted key, as a run's config has them.
        limit: of the first so many videos only; 0: of all.
        duplicates_eps: with which the duplicates must have been looked for; None: any.
        notes: arguments that change nothing here, and why.
    """

    settings: dict[str, Any]
    limit: int = 0
    verbose: bool = False
    duplicates_eps: float | None = None
    duplicates_profile: str | None = None
    notes: list[str] = field(default_factory=list)


def read_pipeline(path: Path) -> dict[str, Any] | None:
    """The document of a pipeline; None where the file is no such one (the YAML of a run, for one).

    Raises:
        OSError: the file can't be read.
    """
    if path.suffix.lower() != ".json" or not path.is_file():
        return None
    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        return None
    return document if isinstance(document, dict) and "pipeline" in document else None


def shard_arguments(document: Mapping[str, Any], *, name: str) -> ShardArguments:
    """The arguments of a shard pipeline's document.

    Args:
        name: what the document is called in messages.

    Raises:
        ConfigError: it is another pipeline, or arguments are unknown, missing, or of the wrong kind.
    """
    if document["pipeline"] != "shard":
        raise ConfigError([f"{name}: {_other_pipeline(document['pipeline'])}"])
    arguments = document.get("args")
    if not isinstance(arguments, dict):
        raise ConfigError([f'{name}: expected {{"pipeline": "shard", "args": {{...}}}}'])
    if problems := [f"{name}: {problem}" for problem in _problems(document, arguments)]:
        raise ConfigError(problems)
    given: dict[str, Any] = {k: _profile(value) if k in _PROFILES else value for k, value in arguments.items()}
    has_duplicates = given.get("input_semantic_dedup_path") is not None
    return ShardArguments(
        settings={_SETTINGS[key]: value for key, value in given.items() if key in _SETTINGS},
        limit=given.get("limit", 0),
        verbose=given.get("verbose", False),
        duplicates_eps=given.get("semantic_dedup_epsilon") if has_duplicates else None,
        duplicates_profile=given.get("input_semantic_dedup_s3_profile_name"),
        notes=[f"{key} has no effect here: {_WITHOUT_EFFECT[key]}" for key in given if key in _WITHOUT_EFFECT],
    )


def _other_pipeline(pipeline: object) -> str:
    return f'unknown pipeline {pipeline!r}; known: "split", "shard"'


def _problems(document: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[str]:
    known = [*_SETTINGS, *_OWN, *_WITHOUT_EFFECT]
    problems = [
        f"{key}: unknown key{_nearest(key, ['pipeline', 'args'])}"
        for key in document
        if key not in ("pipeline", "args")
    ]
    problems += [f"args.{key}: unknown argument{_nearest(key, known)}" for key in arguments if key not in known]
    problems += [
        f"args.{key}: this argument is needed"
        for key in ("input_clip_path", "output_dataset_path")
        if not arguments.get(key)
    ]
    return [*problems, *(problem for key in _KINDS if (problem := _wrong_kind(key, arguments)) is not None)]


def _wrong_kind(key: str, arguments: Mapping[str, Any]) -> str | None:
    if key not in arguments:
        return None
    value, (kinds, words) = arguments[key], _KINDS[key]
    is_right = type(value) in kinds and value >= 0
    return None if is_right else f"args.{key}: expected {words}, found {value!r}"


def _nearest(key: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def _profile(name: str | None) -> str | None:
    return None if name == _DEFAULT_PROFILE else name
