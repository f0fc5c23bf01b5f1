"""Finishing: once every tar is there, what describes the dataset is written, and what is of no use any more removed.

Nothing that is published is touched before all tars are known to be whole. From then on ``building.json`` says
``publishing``, and in the end ``published``: whoever finishes again goes on from there, to the same bytes.
"""

import logging
from collections.abc import Mapping
from typing import Any

from curation.dataset.content import VIDEO
from curation.dataset.folder import DatasetFolder
from curation.dataset.numbering import FoundTar, PlacedTar, buckets_of, placed
from curation.dataset.pack import OtherPlanError
from curation.dataset.plan_files import BUILDING, BUILDING_FOLDER, DatasetPlan, build_files, read_plan, result_file
from curation.dataset.report import (
    BUCKET_LIST,
    INDEX,
    REPORT,
    WDINFO,
    DatasetReport,
    PackedBucket,
    PackedTar,
    bucket_list,
    dataset_id,
    index_document,
    report_document,
    tar_paths,
    wdinfo_document,
)
from curation.dataset.results import TarResult, read_result
from curation.dataset.tables import publish_catalogue, publish_left_out
from curation.documents import to_json
from curation.storage import Storage, read_ahead

logger = logging.getLogger(__name__)

_STATE, _PUBLISHING, _PUBLISHED = "state", "publishing", "published"
_READERS = 16
_RESULTS_AT_ONCE = 64


class UnfinishedError(RuntimeError):
    """Tasks have not ended: tars are missing, relative to the dataset's folder."""

    def __init__(self, missing: list[str]) -> None:
        shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
        super().__init__(f"{len(missing)} tars are not packed: {shown}")
        self.missing = missing


def finish_dataset(*, output: Storage, annotation_version: str) -> DatasetReport:
    """Publish what the tasks have packed; what was published by this already is only reported.

    Args:
        output: the root of the datasets.

    Raises:
        UnfinishedError: tars are not there; nothing was changed.
        OtherPlanError: nothing is planned, and there is no dataset either.
        StorageError: ``building.json`` is still there then, and the dataset not to be used.
    """
    folder = DatasetFolder(output, annotation_version)
    building = folder.document(BUILDING)
    if building is None or building.get(_STATE) == _PUBLISHED:
        return _published(folder, building)
    plan = read_plan(output, annotation_version)
    if plan is None or plan.plan_id != building["plan_id"]:
        raise OtherPlanError(f"planning of the dataset in {output.root}/{annotation_version} was interrupted")
    return _Finishing(folder, plan, building).finish()


def complete_publication(*, output: Storage, annotation_version: str) -> None:
    """Go on where a finish was interrupted while it published; nothing happens when none was."""
    building = DatasetFolder(output, annotation_version).document(BUILDING)
    if building is not None and _STATE in building:
        finish_dataset(output=output, annotation_version=annotation_version)


def _published(folder: DatasetFolder, building: Mapping[str, Any] | None) -> DatasetReport:
    document = folder.document(REPORT)
    if document is None:
        raise OtherPlanError(f"no dataset is planned in {folder.storage.root}/{folder.annotation_version}")
    if building is not None:
        _remove(folder, building["of_no_use"])
    return DatasetReport.from_document(document)


def _remove(folder: DatasetFolder, files: list[str]) -> None:
    """Remove files, and with the last the note that a build is under way."""
    folder.delete_many(files)
    folder.remove_empty(BUILDING_FOLDER)
    folder.delete_many([BUILDING])


