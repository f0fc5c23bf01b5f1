"""Checks everything that can be known beforehand, and cuts the manifest into shards."""

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import av

import curation
from curation.errors import StorageError
from curation.layout import MAX_PREFIX_BYTES
from curation.source_files import is_uri
from curation.storage import storage_for
from curation.storage.files import replacing
from jobs.annotation import UnfinishedError, annotation_problems, is_annotation, listed_videos, source_s3
from jobs.config import ConfigError, RunConfig, read_config
from jobs.manifest_blocks import Block
from jobs.manifest_copy import copy_manifest
from jobs.manifest_rows import ManifestError
from jobs.parts import in_parts
from jobs.planner import PlannedVideo, PlannedVideos, Shard, count_shards, plan_shards
from jobs.preflight import login_problems
from jobs.rundir import RunDir, RunDirError, write_json
from jobs.slurm_check import ask_slurm

# with one of these at its default, a plan would ask for the weights of a model that nobody wants
_CHOOSE_WEIGHTS = {
    "split.splitting_algorithm",
    "captions.captioning_algorithm",
    "captions.enhance_captions_algorithm",
    "embeddings.embedding_algorithm",
    "models.model_dir",
}


@dataclass(frozen=True)
class Plan:
    """What a run will do, and what is odd about it."""

    run: RunDir
    config: RunConfig
    shards: list[Shard]
    warnings: list[str]

    @property
    def num_videos(self) -> int:
        return sum(shard.num_videos for shard in self.shards)

    @property
    def total_bytes(self) -> int:
        return sum(shard.cost for shard in self.shards)


def plan_file(path: Path, overrides: Sequence[str] = (), *, cluster: str | None = None, write: bool = True) -> Plan:
    """``plan_run`` of a file of settings; with mistakes in it, the rest is checked all the same.

    Args:
        cluster: where to run in place of Slurm; the other clusters stay.
    """
    found = read_config(path, overrides)
    config = found.config
    if config is None:
        raise ConfigError(found.problems)
    if cluster is not None and config.cluster == "slurm":
        config = config.model_copy(update={"cluster": cluster})
    if found.problems:
        raise ConfigError([*found.problems, *_further_problems(config, found.mistaken)])
    plan = plan_run(config, write=write)
    return replace(plan, warnings=[*found.notes, *plan.warnings])


def _further_problems(config: RunConfig, mistaken: frozenset[str]) -> list[str]:
    """What else is wrong beside mistakes in the settings."""
    asked = ask_slurm(config, mistaken=mistaken)
    problems = _environment_problems(config, mistaken)
    try:
        if not {"manifest", "input_video_path"} & mistaken:
            _read(config, _ignore, problems)
    except ConfigError as error:
        problems = error.problems
    return [*problems, *asked.problems]


def plan_run(config: RunConfig, *, write: bool = True) -> Plan:
    """Check everything that can be known beforehand, and cut the manifest into shards.

    Args:
        write: make the run folder; without it nothing is written anywhere.

    Raises:
        ConfigError: all that is wrong, at once.
        RunDirError: the run folder holds another run.
    """
    with ThreadPoolExecutor(1) as beside:
        asking = beside.submit(ask_slurm, config)
        problems = _environment_problems(config)
    asked = asking.result()
    problems += asked.problems
    if problems:
        _read(config, _ignore, problems)
        raise ConfigError(problems)
    plan = _planned(RunDir(Path(config.run_dir)), config, write=write)
    return replace(plan, warnings=[*asked.warnings, *plan.warnings, *_oddities(plan, asked.max_jobs)])


def _planned(run: RunDir, config: RunConfig, *, write: bool) -> Plan:
    if run.manifest_path.is_file():
        return _existing_plan(run, config, write=write)
    if not write:
        videos, warnings = _read(config, _ignore, [])
        return Plan(run, config, balanced(in_parts(videos, config), config), warnings)
    with _gone_on_failure(run.root), replacing(run.manifest_path) as file:
        videos, warnings = _read(config, lambda block: file.write(block.lines), [])
        shards = balanced(in_parts(videos, config), config)
        run.claim(config)
        write_json(run.environment_path, _environment())
    run.write_shards(1, shards)
    return Plan(run, config, shards, warnings)


def _oddities(plan: Plan, max_jobs: int | None) -> list[str]:
    """What goes, but not as its owner may think."""
    costs = [shard.cost for shard in plan.shards]
    odd = []
    if max_jobs is not None and len(costs) >= max_jobs:  # the aggregation is a job, too
        odd.append(
            f"{len(costs)} shards are more jobs than this Slurm holds at once (MaxJobCount {max_jobs}): they are "
            "queued as there is room; a larger plan.target_shard_gb makes fewer"
        )
    if len(costs) > 1 and max(costs) > 2 * sum(costs) / len(costs):
        odd.append(
            f"the largest shard is {max(costs) * len(costs) / sum(costs):.1f} times the mean: the run lasts as long as "
            "its longest video"
        )
    return odd


def _ignore(_: Block) -> None:
    """A manifest that is only checked."""


@contextmanager
def _gone_on_failure(folder: Path) -> Iterator[None]:
    """Takes away again the folders that were made for a run, if it comes to nothing and they are empty."""
    made = []
    while not folder.exists() and folder != folder.parent:
        made.append(folder)
        folder = folder.parent
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for each in made:
                each.rmdir()
        raise


