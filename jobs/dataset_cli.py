"""`clipmill dataset`: a training dataset of any finished split output, and whether one is whole."""

import json
import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from curation.dataset import check_dataset
from curation.storage import storage_for
from jobs import completion, exits
from jobs.config import ConfigError, RunConfig, load_config
from jobs.dataset_build import BuiltDataset, build_from_summary
from jobs.dataset_job import DatasetJob, dataset_job
from jobs.pipeline_json import ShardArguments, read_pipeline, shard_arguments
from jobs.split_json import is_split_pipeline
from jobs.worker import configure_logging

app = typer.Typer(name="dataset", help="Training datasets of split outputs.", no_args_is_help=True)
out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)

Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="a setting of dataset, or of another group; may be repeated: --set val_fraction=0.1 --set s3.region=eu",
        autocompletion=completion.setting,
    ),
]
NumWorkers = Annotated[int, typer.Option(min=1, help="processes that pack at once")]
_REASONS = 5  # for which windows were left out, shown
_PROBLEMS = 100  # shown


@app.command("build")
def build(
    clip_path: Annotated[str, typer.Argument(metavar="CLIP_PATH", help="output_clip_path of a finished run")],
    dataset_path: Annotated[str, typer.Argument(metavar="DATASET_PATH", help="folder or s3://bucket/prefix")],
    annotation_version: Annotated[str | None, typer.Option(help="which metas; default: v0")] = None,
    overrides: Overrides = [],  # noqa: B006  (typer reads the default)
    num_workers: NumWorkers = 1,
    verbose: Annotated[bool, typer.Option("--verbose", help="log what is done")] = False,
) -> None:
    """Build or extend the training dataset of a finished split output; no run folder is needed."""
    settings: dict[str, Any] = {"output_clip_path": clip_path, "output_dataset_path": dataset_path}
    if annotation_version is not None:
        settings["dataset.annotation_version"] = annotation_version
    job = _job(_config(settings, overrides, name="clipmill dataset build"))
    raise typer.Exit(_build(job, num_workers=num_workers, verbose=verbose))


@app.command("check")
def check(
    dataset_path: Annotated[str, typer.Argument(metavar="DATASET_PATH", help="folder or s3://bucket/prefix")],
    annotation_version: Annotated[str | None, typer.Option(help="default: all that are there")] = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Read a training dataset and compare it with its indexes and its catalogue; the code is 1 with problems."""
    config = _config({"output_clip_path": ".", "output_dataset_path": dataset_path}, overrides, name="clipmill dataset")
    found = check_dataset(storage_for(config.output_dataset_path or "", config.output_s3), annotation_version)
    for problem in found.problems[:_PROBLEMS]:
        err.print(problem)
    if found.problems:
        more = len(found.problems) - _PROBLEMS
        err.print(f"{len(found.problems)} problems" + (f", {more} not shown" if more > 0 else ""))
        raise typer.Exit(exits.FAILED)
    out.print(f"{dataset_path}: {found.num_samples} samples in {found.num_tars} tars are whole")


def run_pipeline_file(path: Path, overrides: Sequence[str] = ()) -> int | None:
    """Do what the JSON of a pipeline asks for; gives the exit code, or None where the file is none.

    Raises:
        ConfigError: it asks for what is not known.
    """
    document = read_pipeline(path)
    if document is None or is_split_pipeline(document):  # that is a run
        return None
    arguments = shard_arguments(document, name=str(path))
    config = _config(arguments.settings, overrides, name=str(path))
    for note in arguments.notes:
        err.print(f"note: {note}")
    job = _job(config, profile=arguments.duplicates_profile)
    _check_eps(job, arguments, name=str(path))
    return _build(job, limit=arguments.limit, verbose=arguments.verbose)


def _config(settings: Mapping[str, Any], overrides: Sequence[str], *, name: str) -> RunConfig:
    """The settings of a run that has an output and a dataset, and nothing to do; mistakes name where they come from."""
    document: dict[str, Any] = {"run_dir": ".", "manifest": "none", "cluster": "local"}
    for key, value in settings.items():
        group, _, last = key.rpartition(".")
        (document.setdefault(group, {}) if group else document)[last] = value
    whole = [override if _is_whole(override.partition("=")[0]) else f"dataset.{override}" for override in overrides]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(document, file, allow_unicode=True)
        file.flush()
        try:
            return load_config(Path(file.name), whole)
        except ConfigError as error:
            place = rf"^{re.escape(file.name)}(:\d+)?"
            raise ConfigError([re.sub(place, lambda _: name, problem) for problem in error.problems]) from None


def _is_whole(key: str) -> bool:
    """Whether a key is that of a run's config as it stands; else it is one of the group of the dataset."""
    return "." in key or key in RunConfig.model_fields


def _job(config: RunConfig, *, profile: str | None = None) -> DatasetJob:
    """``input_s3_profile_name`` reads the clips, ``output_s3_profile_name`` writes the dataset.

    Args:
        profile: reads the duplicates; None: that of the clips.
    """
    job = dataset_job(config)
    assert job is not None
    duplicates = job.duplicates and (job.duplicates[0], config.s3.options(profile or config.input_s3_profile_name))
    clips, lists = (storage_for(each.root, config.input_s3) for each in (job.clips, job.lists))
    return replace(job, clips=clips, lists=lists, duplicates=duplicates)


def _check_eps(job: DatasetJob, arguments: ShardArguments, *, name: str) -> None:
    """Duplicates were found with one threshold; another one needs another search."""
    if job.duplicates is None or arguments.duplicates_eps is None:
        return
    summary = json.loads(storage_for(*job.duplicates).read("summary.json"))
    if (eps := summary["settings"]["eps"]) != arguments.duplicates_eps:
        asked = f"args.semantic_dedup_epsilon: {arguments.duplicates_eps:g}"
        mend = f"clipmill dedup --eps {arguments.duplicates_eps:g}"
        raise ConfigError(
            [f"{name}: {asked}, but {job.duplicates[0]} was made with {eps:g}: make it again with {mend}"]
        )


def _build(job: DatasetJob, *, num_workers: int = 1, limit: int = 0, verbose: bool = False) -> int:
    if verbose:
        configure_logging()
    else:
        logging.getLogger("curation.dataset").setLevel(logging.ERROR)  # what is left out is told in the end
    try:
        built = build_from_summary(job, num_workers=num_workers, limit=limit, verbose=verbose)
    except ValueError as error:
        err.print(str(error))
        return exits.USAGE
    except BrokenProcessPool:
        err.print("a packing process was killed, for want of memory perhaps; the same command goes on from there")
        return exits.FAILED
    return _told(job, built)


def _told(job: DatasetJob, built: BuiltDataset) -> int:
    report = built.report
    folder = f"{job.output.root}/{job.settings.annotation_version}"
    out.print(f"{folder}: {report.num_packed} windows in {report.num_tars} tars, {report.num_left_out} left out")
    for note in report.notes:
        err.print(f"note: {note}")
    reasons = sorted(report.left_out_by_reason.items(), key=lambda each: (-each[1], each[0]))
    for reason, count in reasons[:_REASONS]:
        out.print(f"left out: {count}: {reason}")
    if num_missing := built.num_videos["missing"]:
        err.print(f"incomplete: {num_missing} videos of the output were not done yet; build again when they are")
        return exits.INCOMPLETE
    return exits.DONE
