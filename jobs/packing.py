"""Packs a task's tars of the dataset that an aggregation has planned; the last job, ``--finish``, publishes it.

Packing goes on where it was stopped: what is packed of the same plan stays. ``--finish`` ends with the run's exit code:
0 complete, 1 failed, 3 incomplete (videos are missing; or tars are, and nothing is published), 4 refused.
"""

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curation.dataset import UnfinishedError
from curation.storage import request_counts
from jobs.aggregation_lease import only_aggregation
from jobs.arrow import do_without_pandas
from jobs.config import RunConfig
from jobs.dataset_job import DatasetJob, dataset_job
from jobs.exits import DONE, FAILED, INCOMPLETE
from jobs.packing_plan import PackingPlan, no_packers, note_packed, pack_lease, packed_tasks
from jobs.preflight import use_scratch
from jobs.report_document import try_page
from jobs.report_figures import with_dataset
from jobs.rundir import RunDir, RunDirError, write_json
from jobs.worker import configure_logging

logger = logging.getLogger(__name__)

_SHOWN = 1000  # missing tars named in the report


def pack(run: RunDir, config: RunConfig, task: int) -> int:
    """Pack what the plan of a run's dataset gives a task; gives the exit code.

    Raises:
        StorageError: clips could not be read, or tars not written.
    """
    lease = pack_lease(run, config, task)
    if not lease.acquire():
        logger.warning("event=pack_lease_held task=%d: another process packs it, nothing to do here", task)
        return DONE
    try:
        plan = PackingPlan.load(run)  # after the lease: an aggregation looks at leases once it took the plan away
        if plan is None or task >= plan.num_tasks:
            logger.warning("event=nothing_to_pack task=%d: the aggregation has left no plan that gives it tars", task)
            return DONE
        _dataset(config).pack(task)
        note_packed(run, plan, task, request_counts())
        logger.info("event=packed task=%d plan=%s", task, plan.plan_id)
        return DONE
    finally:
        lease.release()


def finish(run: RunDir, config: RunConfig) -> int:
    """Publish the dataset once all its tars are there, and then the run's report; gives the run's exit code.

    Raises:
        StorageError: the dataset could not be published.
    """
    with only_aggregation(run, config), no_packers(run, config) as live:
        plan = PackingPlan.load(run)
        if plan is None:
            return _reported_code(run)
        if live:
            logger.error("event=still_packing tasks=%s: nothing is published", ",".join(map(str, live)))
            return INCOMPLETE
        try:
            dataset = _dataset(config).finish()
        except UnfinishedError as error:
            logger.error("event=unfinished: %s", error)
            missing = {"missing_tars": list(error.missing[:_SHOWN])}
            _write_report(run, plan, {**plan.report, "dataset": missing}, INCOMPLETE)
            return INCOMPLETE
        code = INCOMPLETE if plan.report["num_missing"] else DONE
        _write_report(run, plan, with_dataset(plan.report, dataset), code)
        PackingPlan.remove(run)
        logger.info("event=published packed=%d left_out=%d code=%d", dataset.num_packed, dataset.num_left_out, code)
        return code


def _write_report(run: RunDir, plan: PackingPlan, report: Mapping[str, Any], code: int) -> None:
    """What the aggregation said of the run and what became of the dataset, with what the packers say."""
    packing: Counter[str] = Counter(request_counts())
    for of_task in packed_tasks(run, plan).values():
        packing.update(of_task)
    requests = {**plan.report["requests"], "packing": dict(sorted(packing.items()))}
    report = {**report, "exit_code": code, "requests": requests}
    write_json(run.report_path, report)
    try_page(run, report)


def _reported_code(run: RunDir) -> int:
    """How a run ended that has nothing to be published any more, or whose aggregation came to no plan."""
    if not run.report_path.is_file():
        logger.error("event=nothing_planned: the aggregation failed; see its log")
        return FAILED
    code: int = json.loads(run.report_path.read_text())["exit_code"]
    logger.info("event=nothing_to_finish code=%d", code)
    return code


def _dataset(config: RunConfig) -> DatasetJob:
    dataset = dataset_job(config)
    if dataset is None:
        raise RunDirError("this run has no output_dataset_path any more; it was planned with one")
    return dataset


def run_packing(run_dir: str, task: int | None) -> int:
    """Pack one task of a run as a job, or (None) finish the dataset; gives the exit code."""
    configure_logging()
    try:
        run = RunDir(Path(run_dir))
        config = run.load_config()
        use_scratch(config)
        return finish(run, config) if task is None else pack(run, config, task)
    except Exception:  # the task's last line
        logger.exception("event=packing_failed run=%s task=%s", run_dir, task)
        return FAILED


def main() -> int:
    """The command line of packers, and of the job after them."""
    parser = argparse.ArgumentParser(prog="python -m jobs.packing", description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="run folder")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--task", type=int, help="number of the task")
    what.add_argument("--finish", action="store_true", help="publish what all tasks packed")
    arguments = parser.parse_args()
    do_without_pandas()
    return run_packing(arguments.run, arguments.task)


if __name__ == "__main__":
    sys.exit(main())
