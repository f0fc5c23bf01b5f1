"""A page that shows what a search found: previews, or clips where there are none."""

import base64
import html
import tempfile
from collections.abc import Sequence
from pathlib import Path

from curation import layout
from curation.storage import Storage
from jobs.searching import FoundClip

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font-family: sans-serif; margin: 1em }}
main {{ display: flex; flex-wrap: wrap; gap: 1em }}
figure {{ margin: 0; width: 320px }}
img, video {{ width: 100% }}
figcaption {{ font-size: 80%; overflow-wrap: anywhere }}
</style></head><body><h1>{title}</h1><main>
"""


def write_page(clips: Storage, found: Sequence[FoundClip], *, title: str) -> Path:
    """Write the page into a temporary folder of its own, with what can't be shown where it lies.

    Raises:
        StorageError: the storage failed.
    """
    folder = Path(tempfile.mkdtemp(prefix="clipmill-search-"))
    page = folder / "index.html"
    figures = [_figure(clips, each, folder) for each in found]
    page.write_text(
        _HEAD.format(title=html.escape(title)) + "\n".join(figures) + "\n</main></body></html>\n", encoding="utf-8"
    )
    return page


def _figure(clips: Storage, found: FoundClip, folder: Path) -> str:
    captions = [each["caption"] for each in found.captions]
    lines = [f"{found.rank}. {found.cosine:.4f} {found.uuid}", where(found), *captions, found.path]
    text = "<br>".join(html.escape(line) for line in lines)
    return f"<figure>{_picture(clips, found, folder)}<figcaption>{text}</figcaption></figure>"


def _picture(clips: Storage, found: FoundClip, folder: Path) -> str:
    for path in found.previews():
        try:
            return f'<img src="{_preview_source(clips, path)}" alt="">'
        except FileNotFoundError:
            continue
    path = found.meta.get("clip_location") or layout.clip(found.uuid)
    file = clips.local_path(path)
    if file is None:
        file = folder / f"{found.uuid}.mp4"
        try:
            clips.download(path, file)
        except FileNotFoundError:
            return "the clip is not there"
    return f'<video src="{html.escape(file.as_uri())}" controls muted loop></video>'


def _preview_source(clips: Storage, path: str) -> str:
    """A link to a file; what is none is in the page itself. Raises FileNotFoundError."""
    file = clips.local_path(path)
    if file is None:
        return f"data:image/webp;base64,{base64.b64encode(clips.read(path)).decode('ascii')}"
    if not file.is_file():
        raise FileNotFoundError(path)
    return html.escape(file.as_uri())


def where(found: FoundClip) -> str:
    """The span of a clip and its source, in words."""
    if not found.meta:
        return "there is no meta of it"
    start_s, end_s = found.meta["duration_span"]
    return f"{start_s:.2f} to {end_s:.2f} s of {found.meta['source_video']}"