def _existing_plan(run: RunDir, config: RunConfig, *, write: bool) -> Plan:
    """The plan that the folder holds, if it is one of the same settings and videos."""
    run.check_settings(config)
    with run.manifest_path.open("rb") as before:
        differs: list[Block] = []
        videos, warnings = _read(config, lambda block: _compare(block, before, differs), [])
        if differs or before.read(1):
            raise RunDirError(_what_changed(run, config))
    is_planned = run.plan_path.is_file()  # else a launcher died between the manifest and the plan
    shards = list(run.shards(1)) if is_planned else balanced(in_parts(videos, config), config)
    if write:
        run.claim(config)
        if not is_planned:
            run.write_shards(1, shards)
    return Plan(run, config, shards, warnings)


def _compare(block: Block, before: BinaryIO, differs: list[Block]) -> None:
    if before.read(len(block.lines)) != block.lines and not differs:
        differs.append(block)


def _what_changed(run: RunDir, config: RunConfig) -> str:
    known = {entry.id for _, entry in run.manifest_entries()}
    found: set[str] = set()
    _read(config, lambda block: found.update(json.loads(line)["id"] for line in block.lines.splitlines()), [])
    return (
        f"the input of {run.root} is no longer what was planned ({len(found - known)} videos are new, "
        f"{len(known - found)} are gone, the rest may have moved): take another run_dir for the new input, "
        "or `clipmill resume` to go on with the old"
    )


def _read(
    config: RunConfig, on_block: Callable[[Block], object], problems: list[str]
) -> tuple[PlannedVideos, list[str]]:
    """Check the manifest and look at its files; gives its videos, and what is odd about them.

    Raises:
        ConfigError: something is wrong with it; ``problems`` come first.
    """
    root = config.input_video_path if config.manifest else None
    try:
        with _source(config) as source:
            table = copy_manifest(source, on_block, input_root=root, limit=config.limit, s3=source_s3(config))
    except ManifestError as error:
        named = (line.replace("manifest: ", f"{_source_key(config)}: ", 1) for line in error.shown)
        raise ConfigError([*problems, *named]) from error
    except UnfinishedError as error:
        raise ConfigError([*problems, f"output_clip_path: {error}"]) from error
    except StorageError as error:
        raise ConfigError([*problems, f"{_source_key(config)}: {error}"]) from error
    videos = PlannedVideos(table.offsets, table.costs)
    if not table.num_missing:
        return videos, []
    looked = f"{len(videos)} videos" if table.num_looked == len(videos) else f"{table.num_looked} videos looked at"
    if table.num_missing == len(videos) or table.num_missing == table.num_looked > 1:
        raise ConfigError([*problems, f"none of the {looked} is there; the first: {table.first_missing}"])
    be = f"{table.num_missing} of {looked} are not there and will be recorded as failed: {table.first_missing}"
    return videos, [be]


def _source_key(config: RunConfig) -> str:
    if is_annotation(config):
        return "output_clip_path"
    return "manifest" if config.manifest else "input_video_path"


def _source(config: RunConfig) -> AbstractContextManager[str]:
    """Where the videos are listed: a folder, a list, or what an output says of its own."""
    if is_annotation(config):
        return listed_videos(config)
    return nullcontext(config.manifest or config.input_video_path or "")


def _environment_problems(config: RunConfig, mistaken: frozenset[str] = frozenset()) -> list[str]:
    """What this machine can tell of encoder, weights and folders, but for what depends on mistaken settings."""
    chosen = mistaken & {"output_clip_path", *_CHOOSE_WEIGHTS}
    problems = [*annotation_problems(config), *([] if chosen else login_problems(config))]
    reaches_s3_by_mistake = any(key == "output_s3_profile_name" or key.split(".")[0] == "s3" for key in mistaken)
    for name in ("run_dir", "output_clip_path", "output_dataset_path"):
        folder = None if name in mistaken else getattr(config, name)
        if folder is not None and is_uri(folder):
            problem = None if reaches_s3_by_mistake else _not_writable_storage(name, folder, config)
        else:
            problem = None if folder is None else _not_writable(folder)
        if problem is not None:
            problems.append(f"{name}: {problem}")
        elif folder is not None and config.manifest is None and _is_below(folder, config.input_video_path):
            problems.append(f"{name}: {folder} lies inside input_video_path, so its videos would be taken for input")
    return problems


def _is_below(folder: str, root: str | None) -> bool:
    return root is not None and Path(folder).is_relative_to(root)


def _not_writable_storage(name: str, root: str, config: RunConfig) -> str | None:
    """Why objects can't be put at a URI; leaves nothing there."""
    if name == "run_dir":
        return (
            f"the run's state needs a file system that the nodes share, found {root!r}; clips and dataset can be on S3"
        )
    _, _, prefix = root.removeprefix("s3://").partition("/")
    if len(prefix.encode()) > MAX_PREFIX_BYTES:
        return (
            f"the prefix has {len(prefix.encode())} bytes, at most {MAX_PREFIX_BYTES} leave room for the videos' names"
        )
    try:
        storage_for(root, config.output_s3.hurried()).check_writable()
    except (StorageError, ValueError) as error:
        return str(error)
    return None


def _not_writable(folder: str) -> str | None:
    """Why a folder can't be made or written to; looks at the nearest one that exists, writes nothing."""
    path = Path(folder)
    while not os.path.exists(path) and path != path.parent:  # False, too, for what can't be looked at
        path = path.parent
    if not path.is_dir():
        return f"{path} is not a folder"
    return None if os.access(path, os.W_OK | os.X_OK) else f"no permission to write to {path}"


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
