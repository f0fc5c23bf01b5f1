"""Keeping count: every kept clip and each of its windows is in the dataset, or left out with a reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from curation.dataset.packing import LeftOut
from curation.dataset.report import DatasetReport, PackedBucket


@dataclass
class Account:
    """Where each clip and window went."""

    clips: set[str] = field(default_factory=set)
    packed_clips: set[str] = field(default_factory=set)
    num_windows: int = 0
    num_without_caption: int = 0
    left_out: list[LeftOut] = field(default_factory=list)

    def expect(self, entry: Mapping[str, Any]) -> None:
        """Count a kept clip and its windows. Raises ValueError when it was counted before."""
        if entry["uuid"] in self.clips:
            raise ValueError(f"clip {entry['uuid']} is listed twice")
        self.clips.add(entry["uuid"])
        self.num_windows += len(entry["windows"])

    def report(self, packed: Sequence[PackedBucket]) -> DatasetReport:
        """The sums, which must come out even."""
        return DatasetReport(
            num_clips=len(self.clips),
            num_packed_clips=len(self.packed_clips),
            num_left_out_clips=len({each.clip_uuid for each in self.left_out} - self.packed_clips),
            num_windows=self.num_windows,
            num_packed=sum(bucket.num_samples for bucket in packed),
            num_without_caption=self.num_without_caption,
            left_out=tuple(sorted(self.left_out, key=lambda each: (each.clip_uuid, each.start_frame or 0))),
            buckets=tuple(packed),
        )
