"""`clipmill report`: one page that shows what became of a run."""

import json
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from curation import layout
from curation.storage import storage_for
from jobs import exits
from jobs.annotation import versioned_root
from jobs.config import RunConfig, load_config
from jobs.report_clips import MAX_SAMPLED
from jobs.report_counting import found_report
from jobs.report_document import NUM_CLIPS, known_versions, report_document, write_page
from jobs.report_samples import MAX_PREVIEW_MB
from jobs.rundir import RunDir

out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def report(
    run_path: Annotated[Path, typer.Argument(help="the run folder (run_dir), or its YAML file", metavar="RUN")],
    page: Annotated[
        Path | None, typer.Option("--html", help="the page; default: report.html in the run folder")
    ] = None,
    num_clips: Annotated[int, typer.Option(min=0, max=MAX_SAMPLED, help="clips in the page's gallery")] = NUM_CLIPS,
    versions: Annotated[
        list[str], typer.Option(help="annotation versions whose captions are shown: v0,v1; or repeat it")
    ] = [],  # noqa: B006  (typer reads the default)
    max_preview_mb: Annotated[
        float, typer.Option(min=0, help="MB of previews in the page, of all clips together")
    ] = MAX_PREVIEW_MB,
    is_opened: Annotated[bool, typer.Option("--open", help="show the page in a browser")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print what the page shows, without previews")] = False,
) -> None:
    """Write one page that shows what became of a run, or how far it is: figures, plots, clips, failures."""
    run = _run_dir(run_path)
    versions = [version for each in versions for version in each.split(",")]
    _check_versions(run.load_config(), versions)
    found = found_report(run)
    target = (page or run.page_path).absolute()
    document = report_document(
        run,
        found.report,
        made=found.made,
        state=found.state,
        versions=versions,
        num_clips=num_clips,
        max_preview_mb=0 if as_json else max_preview_mb,
        folder=target.parent,
    )
    if as_json:
        sys.stdout.write(json.dumps(document) + "\n")
        return
    try:
        write_page(document, target)
    except OSError as error:
        err.print(f"{target} can't be written: {error.strerror}; name another place with --html FILE")
        raise typer.Exit(exits.FAILED) from None
    out.print(f"wrote {target} ({found.state})")
    if is_opened and not webbrowser.open(target.as_uri()):
        err.print("there is no browser on this machine: copy the page to one that has a browser")


def _check_versions(config: RunConfig, versions: list[str]) -> None:
    for version in versions:
        output = storage_for(versioned_root(config, version), config.output_s3)
        if version not in known_versions(config) and not output.exists(layout.SUMMARY):
            err.print(f"{config.output_clip_path} has no finished annotation version {version}")
            raise typer.Exit(exits.USAGE)


def _run_dir(path: Path) -> RunDir:
    """A run folder given as such, or by the YAML file that names it."""
    run = RunDir((Path(load_config(path).run_dir) if path.is_file() else path).absolute())
    run.load_config()
    return run
