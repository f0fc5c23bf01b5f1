"""From clips to a training dataset: webdataset tars in buckets, their indexes, a catalogue and a report."""

from curation.dataset.build import build_dataset
from curation.dataset.check import DatasetCheck, check_dataset
from curation.dataset.finish import UnfinishedError, complete_publication, finish_dataset
from curation.dataset.pack import OtherPlanError, pack_task
from curation.dataset.plan_files import DatasetPlan
from curation.dataset.planning import plan_dataset
from curation.dataset.report import DatasetReport
from curation.dataset.settings import DatasetSettings

__all__ = [
    "DatasetCheck",
    "DatasetPlan",
    "DatasetReport",
    "DatasetSettings",
    "OtherPlanError",
    "UnfinishedError",
    "build_dataset",
    "check_dataset",
    "complete_publication",
    "finish_dataset",
    "pack_task",
    "plan_dataset",
]
