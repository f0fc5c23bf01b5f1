"""After all workers ended, in whatever way: records -> totals, summary, dataset, report.

Completeness is judged from the records alone. Ends with 0 complete, 3 published but incomplete, 4 refused.
"""

import argparse
import json
import logging
import sys
import tempfile
from array import array
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

import curation
from curation import layout
from curation.dataset import DatasetSettings, build_dataset
from curation.errors import StorageError
from curation.model import ClipStats
from curation.storage import Storage, read_ahead, request_counts, storage_for
from curation.writing.captions import CaptionTotals, add_captions, totals_document, totals_of
from jobs.aggregation_lease import only_aggregation
from jobs.captions import caption_report, captions_collected
from jobs.config import RunConfig
from jobs.embeddings import embeddings_collected
from jobs.exits import DONE, FAILED, INCOMPLETE, REFUSED
from jobs.history import History, note_found, read_history
from jobs.ledger import live_leases
from jobs.manifest import ManifestVideo
from jobs.preflight import use_scratch
from jobs.rundir import RunDir, write_json
from jobs.worker import configure_logging

logger = logging.getLogger(__name__)

_READERS = 16  # records are small: reading them is waiting, mostly
_RECORDS_AT_ONCE = 64 * _READERS
_CHUNKS_AT_ONCE = 2 * _READERS
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


def aggregate(run: RunDir) -> int:
    """Publish what the records say of a run; gives the exit code.

    Raises:
        StorageError: an output could not be read or written.
    """
    config = run.load_config()
    with only_aggregation(run, config):
        return _aggregate(run, config)


def _aggregate(run: RunDir, config: RunConfig) -> int:
    try:
        _refuse_while_running(run, config)
        history = read_history(run)
        totals = _summarize(run, config, history)
    except RefusedError as error:
        logger.error("event=refused: %s", error)
        write_json(run.report_path, {"exit_code": REFUSED, "refused": str(error)})
        return REFUSED
    dataset = _publish_clips(run, config, totals)
    code = INCOMPLETE if totals.num_missing else DONE
    write_json(run.report_path, _report(totals, history, dataset, code))
    logger.info(
        "event=aggregated done=%d failed=%d missing=%d clips=%d code=%d",
        totals.num_done,
        totals.num_failed,
        totals.num_missing,
        totals.stats.num_passed,
        code,
    )
    return code


def _refuse_while_running(run: RunDir, config: RunConfig) -> None:
    live = live_leases(run, timeout_s=config.worker.lease_timeout_s)
    if live:
        shards = ", ".join(map(str, islice(live, 10)))
        raise RefusedError(f"{len(live)} shards are being worked on ({shards}): aggregate when they have ended")


def records(run: RunDir, storage: Storage) -> Iterator[tuple[ManifestVideo, dict[str, Any] | None]]:
    """Each video of the manifest in order, with its record; None where there is none."""

    def read(entry: ManifestVideo) -> tuple[ManifestVideo, dict[str, Any] | None]:
        try:
            return entry, json.loads(storage.read(layout.record(entry.id)))
        except FileNotFoundError:
            return entry, None

    entries = (entry for _, entry in run.manifest_entries())
    return read_ahead(read, entries, num_threads=_READERS, at_most=_RECORDS_AT_ONCE)


def _summarize(run: RunDir, config: RunConfig, history: History) -> Totals:
    """Count everything and write ``summary.json``; entries of videos go through a file, not through memory."""
    storage = storage_for(config.output_clip_path, config.output_s3)
    totals = Totals(embedding_algorithm=_embedding_algorithm(config))
    found: list[tuple[str, dict[str, Any]]] = []
    with tempfile.TemporaryFile("w+", encoding="utf-8") as entries:
        for entry, record in records(run, storage):
            totals.add(entry, record)
            if record is not None and entry.id not in history.ended:
                found.append((entry.id, record))
            separator = ",\n" if totals.num_videos > 1 else ""
            entries.write(f"{separator}  {json.dumps(entry.id)}: {json.dumps(_video_entry(record))}")
        totals.check(sum(shard.num_videos for shard in run.shards(1)))
        entries.seek(0)
        _write_summary(storage, _summary(totals, history), entries)
    note_found(run, found)
    return totals


