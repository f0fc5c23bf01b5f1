"""Builds a training dataset of any finished split output, without the folder of the run that made it."""

import multiprocessing
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice

from curation.dataset import DatasetReport
from jobs.arrow import do_without_pandas
from jobs.chunk_lists import chunk_documents, summary_videos
from jobs.dataset_job import DatasetJob
from jobs.worker import configure_logging


@dataclass(frozen=True, slots=True)
class BuiltDataset:
    """What became of the clips, and how many videos are ``done``, ``failed``, ``missing`` by the output's summary."""

    report: DatasetReport
    num_videos: Counter[str]


def build_from_summary(job: DatasetJob, *, num_workers: int = 1, limit: int = 0, verbose: bool = False) -> BuiltDataset:
    """Build the dataset of all videos that the output's ``summary.json`` has as done.

    Args:
        num_workers: processes that pack at once.
        limit: of the first so many videos only; 0: of all.
        verbose: the packing processes log what they do.

    Raises:
        ValueError: there is no such output, or no output of duplicates where one is named.
        StorageError: ``building.json`` is there then; another build goes on with what was packed.
    """
    num_videos: Counter[str] = Counter()

    def counted() -> Iterator[tuple[str, int]]:
        for video in islice(videos, limit or None):
            num_videos[video.status] += 1
            yield video.video_id, video.num_clip_chunks

    def is_complete() -> bool:
        return not num_videos["missing"]

    videos = summary_videos(job.lists)
    videos = chain(list(islice(videos, 1)), videos)  # no summary: nothing is touched
    with closing(chunk_documents(job.lists, counted())) as chunks:
        if num_workers == 1:
            return BuiltDataset(job.build(chunks, is_complete=is_complete), num_videos)
        plan = job.plan(chunks, num_tasks=num_workers, is_complete=is_complete)
    _pack(job, plan.num_tasks, num_workers, verbose=verbose)
    return BuiltDataset(job.finish(), num_videos)


def _pack(job: DatasetJob, num_tasks: int, num_workers: int, *, verbose: bool) -> None:
    context = multiprocessing.get_context("spawn")  # threads of this process, and what they hold, are not copied
    with ProcessPoolExecutor(num_workers, context, _begin_packer, (verbose,)) as pool:
        for future in [pool.submit(job.pack, task) for task in range(num_tasks)]:
            future.result()


def _begin_packer(verbose: bool) -> None:
    do_without_pandas()
    if verbose:
        configure_logging()
