"""The clips and windows of a split run as columns. Pure."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.clip_ids import format_ids
from curation.dataset.metas import MetasAside

CLIP = np.dtype(
    [
        ("id", "u8", 2),
        ("sha256", "u1", 32),
        ("num_bytes", "i8"),
        ("num_frames", "i4"),
        ("duration_s", "f8"),
        ("content", "u8"),  # of its meta; 0: its list does not have it
        ("meta_place", "i8"),  # in MetasAside; -1: its list does not have it
        ("meta_size", "i4"),
        ("video", "i4"),
        ("shape", "i4"),  # resolution and aspect ratio; -1: it is left out
        ("t5_path", "i4"),  # -1: no T5 vectors
        ("reason", "i4"),  # why it is left out; 0: it is not
    ]
)
"""A clip; what is an index is so into ``Windows`` of that name."""

WINDOW = np.dtype([("clip", "i4"), ("start", "i4"), ("end", "i4"), ("t5_first", "i8"), ("t5_num", "i4")])
"""A window; ``end`` is inclusive, ``t5_num`` is 0 without T5 vectors."""

WANTED, DUPLICATE = 0, 1
"""The first two reasons."""


@dataclass(frozen=True, slots=True)
class Windows:
    """All kept clips of a split run by id, and their windows by clip and start.

    Attributes:
        kept_ids: of the clips whose ``reason`` is DUPLICATE, in their order: what is kept instead; shape (n, 2).
        videos: id of each video; the same one may stand there several times.
        reasons: as texts.
    """

    clips: NDArray[Any]
    windows: NDArray[Any]
    kept_ids: NDArray[np.uint64]
    videos: "pa.LargeStringArray"
    shapes: list[tuple[str, str]]
    t5_paths: list[str]
    reasons: list[str]
    metas: MetasAside

    @property
    def has_t5(self) -> bool:
        """Whether a window that is wanted has T5 vectors."""
        wanted = self.clips["reason"][self.windows["clip"]] == WANTED
        return bool((self.windows["t5_num"][wanted] > 0).any())

    @classmethod
    def sorted(
        cls, clips: NDArray[Any], windows: NDArray[Any], kept_ids: NDArray[np.uint64], **others: Any
    ) -> "Windows":
        """From clips in any order, to whose places ``windows`` refer, and in whose order these and ``kept_ids`` are.

        A duplicate of a clip that is not among these, or is left out itself, is none.

        Raises:
            ValueError: a clip is there twice, or a window of a clip is.
        """
        clips, order = _by_id(clips)
        kept_ids = _reordered(kept_ids, order[clips["reason"] == DUPLICATE])
        return _without_lost(cls(clips=clips, windows=_by_clip(windows, order), kept_ids=kept_ids, **others))


def _by_id(clips: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Clips in the order of their ids, and where each stood. Raises ValueError when one is there twice."""
    upper, lower = (np.ascontiguousarray(clips["id"][:, half]) for half in (0, 1))
    order = np.argsort(upper, kind="stable")
    if (upper[order[1:]] == upper[order[:-1]]).any():  # hardly ever, unless a clip is there twice
        order = np.lexsort((lower, upper))
        is_again = (upper[order[1:]] == upper[order[:-1]]) & (lower[order[1:]] == lower[order[:-1]])
        if is_again.any():
            first = format_ids(clips["id"][order[1:][is_again][:1]])[0]
            raise ValueError(f"{int(is_again.sum())} clips are listed twice, the first is clip {first}")
    return clips[order], order


def _by_clip(windows: NDArray[Any], order: NDArray[np.int64]) -> NDArray[Any]:
    """Windows in the order of clips and their own.

    Args:
        windows: of each clip one after the other.
        order: where each clip stood before.
    """
    counts = np.bincount(windows["clip"], minlength=len(order))
    begins = (np.cumsum(counts) - counts)[order]
    counts = counts[order]
    shifts = begins - (np.cumsum(counts) - counts)
    windows = windows[np.arange(len(windows)) + np.repeat(shifts, counts)]
    windows["clip"] = np.repeat(np.arange(len(order), dtype=np.int32), counts)
    clip, start = (np.ascontiguousarray(windows[name]) for name in ("clip", "start"))
    if ((clip[1:] == clip[:-1]) & (start[1:] <= start[:-1])).any():
        windows = windows[np.lexsort((windows["end"], windows["start"], windows["clip"]))]
        _check_unique(windows)
    return windows


def _check_unique(windows: NDArray[Any]) -> None:
    keys = [windows[name] for name in ("clip", "start", "end")]
    is_again = np.logical_and.reduce([key[1:] == key[:-1] for key in keys])
    if is_again.any():
        number, start, end = (int(key[1:][is_again][0]) for key in keys)
        window = f"{start}..{end} of clip {number}"
        raise ValueError(f"{int(is_again.sum())} windows are listed twice, the first is {window}")


def _reordered(kept_ids: NDArray[np.uint64], stood: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Rows that stand in the order of ``stood`` sorted, in the order of ``stood``."""
    rank = np.empty(len(stood), np.int64)
    rank[np.argsort(stood)] = np.arange(len(stood))
    return kept_ids[rank]


def _without_lost(windows: Windows) -> Windows:
    """Without duplicates of clips that the dataset does not have either."""
    clips = windows.clips
    places = find_clips(clips, windows.kept_ids)
    has_kept = (places >= 0) & (clips["reason"][places] == WANTED)
    duplicates = np.flatnonzero(clips["reason"] == DUPLICATE)
    clips["reason"][duplicates[~has_kept]] = WANTED
    return replace(windows, kept_ids=windows.kept_ids[has_kept])


def find_clips(clips: NDArray[Any], ids: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where clips of these ids stand in ``clips`` (by id); -1 where there is none."""
    if not len(clips) or not len(ids):
        return np.full(len(ids), -1)
    upper, lower = (np.ascontiguousarray(clips["id"][:, half]) for half in (0, 1))
    begin, end = (np.searchsorted(upper, ids[:, 0], side=side) for side in ("left", "right"))
    places = np.where(end > begin, begin, -1)
    for row in np.flatnonzero(end - begin > 1):  # two ids with the same upper half: only if somebody made them so
        places[row] = begin[row] + np.searchsorted(lower[begin[row] : end[row]], ids[row, 1])
        places[row] = min(places[row], end[row] - 1)
    places[(places >= 0) & (lower[places] != ids[:, 1])] = -1
    return places