class _Finishing:
    """Finishes one build."""

    def __init__(self, folder: DatasetFolder, plan: DatasetPlan, building: Mapping[str, Any]) -> None:
        self._folder, self._plan, self._building = folder, plan, building

    def finish(self) -> DatasetReport:
        results = self._results()
        tars = placed([*self._kept(), *self._packed(results)], self._plan)
        buckets = buckets_of(tars)
        self._note({_STATE: _PUBLISHING})
        self._move(tars)
        self._write_indexes(buckets)
        report = self._publish(tars, buckets, results)
        self._folder.write(REPORT, to_json(report_document(report, self._plan, dataset=dataset_id(buckets))))
        of_no_use = self._of_no_use(tars, buckets)
        self._note({_STATE: _PUBLISHED, "of_no_use": of_no_use})
        _remove(self._folder, of_no_use)
        logger.info(
            "event=dataset tars=%d samples=%d left_out=%d", report.num_tars, report.num_packed, report.num_left_out
        )
        return report

    def _note(self, state: Mapping[str, Any]) -> None:
        self._folder.write(BUILDING, to_json({**self._building, **state}))

    def _results(self) -> dict[tuple[str, int], TarResult]:
        """What came of each planned tar. Raises UnfinishedError."""
        planned = self._plan.tars
        found = read_ahead(
            lambda tar: self._result(tar.bucket, tar.number), planned, num_threads=_READERS, at_most=_RESULTS_AT_ONCE
        )
        results = {(tar.bucket, tar.number): result for tar, result in zip(planned, found, strict=True)}
        missing = [place for place, result in results.items() if result is None]
        if missing:
            raise UnfinishedError([f"{bucket}/{tar_paths(self._plan, number)[VIDEO]}" for bucket, number in missing])
        return {place: result for place, result in results.items() if result is not None}

    def _result(self, bucket: str, number: int) -> TarResult | None:
        try:
            result = read_result(self._folder.read(result_file(bucket, number)))
        except FileNotFoundError:
            return None
        return result if result.plan_id == self._plan.plan_id else None

    def _kept(self) -> list[FoundTar]:
        return [
            FoundTar(
                each.bucket, each.number, PackedTar.from_entry(each.entry, tar_paths(self._plan, each.number)), True
            )
            for each in self._plan.kept
        ]

    def _packed(self, results: Mapping[tuple[str, int], TarResult]) -> list[FoundTar]:
        return [
            FoundTar(bucket, number, PackedTar(tar_paths(self._plan, number), each.digests, each.mp4_bytes), False)
            for (bucket, number), each in results.items()
            if each.digests
        ]

    def _move(self, tars: Mapping[str, list[PlacedTar]]) -> None:
        for source, target in (move for bucket in tars.values() for each in bucket for move in each.moves):
            self._folder.copy(source, target)

    def _write_indexes(self, buckets: tuple[PackedBucket, ...]) -> None:
        for bucket in buckets:
            self._folder.write(f"{bucket.folder}/{WDINFO}", to_json(wdinfo_document(bucket, self._plan.trees)))
            self._folder.write(f"{bucket.folder}/{INDEX}", to_json(index_document(bucket)))
        self._folder.write(BUCKET_LIST, bucket_list(buckets))

    def _publish(
        self,
        tars: Mapping[str, list[PlacedTar]],
        buckets: tuple[PackedBucket, ...],
        results: Mapping[tuple[str, int], TarResult],
    ) -> DatasetReport:
        """Write the tables; they are counted on the way."""
        left_out = publish_left_out(self._folder, [each for result in results.values() for each in result.left_out])
        packed = publish_catalogue(self._folder, tars, dataset_id(buckets))
        counts = self._plan.counts
        return DatasetReport(
            num_clips=counts.num_clips,
            num_packed_clips=packed.clips.num_distinct,
            num_left_out_clips=left_out.clips.num_not_in(packed.clips),
            num_windows=counts.num_windows,
            num_packed=packed.num_windows,
            num_left_out=left_out.num_windows,
            num_without_caption=packed.num_without_caption,
            num_tars=sum(len(bucket.tars) for bucket in buckets),
            num_bytes=sum(bucket.num_bytes for bucket in buckets),
            left_out_by_reason=left_out.by_reason,
            buckets=tuple(bucket.folder for bucket in buckets),
            last_build={
                "base": self._plan.base,
                "kept_tars": len(self._plan.kept),
                "packed_tars": sum(bool(result.digests) for result in results.values()),
            },
        )

    def _of_no_use(self, tars: Mapping[str, list[PlacedTar]], buckets: tuple[PackedBucket, ...]) -> list[str]:
        """Files that this build, or one before it, left, and the dataset has no use for."""
        moved = {source for bucket in tars.values() for each in bucket for source, _ in each.moves}
        used = {path for bucket in buckets for path in bucket.files}
        return sorted({*self._building["files"], *build_files(self._plan), *moved} - used - {BUILDING})
