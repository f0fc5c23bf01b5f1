"""Packing: the tars of a task are written one after the other, while the clips of those to come are read and cut."""

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import islice
from typing import Any

from curation.dataset.catalogue import catalogue_row
from curation.dataset.content import T5, VIDEO, LeftOut, SampleContent, SampleReader
from curation.dataset.folder import DatasetFolder
from curation.dataset.plan_files import (
    BUILDING,
    DatasetPlan,
    PlannedSample,
    PlannedTar,
    TaskFile,
    read_plan,
    result_file,
    task_file,
)
from curation.dataset.report import tar_paths
from curation.dataset.results import TarResult, read_result, result_bytes
from curation.dataset.tars import TarWriter
from curation.storage import Storage, read_ahead
from curation.video.encode import EncoderSettings

logger = logging.getLogger(__name__)

_READERS = 16  # of objects, and of results: waiting, mostly
_FILE_READERS = 8
_BYTES_AHEAD = 256 * 2**20  # of clips and the windows cut from them
_MOST_AHEAD = 32  # clips: what is packed soon after it was read is still in the processor's cache
_RESULTS_AT_ONCE = 64


class OtherPlanError(RuntimeError):
    """What is to be packed is not planned, or not any more."""


def pack_task(task: int, *, clips: Storage, output: Storage, annotation_version: str) -> None:
    """Write the tars of a task and the result of each; those whose result is there stay as they are.

    What can't be read or cut is left out, and the result lists it. Two that pack the same task at once write the same
    bytes.

    Args:
        clips: the output of the split run.
        output: the root of the datasets.

    Raises:
        OtherPlanError: there is no plan, or another one took its place.
        StorageError: the storage failed; what was not written is left to be done.
    """
    plan = read_plan(output, annotation_version)
    if plan is None:
        raise OtherPlanError(f"no dataset is planned in {output.root}/{annotation_version}")
    folder = DatasetFolder(output, annotation_version)
    with (
        folder.reading(task_file(task)) as stream,
        ThreadPoolExecutor(2 * len(plan.trees), thread_name_prefix="tar") as aside,
    ):
        _Packing(plan, clips, folder, aside).pack(task, TaskFile(stream, plan, task))


class _Packing:
    """Packs for one plan."""

    def __init__(self, plan: DatasetPlan, clips: Storage, folder: DatasetFolder, aside: Executor) -> None:
        settings = plan.settings
        self._plan, self._folder, self._aside = plan, folder, aside
        self._num_readers = _READERS if clips.local_path("") is None else _FILE_READERS
        self._reader = SampleReader(
            clips,
            annotation_version=settings.annotation_version,
            encoder=EncoderSettings("libx264", settings.preset, settings.crf),
            has_t5=T5 in plan.trees,
        )

    def pack(self, task: int, task_file: TaskFile) -> None:
        tars = list(enumerate(self._plan.of_task(task)))
        is_done = read_ahead(lambda each: self._is_done(each[1]), tars, num_threads=_READERS, at_most=_RESULTS_AT_ONCE)
        to_do = [each for each, done in zip(tars, is_done, strict=True) if not done]
        logger.info("event=packing task=%d tars=%d done=%d", task, len(tars), len(tars) - len(to_do))
        samples = (sample for group, _ in to_do for sample in task_file.samples(group))
        with closing(
            read_ahead(self._read, samples, num_threads=self._num_readers, at_most=_BYTES_AHEAD, weight=_bytes_held)
        ) as contents:
            for _, tar in to_do:
                self._check_plan()
                self._pack_tar(tar, islice(contents, tar.num_samples))

    def _is_done(self, tar: PlannedTar) -> bool:
        try:
            return read_result(self._folder.read(result_file(tar.bucket, tar.number))).plan_id == self._plan.plan_id
        except FileNotFoundError:
            return False

    def _check_plan(self) -> None:
        """One that was forgotten on its node must not write into what others have finished."""
        found = (self._folder.document(BUILDING) or {}).get("plan_id")
        if found != self._plan.plan_id:
            raise OtherPlanError(f"the plan is {found or 'done'} by now, this was {self._plan.plan_id}")

    def _read(self, sample: PlannedSample) -> tuple[PlannedSample, SampleContent | LeftOut]:
        return sample, self._reader.read(sample)

    def _pack_tar(self, tar: PlannedTar, samples: Iterable[tuple[PlannedSample, SampleContent | LeftOut]]) -> None:
        paths = tar_paths(self._plan, tar.number)
        left_out: list[LeftOut] = []
        rows: list[dict[str, Any]] = []
        with ExitStack() as whole_or_not_at_all:
            tars: dict[str, TarWriter] = {}
            for sample, content in _without(samples, left_out):
                tars = tars or self._open(tar.bucket, paths, whole_or_not_at_all)
                places = {tree: tars[tree].add(*member) for tree, member in content.members(sample.key).items()}
                video = f"{tar.bucket}/{paths[VIDEO]}"
                rows.append(catalogue_row(sample, content, tar=video, member=places[VIDEO]))
            digests = {tree: writer.finish() for tree, writer in tars.items()}
        result = TarResult(self._plan.plan_id, digests, sum(row["size"] for row in rows), left_out)
        self._folder.write(result_file(tar.bucket, tar.number), result_bytes(result, rows, paths))
        logger.info(
            "event=tar bucket=%s tar=%d samples=%d left_out=%d", tar.bucket, tar.number, len(rows), len(left_out)
        )

    def _open(self, bucket: str, paths: dict[str, str], stack: ExitStack) -> dict[str, TarWriter]:
        tars = {}
        for tree, path in paths.items():
            stream = stack.enter_context(self._folder.writing(f"{bucket}/{path}"))
            tars[tree] = TarWriter(stream, aside=self._aside)
            stack.callback(tars[tree].stop)
        return tars


def _without(
    samples: Iterable[tuple[PlannedSample, SampleContent | LeftOut]], left_out: list[LeftOut]
) -> Iterator[tuple[PlannedSample, SampleContent]]:
    """Those that are there; the others go to ``left_out``."""
    for sample, content in samples:
        if isinstance(content, LeftOut):
            logger.warning("event=left_out key=%s reason=%s", sample.key, content.reason)
            left_out.append(content)
        else:
            yield sample, content


def _bytes_held(sample: PlannedSample) -> int:
    """Memory that a sample takes until it is packed: its clip, and another one when it is cut."""
    is_whole = sample.end_frame - sample.start_frame + 1 == sample.clip_num_frames
    return max(sample.clip_bytes if is_whole else 2 * sample.clip_bytes, _BYTES_AHEAD // _MOST_AHEAD)
