"""What the records of a run add up to, and the documents that say it. Pure."""

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from curation.model import ClipStats
from curation.writing.captions import CaptionTotals, add_captions, totals_document, totals_of
from jobs.history import History
from jobs.manifest import ManifestVideo
from jobs.report_clips import clips_per_video_bins
from jobs.report_plots import Histogram

_SHOWN = 1000  # names listed in the report of a class of failure; the counts are always whole


class RefusedError(RuntimeError):
    """Publishing would state something wrong."""


@dataclass
class Totals:
    """What the records add up to."""

    num_videos: int = 0
    num_done: int = 0
    num_failed: int = 0
    num_missing: int = 0
    num_filtered: int = 0
    source_bytes: int = 0
    source_s: float = 0.0
    num_source_frames: int = 0
    num_decoded_frames: int = 0
    stats: ClipStats = field(default_factory=ClipStats)
    captions: dict[str, CaptionTotals] = field(default_factory=dict)
    text_matches: Counter[str] = field(default_factory=Counter)
    embedding_algorithm: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)  # of the first record; those of a run are alike
    failures: Counter[str] = field(default_factory=Counter)
    failed: list[dict[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    clips_per_video: Histogram = field(default_factory=clips_per_video_bins)
    num_chunks: "array[int]" = field(default_factory=lambda: array("I"))  # of each video of the manifest, in its order

    def add(self, entry: ManifestVideo, record: dict[str, Any] | None) -> None:
        """Count one video of the manifest."""
        self.num_videos += 1
        has_chunks = record is not None and record["status"] == "done"
        self.num_chunks.append(record["num_clip_chunks"] if record and has_chunks else 0)
        if record is None:
            self.num_missing += 1
            self.missing += [entry.id] if len(self.missing) < _SHOWN else []
            return
        if record["status"] == "failed":
            self.num_failed += 1
            self.failures[record["failure"]["reason"]] += 1
            if self.failures[record["failure"]["reason"]] <= _SHOWN:
                self.failed.append({"video_id": entry.id, **record["failure"]})
            return
        self.num_done += 1
        self.source_bytes += record["size"] or 0
        self.source_s += record["duration"] or 0.0
        self.num_source_frames += record["num_frames"] or 0
        self.num_decoded_frames += record["num_decoded_frames"]
        self.clips_per_video.add("videos", record["num_total_clips"])
        self.stats.combine(ClipStats(**record["clip_stats"]))
        add_captions(self.captions, totals_of(record))
        self.text_matches.update(record["text_matches"])
        self.provenance = self.provenance or record["provenance"]

    def check(self, num_planned: int) -> None:
        """Raise RefusedError unless every planned video is counted once."""
        counted = self.num_done + self.num_failed + self.num_missing
        if not counted == self.num_videos == num_planned:
            raise RefusedError(
                f"the accounts do not add up: {num_planned} videos planned, {self.num_videos} in the manifest, "
                f"{self.num_done} done + {self.num_failed} failed + {self.num_missing} missing"
            )


def video_entry(record: dict[str, Any] | None) -> dict[str, Any]:
    """What the summary says of a video."""
    if record is None:
        return {"status": "missing"}
    if record["status"] == "failed":
        return {"status": "failed", "failure": record["failure"]}
    return {
        "status": "done",
        "source_video": record["video"],
        "duration": record["duration"],
        "num_total_clips": record["num_total_clips"],
        "num_clip_chunks": record["num_clip_chunks"],
        **record["clip_stats"],
    }


def summary_document(totals: Totals, history: History) -> dict[str, Any]:
    """The totals under the names that Cosmos-Curate gives them."""
    stats = totals.stats
    return {
        "num_input_videos": totals.num_videos,
        "num_processed_videos": totals.num_done,
        "num_failed_videos": totals.num_failed,
        "num_missing_videos": totals.num_missing,
        "total_video_duration": totals.source_s,
        "total_clip_duration": stats.total_clip_duration,
        "max_clip_duration": stats.max_clip_duration,
        "pipeline_run_time": round(history.run_time_s / 60, 3),
        "total_video_bytes": totals.source_bytes,
        "total_num_clips_filtered_by_motion": stats.num_filtered_by_motion,
        "total_num_clips_filtered_by_aesthetic": stats.num_filtered_by_aesthetic,
        "total_num_clips_passed": stats.num_passed,
        "total_num_clips_transcoded": stats.num_transcoded,
        "total_num_clips_with_embeddings": stats.num_with_embeddings,
        "total_num_clips_with_caption": stats.num_with_caption,
        "total_num_clips_with_webp": stats.num_with_webp,
        "total_prompt_tokens": sum(each.prompt_tokens for each in totals.captions.values()),
        "total_output_tokens": sum(each.output_tokens for each in totals.captions.values()),
        "captions": totals_document(totals.captions),
        "embedding_algorithm": totals.embedding_algorithm,
    }
