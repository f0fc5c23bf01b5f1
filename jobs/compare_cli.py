"""`clipmill compare`: what annotation versions say of the same clips, side by side."""

import base64
import html
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table

from curation import layout
from curation.storage import Storage
from jobs import completion, exits
from jobs.annotation import clips_storage
from jobs.comparing import ComparedClip, compared_clip, sampled_clips
from jobs.searching import SearchError, search_config

out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
body {{ font-family: sans-serif; margin: 1em }}
table {{ border-collapse: collapse; width: 100%; table-layout: fixed }}
td, th {{ border: 1px solid #ccc; padding: .5em; text-align: left; vertical-align: top; overflow-wrap: anywhere }}
img {{ max-width: 100% }}
small {{ color: #666 }}
</style></head><body><h1>{title}</h1>
"""


def compare(
    place: Annotated[str, typer.Argument(metavar="RUN_OR_CLIP_PATH", help="run folder, its YAML, or output_clip_path")],
    versions: Annotated[tuple[str, str], typer.Option(help="annotation versions")] = ("v0", "v1"),
    num_clips: Annotated[int, typer.Option("--num", min=1, help="clips, each of another video")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="another sample with another seed")] = 0,
    clip: Annotated[list[str], typer.Option(help="this clip, by uuid; may be repeated; default: a sample")] = [],  # noqa: B006
    only_different: Annotated[bool, typer.Option("--different", help="only those with other captions")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
    page: Annotated[
        Path | None, typer.Option("--html", help="write a page that shows them, with previews; default: print them")
    ] = None,
    overrides: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="override a setting; may be repeated: --set s3.region=eu",
            autocompletion=completion.setting,
        ),
    ] = [],  # noqa: B006
) -> None:
    """Show the captions of two annotation versions side by side, for a sample of clips."""
    try:
        config = search_config(place, overrides)
        if clip:
            found = [compared_clip(config, versions, str(UUID(each))) for each in clip]
        else:
            found = list(sampled_clips(config, versions, num_clips=num_clips, seed=seed))
    except (SearchError, ValueError) as error:
        err.print(str(error))
        raise typer.Exit(exits.USAGE) from None
    found = [each for each in found if each.is_different or not only_different]
    if page is not None:
        page.write_text(_page(clips_storage(config), found, versions), encoding="utf-8")
        out.print(f"wrote {page}")
    elif as_json:
        sys.stdout.write(json.dumps({"clips": [each.to_json() for each in found]}, ensure_ascii=False) + "\n")
    else:
        for each in found:
            _show(each, versions)
        num_different = sum(each.is_different for each in found)
        out.print(f"{len(found)} clips, {num_different} with other captions in {versions[1]} than in {versions[0]}")


def _show(clip: ComparedClip, versions: Sequence[str]) -> None:
    table = Table(title=_title(clip), title_justify="left", show_lines=True, expand=True)
    table.add_column("frames", no_wrap=True)
    for version in versions:
        table.add_column(version, ratio=1)
    for span in clip.windows():
        table.add_row(f"{span[0]}-{span[1]}", *(_text(clip, version, span) for version in versions))
    out.print(table)


def _title(clip: ComparedClip) -> str:
    start_s, end_s = clip.known["duration_span"]
    return f"{clip.uuid}  {start_s:.2f} to {end_s:.2f} s of {clip.known['source_video']}"


def _text(clip: ComparedClip, version: str, span: tuple[int, int]) -> str:
    if clip.metas[version] is None:
        return "(not in this version)"
    captions = clip.captions(version, span)
    return "\n\n".join(f"{name}: {text}" for name, text in captions.items()) or "(no caption)"


def _page(clips: Storage, found: Sequence[ComparedClip], versions: Sequence[str]) -> str:
    """A page that needs no other file: the previews are in it."""
    title = f"Captions of {' and '.join(versions)}"
    parts = [_HEAD.format(title=html.escape(title))]
    for clip in found:
        heads = "".join(f"<th>{html.escape(version)}</th>" for version in versions)
        parts.append(f"<h2><small>{html.escape(_title(clip))}</small></h2><table><tr><th>window</th>{heads}</tr>")
        for span in clip.windows():
            cells = (html.escape(_text(clip, version, span)).replace("\n", "<br>") for version in versions)
            texts = "".join(f"<td>{cell}</td>" for cell in cells)
            parts.append(f"<tr><td>{_preview(clips, clip, versions, span)}<br>{span[0]}-{span[1]}</td>{texts}</tr>")
        parts.append("</table>")
    return "\n".join([*parts, "</body></html>\n"])


def _preview(clips: Storage, clip: ComparedClip, versions: Sequence[str], span: tuple[int, int]) -> str:
    path = layout.preview(UUID(clip.uuid), *span)
    for version in dict.fromkeys([*versions, layout.FIRST_VERSION]):
        try:
            webp = clips.read(layout.versioned(path, version))
        except FileNotFoundError:
            continue
        return f'<img alt="" src="data:image/webp;base64,{base64.b64encode(webp).decode("ascii")}">'
    return "(no preview)"
