"""Building the training dataset of a split run in one process: planned, packed, finished."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from curation.dataset.finish import finish_dataset
from curation.dataset.pack import pack_task
from curation.dataset.planning import plan_dataset
from curation.dataset.report import DatasetReport
from curation.dataset.settings import DatasetSettings
from curation.storage import Storage


def build_dataset(
    chunks: Iterable[Mapping[str, Any]],
    *,
    clips: Storage,
    output: Storage,
    settings: DatasetSettings,
    duplicates: Mapping[str, str] | None = None,
    is_complete: Callable[[], bool] = lambda: True,
) -> DatasetReport:
    """Write the training dataset of a split run; the same run gives the same bytes, in whatever order it comes.

    Over an earlier dataset with the same settings only what is new or has changed is packed. What can't be read or cut
    is left out and listed.

    Args:
        chunks: the chunk documents of all videos that are done (``layout.clip_chunk``).
        clips: the output of the split run.
        output: the root of the datasets; this one is in the folder of its annotation version.
        duplicates: clip -> the one that is kept in its stead.
        is_complete: as for ``plan_dataset``.

    Raises:
        ValueError: a clip is listed twice.
        StorageError: what is at ``output`` is then not to be used: ``building.json`` is there.
    """
    plan = plan_dataset(
        chunks, clips=clips, output=output, settings=settings, duplicates=duplicates, is_complete=is_complete
    )
    version = settings.annotation_version
    for task in range(plan.num_tasks):
        pack_task(task, clips=clips, output=output, annotation_version=version)
    return finish_dataset(output=output, annotation_version=version)
