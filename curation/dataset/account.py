"""Keeping count: every kept clip and each of its windows is in the dataset, or left out with a reason."""

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.clip_ids import Ids, parse_id_column

_ID_PATTERN = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(_[0-9]+_[0-9]+)?|[0-9a-f]{64}"
_MOST_REASONS = 1000


class ClipIds:
    """A set of clips, 16 bytes each time one is added."""

    def __init__(self) -> None:
        self._parts: list[Ids] = []

    def add(self, uuids: pa.ChunkedArray) -> None:
        """Add the clips of a column of uuids."""
        self._parts.append(parse_id_column(uuids))

    def distinct(self) -> Ids:
        """Each clip once, rising."""
        every = np.concatenate([np.empty((0, 2), np.uint64), *self._parts])
        every = every[np.lexsort((every[:, 1], every[:, 0]))]
        is_new = np.ones(len(every), bool)
        is_new[1:] = (every[1:] != every[:-1]).any(axis=1)
        self._parts = [every[is_new]]
        return self._parts[0]

    @property
    def num_distinct(self) -> int:
        return len(self.distinct())

    def num_not_in(self, others: "ClipIds") -> int:
        """How many of these clips are not among the others."""
        mine = self.distinct()
        both = np.concatenate([mine, others.distinct()])
        both = both[np.lexsort((both[:, 1], both[:, 0]))]
        return len(mine) - int((both[1:] == both[:-1]).all(axis=1).sum())


class LeftOutAccount:
    """Counts what is left out."""

    def __init__(self) -> None:
        self.clips = ClipIds()
        self.num_windows = 0
        self._reasons: Counter[str] = Counter()

    def counted(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The same tables (``plan_files.LEFT_OUT_SCHEMA``), counted as they pass."""
        for table in tables:
            self.clips.add(table["clip_uuid"])
            self.num_windows += len(table) - table["start_frame"].null_count
            reasons = pc.replace_substring_regex(table["reason"], _ID_PATTERN, "*")
            self._reasons.update({each["values"]: each["counts"] for each in pc.value_counts(reasons).to_pylist()})
            yield table

    @property
    def by_reason(self) -> dict[str, int]:
        """The most frequent first; ids in reasons are ``*``, so that they don't make one of each."""
        ordered = sorted(self._reasons.items(), key=lambda each: (-each[1], each[0]))
        rest = sum(count for _, count in ordered[_MOST_REASONS:])
        return {**dict(ordered[:_MOST_REASONS]), **({"others": rest} if rest else {})}


class PackedAccount:
    """Counts what is packed."""

    def __init__(self) -> None:
        self.clips = ClipIds()
        self.num_windows = 0
        self.num_without_caption = 0

    def counted(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The same tables of the catalogue, counted as they pass."""
        for table in tables:
            self.clips.add(table["clip_uuid"])
            self.num_windows += len(table)
            self.num_without_caption += table["caption"].null_count
            yield table
