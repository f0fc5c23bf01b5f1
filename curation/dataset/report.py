"""The documents beside the tars: indexes of a bucket, and what became of every clip and window. Pure."""

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from curation import layout
from curation.dataset.content import METAS, T5, VIDEO
from curation.dataset.plan_files import DatasetPlan
from curation.dataset.tars import TarDigest

SCHEMA_VERSION = 2

KEPT_TARS = "kept_tars"  # of an incomplete run: how many stayed of the dataset that it grew from
REPORT = "report.json"
CATALOGUE = "catalogue.parquet"
BUCKET_LIST = "wdinfo_list.csv"
LEFT_OUT = "left_out.parquet"
INDEX = "index.json"  # in each bucket
WDINFO = "wdinfo.json"  # in each bucket

_FEW_TARS = 8
_ALL_TREES = (VIDEO, METAS, T5)


def tar_paths(plan: DatasetPlan, number: int) -> dict[str, str]:
    """Tree -> tar relative to its bucket."""
    most = plan.settings.max_tars_per_part
    return {tree: layout.tar(tree, number, max_tars_per_part=most) for tree in plan.trees}


@dataclass(frozen=True, slots=True)
class PackedTar:
    """One tar of each tree, with the same samples.

    Attributes:
        paths: tree -> tar relative to the bucket.
        digests: tree -> what the tar holds.
        mp4_bytes: bytes of the samples' mp4 alone.
    """

    paths: Mapping[str, str]
    digests: Mapping[str, TarDigest]
    mp4_bytes: int

    @property
    def num_samples(self) -> int:
        return self.digests[VIDEO].num_members

    @property
    def num_bytes(self) -> int:
        """Bytes of all its trees."""
        return sum(digest.num_bytes for digest in self.digests.values())

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any], paths: Mapping[str, str]) -> "PackedTar":
        """One of an ``index_document``, under paths that may be others."""
        trees, num_samples = entry["trees"], entry["num_samples"]
        digests = {name: TarDigest(num_samples, trees[name]["num_bytes"], trees[name]["sha256"]) for name in paths}
        return cls(paths, digests, entry["mp4_bytes"])

    def to_entry(self) -> dict[str, Any]:
        return {
            "num_samples": self.num_samples,
            "mp4_bytes": self.mp4_bytes,
            "trees": {
                tree: {"path": path, "num_bytes": digest.num_bytes, "sha256": digest.sha256}
                for tree, path in self.paths.items()
                for digest in (self.digests[tree],)
            },
        }


@dataclass(frozen=True, slots=True)
class PackedBucket:
    """What a bucket, named by its folder, came to hold."""

    folder: str
    tars: tuple[PackedTar, ...]

    @property
    def num_samples(self) -> int:
        return sum(tar.num_samples for tar in self.tars)

    @property
    def num_bytes(self) -> int:
        return sum(tar.num_bytes for tar in self.tars)

    @property
    def files(self) -> list[str]:
        """Everything in the bucket, relative to the dataset's folder."""
        tars = [f"{self.folder}/{path}" for tar in self.tars for path in tar.paths.values()]
        return [*tars, f"{self.folder}/{WDINFO}", f"{self.folder}/{INDEX}"]


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What became of every kept clip and each of its windows.

    Attributes:
        num_clips: kept clips: those with a window in the dataset, and those without.
        num_windows: windows of the kept clips: packed or left out.
        num_without_caption: packed windows that have none.
        left_out_by_reason: windows and clips without windows; ids in reasons are ``*``.
        buckets: their folders.
        last_build: ``kept_tars``, ``packed_tars``, and ``base``: what was found of an earlier dataset. No document
            has it, so that the same clips give the same bytes whatever was there before.
    """

    num_clips: int
    num_packed_clips: int
    num_left_out_clips: int
    num_windows: int
    num_packed: int
    num_left_out: int
    num_without_caption: int
    num_tars: int
    num_bytes: int
    left_out_by_reason: Mapping[str, int]
    buckets: tuple[str, ...]
    last_build: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        packed, left_out = self.num_packed, self.num_left_out
        assert packed + left_out == self.num_windows, f"{packed} packed + {left_out} left out != {self.num_windows}"
        packed, left_out = self.num_packed_clips, self.num_left_out_clips
        assert packed + left_out == self.num_clips, f"clips: {packed} packed + {left_out} left out != {self.num_clips}"

    @property
    def notes(self) -> list[str]:
        """What a user should know before training."""
        if not 0 < self.num_tars < _FEW_TARS:
            return []
        return [
            f"{self.num_tars} tars in all: a loader needs as many as it has ranks x workers; "
            "a smaller target_tar_size_mb gives more"
        ]

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "DatasetReport":
        """What a ``report_document`` says."""
        found = {name: document[name] for name in cls.__slots__ if name in document}
        return cls(**{**found, "buckets": tuple(document["buckets"])})


def wdinfo_document(bucket: PackedBucket, trees: Sequence[str]) -> dict[str, Any]:
    """What a loader needs of a bucket: ``{bucket}/{data_key}/{data_list item}`` is a tar."""
    counts = [tar.num_samples for tar in bucket.tars]
    return {
        "schema_version": SCHEMA_VERSION,
        "data_keys": list(trees),
        "absent_data_keys": [tree for tree in _ALL_TREES if tree not in trees],
        "total_key_count": bucket.num_samples,
        "data_list": [tar.paths[VIDEO].removeprefix(f"{VIDEO}/") for tar in bucket.tars],
        "data_list_key_count": counts,
        "max_key_count": max(counts),
        "min_key_count": min(counts),
        "num_bytes": bucket.num_bytes,
    }


def index_document(bucket: PackedBucket) -> dict[str, Any]:
    """A bucket's tars in order: how many samples, and for each tree where, how long and with which checksum."""
    return {
        "schema_version": SCHEMA_VERSION,
        "bucket": bucket.folder,
        "tars": [tar.to_entry() for tar in bucket.tars],
    }


def report_document(report: DatasetReport, plan: DatasetPlan, *, dataset: str) -> dict[str, Any]:
    """The dataset's account; ``dataset`` is its ``dataset_id``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset_id": dataset,
        "settings": plan.settings.to_document(),
        "is_complete": plan.is_complete,
        **({} if plan.is_complete else {KEPT_TARS: len(plan.kept)}),
        "trees": list(plan.trees),
        "num_clips": report.num_clips,
        "num_packed_clips": report.num_packed_clips,
        "num_left_out_clips": report.num_left_out_clips,
        "num_windows": report.num_windows,
        "num_packed": report.num_packed,
        "num_left_out": report.num_left_out,
        "num_without_caption": report.num_without_caption,
        "num_tars": report.num_tars,
        "num_bytes": report.num_bytes,
        "buckets": list(report.buckets),
        "left_out_by_reason": dict(report.left_out_by_reason),
        "notes": report.notes,
    }


def bucket_list(buckets: Sequence[PackedBucket]) -> bytes:
    """All buckets as CSV."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("bucket", "samples", "tars", "bytes"))
    for each in buckets:
        rows.writerow((each.folder, each.num_samples, len(each.tars), each.num_bytes))
    return text.getvalue().encode()


def dataset_id(buckets: Sequence[PackedBucket]) -> str:
    """Says which tars a dataset has: equal tars under equal paths, equal id."""
    digest = hashlib.sha256()
    for bucket in buckets:
        for tar in bucket.tars:
            for tree, path in tar.paths.items():
                digest.update(f"{bucket.folder}/{path} {tar.digests[tree].sha256}\n".encode())
    return digest.hexdigest()
