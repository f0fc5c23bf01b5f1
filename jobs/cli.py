"""The commands: parse, call, print."""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import curation
from curation.errors import StorageError
from jobs import completion, exits
from jobs.aggregation import aggregate as aggregate_run
from jobs.annotation import is_annotation
from jobs.arrow import do_without_pandas
from jobs.compare_cli import compare
from jobs.config import ConfigError, RunConfig, load_config, read_config
from jobs.dataset_cli import app as dataset_app
from jobs.dataset_cli import run_pipeline_file
from jobs.dedup_cli import dedup
from jobs.doctor_cli import doctor
from jobs.dry_run import dry_run
from jobs.explain import explain, explain_video
from jobs.help_texts import APP_HELP, InOrderOfUse, describe
from jobs.launcher import Attempt, launch
from jobs.leftovers import leftovers
from jobs.local_submitter import run_in_background
from jobs.logs import first_errors, log_files
from jobs.models_cli import app as models_app
from jobs.planning import Plan, plan_file
from jobs.report_cli import report
from jobs.resuming import adopt_settings, note, requested
from jobs.rundir import RunDir, RunDirError
from jobs.script_submitter import SUBMIT_SCRIPT, ScriptSubmitter
from jobs.search_cli import search
from jobs.starter import full_yaml, short_yaml, yaml_of_pipeline
from jobs.status import run_status
from jobs.status_text import print_status
from jobs.submission import StoppedError, SubmissionError
from jobs.submitters import cancel_run
from jobs.watching import progress_shown, watched

app = typer.Typer(
    name="clipmill",
    help=APP_HELP,
    cls=InOrderOfUse,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(models_app)
app.add_typer(dataset_app)
app.command()(doctor)
app.command()(dedup)
app.command("search")(search)
app.command("compare")(compare)
app.command("report")(report)
# no markup and no emoji: brackets and colons in paths and messages are what they are
out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)

ConfigPath = Annotated[Path, typer.Argument(help="the run's YAML file", metavar="RUN.YAML")]
RunPath = Annotated[Path, typer.Argument(help="the run folder (run_dir), or its YAML file", metavar="RUN")]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="override a setting; may be repeated: --set split.transnetv2_crop_s=0",
        autocompletion=completion.setting,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress while it runs on this machine")]
Detach = Annotated[bool, typer.Option("--detach", help="with cluster local: go on in the background, with a log")]


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="file to write")] = Path("run.yaml"),
    is_full: Annotated[bool, typer.Option("--full", help="every setting with its default and its meaning")] = False,
    from_json: Annotated[
        Path | None, typer.Option("--from-json", help="the settings of a Cosmos-Curate split JSON, as a YAML")
    ] = None,
) -> None:
    """Write a starter YAML."""
    text = yaml_of_pipeline(from_json) if from_json else full_yaml() if is_full else short_yaml(path.name)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        err.print(f"{path} is there already; nothing was written")
        raise typer.Exit(exits.USAGE) from None
    out.print(f"wrote {path}{'' if from_json else ': fill in input_video_path'}; then: clipmill plan {path}")
    out.print(f"what this machine lacks for it: clipmill doctor {path}")


@app.command()
def plan(config_path: ConfigPath, overrides: Overrides = []) -> None:  # noqa: B006  (typer reads the default)
    """Check everything and show the shards; writes and queues nothing."""
    _print_plan(plan_file(config_path, overrides, write=False))


@app.command()
def run(
    config_path: ConfigPath,
    overrides: Overrides = [],  # noqa: B006
    detach: Detach = False,
    quiet: Quiet = False,
) -> None:
    """Run everything on this machine, whatever the config's cluster is; or do what the JSON of a pipeline asks for."""
    if (code := run_pipeline_file(config_path, overrides)) is not None:
        raise typer.Exit(code)
    _launch(plan_file(config_path, overrides, cluster="local"), detach=detach, quiet=quiet)


@app.command()
def submit(
    config_path: ConfigPath,
    overrides: Overrides = [],  # noqa: B006
    detach: Detach = False,
    quiet: Quiet = False,
    is_dry: Annotated[bool, typer.Option("--dry-run", help="show what would be queued; write nothing")] = False,
    as_script: Annotated[bool, typer.Option("--script", help="write batch scripts to read and submit by hand")] = False,
    script_dir: Annotated[Path | None, typer.Option(help="folder for --script; default: the attempt's")] = None,
) -> None:
    """Run on the config's cluster: queue the workers, and the aggregation after them."""
    config = read_config(config_path, overrides).config
    if (is_dry or as_script) and config is not None and config.cluster != "slurm":
        raise ConfigError([f"--dry-run and --script are for cluster: slurm, found {config.cluster!r}"])
    planned = plan_file(config_path, overrides, write=not is_dry)
    if is_dry:
        _print_plan(planned)
        out.print(dry_run(planned))
    elif as_script:
        _print_plan(planned)
        scripts = ScriptSubmitter(script_dir)
        attempt = launch(planned.run, planned.config, submitter=scripts)
        out.print(f"attempt {attempt.number} is written as scripts; read them, then: {scripts.folder}/{SUBMIT_SCRIPT}")
    else:
        _launch(planned, detach=detach, quiet=quiet)


