"""What a report tells of a run's clips, counted while their lists are read: bins, sums, and a sample. Pure."""

import zlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappush, heapreplace
from itertools import islice, zip_longest
from typing import Any, Literal

from jobs.report_plots import Histogram, Plot, bars

Status = Literal["kept", "rejected", "error"]

MAX_SAMPLED = 500
"""Clips of one fate that a report knows by name."""
_MAX_SAMPLED_APART = 100  # of each other fate than kept

_RESOLUTIONS = (240, 360, 480, 720, 1080, 1440, 2160)  # lines
_ASPECT_RATIOS = {"9:16": 9 / 16, "3:4": 3 / 4, "1:1": 1.0, "4:3": 4 / 3, "3:2": 3 / 2, "16:9": 16 / 9, "21:9": 21 / 9}
_RATIO_NAMES = tuple(_ASPECT_RATIOS)
_RATIO_BOUNDS = [  # half way, on a scale of logarithms
    (first * second) ** 0.5
    for first, second in zip(list(_ASPECT_RATIOS.values())[:-1], list(_ASPECT_RATIOS.values())[1:], strict=True)
]
_CAPTION = "_caption"


def clip_status(meta: Mapping[str, Any]) -> Status:
    """What became of a clip: a rejection tells more than an error, and an error more than that it was kept."""
    if meta.get("rejection"):
        return "rejected"
    return "error" if meta.get("errors") or not meta.get("valid", True) else "kept"


@dataclass
class ClipSample:
    """Some clips of each fate, chosen by a hash of their ids: the same ones each time, in whatever order they come."""

    num_seen: int = 0
    _heaps: dict[str, list[tuple[int, str, str]]] = field(default_factory=dict)

    def add(self, fate: str, uuid: str, video_id: str) -> None:
        """Take a clip into the sample of its fate, or leave it out."""
        self.num_seen += 1
        clip = (-zlib.crc32(uuid.encode()), uuid, video_id)
        heap = self._heaps.setdefault(fate, [])
        if len(heap) < (MAX_SAMPLED if fate == "kept" else _MAX_SAMPLED_APART):
            heappush(heap, clip)
        elif clip > heap[0]:
            heapreplace(heap, clip)

    def to_json(self) -> list[dict[str, str]]:
        """The clips, by fate."""
        return [
            {"uuid": uuid, "video_id": video_id, "fate": fate}
            for fate in sorted(self._heaps)
            for _, uuid, video_id in sorted(self._heaps[fate], reverse=True)
        ]


