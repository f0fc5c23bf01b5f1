"""Looks of `clipmill doctor` at what lies beyond the machine: Slurm, S3 and the weights of models."""

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from curation.clipping.shot_model import WEIGHTS_SHA256 as SHOT_SHA256
from curation.clipping.shot_model import find_weights as find_shot_weights
from curation.embedding.efficientnet_lite import MODEL_NAME as EFFICIENTNET
from curation.embedding.efficientnet_lite import WEIGHTS_SHA256 as EFFICIENTNET_SHA256
from curation.embedding.efficientnet_lite import find_weights as find_efficientnet
from curation.errors import StorageError
from curation.source_files import is_uri
from curation.storage import S3Options, storage_for
from curation.storage.s3_client import credentials_source
from jobs.annotation import is_annotation
from jobs.config import RunConfig
from jobs.doctor import Finding, Level, ask
from jobs.models_needed import needed_models
from jobs.slurm_check import ask_slurm

_SHOWN_PARTITIONS = 8


def look_at_slurm(config: RunConfig | None) -> Iterator[Finding]:
    """Slurm's commands, what they answer, and whether they would take this config's jobs."""
    is_needed = config is not None and config.cluster == "slurm"
    version = ask(["sbatch", "--version"])
    if not version.is_there:
        mend = "log in to a node of the cluster, or take cluster: local" if is_needed else ""
        words = "not here (no sbatch on PATH)" + ("" if is_needed else ": fine for cluster: local")
        yield Finding("problem" if is_needed else "ok", "slurm", words, mend)
        return
    settings = ask(["scontrol", "show", "config"]) if not version.fault else version
    if fault := settings.fault:
        mend = "is slurmctld up? try: scontrol ping"
        level: Level = "problem" if is_needed else ("warning" if config is None else "ok")
        words = fault if level != "ok" else f"does not answer, which is fine for cluster: local ({fault})"
        yield Finding(level, "slurm", words, mend if level != "ok" else "")
        return
    shown = dict(re.findall(r"^(\w+)\s*=\s*(\S+)", settings.text, re.MULTILINE))
    site = ", ".join(
        f"{name} {shown[name]}" for name in ("ClusterName", "MaxArraySize", "MaxJobCount") if name in shown
    )
    yield Finding("ok", "slurm", f"{version.text.strip()}; {site}")
    yield _partitions()
    if config is not None and is_needed:
        answer = ask_slurm(config)
        yield from (Finding("problem", "slurm", line, "see the group slurm of the config") for line in answer.problems)
        yield from (Finding("warning", "slurm", line) for line in answer.warnings)
        if not answer.problems and not answer.warnings:
            yield Finding("ok", "slurm", "sbatch would take this config's jobs")


def _partitions() -> Finding:
    answer = ask(["sinfo", "--noheader", "--format=%P|%a|%l|%D|%G"])
    if answer.fault:
        return Finding("warning", "slurm", f"{answer.fault}: partitions are not known")
    lines = []
    for line in answer.text.splitlines():
        name, state, limit, num_nodes, gpus = (line.strip().split("|") + [""] * 5)[:5]
        lines.append(
            f"{name} ({num_nodes} nodes, {state}, up to {limit}{', ' + gpus if gpus not in ('', '(null)') else ''})"
        )
    more = f" and {len(lines) - _SHOWN_PARTITIONS} more" if len(lines) > _SHOWN_PARTITIONS else ""
    return Finding("ok", "slurm", f"partitions: {'; '.join(lines[:_SHOWN_PARTITIONS]) or 'none'}{more}")


def look_at_s3(config: RunConfig | None) -> Iterator[Finding]:
    """Credentials, as boto3 finds them, and whether the config's buckets answer; no secret is shown."""
    places = list(_places(config)) if config is not None else []
    profiles = dict.fromkeys([options.profile_name for _, _, options, _ in places] or [None])
    for profile in profiles:
        yield _credentials(profile, is_needed=bool(places))
    for key, root, options, writes in places:
        yield _bucket(key, root, options, writes=writes)


def _places(config: RunConfig) -> Iterator[tuple[str, str, S3Options, bool]]:
    """Key, URI, how it is reached and whether it is written to."""
    for key, options, writes in (
        ("input_video_path", config.input_s3, False),
        ("manifest", config.input_s3, False),
        ("output_clip_path", config.output_s3, True),
        ("output_dataset_path", config.output_s3, True),
    ):
        root = getattr(config, key)
        if root is not None and is_uri(root):
            yield key, root.rpartition("/")[0] if key == "manifest" else root, options.hurried(), writes


def _credentials(profile: str | None, *, is_needed: bool) -> Finding:
    named = f"profile {profile}: " if profile else ""
    mend = "aws configure (or AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a role of the machine)"
    try:
        found = credentials_source(profile)
    except StorageError as error:
        return Finding("problem" if is_needed else "warning", "s3", f"{named}{error}", mend)
    if found is None:
        words = "no credentials found" + ("" if is_needed else ": fine without s3:// paths")
        return Finding("problem" if is_needed else "ok", "s3", f"{named}{words}", mend if is_needed else "")
    return Finding("ok", "s3", f"{named}credentials found ({found})")


def _bucket(key: str, root: str, options: S3Options, *, writes: bool) -> Finding:
    mend = "right bucket, profile (…_s3_profile_name) and s3.endpoint_url? may these credentials do that?"
    try:
        storage = storage_for(root, options)
        if writes:
            storage.check_writable()
        is_empty = next(storage.list(), None) is None
    except (StorageError, ValueError) as error:
        return Finding("problem", "s3", f"{key}: {error}", mend.replace("…", "output" if writes else "input"))
    if is_empty and not writes:
        return Finding("problem", "s3", f"{key}: nothing lies below {root}", "is the prefix right?")
    return Finding("ok", "s3", f"{key}: {root} can be listed{' and written to' if writes else ''}")


def look_at_weights(config: RunConfig | None) -> Iterator[Finding]:
    """Weights of the shot detector and of the models that a config needs."""
    if config is None:
        yield _packaged("shot detector", lambda: find_shot_weights(None), SHOT_SHA256, is_needed=False)
        yield Finding("ok", "weights", "of models: name a run's YAML to check those that it needs")
        return
    if not config.split.is_fixed_stride and not is_annotation(config):
        folder = config.split.transnetv2_model_dir
        yield _packaged("shot detector", lambda: find_shot_weights(folder), SHOT_SHA256, is_needed=True)
    for needed in needed_models(config):
        try:
            yield Finding("ok", "weights", f"{needed.name}: whole, in {needed.find(config.models.model_dir)}")
        except FileNotFoundError as error:
            yield _missing(str(error))
    if config.embeddings.generate_embeddings and config.embeddings.embedding_algorithm == EFFICIENTNET:
        yield _packaged(EFFICIENTNET, lambda: find_efficientnet(None), EFFICIENTNET_SHA256, is_needed=True)


def _packaged(name: str, find: Callable[[], Path], sha256: str, *, is_needed: bool) -> Finding:
    """Weights that are one file whose hash is known."""
    try:
        path = find()
    except (ValueError, FileNotFoundError) as error:
        return _missing(str(error)) if is_needed else Finding("ok", "weights", f"{name}: {error}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        mend = "take the file away and get the published one again"
        return Finding("problem", "weights", f"{name}: {path} is damaged, its sha256 is not the published one", mend)
    return Finding("ok", "weights", f"{name}: whole, {path}")


def _missing(said: str) -> Finding:
    """A message that ends with the command that mends it, in its two parts."""
    found, _, mend = said.partition("; get them with: ")
    return Finding("problem", "weights", found, mend)
