"""After all workers ended, in whatever way: records -> totals, summary, dataset, report.

Completeness is judged from the records alone. Ends with 0 complete, 3 published but incomplete, 4 refused. Where the
dataset is packed by tasks of their own, it is only planned here, and ``jobs.packing`` goes on.
"""

import argparse
import json
import logging
import sys
import tempfile
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import IO, Any

from curation import layout
from curation.dataset import DatasetPlan, DatasetReport
from curation.registry import EMBEDDERS
from curation.storage import Storage, read_ahead
from jobs.aggregation_lease import only_aggregation
from jobs.annotation import clips_storage, made_version, output_storage
from jobs.arrow import do_without_pandas
from jobs.captions import captions_collected
from jobs.chunk_lists import chunk_documents
from jobs.config import RunConfig
from jobs.dataset_job import dataset_job
from jobs.embeddings import embeddings_collected
from jobs.ends import video_ends
from jobs.exits import DONE, FAILED, INCOMPLETE, REFUSED
from jobs.history import History, note_found, read_history
from jobs.ledger import live_leases
from jobs.manifest import ManifestVideo
from jobs.packing_plan import PackingPlan, forget_packed, live_packers
from jobs.preflight import use_scratch
from jobs.report_clips import ClipFigures
from jobs.report_document import try_page
from jobs.report_figures import run_report, with_dataset
from jobs.rundir import RunDir, write_json
from jobs.totals import RefusedError, Totals, summary_document, video_entry
from jobs.worker import configure_logging

logger = logging.getLogger(__name__)

_READERS = 16  # records are small: reading them is waiting, mostly
_RECORDS_AT_ONCE = 64 * _READERS


def aggregate(run: RunDir, *, num_pack_tasks: int = 0) -> int:
    """Publish what the records say of a run; gives the exit code.

    Args:
        num_pack_tasks: the dataset is only planned, for so many tasks of ``jobs.packing``, whose last publishes it and
            the report; 0: it is packed here.

    Raises:
        StorageError: an output could not be read or written.
    """
    config = run.load_config()
    with only_aggregation(run, config):
        return _aggregate(run, config, num_pack_tasks)


def _aggregate(run: RunDir, config: RunConfig, num_pack_tasks: int) -> int:
    try:
        _refuse_while_running(run, config)
        _begin(run, config)
        history = read_history(run)
        totals = _summarize(run, config, history)
    except RefusedError as error:
        logger.error("event=refused: %s", error)
        write_json(run.report_path, {"exit_code": REFUSED, "refused": str(error)})
        return REFUSED
    clips = ClipFigures(made_version(config))
    dataset = _publish_clips(run, config, totals, clips, num_pack_tasks)
    code = INCOMPLETE if totals.num_missing else DONE
    report = run_report(config, totals, clips, history, video_ends(run), code=code)
    if isinstance(dataset, DatasetPlan):
        PackingPlan(dataset.plan_id, dataset.num_tasks, report).save(run)
    else:
        report = with_dataset(report, dataset)
        write_json(run.report_path, report)
        try_page(run, report)
    logger.info(
        "event=aggregated done=%d failed=%d missing=%d clips=%d planned_only=%s code=%d",
        totals.num_done,
        totals.num_failed,
        totals.num_missing,
        totals.stats.num_passed,
        isinstance(dataset, DatasetPlan),
        code,
    )
    return code


def _refuse_while_running(run: RunDir, config: RunConfig) -> None:
    if live := live_leases(run, timeout_s=config.worker.lease_timeout_s):
        shards = ", ".join(map(str, islice(live, 10)))
        raise RefusedError(f"{len(live)} shards are being worked on ({shards}): aggregate when they have ended")
    if live := live_packers(run, config):
        tasks = ", ".join(map(str, islice(live, 10)))
        raise RefusedError(f"{len(live)} tasks are packing the dataset ({tasks}): aggregate when they have ended")