def shown_clips(sample: Sequence[Mapping[str, str]], num_clips: int) -> list[str]:
    """Ids of at most so many clips of a ``ClipSample``: half of them kept ones, the others in turn by fate.

    Where a fate has fewer, the others have its places.
    """
    by_fate: dict[str, list[str]] = {}
    for clip in sample:
        by_fate.setdefault(clip["fate"], []).append(clip["uuid"])
    kept = by_fate.pop("kept", [])
    turns = zip_longest(*by_fate.values())
    apart = [uuid for turn in turns for uuid in turn if uuid is not None]
    num_apart = min(len(apart), max(num_clips // 2, num_clips - len(kept)))
    return [*islice(kept, num_clips - num_apart), *islice(apart, num_apart)]


class ClipFigures:
    """What the lists of clips add up to; memory does not grow with them.

    ``num_files`` counts what the output holds of these clips: mp4s, metas, previews, files of T5 vectors, and the lists
    themselves.
    """

    def __init__(self, version: str) -> None:
        """``version``: the annotation version that the lists are of."""
        self._version = version
        self.num_clips = self.num_windows = self.num_bytes = self.num_files = 0
        self.sample = ClipSample()
        self._durations = Histogram((1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600))
        self._motion = Histogram([digit * 10.0**power for power in range(-5, 0) for digit in (1, 2, 5)] + [1.0])
        self._aesthetic = Histogram([half / 2 for half in range(1, 21)])
        self._words = Histogram((1, 5, 10, 20, 30, 40, 50, 75, 100, 150, 200, 300, 400, 500, 1000), is_whole=True)
        self._resolutions = Histogram(_RESOLUTIONS)
        self._ratios = Histogram(_RATIO_BOUNDS)

    def counted(self, chunks: Iterable[dict[str, Any]]) -> Generator[dict[str, Any], None, None]:
        """The same chunk documents, counted on their way."""
        for chunk in chunks:
            self.add(chunk)
            yield chunk

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Count the clips of a chunk document."""
        video_id, has_vectors = chunk["video_id"], False
        for name in ("clips", "filtered_clips"):
            for entry in chunk[name]:
                self._add_clip(video_id, entry, entry.get("metas", {}).get(self._version, {}))
                has_vectors = has_vectors or self._version in entry.get("t5", {})
        self.num_clips += len(chunk["clips"])
        self.num_windows += sum(len(entry["windows"]) for entry in chunk["clips"])
        self.num_files += 1 + has_vectors

    def _add_clip(self, video_id: str, entry: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        status = clip_status(meta)
        rejection = meta.get("rejection")
        series = "rejected" if rejection else "kept"
        self.sample.add(f"rejected: {rejection['filter']}" if rejection else status, entry["uuid"], video_id)
        start_s, end_s = entry["span"]
        self._durations.add(series, end_s - start_s)
        if entry["num_bytes"] is not None:
            self.num_bytes += entry["num_bytes"]
            self.num_files += 1
        self.num_files += 1 + entry.get("num_previews", 0)
        if entry["width"] and entry["height"]:
            self._resolutions.add(series, min(entry["width"], entry["height"]))
            self._ratios.add(series, entry["width"] / entry["height"])
        if (motion := meta.get("motion_score")) is not None:
            self._motion.add(series, motion["global_mean"])
        if (aesthetic := meta.get("aesthetic_score")) is not None:
            self._aesthetic.add(series, max(0.0, aesthetic))
        if not rejection:
            self._add_captions(meta.get("windows", ()))

    def _add_captions(self, windows: Iterable[Mapping[str, Any]]) -> None:
        for window in windows:
            for name, text in window.items():
                if name.endswith(_CAPTION):
                    self._words.add(name.removesuffix(_CAPTION), len(text.split()))

    def plots(self, *, motion_note: str | None = None, aesthetic_note: str | None = None) -> list[Plot]:
        """One for each thing that was measured."""
        clips = {"y_label": "clips"}
        lines = [f"under {_RESOLUTIONS[0]}", *(str(each) for each in _RESOLUTIONS[:-1]), f"{_RESOLUTIONS[-1]} or more"]
        shorter = "the shorter side has at least so many lines"
        found = [
            self._durations.plot("clip_duration", "Clip duration", x_label="s", **clips),
            _named(self._resolutions, lines, "resolution", "Resolution", x_label="lines", note=shorter),
            _named(self._ratios, _RATIO_NAMES, "aspect_ratio", "Aspect ratio", x_label="nearest ratio"),
            self._motion.plot("motion", "Motion", x_label="global mean", note=motion_note, **clips),
            self._aesthetic.plot("aesthetic", "Aesthetic score", x_label="score", note=aesthetic_note, **clips),
            self._words.plot("caption_words", "Caption length", x_label="words", y_label="windows"),
        ]
        return [each for each in found if each is not None]


def _named(
    counts: Histogram, labels: Sequence[str], name: str, title: str, *, x_label: str, note: str | None = None
) -> Plot | None:
    """A plot with names of its own for the bins."""
    return bars(name, title, labels, counts.counts, x_label=x_label, y_label="clips", note=note, is_trimmed=True)


def clips_per_video_bins() -> Histogram:
    """Bins for how many clips the videos have."""
    return Histogram((1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000), is_whole=True)
