"""A training dataset to be built: from which clips, to where, and how; by one process, or planned for several."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from curation.dataset import (
    DatasetPlan,
    DatasetReport,
    DatasetSettings,
    build_dataset,
    finish_dataset,
    pack_task,
    plan_dataset,
)
from curation.dedup import Duplicates, load_duplicates
from curation.storage import S3Options, Storage, storage_for
from jobs.annotation import clips_storage, made_version, versioned_root
from jobs.clip_settings import ClipSettings
from jobs.config import RunConfig
from jobs.settings import DatasetSettings as DatasetGroup


@dataclass(frozen=True, slots=True)
class DatasetJob:
    """What has to be known to plan, pack and finish; may be pickled.

    Attributes:
        clips: the output of the split run.
        lists: the folder of the annotation version there, with its lists of clips.
        output: the root of the datasets.
        duplicates: the folder or s3:// prefix of an output of `clipmill dedup`, and how it is reached; None: none.
    """

    clips: Storage
    lists: Storage
    output: Storage
    settings: DatasetSettings
    duplicates: tuple[str, S3Options] | None = None

    def plan(
        self, chunks: Iterable[Mapping[str, Any]], *, num_tasks: int, is_complete: Callable[[], bool]
    ) -> DatasetPlan:
        """Decide which sample goes into which tar, and which task packs it."""
        return plan_dataset(
            chunks,
            clips=self.clips,
            output=self.output,
            settings=self.settings,
            num_tasks=num_tasks,
            duplicates=self._duplicates(),
            is_complete=is_complete,
        )

    def pack(self, task: int) -> None:
        """Pack what the plan gives a task; what of it is packed already stays."""
        pack_task(task, clips=self.clips, output=self.output, annotation_version=self.settings.annotation_version)

    def finish(self) -> DatasetReport:
        """Publish what the tasks packed."""
        return finish_dataset(output=self.output, annotation_version=self.settings.annotation_version)

    def build(self, chunks: Iterable[Mapping[str, Any]], *, is_complete: Callable[[], bool]) -> DatasetReport:
        """All three, in this process."""
        return build_dataset(
            chunks,
            clips=self.clips,
            output=self.output,
            settings=self.settings,
            duplicates=self._duplicates(),
            is_complete=is_complete,
        )

    def _duplicates(self) -> Duplicates | None:
        return load_duplicates(storage_for(*self.duplicates)) if self.duplicates is not None else None


def dataset_job(config: RunConfig) -> DatasetJob | None:
    """The dataset of a run; None where it has none."""
    if config.output_dataset_path is None:
        return None
    found = config.dataset.duplicates
    version = config.dataset.annotation_version or made_version(config)
    return DatasetJob(
        clips=clips_storage(config),
        lists=storage_for(versioned_root(config, version), config.output_s3),
        output=storage_for(config.output_dataset_path, config.output_s3),
        settings=packing_settings(config.dataset, config.clips, version),
        duplicates=(found, config.output_s3) if found is not None else None,
    )


def packing_settings(group: DatasetGroup, clips: ClipSettings, version: str) -> DatasetSettings:
    """A config's settings as packing takes them, for an annotation version."""
    values = group.model_dump(exclude={"duplicates"}) | {"annotation_version": version}
    values["aspect_ratio_bins"] = [list(each) for each in group.aspect_ratio_bins.items()]
    return DatasetSettings.from_document({**values, "preset": clips.preset, "crf": clips.crf})


def dataset_document(report: DatasetReport) -> dict[str, Any]:
    """What a run's report says of its dataset."""
    return {
        "num_clips": report.num_clips,
        "num_windows": report.num_windows,
        "num_packed": report.num_packed,
        "num_left_out": report.num_left_out,
        "num_without_caption": report.num_without_caption,
    }
