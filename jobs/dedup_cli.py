"""`clipmill dedup`: which clips show the same as others, by their vectors."""

import logging
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from curation.dedup import DedupSettings, find_duplicates
from curation.storage import S3Options, Storage, storage_for
from jobs import completion, exits
from jobs.searching import SearchError, config_of_model, folder_of, search_config, storage_of

out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)

_TABLES = "_parquet"


class _WhichToKeep(StrEnum):
    hard = "hard"
    easy = "easy"
    random = "random"


def dedup(
    place: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_CLIP_PATH", help="run folder, its YAML, output_clip_path, or a folder NAME_parquet"
        ),
    ],
    output: Annotated[
        str | None, typer.Argument(help="folder or s3://bucket/prefix; default: NAME_duplicates beside NAME_parquet")
    ] = None,
    eps: Annotated[float, typer.Option(help="a cosine of 1 - eps makes a duplicate")] = 0.01,
    num_clusters: Annotated[int | None, typer.Option(min=1, help="default: the square root of the clips")] = None,
    which_to_keep: Annotated[
        _WhichToKeep, typer.Option(help="of a cluster first: farthest from its centre, nearest, by chance")
    ] = _WhichToKeep.hard,
    seed: Annotated[int, typer.Option(min=0, help="of what is left to chance")] = 0,
    embedding: Annotated[str | None, typer.Option(help="whose vectors; default: the run's, or the only ones")] = None,
    overrides: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="override a setting; may be repeated: --set s3.endpoint_url=URL",
            autocompletion=completion.setting,
        ),
    ] = [],  # noqa: B006  (typer reads the default)
    device: Annotated[str, typer.Option(help="auto (a GPU where torch finds one), cpu, cuda")] = "auto",
    scratch_dir: Annotated[
        Path | None, typer.Option(help="for temporary files, twice the vectors; default: TMPDIR")
    ] = None,
) -> None:
    """List the clips that show the same as a clip that is kept: dataset.duplicates leaves them out of a dataset."""
    logging.getLogger("curation.dedup").setLevel(logging.INFO)  # millions take minutes: how far it is, is worth a line
    try:
        settings = DedupSettings(eps, num_clusters, which_to_keep.value, seed)
        clips, name, found = _vectors(place, embedding, overrides, output)
        report = find_duplicates(clips, name, found, settings, device=device, scratch_folder=scratch_dir)
    except (SearchError, ValueError) as error:
        err.print(str(error))
        raise typer.Exit(exits.USAGE) from error
    out.print(
        f"{report.num_duplicates} of {report.num_clips} clips are duplicates of {report.num_groups} others; "
        f"{report.num_kept} are kept"
    )
    out.print(f"wrote {found.root}; to leave them out of a dataset: dataset.duplicates: {found.root}")


def _vectors(
    place: str, embedding: str | None, overrides: list[str], output: str | None
) -> tuple[Storage, str, Storage]:
    """The storage with the tables, their folder's name without ``_parquet``, and where the result goes."""
    head, slash, last = place.rstrip("/").rpartition("/")
    if last.endswith(_TABLES) and last != _TABLES:
        clips, name, s3 = storage_for(head or slash or "."), last.removesuffix(_TABLES), S3Options()
    else:
        config = search_config(place, overrides)
        clips, s3 = storage_of(config), config.output_s3
        name = folder_of(config_of_model(config, clips, embedding))
    return clips, name, storage_for(output or f"{clips.root}/{name}_duplicates", s3)
