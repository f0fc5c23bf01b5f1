"""The report as one HTML file: it opens from disk and asks no other machine for anything."""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final

SCRIPTS: Final = (
    "elements.js",
    "units.js",
    "figures.js",
    "plots.js",
    "card.js",
    "gallery.js",
    "failures.js",
    "page.js",
)
STYLES: Final = ("colors.css", "page.css", "lists.css")
LIBRARY: Final = "vendor/chart.umd.min.js"

_PLACE: Final = re.compile(r"\{\{(\w+)\}\}")
_SOURCE_MAP: Final = re.compile(r"\s*//# sourceMappingURL=\S+\s*$")


def render(document: Mapping[str, Any]) -> str:
    """The page of a report document, to be written as UTF-8.

    The page's policy lets only the page's own scripts and styles work, by their checksums, and images that stand in the
    page: nothing that came with a caption, a path or a message can run, and nothing is loaded.

    Args:
        document: as ``jobs.report_document`` makes it. Numbers that are not finite become null.
    """
    library = _SOURCE_MAP.sub("\n", _asset(LIBRARY))  # else developer tools ask for a file that is not there
    script = '"use strict";\n' + "".join(_asset(name) for name in SCRIPTS)
    style = "".join(_asset(name) for name in STYLES)
    parts = {
        "policy": _policy(scripts=(library, script), style=style),
        "title": _markup(f"{document['title']}: clipmill report"),
        "style": style,
        "document": _embedded(document),
        "library": library,
        "script": script,
    }
    return _PLACE.sub(lambda place: parts[place[1]], _asset("page.html"))


def _asset(name: str) -> str:
    return resources.files("jobs").joinpath("report_assets", *name.split("/")).read_text(encoding="utf-8")


def _policy(*, scripts: tuple[str, ...], style: str) -> str:
    """The Content-Security-Policy: https://www.w3.org/TR/CSP3/."""
    allowed = " ".join(_checksum(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_checksum(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _checksum(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def _markup(text: str) -> str:
    """Text as HTML, in ASCII: a path may hold halves of characters, which no UTF-8 file can."""
    return html.escape(text).encode("ascii", "xmlcharrefreplace").decode("ascii")


def _embedded(document: Mapping[str, Any]) -> str:
    """JSON that is safe within a script element: in ASCII, and with no ``<`` that could end it or begin a comment."""
    return json.dumps(_finite(document), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _finite(value: object) -> object:
    """The same with null for NaN and infinities, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return value
