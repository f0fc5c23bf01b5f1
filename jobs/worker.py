"""One shard: skip what is done, run the pipeline over the rest, commit video by video, stop cleanly on a signal.

``python -m jobs.worker --run RUN_DIR --shard K --attempt N`` is what every way of running ends in.
"""

import argparse
import contextlib
import logging
import os
import sys
from pathlib import Path

from curation.errors import UnreachableError
from curation.pipeline.allocator import give_back_large_blocks
from jobs import own_job
from jobs.bad_nodes import leave_node
from jobs.config import RunConfig
from jobs.exits import DONE, FAILED, INCOMPLETE
from jobs.ledger import Lease, LeaseLostError, ShardLog
from jobs.preflight import task_problems, use_scratch
from jobs.rundir import RunDir
from jobs.shard_worker import LAST_WORDS_S, ShardWorker
from jobs.stopping import StopSignals, end_process
from jobs.usage import own_cores

logger = logging.getLogger(__name__)


def run_shard(run_dir: str, shard: int, attempt: int) -> int:
    """Process one shard of a run; gives the exit code: 0 done, 1 failed, 3 stopped before its end."""
    configure_logging()
    give_back_large_blocks(2**18)
    run = RunDir(Path(run_dir))
    with StopSignals() as signals:
        config = run.load_config()
        num_videos = _share_cores(config)
        use_scratch(config)
        if problems := task_problems(run, config):
            return leave_node(run, config, problems)
        lease = Lease(run.lease_path(shard), config.worker.lease_timeout_s)
        if not lease.acquire(signals.stop):
            if signals.stop.is_set():
                return INCOMPLETE
            logger.warning("event=lease_held shard=%d: another worker is at it, nothing to do here", shard)
            return DONE
        log = ShardLog(run.shard_state_path(shard))
        worker = ShardWorker(run, config, shard, attempt, lease, log, num_videos, signals.stop)
        worker.before_exit = lambda: _go_on_later(worker, signals)
        try:
            code = _work(worker, signals)
            if code == INCOMPLETE:
                worker.leave()
            return code
        finally:
            worker.close()


def _work(worker: ShardWorker, signals: StopSignals) -> int:
    """Let a worker do its shard; whatever happens, the lease is given back."""
    shard, attempt = worker.shard, worker.attempt
    try:
        signals.call(worker.request_stop)
        return worker.work()
    except LeaseLostError as error:
        logger.warning("event=lease_lost shard=%d: %s", shard, error)
        return INCOMPLETE
    except UnreachableError as error:
        return worker.end_away(error)
    except Exception as error:  # the task's last line
        logger.exception("event=worker_failed shard=%d attempt=%d", shard, attempt)
        with contextlib.suppress(OSError):  # the run folder may be what failed
            if not isinstance(error, MemoryError):  # all else that a video can do is a failure of that video
                worker.release()
            message = f"{type(error).__name__}: {error}"
            worker.log.append("error", attempt=attempt, message=message, **worker.requests())
        return FAILED
    finally:
        worker.lease.release()
        worker.log.close()


def _go_on_later(worker: ShardWorker, signals: StopSignals) -> None:
    """At the wall time's end, queue this task again: the rest of the shard needs no person for it.

    Not after TERM, with which people cancel and sites preempt (who requeue by themselves if they want it).
    """
    job = own_job.own_job_id()
    if job is None or worker.config.cluster == "debug" or not signals.is_time_limit:
        return
    if not worker.config.slurm.requeue:
        logger.warning("event=not_requeued: slurm.requeue is false; `clipmill resume` takes the rest over")
    elif worker.num_ended == 0:  # it would for ever begin the same videos
        logger.warning("event=not_requeued: no video ended within this task's wall time; raise slurm.time and resume")
    else:
        own_job.requeue(job, timeout_s=LAST_WORDS_S - 1)


def _share_cores(config: RunConfig) -> int:
    """Videos to decode at once; gives numeric libraries what is left of the task's own share of the cores.

    Must come before those libraries are imported.
    """
    cores = own_cores(config)
    num_videos = config.worker.videos_at_once or cores
    threads = config.local.threads_per_worker or max(1, cores // num_videos)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    return num_videos


def configure_logging() -> None:
    """One line an event on stderr, which every launcher keeps in the run's logs."""
    logging.basicConfig(
        level=os.environ.get("CLIPMILL_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
        force=True,
    )


def main() -> int:
    """The worker's command line."""
    parser = argparse.ArgumentParser(prog="python -m jobs.worker", description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="run folder")
    parser.add_argument("--shard", required=True, type=int, help="number of the shard")
    parser.add_argument("--attempt", required=True, type=int, help="number of the attempt")
    arguments = parser.parse_args()
    return run_shard(arguments.run, arguments.shard, arguments.attempt)


if __name__ == "__main__":
    end_process(main())
