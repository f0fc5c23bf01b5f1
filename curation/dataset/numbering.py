"""Which tars a dataset comes to have, under which numbers: those kept and those packed, with no gap between. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from curation.dataset.plan_files import DatasetPlan
from curation.dataset.report import PackedBucket, PackedTar, tar_paths


@dataclass(frozen=True, slots=True)
class FoundTar:
    """A tar that is there, under the number that was planned for it."""

    bucket: str
    number: int
    tar: PackedTar
    is_kept: bool


@dataclass(frozen=True, slots=True)
class PlacedTar:
    """A tar under its number in the dataset; ``found`` has it under another one where it is to be moved."""

    found: FoundTar
    tar: PackedTar

    @property
    def moves(self) -> list[tuple[str, str]]:
        """From where to where, for each tree; relative to the dataset's folder."""
        pairs = ((path, self.tar.paths[tree]) for tree, path in self.found.tar.paths.items())
        return [(f"{self.found.bucket}/{a}", f"{self.found.bucket}/{b}") for a, b in pairs if a != b]


def placed(found: Iterable[FoundTar], plan: DatasetPlan) -> dict[str, list[PlacedTar]]:
    """The tars of each bucket in order; where one came to nothing, the bucket's last takes its number."""
    in_order = sorted(found, key=lambda each: (each.bucket, each.number))
    return {bucket: _without_gaps(list(tars), plan) for bucket, tars in groupby(in_order, lambda each: each.bucket)}


def _without_gaps(tars: list[FoundTar], plan: DatasetPlan) -> list[PlacedTar]:
    at_number = {each.number: each for each in tars if each.number < len(tars)}
    movable = [each for each in tars if each.number >= len(tars)]
    chosen = [at_number.get(number) or movable.pop() for number in range(len(tars))]
    return [PlacedTar(each, _under(each.tar, number, plan)) for number, each in enumerate(chosen)]


def _under(tar: PackedTar, number: int, plan: DatasetPlan) -> PackedTar:
    return PackedTar(tar_paths(plan, number), tar.digests, tar.mp4_bytes)


def buckets_of(tars: dict[str, list[PlacedTar]]) -> tuple[PackedBucket, ...]:
    """As they are published."""
    return tuple(PackedBucket(bucket, tuple(each.tar for each in placed)) for bucket, placed in tars.items())
