"""`clipmill models`: which models there are, and how their weights get to the cluster."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from curation.weights import PullError, pull, weights_revision
from jobs import completion, exits
from jobs.config import ConfigError, load_config
from jobs.models_needed import NeededModel, known_models, named_model, needed_models

app = typer.Typer(name="models", help="Weights of models: what there is, and fetching it.", no_args_is_help=True)
out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)

ModelDir = Annotated[Path | None, typer.Option("--model-dir", help="the folder of all models; default: the config's")]


@app.command("pull")
def pull_models(
    config_path: Annotated[
        Path | None, typer.Argument(metavar="[RUN.YAML]", help="fetch what this config needs")
    ] = None,
    names: Annotated[
        list[str], typer.Option("--model", help="fetch this model; may be repeated", autocompletion=completion.model)
    ] = [],  # noqa: B006
    model_dir: ModelDir = None,
    verify: Annotated[bool, typer.Option("--verify", help="read again what is there, and mend it")] = False,
) -> None:
    """Fetch weights from the model hub (HF_ENDPOINT, HF_TOKEN), check every byte, and say so in the folder."""
    models, model_dir = _wanted(config_path, names, model_dir)
    logging.getLogger("curation.weights").setLevel(logging.INFO)  # a person waits: for whom, is worth a line
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read when huggingface_hub is first imported
    for wanted in models:
        model = wanted.model
        out.print(f"{wanted.name}: {model.repository} at {model.revision}, about {model.weights_gb:g} GB")
        try:
            folder = pull(model.repository, model.revision, model_dir, verify=verify)
        except (PullError, OSError) as error:
            err.print(str(error))
            raise typer.Exit(exits.FAILED) from error
        out.print(f"{wanted.name}: complete in {folder}")


@app.command("list")
def list_models(
    model_dir: Annotated[
        Path | None,
        typer.Option("--model-dir", help="also tell which weights are in this folder; default: do not look"),
    ] = None,
) -> None:
    """Show the models that a config can name, and which weights are there."""
    table = Table()
    for column in ("model", "repository", "revision", "GB", *(["weights"] if model_dir else [])):
        table.add_column(column, overflow="fold")
    for known in known_models():
        model = known.model
        row = [known.name, model.repository, model.revision[:12], f"{model.weights_gb:g}"]
        table.add_row(*row, *([_found(known, model_dir)] if model_dir else []))
    wide = out if out.is_terminal else Console(width=400)  # what reads a pipe takes any width
    wide.print(table)


def _found(known: NeededModel, model_dir: Path) -> str:
    try:
        folder = known.find(model_dir)
        return f"{folder} ({weights_revision(folder)[:18]})"
    except FileNotFoundError:
        return "missing"


def _wanted(config_path: Path | None, names: list[str], model_dir: Path | None) -> tuple[list[NeededModel], Path]:
    """What is to be fetched, and where to; the config's folder where none is given."""
    try:
        models = [named_model(name) for name in names]
        if config_path is not None:
            config = load_config(config_path)
            models += needed_models(config)
            model_dir = model_dir or Path(config.models.model_dir)
    except (ConfigError, ValueError) as error:
        raise _usage(str(error)) from error
    if config_path is None and not names:
        raise _usage("name a config, or models with --model; `clipmill models list` shows which there are")
    if model_dir is None:
        raise _usage("name the folder for the weights with --model-dir (or models.model_dir in the config)")
    return models, model_dir


def _usage(message: str) -> typer.Exit:
    err.print(message)
    return typer.Exit(exits.USAGE)
