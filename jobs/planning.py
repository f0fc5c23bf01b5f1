"""Checks everything that can be known beforehand, and cuts the manifest into shards."""

import os
import platform
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

import curation
from curation.errors import StorageError
from jobs.config import ConfigError, RunConfig
from jobs.manifest import ManifestVideo, manifest_line, missing_files, read_manifest, write_manifest
from jobs.manifest_rows import ManifestError, is_uri
from jobs.planner import PlannedVideo, Shard, count_shards, plan_shards
from jobs.rundir import RunDir, RunDirError, write_json
from jobs.worker import preflight

_LOOKERS = 32  # looking at a file on a network file system is waiting, mostly


@dataclass(frozen=True)
class Plan:
    """What a run will do, and what is odd about it."""

    run: RunDir
    config: RunConfig
    shards: list[Shard]
    warnings: list[str]

    @property
    def num_videos(self) -> int:
        return sum(len(shard.videos) for shard in self.shards)

    @property
    def total_bytes(self) -> int:
        return sum(shard.cost for shard in self.shards)


def plan_run(config: RunConfig, *, write: bool = True) -> Plan:
    """Check everything that can be known beforehand, and cut the manifest into shards.

    Args:
        write: make the run folder; without it nothing is written anywhere.

    Raises:
        ConfigError: all that is wrong, at once.
        RunDirError: the run folder holds another run.
    """
    problems: list[str] = []
    videos = _videos(config, problems)
    problems += _environment_problems(config)
    warnings = _missing(videos, problems) if videos else []
    if problems:
        raise ConfigError(problems)
    run = RunDir(Path(config.run_dir))
    if run.manifest_path.is_file():
        return _existing_plan(run, config, videos, warnings, write=write)
    shards = balanced(list(_costs(videos)), config)
    if write:
        run.claim(config)
        write_json(run.environment_path, _environment())
        write_manifest(videos, run.manifest_path)
        run.write_shards(1, shards)
    return Plan(run, config, shards, warnings)


def _existing_plan(
    run: RunDir, config: RunConfig, videos: list[ManifestVideo], warnings: list[str], *, write: bool
) -> Plan:
    """The plan that the folder holds, if it is one of the same settings and videos."""
    run.check_settings(config)
    before = [entry for _, entry in run.manifest_entries()]
    if before != videos:
        known, found = {entry.id for entry in before}, {entry.id for entry in videos}
        raise RunDirError(
            f"the input of {run.root} is no longer what was planned ({len(found - known)} videos are new, "
            f"{len(known - found)} are gone, the rest may have moved): take another run_dir for the new input, "
            "or `clipmill resume` to go on with the old"
        )
    is_planned = run.plan_path.is_file()  # else a launcher died between the manifest and the plan
    shards = list(run.shards(1)) if is_planned else balanced(list(_costs(videos)), config)
    if write:
        run.claim(config)
        if not is_planned:
            run.write_shards(1, shards)
    return Plan(run, config, shards, warnings)


def _videos(config: RunConfig, problems: list[str]) -> list[ManifestVideo]:
    source = config.manifest or config.input_video_path or ""
    root = config.input_video_path if config.manifest else None
    try:
        return read_manifest(source, input_root=root, limit=config.limit)
    except ManifestError as error:
        problems += error.problems
        return []


def _environment_problems(config: RunConfig) -> list[str]:
    """What this machine can tell of encoder, weights and folders."""
    problems = []
    try:
        preflight(config)
    except (ValueError, FileNotFoundError, StorageError) as error:
        problems.append(str(error))
    for name in ("run_dir", "output_clip_path", "output_dataset_path"):
        folder = getattr(config, name)
        if folder is not None and (problem := _not_writable(folder)):
            problems.append(f"{name}: {problem}")
        elif folder is not None and config.manifest is None and _is_below(folder, config.input_video_path):
            problems.append(f"{name}: {folder} lies inside input_video_path, so its videos would be taken for input")
    return problems


def _is_below(folder: str, root: str | None) -> bool:
    return root is not None and Path(folder).is_relative_to(root)


def _not_writable(folder: str) -> str | None:
    """Why a folder can't be made or written to; looks at the nearest one that exists, writes nothing."""
    if is_uri(folder):
        return f"only local folders are supported, found {folder!r}"
    path = Path(folder)
    while not os.path.exists(path) and path != path.parent:  # False, too, for what can't be looked at
        path = path.parent
    if not path.is_dir():
        return f"{path} is not a folder"
    return None if os.access(path, os.W_OK | os.X_OK) else f"no permission to write to {path}"


def _missing(videos: list[ManifestVideo], problems: list[str]) -> list[str]:
    """Files that are not there cost themselves; when none is there, the root is wrong."""
    missing = missing_files(videos)
    if not missing:
        return []
    if len(missing) == len(videos):
        problems.append(f"none of the {len(videos)} videos is there; the first: {missing[0]}")
    return [f"{len(missing)} of {len(videos)} videos are not there and will be recorded as failed: {missing[0]}"]


def _costs(videos: Iterable[ManifestVideo]) -> Iterable[PlannedVideo]:
    """Every video with the offset of its line and its size in bytes, which is what its processing costs."""
    videos = list(videos)
    with ThreadPoolExecutor(_LOOKERS) as pool:
        sizes = list(pool.map(_size, (video.path for video in videos)))
    offset = 0
    for video, size in zip(videos, sizes, strict=True):
        yield PlannedVideo(offset=offset, cost=size)
        offset += len(manifest_line(video))


def _size(path: str) -> int:
    try:
        return max(1, os.stat(path).st_size)
    except OSError:
        return 1


def _environment() -> dict[str, Any]:
    return {
        "clipmill": curation.__version__,
        "python": platform.python_version(),
        "av": av.__version__,
        "ffmpeg": {name: ".".join(map(str, version)) for name, version in av.library_versions.items()},
        "host": platform.node(),
        "planned": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def balanced(videos: Sequence[PlannedVideo], config: RunConfig, *, first_index: int = 0) -> list[Shard]:
    """Shards of equal cost, as many as the config asks for."""
    plan = config.plan
    num_shards = count_shards(videos, num_shards=plan.num_shards, target_shard_gb=plan.target_shard_gb)
    return plan_shards(videos, num_shards=num_shards, first_index=first_index)
