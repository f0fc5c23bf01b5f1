"""`clipmill doctor`: what this machine lacks for a run, and what killed processes of a run left aside."""

import json
import sys
import textwrap
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from jobs import completion, exits
from jobs.config import ConfigError, RunConfig, read_config
from jobs.doctor import Check, Finding, findings
from jobs.doctor_machine import (
    look_at_disks,
    look_at_gpus,
    look_at_packages,
    look_at_size,
    look_at_torch,
    look_at_video,
    look_at_vllm,
)
from jobs.doctor_services import look_at_s3, look_at_slurm, look_at_weights
from jobs.remainders import remainders, who_is_at_work
from jobs.rundir import RunDir

out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)

_INDENT = 18  # of what was found: the columns of level and check
_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}

CHECKS: dict[str, Check] = {
    "packages": look_at_packages,
    "torch": look_at_torch,
    "vllm": look_at_vllm,
    "cpus": look_at_size,
    "disks": look_at_disks,
    "video": look_at_video,
    "gpu": look_at_gpus,
    "weights": look_at_weights,
    "slurm": look_at_slurm,
    "s3": look_at_s3,
}


def doctor(
    place: Annotated[Path | None, typer.Argument(metavar="RUN_OR_YAML", help="run folder, or a run's YAML")] = None,
    overrides: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="override a setting; may be repeated: --set cluster=slurm",
            autocompletion=completion.setting,
        ),
    ] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
    clean: Annotated[bool, typer.Option("--clean", help="remove what is left aside, and check nothing")] = False,
    older_than_h: Annotated[
        float, typer.Option(min=0, help="left aside: only what is at least so many hours old")
    ] = 24.0,
) -> None:
    if clean:
        _clean(place, overrides, older_than_h=older_than_h)
        return
    config, run, mistakes = _read(place, overrides)
    found = list(mistakes)
    for each in found:
        _show(each, as_json=as_json)
    for each in findings(CHECKS, config):
        found.append(each)
        _show(each, as_json=as_json)
    left = [str(each) for each in remainders(run, config, older_than_s=older_than_h * 3600)] if run and config else []
    if as_json:
        checks = [{"level": f.level, "check": f.check, "found": f.found, "mend": f.mend} for f in found]
        sys.stdout.write(json.dumps({"checks": checks, "left_aside": left}, ensure_ascii=False) + "\n")
    else:
        _sum_up(found, left, place if run else None, older_than_h)
    if any(each.level == "problem" for each in found):
        raise typer.Exit(exits.FAILED)


def _read(place: Path | None, overrides: list[str]) -> tuple[RunConfig | None, RunDir | None, list[Finding]]:
    """The settings to check for, the run where there is one, and the mistakes in the settings."""
    if place is None:
        if overrides:
            raise ConfigError(["--set changes a config: name the run's YAML, too"])
        return None, None, []
    if place.is_file():
        found = read_config(place, overrides)
        mend = "mend it in the file; `clipmill plan` then checks the videos, too"
        mistakes = [Finding("problem", "config", problem, mend) for problem in found.problems]
        if not mistakes:
            mistakes = [Finding("ok", "config", f"{place} has no mistakes")]
        run = RunDir(Path(found.config.run_dir)) if found.config is not None else None
        return found.config, run if run is not None and run.config_path.is_file() else None, mistakes
    run = RunDir(place.absolute())
    run.load_config()  # says so where the folder is no run
    return read_config(run.config_path, overrides).config, run, []


def _show(finding: Finding, *, as_json: bool) -> None:
    if as_json:
        return
    first, *more = _wrapped(finding.found)
    out.print(Text.assemble((f"{finding.level:<8}", _STYLES[finding.level]), f" {finding.check:<8} {first}"))
    for line in [*more, *([f"mend: {finding.mend}"] if finding.mend else [])]:  # a command to copy stays in one piece
        out.print(f"{'':{_INDENT}}{line}")


def _wrapped(text: str) -> list[str]:
    """Lines that fit a terminal; what is no terminal gets one, whatever its length."""
    width = max(40, out.width - _INDENT) if out.is_terminal else len(text) + 1
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _sum_up(found: list[Finding], left: list[str], run: Path | None, older_than_h: float) -> None:
    problems = sum(each.level == "problem" for each in found)
    warnings = sum(each.level == "warning" for each in found)
    out.print(f"{_count(problems, 'problem')}, {_count(warnings, 'warning')}")
    if run is None:
        return
    for each in left:
        out.print(f"left aside: {each}")
    if left:
        out.print(f"{len(left)} in all, which nothing reads; remove with: clipmill doctor {run} --clean")
    else:
        out.print(f"nothing that is {older_than_h:g} h old was left aside")


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _clean(place: Path | None, overrides: list[str], *, older_than_h: float) -> None:
    """Remove what was left aside, unless somebody may be writing."""
    if place is None:
        raise ConfigError(["--clean removes what a run left aside: name the run"])
    config, run, mistakes = _read(place, overrides)
    if run is None or config is None:
        raise ConfigError([f.found for f in mistakes if f.level == "problem"] or [f"{place} has no run folder yet"])
    busy = who_is_at_work(run, config)
    if busy is not None:
        err.print(f"nothing is removed: {busy} may be writing; try again when the run has ended, or clipmill cancel it")
        raise typer.Exit(exits.FAILED)
    count = 0
    for each in remainders(run, config, older_than_s=older_than_h * 3600):
        count += 1
        each.remove()
        out.print(f"removed: {each}")
    if not count:
        out.print(f"nothing that is {older_than_h:g} h old was left aside")