@app.command()
def annotate(
    config_path: ConfigPath,
    overrides: Overrides = [],  # noqa: B006
    detach: Detach = False,
    quiet: Quiet = False,
) -> None:
    """Describe clips anew that are there (group annotate): captions, previews, embeddings; the clips stay untouched."""
    found = read_config(config_path, overrides)
    if found.config is not None and not found.problems and not is_annotation(found.config):
        raise ConfigError([f"{config_path}: annotate.annotation_version: this key is needed, such as v1"])
    _launch(plan_file(config_path, overrides), detach=detach, quiet=quiet)


@app.command()
def resume(
    run_path: RunPath,
    overrides: Overrides = [],  # noqa: B006
    detach: Detach = False,
    quiet: Quiet = False,
    failed: Annotated[
        list[str],
        typer.Option(
            metavar="CLASS", help="try videos again that failed so, or: all", autocompletion=completion.failure
        ),
    ] = [],  # noqa: B006
    config_path: Annotated[Path | None, typer.Option("--config", help="the run's settings from now on")] = None,
    is_explained: Annotated[bool, typer.Option("--explain", help="say what would be done and why; do nothing")] = False,
    video: Annotated[str | None, typer.Option(help="with --explain: this video and all that happened to it")] = None,
) -> None:
    """Launch a new attempt over the videos that have no record; and over what failed, or what other settings change."""
    run_dir = _run_dir(run_path)
    if not is_explained:
        adopt_settings(run_dir)
    config = run_dir.load_config()
    if config_path is not None or overrides:
        config = _config(config_path or run_dir.config_path, overrides)
    request = requested(run_dir, config, failed=failed)
    if is_explained:
        lines = explain(run_dir, request) if video is None else explain_video(run_dir, request, video)
        out.print("\n".join(lines))
        return
    note(run_dir, request)
    for line in request.in_words:
        out.print(line)
    _start(run_dir, config, detach=detach, quiet=quiet)


@app.command()
def logs(
    run_path: RunPath,
    shard: Annotated[int | None, typer.Option(help="of this shard only")] = None,
    first_error: Annotated[bool, typer.Option("--first-error", help="only the first error of each class")] = False,
) -> None:
    """Show the first error of each class with its log file and line, and where the logs are."""
    run_dir = _run_dir(run_path)
    for error in first_errors(run_dir, shard=shard):
        out.print(str(error))
    if not first_error:
        for path in log_files(run_dir, shard=shard):
            out.print(f"log: {path}")


@app.command("leftovers")
def list_leftovers(run_path: RunPath) -> None:
    """Name the output files that only earlier settings of a run made, one a line: nothing of it needs them."""
    run_dir = _run_dir(run_path)
    folder = run_dir.load_config().output_clip_path
    for path in leftovers(run_dir):
        out.print(f"{folder}/{path}")


