"""The documents beside the tars: indexes of a bucket, and what became of every clip and window. Pure."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from curation.dataset.buckets import Bucket
from curation.dataset.packing import LeftOut
from curation.dataset.tars import TarDigest

SCHEMA_VERSION = 1

TREES = ("video", "metas")
"""The trees of every bucket: one tar of each holds the same keys in the same order."""

REPORT = "report.json"
CATALOGUE = "catalogue.parquet"
BUCKET_LIST = "wdinfo_list.csv"
BUILDING = "building.json"  # there while a build is under way: every file that it or one before it may leave
INDEX = "index.json"  # in each bucket
WDINFO = "wdinfo.json"  # in each bucket


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
        return self.digests[TREES[0]].num_members

    @property
    def num_bytes(self) -> int:
        """Bytes of all its trees."""
        return sum(digest.num_bytes for digest in self.digests.values())


@dataclass(frozen=True, slots=True)
class PackedBucket:
    """What a bucket came to hold."""

    bucket: Bucket
    tars: tuple[PackedTar, ...]

    @property
    def num_samples(self) -> int:
        return sum(tar.num_samples for tar in self.tars)

    @property
    def num_bytes(self) -> int:
        return sum(tar.num_bytes for tar in self.tars)

    @property
    def files(self) -> list[str]:
        """Everything in the bucket, relative to the version's folder."""
        folder = self.bucket.folder
        tars = [f"{folder}/{path}" for tar in self.tars for path in tar.paths.values()]
        return [*tars, f"{folder}/{WDINFO}", f"{folder}/{INDEX}"]


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What became of every kept clip and each of its windows.

    Attributes:
        num_clips: kept clips: those with a window in the dataset, and those without.
        num_windows: windows of the kept clips: packed or left out.
        num_without_caption: packed windows that have none.
        left_out: windows, and clips that have none, with the reason.
    """

    num_clips: int
    num_packed_clips: int
    num_left_out_clips: int
    num_windows: int
    num_packed: int
    num_without_caption: int
    left_out: tuple[LeftOut, ...]
    buckets: tuple[PackedBucket, ...]

    def __post_init__(self) -> None:
        packed, left_out = self.num_packed, self.num_left_out
        assert packed + left_out == self.num_windows, f"{packed} packed + {left_out} left out != {self.num_windows}"
        packed, left_out = self.num_packed_clips, self.num_left_out_clips
        assert packed + left_out == self.num_clips, f"clips: {packed} packed + {left_out} left out != {self.num_clips}"

    @property
    def num_left_out(self) -> int:
        """Windows left out; a clip without a window counts none."""
        return sum(each.start_frame is not None for each in self.left_out)

    @property
    def num_tars(self) -> int:
        """Tars of one tree."""
        return sum(len(bucket.tars) for bucket in self.buckets)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tars of all trees."""
        return sum(bucket.num_bytes for bucket in self.buckets)

    @property
    def files(self) -> list[str]:
        """Everything in the buckets, relative to the version's folder."""
        return [path for bucket in self.buckets for path in bucket.files]


def wdinfo_document(bucket: PackedBucket) -> dict[str, Any]:
    """What a loader needs of a bucket: ``{bucket}/{data_key}/{data_list item}`` is a tar."""
    counts = [tar.num_samples for tar in bucket.tars]
    video = TREES[0]
    return {
        "schema_version": SCHEMA_VERSION,
        "data_keys": list(TREES),
        "total_key_count": bucket.num_samples,
        "data_list": [tar.paths[video].removeprefix(f"{video}/") for tar in bucket.tars],
        "data_list_key_count": counts,
        "max_key_count": max(counts),
        "min_key_count": min(counts),
        "num_bytes": bucket.num_bytes,
    }


def index_document(bucket: PackedBucket) -> dict[str, Any]:
    """A bucket's tars: how many samples, and for each tree where, how long and with which checksum."""
    return {
        "schema_version": SCHEMA_VERSION,
        "bucket": bucket.bucket.folder,
        "tars": [
            {
                "num_samples": tar.num_samples,
                "mp4_bytes": tar.mp4_bytes,
                "trees": {
                    tree: {"path": path, "num_bytes": digest.num_bytes, "sha256": digest.sha256}
                    for tree, path in tar.paths.items()
                    for digest in (tar.digests[tree],)
                },
            }
            for tar in bucket.tars
        ],
    }


def files_of_index(index: Mapping[str, Any]) -> list[str]:
    """The files of a bucket that an ``index_document`` describes, relative to the version's folder."""
    folder = index["bucket"]
    tars = [f"{folder}/{tree['path']}" for tar in index["tars"] for tree in tar["trees"].values()]
    return [*tars, f"{folder}/{WDINFO}", f"{folder}/{INDEX}"]


def report_document(report: DatasetReport, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The dataset's account."""
    return {
        "schema_version": SCHEMA_VERSION,
        "settings": dict(settings),
        "trees": list(TREES),
        "num_clips": report.num_clips,
        "num_packed_clips": report.num_packed_clips,
        "num_left_out_clips": report.num_left_out_clips,
        "num_windows": report.num_windows,
        "num_packed": report.num_packed,
        "num_left_out": report.num_left_out,
        "num_without_caption": report.num_without_caption,
        "num_tars": report.num_tars,
        "num_bytes": report.num_bytes,
        "buckets": [bucket.bucket.folder for bucket in report.buckets],
        "left_out": [asdict(each) for each in report.left_out],
    }


def bucket_list(buckets: Sequence[PackedBucket]) -> bytes:
    """All buckets as CSV."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("bucket", "samples", "tars", "bytes"))
    for each in buckets:
        rows.writerow((each.bucket.folder, each.num_samples, len(each.tars), each.num_bytes))
    return text.getvalue().encode()
