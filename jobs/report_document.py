"""The report document: the one JSON object that a report's page is rendered from.

It is made of ``report.json`` and, read anew, of what the outputs hold of the sampled clips.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.storage.files import replace_file
from jobs.annotation import is_annotation, made_version
from jobs.config import RunConfig
from jobs.ends import video_ends
from jobs.exits import INCOMPLETE
from jobs.logs import first_errors, places
from jobs.report_clips import shown_clips
from jobs.report_page import render
from jobs.report_samples import MAX_PREVIEW_MB, link, sampled_documents
from jobs.rundir import RunDir
from jobs.status import retry_command

logger = logging.getLogger(__name__)

NUM_CLIPS = 60
_MAX_FAILURES = 200  # shown, of all classes in turn


def known_versions(config: RunConfig) -> list[str]:
    """The annotation versions that a run is about: the one that it was made from, if any, and its own."""
    earlier = [config.annotate.from_annotation_version] if is_annotation(config) else []
    return list(dict.fromkeys([*earlier, made_version(config)]))


def report_document(
    run: RunDir,
    report: Mapping[str, Any],
    *,
    made: float,
    state: str,
    versions: Sequence[str] = (),
    num_clips: int = NUM_CLIPS,
    max_preview_mb: float = MAX_PREVIEW_MB,
    folder: Path | None = None,
) -> dict[str, Any]:
    """What the page shows.

    Args:
        report: as ``report.json`` has it.
        made: when its figures were counted, in seconds since the epoch.
        state: complete, incomplete, refused or running.
        versions: annotation versions whose captions are shown; none: those that the run is about.
        max_preview_mb: of all previews together, as the page holds them.
        folder: of the page, where links begin; None: the run's.

    Raises:
        StorageError: the outputs can't be read.
    """
    config = run.load_config()
    folder = (folder or run.root).absolute()
    sample = report["sample"]
    clips = sampled_documents(
        config,
        shown_clips(sample["clips"], num_clips),
        versions=versions or known_versions(config),
        max_preview_bytes=round(max_preview_mb * 1e6),
        folder=folder,
    )
    return {
        "title": run.root.name,
        "run": {
            "run_dir": str(run.root),
            "clips_path": config.output_clip_path,
            "dataset_path": config.output_dataset_path,
            "cluster": config.cluster,
            "code_version": report["code_version"],
            **report["run"],
            "made": made,
            "state": state,
        },
        "figures": report["figures"],
        "plots": report["plots"],
        "clips": clips,
        "num_clips_sampled_from": sample["num_clips"],
        "failures": _failures(run, report["failed_videos"], folder),
        "first_errors": [str(error) for error in first_errors(run)],
    }


def _failures(run: RunDir, failed: Sequence[Mapping[str, str]], folder: Path) -> list[dict[str, Any]]:
    """Some of the videos that failed, each class in turn, and where the logs tell of them."""
    by_reason: dict[str, list[Mapping[str, str]]] = {}
    for each in failed:
        by_reason.setdefault(each["reason"], []).append(each)
    turns = chain.from_iterable(zip_longest(*by_reason.values()))
    shown = [each for each in turns if each is not None][:_MAX_FAILURES]
    shards = _shards_of(video_ends(run), [each["video_id"] for each in shown])
    where = places(run, [(shards.get(each["video_id"], -1), each["video_id"], each["message"]) for each in shown])
    return [
        {
            "video_id": each["video_id"],
            "reason": each["reason"],
            "message": each["message"],
            "log": str(log) if log is not None else None,
            "log_href": link(log, folder) if log is not None else None,
            "line": line,
            "retry": retry_command(run.root, each["reason"]),
        }
        for each, (log, line) in zip(shown, where, strict=True)
    ]


def _shards_of(ends: pa.Table, videos: Sequence[str]) -> dict[str, int]:
    found = ends.filter(pc.is_in(ends["video"], pa.array(videos, pa.string()))).select(["video", "shard"])
    return dict(zip(found["video"].to_pylist(), found["shard"].to_pylist(), strict=True))


def write_page(document: Mapping[str, Any], path: Path) -> None:
    """Render the page and put it in its place in one step."""
    replace_file(path, render(document).encode())


def try_page(run: RunDir, report: Mapping[str, Any]) -> None:
    """Write the page of a run that is published; a page that can't be made is no fault of the run.

    Args:
        report: as ``report.json`` has it.
    """
    try:
        state = "incomplete" if report["exit_code"] == INCOMPLETE else "complete"
        write_page(report_document(run, report, made=time.time(), state=state), run.page_path)
    except Exception as error:  # whatever it is: the run is published, and `clipmill report` makes the page again
        logger.warning("event=no_page run=%s: %s: %s", run.root, type(error).__name__, error, exc_info=True)