def _begin(run: RunDir, config: RunConfig) -> None:
    """Take back what an earlier aggregation left: no report of it is one of this, and no packer begins its plan."""
    earlier = PackingPlan.load(run)
    PackingPlan.remove(run)
    try:
        _refuse_while_running(run, config)  # a packer that began meanwhile has a lease, or finds no plan
    except RefusedError:
        if earlier is not None:
            earlier.save(run)
        raise
    forget_packed(run)
    run.report_path.unlink(missing_ok=True)
    run.page_path.unlink(missing_ok=True)


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
    storage = output_storage(config)
    totals = Totals(embedding_algorithm=_embedding_algorithm(config))
    found: list[tuple[str, dict[str, Any]]] = []
    with tempfile.TemporaryFile("w+", encoding="utf-8") as entries:
        for entry, record in records(run, storage):
            totals.add(entry, record)
            if record is not None and entry.id not in history.ended:
                found.append((entry.id, record))
            separator = ",\n" if totals.num_videos > 1 else ""
            entries.write(f"{separator}  {json.dumps(entry.id)}: {json.dumps(video_entry(record))}")
        if totals.embedding_algorithm is None and totals.stats.num_with_embeddings:
            totals.embedding_algorithm = _carried_algorithm(totals.provenance)
        totals.check(sum(shard.num_videos for shard in run.shards(1)))
        entries.seek(0)
        _write_summary(storage, summary_document(totals, history), entries)
    note_found(run, found)
    return totals


def _write_summary(storage: Storage, head: dict[str, Any], entries: IO[str]) -> None:
    with storage.writing(layout.SUMMARY) as file:
        file.write(json.dumps(head, indent=1).removesuffix("\n}").encode() + b',\n "videos": {\n')
        while block := entries.read(2**20):
            file.write(block.encode())
        file.write(b"\n }\n}\n")


def _embedding_algorithm(config: RunConfig) -> str | None:
    return config.embeddings.embedding_algorithm if config.embeddings.generate_embeddings else None


def _carried_algorithm(provenance: Mapping[str, Any]) -> str:
    """Which model made the vectors that an annotation run carries from the version before."""
    made = provenance.get("annotations", {}).get("embeddings", provenance)
    return next(str(name) for name in made["models"] if name in EMBEDDERS)


def clip_lists(run: RunDir, config: RunConfig, totals: Totals) -> Generator[dict[str, Any], None, None]:
    """The lists of clips of all videos whose records were counted."""
    videos = (entry.id for _, entry in run.manifest_entries())
    return chunk_documents(output_storage(config), zip(videos, totals.num_chunks, strict=True))


def _publish_clips(
    run: RunDir, config: RunConfig, totals: Totals, clips: ClipFigures, num_pack_tasks: int
) -> DatasetReport | DatasetPlan | None:
    """Go through the lists of clips once: for the figures, the captions, the tables of vectors and the dataset."""
    own = output_storage(config)
    chunks = clips.counted(clip_lists(run, config, totals))
    if totals.captions:
        chunks = captions_collected(chunks, clips_storage(config), version=made_version(config))
    if totals.stats.num_with_embeddings:
        chunks = embeddings_collected(chunks, own, provenance=_made_by(totals))
    with closing(chunks):
        if (dataset := dataset_job(config)) is not None:
            if num_pack_tasks:
                return dataset.plan(chunks, num_tasks=num_pack_tasks, is_complete=lambda: not totals.num_missing)
            return dataset.build(chunks, is_complete=lambda: not totals.num_missing)
        deque(chunks, maxlen=0)
    return None


def _made_by(totals: Totals) -> dict[str, str]:
    """What a table of vectors says of how it came to be."""
    provenance = totals.provenance
    made = provenance.get("annotations", {}).get("embeddings", provenance)
    name = totals.embedding_algorithm
    assert name is not None
    return {"embedding_algorithm": name, "model": made["models"][name], "config_hash": made["config_hash"]}


def run_aggregation(run_dir: str, num_pack_tasks: int = 0) -> int:
    """Aggregate a run as a job; gives the exit code. See ``aggregate``."""
    configure_logging()
    try:
        run = RunDir(Path(run_dir))
        use_scratch(run.load_config())  # for what waits in temporary files
        return aggregate(run, num_pack_tasks=num_pack_tasks)
    except Exception:  # the task's last line
        logger.exception("event=aggregation_failed run=%s", run_dir)
        return FAILED


def main() -> int:
    """The aggregation's command line."""
    parser = argparse.ArgumentParser(prog="python -m jobs.aggregation", description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="run folder")
    parser.add_argument("--pack-tasks", type=int, default=0, help="tasks that pack the dataset after this one")
    arguments = parser.parse_args()
    do_without_pandas()
    return run_aggregation(arguments.run, arguments.pack_tasks)


if __name__ == "__main__":
    sys.exit(main())
