"""The report of a run as it stands: ``report.json`` where that tells everything, else counted anew. Writes nothing."""

import json
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from jobs.aggregation import clip_lists, records
from jobs.annotation import made_version, output_storage
from jobs.ends import video_ends
from jobs.exits import DONE, INCOMPLETE, REFUSED
from jobs.history import read_history
from jobs.ledger import live_leases
from jobs.packing_plan import live_packers
from jobs.report_clips import ClipFigures
from jobs.report_figures import run_report, with_dataset
from jobs.rundir import RunDir
from jobs.totals import Totals


@dataclass(frozen=True)
class FoundReport:
    """A report, when its figures were counted (seconds since the epoch), and how the run stands.

    ``state`` is complete, incomplete, refused (by the last aggregation) or running.
    """

    report: dict[str, Any]
    made: float
    state: str


def found_report(run: RunDir) -> FoundReport:
    """What can be said of a run now.

    Raises:
        RunDirError: this is not a run folder.
        StorageError: the outputs can't be read.
    """
    config = run.load_config()
    timeout_s = config.worker.lease_timeout_s
    is_running = bool(live_leases(run, timeout_s=timeout_s) or live_packers(run, config))
    written = _written(run)
    is_current = written is not None and _is_current(run, written)
    if written is not None and is_current and "figures" in written and not is_running:
        return FoundReport(written, run.report_path.stat().st_mtime, _state(written))
    made = time.time()
    is_told = written is not None and (is_current or written["exit_code"] == REFUSED)
    state = "running" if is_running else _state(written) if written is not None and is_told else "incomplete"
    return FoundReport(report_so_far(run), made, state)


def _written(run: RunDir) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(run.report_path.read_bytes())
    except FileNotFoundError:
        return None
    return found


def _state(report: Mapping[str, Any]) -> str:
    return {DONE: "complete", REFUSED: "refused"}.get(report["exit_code"], "incomplete")


def _is_current(run: RunDir, report: Mapping[str, Any]) -> bool:
    """Whether it counts every video that has ended by now; one that is done again since has not."""
    ends = video_ends(run)
    newest = pc.max(ends["time"]).as_py()
    is_older = newest is not None and newest > (report.get("newest_end") or newest)
    return not is_older and len(ends) == report.get("num_done", 0) + report.get("num_failed", 0)


def report_so_far(run: RunDir) -> dict[str, Any]:
    """What the records and the lists of clips add up to now; without the dataset, which nobody has published."""
    config = run.load_config()
    totals, clips = Totals(), ClipFigures(made_version(config))
    for entry, record in records(run, output_storage(config)):
        totals.add(entry, record)
    deque(clips.counted(clip_lists(run, config, totals)), maxlen=0)
    code = INCOMPLETE if totals.num_missing else DONE
    return with_dataset(run_report(config, totals, clips, read_history(run), video_ends(run), code=code), None)
