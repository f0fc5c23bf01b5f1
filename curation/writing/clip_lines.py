"""What the documents of a video say of its clips, clip by clip: chunks and records are sums of these. Pure."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from curation.model import ClipStats
from curation.writing.captions import CaptionTotals, add_captions, totals_document, totals_of


@dataclass(frozen=True, slots=True)
class ClipLine:
    """One clip, written.

    Attributes:
        entry: as ``clip_entry`` gives it.
        is_kept: no filter rejected it.
        stats: of this clip alone.
        captions: as ``stats``.
        text_match: which of the texts to verify fits it best.
        paths: its files.
    """

    entry: Mapping[str, Any]
    is_kept: bool
    stats: ClipStats
    captions: Mapping[str, CaptionTotals]
    text_match: str | None
    paths: tuple[str, ...]

    @property
    def uuid(self) -> str:
        """The clip's."""
        return str(self.entry["uuid"])

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "entry": dict(self.entry),
            "is_kept": self.is_kept,
            "stats": asdict(self.stats),
            "captions": totals_document(self.captions),
            "text_match": self.text_match,
            "paths": list(self.paths),
        }

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "ClipLine":
        """What ``to_json`` gave."""
        return cls(
            entry=line["entry"],
            is_kept=line["is_kept"],
            stats=ClipStats(**line["stats"]),
            captions=totals_of(line),
            text_match=line["text_match"],
            paths=tuple(line["paths"]),
        )


@dataclass
class LineTotals:
    """What the lines of a chunk add up to, or the chunks of a video."""

    stats: ClipStats
    captions: dict[str, CaptionTotals]
    text_matches: Counter[str]
    num_clips: int

    @classmethod
    def none(cls) -> "LineTotals":
        """Of no clip."""
        return cls(ClipStats(), {}, Counter(), 0)

    @classmethod
    def of(cls, lines: Sequence[ClipLine]) -> "LineTotals":
        """Of a chunk. The sum of durations is the same whatever the clips came in."""
        totals = cls.none()
        for line in lines:
            totals.stats.combine(line.stats)
            add_captions(totals.captions, line.captions)
            totals.text_matches.update([line.text_match] if line.text_match is not None else [])
        totals.stats.total_clip_duration = math.fsum(line.stats.total_clip_duration for line in lines)
        totals.num_clips = len(lines)
        return totals

    def combine(self, other: "LineTotals") -> None:
        """Add the next chunk."""
        self.stats.combine(other.stats)
        add_captions(self.captions, other.captions)
        self.text_matches.update(other.text_matches)
        self.num_clips += other.num_clips
