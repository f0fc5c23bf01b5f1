"""`clipmill search`: the clips nearest to a text, to a clip of the output, or to a video file."""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated
from uuid import UUID

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from curation.errors import StopRunError
from curation.search import VectorIndex, cache_folders, nearest, open_index
from jobs import completion, exits
from jobs.config import ConfigError, RunConfig
from jobs.search_page import where, write_page
from jobs.searching import (
    FoundClip,
    SearchError,
    clips_found,
    config_of_model,
    file_vector,
    folder_of,
    other_weights,
    search_config,
    storage_of,
    text_vector,
)

out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)

_SHOWN_CHARACTERS = 200  # of a caption


def search(
    place: Annotated[str, typer.Argument(metavar="RUN_OR_CLIP_PATH", help="run folder, its YAML, or output_clip_path")],
    text: Annotated[str | None, typer.Argument(help="what the clips should show")] = None,
    like: Annotated[str | None, typer.Option(help="clips like this one: its uuid, or a video file")] = None,
    top: Annotated[int, typer.Option(min=1, help="how many clips")] = 10,
    embedding: Annotated[str | None, typer.Option(help="whose vectors; default: the run's, or the only ones")] = None,
    version: Annotated[str, typer.Option("--annotation-version", help="whose captions")] = "v0",
    overrides: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="override a setting; may be repeated: --set models.model_dir=models",
            autocompletion=completion.setting,
        ),
    ] = [],  # noqa: B006  (typer reads the default)
    cache_dir: Annotated[
        Path | None, typer.Option(help="folder for the index; default: in the output, or ~/.cache")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
    is_opened: Annotated[bool, typer.Option("--open", help="show previews or clips in the browser")] = False,
) -> None:
    """Find the clips nearest to a text, or to a clip (--like)."""
    if (text is None) == (like is None):
        _end("give a text, or --like with a clip's uuid or a video file", exits.USAGE)
    logging.getLogger("curation.search").setLevel(logging.INFO)  # a person waits: for an index, is worth a line
    try:
        settings = search_config(place, overrides)
        clips = storage_of(settings)
        config = config_of_model(settings, clips, embedding)
        index = open_index(clips, folder_of(config), cache_folders(clips, own=cache_dir))
        vector, row = _looked_for(config, index, text, like)
        found = clips_found(clips, nearest(index, vector, top=top, without=row), version=version)
        page = write_page(clips, found, title=text or f"like {like}") if is_opened else None
    except (SearchError, ConfigError) as error:
        _end(str(error), exits.USAGE)
    except ImportError as error:
        _end(f"the model can't be loaded: {error}; pip install 'clipmill[models]'", exits.FAILED)
    except (StopRunError, ValueError) as error:
        _end(str(error), exits.FAILED)
    _print(found, index, config.embeddings.embedding_algorithm, as_json=as_json)
    if page is not None:
        err.print(f"shown in {page}" if typer.launch(str(page)) == 0 else f"nothing here opens {page}")


def _looked_for(
    config: RunConfig, index: VectorIndex, text: str | None, like: str | None
) -> tuple[NDArray[np.float32], int | None]:
    """The vector that is looked for, and the row of the clip that has it."""
    if like is not None and (clip := _uuid(like)) is not None:
        row = index.row_of(clip)
        if row is None:
            raise SearchError(f"clip {clip} has no vector in {folder_of(config)}_parquet/")
        return index.vectors[row], row
    vector = file_vector(config, like) if like is not None else text_vector(config, text or "")
    if warning := other_weights(config, index):
        err.print(f"warning: {warning}")
    return vector, None


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _print(found: list[FoundClip], index: VectorIndex, embedding: str, *, as_json: bool) -> None:
    if as_json:
        results = [each.to_json() for each in found]
        document = {"embedding": embedding, "num_clips": len(index.vectors), "results": results}
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        return
    for each in found:
        captions = [caption["caption"] for caption in each.captions]
        out.print(f"{each.rank:>3}  {each.cosine:.4f}  {each.uuid}  {where(each)}")
        if captions:
            more = f" (and {len(captions) - 1} more)" if len(captions) > 1 else ""
            out.print(f"     {_shortened(captions[0])}{more}")
        out.print(f"     {each.path}")


def _shortened(caption: str) -> str:
    line = " ".join(caption.split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[: _SHOWN_CHARACTERS - 3]}..."


def _end(message: str, code: int) -> None:
    err.print(message)
    raise typer.Exit(code)
