"""What a report's plots show: counts in fixed bins, so that memory does not grow with the run. Pure."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Plot = dict[str, Any]
"""``id``, ``title``, ``kind`` (bars, line or stacked), axes, ``labels``, and ``series`` with a value for each label."""

MAX_POINTS = 200
"""Of a line."""
_UNITS_OF_TIME = (("h", 3600.0), ("min", 60.0), ("s", 1.0))


class Histogram:
    """Counts of numbers that are not negative, in bins ``edge <= x < next edge``, for each series.

    Args:
        edges: where the second bin begins, the third, and so on; the first begins at 0, the last has no end.
        is_whole: of whole numbers: a bin is named by its first and its last one.
    """

    def __init__(self, edges: Sequence[float], *, is_whole: bool = False) -> None:
        self._edges = list(edges)
        self._is_whole = is_whole
        self.counts: dict[str, list[int]] = {}

    def add(self, series: str, number: float) -> None:
        """Count a number."""
        counts = self.counts.get(series)
        if counts is None:
            counts = self.counts[series] = [0] * (len(self._edges) + 1)
        counts[bisect_right(self._edges, number)] += 1

    @property
    def labels(self) -> list[str]:
        """The name of each bin."""
        bounds = [0.0, *self._edges]
        last = f"{_number(self._edges[-1])}+"
        if not self._is_whole:
            return [*(f"{_number(start)}-{_number(end)}" for start, end in pairwise(bounds)), last]
        whole = ((int(start), int(end) - 1) for start, end in pairwise(bounds))
        return [*(str(first) if first == end else f"{first}-{end}" for first, end in whole), last]

    def plot(self, name: str, title: str, *, x_label: str, y_label: str, note: str | None = None) -> Plot | None:
        """As bars, from the first bin that holds something to the last; None where nothing was counted."""
        return bars(name, title, self.labels, self.counts, x_label=x_label, y_label=y_label, note=note, is_trimmed=True)


def _number(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def bars(
    name: str,
    title: str,
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    x_label: str,
    y_label: str,
    note: str | None = None,
    kind: str = "bars",
    is_trimmed: bool = False,
) -> Plot | None:
    """A value for each label, of each series; None where all are 0.

    Args:
        is_trimmed: labels at both ends are left out that have no value in any series.
    """
    used = [place for place in range(len(labels)) if any(values[place] for values in series.values())]
    if not used:
        return None
    kept = slice(used[0], used[-1] + 1) if is_trimmed else slice(None)
    return {
        "id": name,
        "title": title,
        "kind": kind,
        "x_label": x_label,
        "y_label": y_label,
        "labels": list(labels[kept]),
        "series": [{"name": each, "values": list(values[kept])} for each, values in series.items()],
        "note": note,
    }


def counted(name: str, title: str, counts: Mapping[str, int], *, x_label: str, y_label: str) -> Plot | None:
    """A bar for each name, the longest first."""
    ranked = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    labels, values = [key for key, _ in ranked], [count for _, count in ranked]
    return bars(name, title, labels, {y_label: values}, x_label=x_label, y_label=y_label)


def stage_times(stages: Mapping[str, Mapping[str, float]]) -> Plot | None:
    """How all workers' stages spent their time."""
    series = {
        kind: [round(spent.get(f"{kind}_s", 0.0), 3) for spent in stages.values()]
        for kind in ("busy", "starved", "blocked")
    }
    note = "starved: waiting for tasks; blocked: waiting for room behind it"
    return bars(
        "stage_time", "Time of stages", [*stages], series, x_label="stage", y_label="s", kind="stacked", note=note
    )


def progress(done_s: Iterable[float], failed_s: Iterable[float], *, begun_s: float) -> Plot | None:
    """How many videos were done, and had failed, at most ``MAX_POINTS`` times from the begin to the last end.

    Args:
        done_s: when each was done, in seconds since the epoch, in any order; ``failed_s`` alike.
    """
    done, failed = (np.sort(np.fromiter(times, np.float64)) for times in (done_s, failed_s))
    ended: NDArray[np.float64] = np.concatenate([done, failed])
    if not len(ended):
        return None
    span_s = max(float(ended.max()) - begun_s, 0.001)
    unit, unit_s = next((each for each in _UNITS_OF_TIME if span_s >= 2 * each[1]), _UNITS_OF_TIME[-1])
    passed = np.linspace(0.0, span_s, MAX_POINTS)
    times = begun_s + passed
    times[-1] = max(times[-1], ended.max())  # begun_s + span_s may be less by a rounding
    series = {"done": done, "failed": failed}
    return {
        "id": "progress",
        "title": "Progress",
        "kind": "line",
        "x_label": unit,
        "y_label": "videos",
        "labels": [f"{each:.4g}" for each in passed / unit_s],
        "series": [
            {"name": name, "values": np.searchsorted(found, times, side="right").tolist()}
            for name, found in series.items()
        ],
        "note": None,
    }
