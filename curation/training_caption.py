"""Which of a window's captions is trained on: the one that the catalogue shows, and that a text encoder gets. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from curation.model import Window

_CAPTION, _ENHANCED = "_caption", "_enhanced_caption"


def caption_of(window: Mapping[str, Any]) -> str | None:
    """The window's caption to train on: an enhanced one where there is one, else the first, None without any.

    What stands beside an error is no caption.

    Args:
        window: its entry in a meta.
    """
    names = [name for name in window if name.endswith(_CAPTION)]
    return _chosen(
        ((name.removesuffix(_ENHANCED), window[name]) for name in names if name.endswith(_ENHANCED)),
        ((name.removesuffix(_CAPTION), window[name]) for name in names if not name.endswith(_ENHANCED)),
        errors={name.removesuffix("_status") for name, value in window.items() if value == "error"},
    )


def caption_of_window(window: Window) -> str | None:
    """As ``caption_of``, for a window on its way through the pipeline."""
    errors = {key for key, outcome in window.caption_outcomes.items() if outcome.status == "error"}
    return _chosen(window.enhanced_caption.items(), window.caption.items(), errors=errors)


def _chosen(
    enhanced: Iterable[tuple[str, str | None]], captions: Iterable[tuple[str, str | None]], *, errors: set[str]
) -> str | None:
    texts = (text for group in (enhanced, captions) for key, text in group if text and key not in errors)
    return next(texts, None)
