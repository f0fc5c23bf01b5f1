"""Captions in documents: the keys of a window's entry, and totals that add up (docs/rules.md, Captions). Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from curation.model import CaptionOutcome, Clip, Window


@dataclass
class CaptionTotals:
    """Counts over the captions of one key; adding those of all videos gives those of the run.

    Attributes:
        num_windows: whose caption was asked for: successes, truncated ones and errors.
        num_flagged: windows of whose caption someone should look at; these are among the others.
        prompt_tokens: of all prompts, frames included.
    """

    num_windows: int = 0
    num_success: int = 0
    num_truncated: int = 0
    num_error: int = 0
    num_flagged: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0

    @classmethod
    def of(cls, outcome: CaptionOutcome) -> "CaptionTotals":
        """Those of one caption."""
        return cls(
            num_windows=1,
            num_success=outcome.status == "success",
            num_truncated=outcome.status == "truncated",
            num_error=outcome.status == "error",
            num_flagged=bool(outcome.flags),
            prompt_tokens=outcome.prompt_tokens,
            output_tokens=outcome.output_tokens,
        )

    def combine(self, other: "CaptionTotals") -> None:
        """Add ``other`` to this one."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


def count_captions(clips: Iterable[Clip]) -> dict[str, CaptionTotals]:
    """The totals of clips, by key of caption or enhanced caption."""
    totals: dict[str, CaptionTotals] = {}
    for clip in clips:
        for window in clip.windows:
            add_captions(totals, {key: CaptionTotals.of(outcome) for key, outcome in window.caption_outcomes.items()})
    return totals


def add_captions(totals: dict[str, CaptionTotals], more: Mapping[str, CaptionTotals]) -> None:
    """Add to the totals of each key."""
    for key, each in more.items():
        totals.setdefault(key, CaptionTotals()).combine(each)


def totals_document(totals: Mapping[str, CaptionTotals]) -> dict[str, dict[str, int]]:
    """Totals as plain values, keys in order: what came first depends on the order of the work."""
    return {key: asdict(totals[key]) for key in sorted(totals)}


def totals_of(document: Mapping[str, Any]) -> dict[str, CaptionTotals]:
    """The totals that a chunk or a record holds."""
    return {key: CaptionTotals(**counts) for key, counts in document.get("captions", {}).items()}


def window_captions(window: Window) -> dict[str, Any]:
    """What is said of a window and how that went; the keys of Cosmos-Curate, and after them clipmill's own.

    Returns:
        ``{key}_caption``, ``{key}_enhanced_caption``, ``{key}_prompt_tokens`` and ``{key}_output_tokens``, then
        ``{key}_status``, for an error ``{key}_reason``, and ``{key}_flags`` where there are any. Nothing of a window
        whose caption nobody asked for.
    """
    entry: dict[str, Any] = {f"{key}_caption": text for key, text in window.caption.items()}
    entry |= {f"{key}_enhanced_caption": text for key, text in window.enhanced_caption.items()}
    for key, outcome in window.caption_outcomes.items():
        entry[f"{key}_prompt_tokens"] = outcome.prompt_tokens
        entry[f"{key}_output_tokens"] = outcome.output_tokens
        entry[f"{key}_status"] = outcome.status
        if outcome.status == "error":
            entry[f"{key}_reason"] = outcome.reason
        if outcome.flags:
            entry[f"{key}_flags"] = list(outcome.flags)
    return entry


def model_caption(captions: Mapping[str, Any]) -> str | None:
    """What the first model that saw the window's frames said; None where it said nothing.

    Args:
        captions: of a window, as ``window_captions`` gives them.
    """
    names = (name for name in captions if name.endswith("_caption") and not name.endswith("_enhanced_caption"))
    return next((captions[name] for name in names), None)