def _write_summary(storage: Storage, head: dict[str, Any], entries: IO[str]) -> None:
    with storage.writing(layout.SUMMARY) as file:
        file.write(json.dumps(head, indent=1).removesuffix("\n}").encode() + b',\n "videos": {\n')
        while block := entries.read(2**20):
            file.write(block.encode())
        file.write(b"\n }\n}\n")


def _video_entry(record: dict[str, Any] | None) -> dict[str, Any]:
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


def _embedding_algorithm(config: RunConfig) -> str | None:
    return config.embeddings.embedding_algorithm if config.embeddings.generate_embeddings else None


def _summary(totals: Totals, history: History) -> dict[str, Any]:
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


def _publish_clips(run: RunDir, config: RunConfig, totals: Totals) -> dict[str, Any] | None:
    """Go through the lists of clips once, for the captions, the tables of vectors and the dataset."""
    clips = storage_for(config.output_clip_path, config.output_s3)
    chunks = _chunks(run, clips, totals.num_chunks)
    if totals.captions:
        chunks = captions_collected(chunks, clips)
    if totals.stats.num_with_embeddings:
        chunks = embeddings_collected(chunks, clips, provenance=_made_by(config, totals.provenance))
    with closing(chunks):
        if config.output_dataset_path is not None:
            return _build_dataset(chunks, config)
        if totals.captions or totals.stats.num_with_embeddings:
            deque(chunks, maxlen=0)
    return None


def _made_by(config: RunConfig, provenance: Mapping[str, Any]) -> dict[str, str]:
    """What a table of vectors says of how it came to be."""
    name = config.embeddings.embedding_algorithm
    return {"embedding_algorithm": name, "model": provenance["models"][name], "config_hash": provenance["config_hash"]}


def _build_dataset(chunks: Iterable[dict[str, Any]], config: RunConfig) -> dict[str, Any]:
    clips = storage_for(config.output_clip_path, config.output_s3)
    assert config.output_dataset_path is not None
    report = build_dataset(
        chunks,
        clips=clips,
        output=storage_for(config.output_dataset_path, config.output_s3),
        settings=DatasetSettings(**config.dataset.model_dump(), preset=config.clips.preset, crf=config.clips.crf),
    )
    return {
        "num_clips": report.num_clips,
        "num_windows": report.num_windows,
        "num_packed": report.num_packed,
        "num_left_out": report.num_left_out,
        "num_without_caption": report.num_without_caption,
    }


def _chunks(run: RunDir, storage: Storage, num_chunks: Iterable[int]) -> Generator[dict[str, Any], None, None]:
    """The clip lists of every video that is done, in the order of the manifest; ``num_chunks`` says how many."""

    def read(path: str) -> dict[str, Any]:
        try:
            chunk: dict[str, Any] = json.loads(storage.read(path))
        except FileNotFoundError as error:
            raise StorageError(f"{path} is not there; the record of its video says that it is") from error
        return chunk

    paths = (
        layout.clip_chunk(entry.id, index)
        for (_, entry), count in zip(run.manifest_entries(), num_chunks, strict=True)
        for index in range(count)
    )
    yield from read_ahead(read, paths, num_threads=_READERS, at_most=_CHUNKS_AT_ONCE)


def _report(totals: Totals, history: History, dataset: dict[str, Any] | None, code: int) -> dict[str, Any]:
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
        "dataset": dataset,
        # to S3, of all workers and of this aggregation; those of killed ones are not known
        "requests": {"workers": dict(sorted(history.requests.items())), "aggregation": request_counts()},
        # seconds over all workers: busy, starved (waiting for tasks), blocked (waiting for room behind it)
        "stage_seconds": {stage: dict(seconds) for stage, seconds in history.stage_s.items()},
    }


def run_aggregation(run_dir: str) -> int:
    """Aggregate a run as a job; gives the exit code."""
    configure_logging()
    try:
        run = RunDir(Path(run_dir))
        use_scratch(run.load_config())  # for what waits in temporary files
        return aggregate(run)
    except Exception:  # the task's last line
        logger.exception("event=aggregation_failed run=%s", run_dir)
        return FAILED


def main() -> int:
    """The aggregation's command line."""
    parser = argparse.ArgumentParser(prog="python -m jobs.aggregation", description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="run folder")
    return run_aggregation(parser.parse_args().run)


if __name__ == "__main__":
    sys.exit(main())