@app.command()
def status(
    run_path: RunPath,
    watch: Annotated[bool, typer.Option("--watch", help="on and on, until the run is over or nothing works")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object; with --watch one a line")] = False,
    interval: Annotated[float | None, typer.Option(min=0.1, help="with --watch: seconds between two looks")] = None,
) -> None:
    """Show where a run stands, and what its workers wait for."""
    run_dir = _run_dir(run_path)
    if watch:
        raise typer.Exit(watched(run_dir, out, as_json=as_json, every_s=interval))
    found = run_status(run_dir)
    if as_json:
        sys.stdout.write(json.dumps(found.to_json()) + "\n")
    else:
        print_status(found, out)


@app.command()
def cancel(run_path: RunPath) -> None:
    """End a run's Slurm jobs and local workers; what is done stays done, `resume` goes on with the rest."""
    num_cancelled = cancel_run(_run_dir(run_path))
    out.print(f"cancelled {num_cancelled} jobs, arrays and processes; go on with: clipmill resume {run_path}")


@app.command()
def aggregate(run_path: RunPath) -> None:
    """Sum up a run now: summary, training dataset, report."""
    raise typer.Exit(_report_code(aggregate_run(_run_dir(run_path)), _run_dir(run_path)))


@app.command()
def version() -> None:
    """Print the version."""
    out.print(curation.__version__)


describe(app)


def _config(path: Path, overrides: list[str]) -> RunConfig:
    return load_config(path, overrides)


def _run_dir(path: Path) -> RunDir:
    """A run folder given as such, or by the YAML file that names it."""
    if path.is_file():
        path = Path(load_config(path).run_dir)
    found = RunDir(path.absolute())
    found.load_config()
    return found


def _print_plan(planned: Plan) -> None:
    for warning in planned.warnings:
        err.print(f"warning: {warning}")
    costs = sorted(shard.cost for shard in planned.shards)
    out.print(
        f"{planned.num_videos} videos, {planned.total_bytes / 1e9:.3f} GB, in {len(planned.shards)} shards of "
        f"{costs[0] / 1e9:.3f} to {costs[-1] / 1e9:.3f} GB; cluster: {planned.config.cluster}"
    )


def _launch(planned: Plan, *, detach: bool, quiet: bool) -> None:
    _print_plan(planned)
    _start(planned.run, planned.config, detach=detach, quiet=quiet)


def _start(run_dir: RunDir, config: RunConfig, *, detach: bool, quiet: bool) -> None:
    if not detach or config.cluster != "local":
        with progress_shown(run_dir, config, err, is_quiet=quiet):
            attempt = launch(run_dir, config)
        _report_attempt(attempt, run_dir)
        return
    pid, log = run_in_background(run_dir, timeout_s=config.worker.lease_timeout_s)
    out.print(
        f"runs in the background as process {pid}, log: {log}; follow with: clipmill status {run_dir.root} --watch; "
        f"end with: clipmill cancel {run_dir.root}"
    )


def _report_attempt(attempt: Attempt, run_dir: RunDir) -> None:
    if attempt.num_left_running:
        out.print(f"{attempt.num_left_running} videos are left to workers that are alive")
    if attempt.code is not None:
        raise typer.Exit(_report_code(attempt.code, run_dir))
    workers = sorted({job.job_id.partition("_")[0] for job in attempt.jobs if job.shard is not None})
    last = [f"the {job.role} as {job.job_id}" for job in attempt.jobs if job.shard is None]
    out.print(
        f"attempt {attempt.number}: {len(attempt.shards)} workers as {', '.join(workers) or 'none'}, "
        f"then {', then '.join(last)}; follow with: clipmill status {run_dir.root} --watch"
    )


def _report_code(code: int, run_dir: RunDir) -> int:
    """Say how an aggregation ended."""
    report = json.loads(run_dir.report_path.read_text()) if run_dir.report_path.is_file() else {}
    if code == exits.REFUSED:
        err.print(f"refused: {report.get('refused')}")
    elif code == exits.FAILED:
        err.print(f"the aggregation failed; see the logs in {run_dir.logs_path}")
    else:
        stats = report["clip_stats"]
        out.print(
            f"{report['num_done']} videos done, {report['num_failed']} failed, {report['num_missing']} missing; "
            f"{stats['num_passed']} clips of {stats['total_clip_duration']:.1f} s in all"
        )
        for reason, count in report["failures_by_reason"].items():
            first = next(each["message"] for each in report["failed_videos"] if each["reason"] == reason)
            err.print(f"failed ({reason}): {count}, such as {first}")
        for key, totals in report["captions"].items():
            speed = totals["engine"]["output_tokens_per_s"] if totals["engine"] else None
            out.print(
                f"captions {key}: {totals['num_success']} of {totals['num_windows']} windows, "
                f"{totals['num_truncated']} truncated, {totals['num_error']} errors, {totals['num_flagged']} flagged; "
                f"{totals['output_tokens']} output tokens" + (f", {speed:.0f} a second" if speed else "")
            )
        dataset = report["dataset"] or {}
        if missing := dataset.get("missing_tars"):
            err.print(f"the dataset is not published: {len(missing)} tars or more are not packed, such as {missing[0]}")
        elif dataset:
            out.print(f"dataset: {dataset['num_packed']} windows packed, {dataset['num_left_out']} left out")
        if run_dir.page_path.is_file():
            out.print(f"what came out, as a page: {run_dir.page_path}")
    if code == exits.INCOMPLETE:
        err.print(f"incomplete; go on with: clipmill resume {run_dir.root}")
    return code


def main() -> None:
    """Run a command; what a person can mend is said in words, with the exit code of its kind."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    do_without_pandas()
    try:
        app()
    except (ConfigError, RunDirError) as error:
        err.print(str(error))
        sys.exit(exits.USAGE)
    except StoppedError as error:
        err.print(str(error))
        sys.exit(exits.INCOMPLETE)
    except (StorageError, SubmissionError, OSError) as error:
        err.print(str(error))
        sys.exit(exits.FAILED)


if __name__ == "__main__":
    main()
