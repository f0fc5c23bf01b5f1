"""``report.json``: what the records, the lists of clips and the events of a run add up to."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import curation
from curation.dataset import DatasetReport
from curation.storage import request_counts
from jobs.annotation import made_version
from jobs.captions import caption_report
from jobs.config import RunConfig
from jobs.dataset_job import dataset_document
from jobs.history import History
from jobs.local_gpus import gpus_here, gpus_of_slots
from jobs.report_clips import ClipFigures
from jobs.report_plots import Plot, counted, progress, stage_times
from jobs.submission import SubmissionError
from jobs.totals import Totals


def run_report(
    config: RunConfig, totals: Totals, clips: ClipFigures, history: History, ends: pa.Table, *, code: int
) -> dict[str, Any]:
    """What is said of a run, but for its dataset (``with_dataset``).

    Args:
        ends: ``time`` and ``event`` of each video's end.
        code: how the run ended.
    """
    return {
        "exit_code": code,
        "code_version": curation.__version__,
        "num_videos": totals.num_videos,
        "num_done": totals.num_done,
        "num_failed": totals.num_failed,
        "num_missing": totals.num_missing,
        "clip_stats": asdict(totals.stats),
        "captions": caption_report(totals.captions, history.engines),
        "text_matches": dict(sorted(totals.text_matches.items())),
        "num_source_frames": totals.num_source_frames,
        "num_decoded_frames": totals.num_decoded_frames,
        "failures_by_reason": dict(sorted(totals.failures.items())),
        "failed_videos": totals.failed,
        "missing_videos": totals.missing,
        # to S3, of all workers and of this aggregation; those of killed ones are not known
        "requests": {"workers": dict(sorted(history.requests.items())), "aggregation": request_counts()},
        # seconds over all workers: busy, starved (waiting for tasks), blocked (waiting for room behind it)
        "stage_seconds": {stage: dict(seconds) for stage, seconds in history.stage_s.items()},
        "run": {
            "annotation_version": made_version(config),
            "config_hash": config.content_hash,
            "started": history.times[0] if history.times else None,
            "ended": history.times[1] if history.times else None,
        },
        "newest_end": pc.max(ends["time"]).as_py(),  # of a video, in seconds since the epoch: what is counted
        "figures": _figures(config, totals, clips, history),
        "plots": _plots(config, totals, clips, history, ends),
        "sample": {"num_clips": clips.sample.num_seen, "clips": clips.sample.to_json()},
    }


def with_dataset(report: Mapping[str, Any], dataset: DatasetReport | None) -> dict[str, Any]:
    """The same report, with what became of the dataset; None: the run has none."""
    if dataset is None:
        return {**report, "dataset": None}
    packed = {"num_packed": dataset.num_packed, "num_left_out": dataset.num_left_out}
    left_out = counted(
        "left_out", "Left out of the dataset", dataset.left_out_by_reason, x_label="reason", y_label="windows"
    )
    return {
        **report,
        "dataset": dataset_document(dataset),
        "figures": {**report.get("figures", {}), **packed},
        "plots": [*report.get("plots", ()), *([left_out] if left_out is not None else [])],
    }


def _figures(config: RunConfig, totals: Totals, clips: ClipFigures, history: History) -> dict[str, Any]:
    stats, spent = totals.stats, history.spent
    gpus = gpus_per_worker(config)
    gpu_s = spent.worker_s * gpus if gpus else None
    median_s, slowest_s = spent.video_percentiles_s(50, 99)
    figures = {
        "num_videos": totals.num_videos,
        "num_done": totals.num_done,
        "num_failed": totals.num_failed,
        "num_missing": totals.num_missing,
        "num_clips": stats.num_passed,
        "num_rejected": {"motion": stats.num_filtered_by_motion, "aesthetic": stats.num_filtered_by_aesthetic},
        "num_windows": clips.num_windows,
        "num_packed": None,
        "num_left_out": None,
        "source_s": totals.source_s,
        "clip_s": stats.total_clip_duration,
        "source_bytes": totals.source_bytes,
        "clip_bytes": clips.num_bytes,
        "num_files": totals.num_done + totals.num_failed + clips.num_files,
        "wall_s": history.run_time_s,
        "worker_s": spent.worker_s,
        "gpu_s": gpu_s,
        "source_s_per_gpu_s": _ratio(totals.source_s, gpu_s),
        "source_s_per_worker_s": _ratio(totals.source_s, spent.worker_s),
        "caption_tokens_per_s": {key: work.output_tokens_per_s for key, work in sorted(history.engines.items())},
        "cpu_busy": spent.cpu_busy,
        "gpu_busy": spent.gpu_busy,
        "video_p50_s": median_s,
        "video_p99_s": slowest_s,
        "num_retries": spent.num_retries,
        "decoded_per_source_frame": _ratio(totals.num_decoded_frames, totals.num_source_frames),
    }
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}


def _ratio(one: float, other: float | None) -> float | None:
    return one / other if other else None


def _plots(config: RunConfig, totals: Totals, clips: ClipFigures, history: History, ends: pa.Table) -> list[Plot]:
    is_done = pc.equal(ends["event"], "done")
    done_s, failed_s = (ends["time"].filter(mask).to_numpy() for mask in (is_done, pc.invert(is_done)))
    begun_s = history.times[0] if history.times else 0.0
    filters = config.filters
    motion = (
        f"left out below {filters.motion_global_mean_threshold:g} on the mean, or below "
        f"{filters.motion_per_patch_min_256_threshold:g} in the stillest patch"
    )
    aesthetic = f"left out below {filters.aesthetic_threshold:g}" if filters.aesthetic_threshold is not None else None
    of_run = [
        totals.clips_per_video.plot("shots_per_video", "Clips per video", x_label="clips", y_label="videos"),
        stage_times(history.stage_s),
        counted("failures", "Failures", totals.failures, x_label="class", y_label="videos"),
        progress(done_s, failed_s, begun_s=begun_s),
    ]
    of_clips = clips.plots(motion_note=motion if filters.motion_filter == "enable" else None, aesthetic_note=aesthetic)
    return [*of_clips, *(each for each in of_run if each is not None)]


def gpus_per_worker(config: RunConfig) -> float | None:
    """GPUs that each worker had, less than 1 where workers of this machine shared one; None where there was none."""
    per_task = config.slurm.gpus_per_task
    if config.cluster == "slurm":
        return per_task or None
    gpus = gpus_here(os.environ) if config.local.gpus is None else config.local.gpus
    try:
        slots = gpus_of_slots(config.local.parallel_shards, gpus, per_task)
    except SubmissionError:  # it was another machine that did the work
        return None
    used = {gpu for slot in slots if slot for gpu in slot.split(",")}
    return len(used) / len(slots) or None
