"""The bins that training samples are sorted into (docs/rules.md, Training dataset). Pure, and light to import."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from curation import layout

BucketAxis = Literal["frames", "duration"]

RESOLUTION_BINS = (1080, 720)

ASPECT_RATIO_BINS = (("9_16", 0.65), ("3_4", 0.88), ("1_1", 1.16), ("4_3", 1.55), ("16_9", None))
"""Name, and width / height up to and with which it goes; the last has no bound."""

DURATION_BINS_S = (5.0, 10.0, 30.0)
"""Where a bin of the duration axis begins; the last has no end, and what is shorter than the first has its own."""


def check_bins(
    resolutions: Sequence[int], aspect_ratios: Sequence[tuple[str, float | None]], durations_s: Sequence[float]
) -> None:
    """Raises ValueError when a window can be in no bin, or in several."""
    if not resolutions or not _rises((0, *reversed(resolutions))):
        raise ValueError(f"resolution_bins must be positive and fall, got {list(resolutions)}")
    if not durations_s or not _rises((0, *durations_s)):
        raise ValueError(f"duration_bins_s must be positive and rise, got {list(durations_s)}")
    _check_aspect_ratios(aspect_ratios)


def _check_aspect_ratios(bins: Sequence[tuple[str, float | None]]) -> None:
    bounds = [bound for _, bound in bins]
    numbers = [bound for bound in bounds[:-1] if bound is not None]
    if not bins or bounds[-1] is not None or len(numbers) != len(bounds) - 1 or not _rises((0, *numbers)):
        raise ValueError(f"aspect_ratio_bins must be positive and rise, and the last be null, got {dict(bins)}")
    names = [name for name, _ in bins]
    if not all(re.fullmatch(layout.KEY_PATTERN, name) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"each of aspect_ratio_bins needs a name of its own of {layout.KEY_PATTERN}, got {names}")


def _rises(numbers: Sequence[float]) -> bool:
    return all(before < after for before, after in pairwise(numbers))
