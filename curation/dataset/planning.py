"""Planning a training dataset: from the lists of clips alone, which sample goes into which tar, and who packs it."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import curation
from curation.dataset.assignment import Tars, assign
from curation.dataset.collecting import collect_windows
from curation.dataset.content import METAS, T5, VIDEO
from curation.dataset.earlier import EarlierDataset, published_earlier
from curation.dataset.finish import complete_publication
from curation.dataset.folder import DatasetFolder
from curation.dataset.plan_files import (
    BUILDING,
    DatasetPlan,
    KeptTar,
    PlanCounts,
    PlannedTar,
    build_files,
    read_plan,
    write_plan,
)
from curation.dataset.report import INDEX, REPORT, WDINFO, tar_paths
from curation.dataset.selection import Selection, matched, select_windows, selection_id
from curation.dataset.settings import DatasetSettings
from curation.dataset.task_tables import write_left_out, write_tasks
from curation.documents import to_json
from curation.storage import Storage

logger = logging.getLogger(__name__)


def plan_dataset(
    chunks: Iterable[Mapping[str, Any]],
    *,
    clips: Storage,
    output: Storage,
    settings: DatasetSettings,
    num_tasks: int = 1,
    duplicates: Mapping[str, str] | None = None,
    is_complete: Callable[[], bool] = lambda: True,
) -> DatasetPlan:
    """Decide on every tar, and write down what each task packs; the same clips give the same plan in any order.

    Of an earlier dataset with the same settings, tars stay that hold nothing but samples that are wanted as they are;
    one of which a sample has changed or is gone is packed again with what is left of it; what is new goes to new tars.
    Where the settings differ, everything is packed anew. A build that was interrupted and is planned again over the
    same clips goes on where it was; what it has packed stays.

    Args:
        chunks: the chunk documents of all videos that are done (``layout.clip_chunk``).
        clips: the output of the split run; nothing of it is read but what ``chunks`` gives.
        output: the root of the datasets; this one is in the folder of its annotation version.
        num_tasks: how many tasks share the packing; the tars do not depend on it.
        duplicates: clip -> the one that is kept in its stead.
        is_complete: whether no video is still missing, asked when all chunks were taken. What is built without some is
            no base to grow on: built again with them, the dataset is that of a run in which nothing went wrong.

    Raises:
        ValueError: a clip is listed twice.
        StorageError: nothing that was published has changed.
    """
    complete_publication(output=output, annotation_version=settings.annotation_version)
    selection = select_windows(collect_windows(chunks, settings=settings, duplicates=duplicates), settings)
    logger.info("event=selected clips=%s num_clips=%d", clips.root, len(selection.windows.clips))
    folder = DatasetFolder(output, settings.annotation_version)
    return _Planning(folder, settings, selection, num_tasks, is_complete=is_complete()).plan()


class _Planning:
    """Plans one build, once it is known what there is to be packed."""

    def __init__(
        self,
        folder: DatasetFolder,
        settings: DatasetSettings,
        selection: Selection,
        num_tasks: int,
        *,
        is_complete: bool,
    ) -> None:
        self._folder, self._settings, self._num_tasks = folder, settings, num_tasks
        self._is_complete = is_complete
        self._selection = selection
        self._selection_id = selection_id(selection, settings)
        self._trees = (VIDEO, METAS, T5) if selection.with_t5 else (VIDEO, METAS)

    def plan(self) -> DatasetPlan:
        """Go on with the build that is under way where it is the same, else begin one."""
        unfinished = self._folder.document(BUILDING)
        last = read_plan(self._folder.storage, self._settings.annotation_version) if unfinished is not None else None
        published = published_earlier(self._folder, self._settings, self._trees)
        replaced = set(last.replaced) if last is not None else set[tuple[str, int]]()
        earlier = published.without(replaced)
        plan_id = self._plan_id(earlier)
        if last is not None and last.plan_id != plan_id:
            replaced = {(tar.bucket, tar.number) for tar in published.tars} - {(t.bucket, t.number) for t in last.kept}
            earlier = published.without(replaced)
            plan_id = self._plan_id(earlier)
        elif last is not None and last.num_tasks == self._num_tasks:
            logger.info("event=planned_before plan=%s tars=%d", plan_id, len(last.tars))
            return last
        tars = assign(
            self._selection.samples,
            matched(self._selection, earlier),
            target_bytes=self._settings.target_bytes,
            min_clips_per_tar=self._settings.min_clips_per_tar,
        )
        plan = self._document(plan_id, earlier, tars, sorted(replaced))
        self._write(plan, tars, self._published_files() if unfinished is None else unfinished["files"])
        return plan

    def _plan_id(self, earlier: EarlierDataset) -> str:
        texts = (curation.__version__, self._selection_id, earlier.id, str(self._is_complete), *self._trees)
        return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]

    def _document(
        self, plan_id: str, earlier: EarlierDataset, tars: Tars, replaced: Sequence[tuple[str, int]]
    ) -> DatasetPlan:
        selection = self._selection
        clips = selection.windows.windows["clip"][selection.chosen]
        return DatasetPlan(
            plan_id=plan_id,
            base=earlier.note,
            num_tasks=self._num_tasks,
            settings=self._settings,
            trees=self._trees,
            counts=PlanCounts(
                num_clips=len(selection.windows.clips),
                num_planned_clips=len(np.unique(clips)),
                num_windows=len(selection.windows.windows),
                num_planned=len(selection.chosen),
            ),
            tars=tuple(self._planned(tars)),
            kept=tuple(
                KeptTar(earlier.tars[kept].bucket, number, earlier.tars[kept].entry)
                for kept, number in zip(tars.kept.tolist(), tars.numbers.tolist(), strict=True)
                if kept >= 0
            ),
            is_complete=self._is_complete,
            replaced=tuple(replaced),
        )

    def _planned(self, tars: Tars) -> Iterable[PlannedTar]:
        """The tars that are to be packed, shared out so that tasks have like amounts of bytes."""
        selection, packed = self._selection, np.flatnonzero(tars.kept < 0)
        ends = np.concatenate([[0], np.cumsum(selection.samples.num_bytes[tars.samples])])
        sizes = (ends[tars.begins[1:]] - ends[tars.begins[:-1]])[packed]
        middles = np.cumsum(sizes) - sizes / 2
        tasks = np.minimum(middles * self._num_tasks / max(sizes.sum(), 1), self._num_tasks - 1).astype(np.int64)
        counts = np.diff(tars.begins)[packed]
        columns = (tars.buckets[packed], tars.numbers[packed], tasks, counts, sizes)
        for bucket, number, task, count, size in zip(*(column.tolist() for column in columns), strict=True):
            yield PlannedTar(selection.buckets[bucket].folder, number, task, count, size)

    def _published_files(self) -> list[str]:
        """The files of the buckets of an earlier build, as its own indexes have them."""
        files = []
        for bucket in (self._folder.document(REPORT) or {}).get("buckets", ()):
            tars = (self._folder.document(f"{bucket}/{INDEX}") or {"tars": []})["tars"]
            files += [f"{bucket}/{tree['path']}" for tar in tars for tree in tar["trees"].values()]
            files += [f"{bucket}/{INDEX}", f"{bucket}/{WDINFO}"]
        return files

    def _write(self, plan: DatasetPlan, tars: Tars, files: Iterable[str]) -> None:
        """Note down every file that this build or one before it may leave; then what is planned."""
        ours = [f"{tar.bucket}/{path}" for tar in plan.tars for path in tar_paths(plan, tar.number).values()]
        buckets = {tar.bucket for tar in plan.tars} | {tar.bucket for tar in plan.kept}
        described = [f"{bucket}/{name}" for bucket in buckets for name in (INDEX, WDINFO)]
        all_files = sorted({*files, *ours, *described, *build_files(plan)})
        building = {"plan_id": plan.plan_id, "num_tasks": plan.num_tasks, "files": all_files}
        self._folder.write(BUILDING, to_json(building))
        write_tasks(self._folder, plan, self._selection, tars)
        write_left_out(self._folder, self._selection)
        write_plan(self._folder.storage, plan)
        logger.info(
            "event=planned plan=%s windows=%d packed=%d left_out=%d tars_to_pack=%d tars_kept=%d tasks=%d base=%r",
            plan.plan_id,
            plan.counts.num_windows,
            plan.counts.num_planned,
            plan.counts.num_left_out,
            len(plan.tars),
            len(plan.kept),
            plan.num_tasks,
            plan.base,
        )
