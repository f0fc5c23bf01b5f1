"""Whether a dataset is whole: each tar, the indexes, the catalogue and the report say the same."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation import layout
from curation.clip_ids import parse_id_column
from curation.dataset.catalogue import Catalogue
from curation.dataset.content import VIDEO
from curation.dataset.folder import DatasetFolder
from curation.dataset.plan_files import BUILDING
from curation.dataset.report import (
    BUCKET_LIST,
    CATALOGUE,
    INDEX,
    LEFT_OUT,
    REPORT,
    WDINFO,
    PackedBucket,
    PackedTar,
    bucket_list,
    dataset_id,
    wdinfo_document,
)
from curation.dataset.tar_check import ExpectedTar, tar_problems
from curation.storage import Storage, read_ahead

_READERS = 4
_TARS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class DatasetCheck:
    """What was found.

    Attributes:
        problems: a line each; empty when everything is right.
        num_samples: that the indexes list.
        num_tars: of all trees.
    """

    problems: tuple[str, ...]
    num_samples: int
    num_tars: int


def check_dataset(output: Storage, annotation_version: str | None = None) -> DatasetCheck:
    """Read a dataset wholly and compare it with what describes it.

    Args:
        output: the root of the datasets, or the folder of one.
        annotation_version: which one; None: all that are there.

    Raises:
        StorageError: the storage failed, which says nothing about the dataset.
    """
    versions = [annotation_version] if annotation_version is not None else _versions(output)
    if not versions:
        return DatasetCheck((f"no dataset in {output.root}: no folder in it has {REPORT}",), 0, 0)
    checks = [_Check(DatasetFolder(output, version)) for version in versions]
    problems = [problem for check in checks for problem in check.problems()]
    return DatasetCheck(
        tuple(problems), sum(each.num_samples for each in checks), sum(each.num_tars for each in checks)
    )


def _versions(output: Storage) -> list[str]:
    """The folders that are datasets; "" is the root itself."""
    names = "|".join(re.escape(name) for name in (REPORT, BUILDING))
    found = (re.fullmatch(rf"(?:([^/]+)/)?(?:{names})", each.path) for each in output.list())
    return sorted({match[1] or "" for match in found if match is not None})


class _Check:
    """Checks the dataset of one annotation version; what it counts is there once all problems were taken."""

    def __init__(self, folder: DatasetFolder) -> None:
        self._folder = folder
        self.num_samples = 0
        self.num_tars = 0

    def problems(self) -> Iterator[str]:
        for problem in self._problems():
            yield f"{self._folder.annotation_version}/{problem}" if self._folder.annotation_version else problem

    def _problems(self) -> Iterator[str]:
        if self._folder.exists(BUILDING):
            yield f"{BUILDING} is there: a build is under way, or was interrupted and has to be repeated"
        report = self._folder.document(REPORT)
        if report is None:
            yield f"{REPORT} is not there"
            return
        buckets: list[PackedBucket] = []
        for folder in report["buckets"]:
            yield from self._read_bucket(folder, report, buckets)
        self.num_samples = sum(bucket.num_samples for bucket in buckets)
        self.num_tars = sum(len(bucket.tars) for bucket in buckets) * len(report["trees"])
        yield from self._report_problems(report, buckets)
        yield from self._stray_tars(buckets)
        yield from self._tar_problems(report, buckets)

    def _read_bucket(self, folder: str, report: Mapping[str, Any], buckets: list[PackedBucket]) -> Iterator[str]:
        """Add a bucket as its index has it; gives what is wrong with its documents."""
        index = self._folder.document(f"{folder}/{INDEX}")
        if index is None:
            yield f"{folder}/{INDEX} is not there"
            return
        most = report["settings"]["max_tars_per_part"]
        tars = []
        for number, entry in enumerate(index["tars"]):
            paths = {tree: layout.tar(tree, number, max_tars_per_part=most) for tree in report["trees"]}
            listed = {tree: each["path"] for tree, each in entry["trees"].items()}
            if listed != paths:
                yield f"{folder}/{INDEX}: tar {number} is {listed}, expected {paths}"
                return
            tars.append(PackedTar.from_entry(entry, paths))
        bucket = PackedBucket(folder, tuple(tars))
        buckets.append(bucket)
        if self._folder.document(f"{folder}/{WDINFO}") != wdinfo_document(bucket, report["trees"]):
            yield f"{folder}/{WDINFO} is not there, or not what {INDEX} says"

    def _report_problems(self, report: Mapping[str, Any], buckets: list[PackedBucket]) -> Iterator[str]:
        expected = {
            "num_packed": self.num_samples,
            "num_tars": sum(len(bucket.tars) for bucket in buckets),
            "num_bytes": sum(bucket.num_bytes for bucket in buckets),
            "dataset_id": dataset_id(buckets),
        }
        for name, value in expected.items():
            if report[name] != value:
                yield f"{REPORT}: {name} is {report[name]}, the indexes say {value}"
        if not self._folder.exists(BUCKET_LIST) or self._folder.read(BUCKET_LIST) != bucket_list(buckets):
            yield f"{BUCKET_LIST} is not there, or not what the indexes say"
        yield from self._left_out_problems(report)

    def _left_out_problems(self, report: Mapping[str, Any]) -> Iterator[str]:
        if not self._folder.exists(LEFT_OUT):
            yield f"{LEFT_OUT} is not there"
            return
        with self._folder.reading(LEFT_OUT) as stream:
            parquet = pq.ParquetFile(stream)
            groups = (parquet.read_row_group(group, ["start_frame"]) for group in range(parquet.num_row_groups))
            num_windows = sum(table.num_rows - table["start_frame"].null_count for table in groups)
        if num_windows != report["num_left_out"]:
            yield f"{LEFT_OUT}: {num_windows} windows, {REPORT} says {report['num_left_out']}"

    def _stray_tars(self, buckets: Iterable[PackedBucket]) -> Iterator[str]:
        """Tars that are in no index: whoever takes all tars of a folder takes them, too."""
        known = {self._folder.path(path) for bucket in buckets for path in bucket.files}
        for each in self._folder.storage.list(self._folder.path("")):
            if each.path.endswith(".tar") and each.path not in known:
                yield f"{each.path.removeprefix(self._folder.path(''))} is in no index"

    def _tar_problems(self, report: Mapping[str, Any], buckets: list[PackedBucket]) -> Iterator[str]:
        if not self._folder.exists(CATALOGUE):
            yield f"{CATALOGUE} is not there"
            return
        with self._folder.reading(CATALOGUE) as stream:
            catalogue = Catalogue(stream)
            if catalogue.dataset_id != report["dataset_id"]:
                yield f"{CATALOGUE} is not that of this dataset"
            yield from _key_problems(catalogue, self.num_samples)
            expected = (tar for bucket in buckets for tar in _expected(bucket, catalogue))
            for problems in read_ahead(self._read_tar, expected, num_threads=_READERS, at_most=_TARS_AT_ONCE):
                yield from problems

    def _read_tar(self, expected: ExpectedTar) -> list[str]:
        try:
            with self._folder.reading(expected.path) as stream:
                return list(tar_problems(stream, expected))
        except FileNotFoundError:
            return [f"{expected.path} is not there"]


def _expected(bucket: PackedBucket, catalogue: Catalogue) -> Iterator[ExpectedTar]:
    """What the tars of a bucket should hold."""
    for tar in bucket.tars:
        rows = list(catalogue.rows_of(f"{bucket.folder}/{tar.paths[VIDEO]}"))
        keys = [key for table in rows for key in table["key"].to_pylist()]
        places = [
            place
            for table in rows
            for place in zip(table["offset"].to_pylist(), table["size"].to_pylist(), strict=True)
        ]
        for tree, path in tar.paths.items():
            digest, is_video = tar.digests[tree], tree == VIDEO
            yield ExpectedTar(
                f"{bucket.folder}/{path}", tree, digest.num_bytes, digest.sha256, keys, places if is_video else None
            )


def _key_problems(catalogue: Catalogue, num_samples: int) -> Iterator[str]:
    """Whether keys are what their rows say, and unique; 24 bytes a sample are in memory."""
    found = []
    wrong: Counter[str] = Counter()
    for table in catalogue.tables(["key", "clip_uuid", "start_frame", "end_frame"]):
        parts = [table["clip_uuid"], *(table[name].cast(pa.string()) for name in ("start_frame", "end_frame"))]
        keys = pc.binary_join_element_wise(*parts, "_")
        wrong.update(table["key"].filter(pc.not_equal(table["key"], keys)).slice(0, 1).to_pylist())
        starts = table["start_frame"].to_numpy().astype(np.uint64)
        found.append(np.column_stack([parse_id_column(table["clip_uuid"]), starts]))
    for key in wrong:
        yield f"{CATALOGUE}: {key!r} is not the key of its row"
    rows = np.concatenate([np.empty((0, 3), np.uint64), *found])
    if len(rows) != num_samples:
        yield f"{CATALOGUE}: {len(rows)} rows, the indexes have {num_samples} samples"
    rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
    num_twice = int((rows[1:] == rows[:-1]).all(axis=1).sum())
    if num_twice:
        yield f"{CATALOGUE}: {num_twice} samples are there twice"
