"""One shard: skip what is done, run the pipeline over the rest, commit video by video, stop cleanly on a signal.

``python -m jobs.worker --run RUN_DIR --shard K --attempt N`` is what every way of running ends in.
"""

import argparse
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from curation import layout
from curation.documents import to_json
from curation.errors import Failure, FailureReason
from curation.model import ClipStats, Video, VideoTask
from curation.pipeline import Pipeline
from curation.pipeline.allocator import give_back_large_blocks
from curation.storage import Storage, storage_for
from curation.video.encode import choose_encoder
from curation.writing.records import record_document
from jobs.config import RunConfig
from jobs.exits import DONE, FAILED, INCOMPLETE
from jobs.ledger import Lease, LeaseLostError, ShardLog, count_begun, read_events, whoami
from jobs.manifest import ManifestVideo
from jobs.models_needed import missing_weights
from jobs.rundir import RunDir
from jobs.stages import build_pipeline, provenance

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
_GRACE_S = 15.0  # after a signal: what is nearly done may finish; Slurm kills some 30 s after TERM


@dataclass
class Todo:
    """A video that this worker is to process, and how often that was begun before without a record."""

    offset: int
    entry: ManifestVideo
    num_begun: int


@dataclass
class ShardWorker:
    """Processes one shard of one attempt while it holds the shard's lease."""

    run: RunDir
    config: RunConfig
    shard: int
    attempt: int
    lease: Lease
    log: ShardLog
    videos_at_once: int = 1
    stop: threading.Event = field(default_factory=threading.Event)
    _pipeline: Pipeline | None = None
    _ended: threading.Event = field(default_factory=threading.Event)
    _last_call: threading.Timer | None = None
    _in_flight: set[str] = field(default_factory=set)  # guarded by _idle, as are the events of videos
    _idle: threading.Condition = field(default_factory=threading.Condition)
    _superseded: set[int] = field(default_factory=set)
    _newest_attempt: int = 0

    @property
    def storage(self) -> Storage:
        return storage_for(self.config.output_clip_path)

    def work(self) -> int:
        """Process the shard; gives the exit code."""
        self.log.append("start", attempt=self.attempt, **whoami())
        todo = self._todo()
        logger.info("event=shard shard=%d attempt=%d videos_to_do=%d", self.shard, self.attempt, len(todo))
        pipeline = build_pipeline(self.config, videos_at_once=self.videos_at_once, before_record=self.lease.check)
        self._pipeline = pipeline
        try:
            for task in pipeline.stream(self._feed(todo)) if todo else ():
                if task.data.num_clip_chunks or task.data.failure:
                    self._finished(task)
        finally:
            with self._idle:  # the feeding thread may still be there: from now on it begins nothing
                self._ended.set()
        code = INCOMPLETE if self.stop.is_set() else DONE
        stages = {
            name: {key: round(s, 3) for key, s in asdict(spent).items()} for name, spent in pipeline.times.items()
        }
        self.log.append("end", attempt=self.attempt, code=code, stages=stages, **pipeline.measures)
        return code

    def _todo(self) -> list[Todo]:
        """Videos without a record. Those begun before come last: they may end this process again."""
        planned = self.run.shard(self.attempt, self.shard).videos
        entries = self.run.videos_at(video.offset for video in planned)
        begun_here = count_begun(read_events(self.run.shard_state_path(self.shard)))
        todo = []
        for video, entry in zip(planned, entries, strict=True):
            item = Todo(video.offset, entry, video.num_begun + begun_here[entry.id])
            if self.storage.exists(layout.record(entry.id)):
                continue
            if item.num_begun >= self.config.worker.max_attempts:
                self._quarantine(item)
            else:
                todo.append(item)
        return sorted(todo, key=lambda item: item.num_begun > 0)

    def _quarantine(self, item: Todo) -> None:
        """Record a video that ended its worker each time it was tried."""
        message = f"{item.entry.id}: its processing ended the worker {item.num_begun} times; see the logs of its shards"
        video = to_video(item.entry)
        video.failure = Failure(FailureReason.CRASHED, message)
        if self._record_failure(video):
            self.log.append("failed", video=video.id, reason=str(FailureReason.CRASHED), message=message)

    def _record_failure(self, video: Video) -> bool:
        """Record a failed video unless it has a record already."""
        record = record_document(video, ClipStats(), provenance=provenance(self.config))
        self.lease.check()
        return self.storage.create(layout.record(video.id), to_json(record))

    def _feed(self, todo: list[Todo]) -> Iterator[VideoTask]:
        for item in todo:
            # what may be quarantined for it is processed alone the last time: it takes no innocent video with it
            is_suspect = item.num_begun >= max(1, self.config.worker.max_attempts - 1)
            if is_suspect:
                self._wait_until_idle()
            if self.stop.is_set():
                return
            self.lease.check()
            if self._is_superseded(item) or self.storage.exists(layout.record(item.entry.id)):
                continue
            if not self._begin(item.entry.id):
                return
            yield VideoTask(task_id=item.entry.id, dataset_name=str(self.run.root), data=to_video(item.entry))
            if is_suspect:
                self._wait_until_idle()

    def _begin(self, video_id: str) -> bool:
        """Mark a video as begun; False when this worker begins nothing more."""
        with self._idle:
            if self.stop.is_set() or self._ended.is_set():
                return False
            self._in_flight.add(video_id)
            self.log.append("begin", video=video_id)
            return True

    def _wait_until_idle(self) -> None:
        with self._idle:
            while self._in_flight and not self.stop.is_set() and not self._ended.is_set():
                self._idle.wait(timeout=1.0)

    def _is_superseded(self, item: Todo) -> bool:
        """Whether a newer attempt has taken this video over."""
        for attempt in self.run.attempts():
            if attempt > max(self.attempt, self._newest_attempt):
                self._superseded |= {v.offset for shard in self.run.shards(attempt) for v in shard.videos}
                self._newest_attempt = attempt
        return item.offset in self._superseded

    def _finished(self, task: VideoTask) -> None:
        video = task.data
        if video.failure is not None:
            self._record_failure(video)  # there already, but when the writer itself was at fault
        with self._idle:
            if video.failure is not None:
                reason, message = str(video.failure.reason), video.failure.message
                self.log.append("failed", video=video.id, reason=reason, message=message)
            else:
                stats = video.clip_stats
                self.log.append("done", video=video.id, clips=stats.num_passed, clip_s=stats.total_clip_duration)
            self._in_flight.discard(video.id)
            self._idle.notify_all()

    def release(self) -> None:
        """Take back the begin-markers of what did not finish for a reason that is not the videos'."""
        with self._idle:
            for video in sorted(self._in_flight):
                self.log.append("released", video=video)

    def request_stop(self) -> None:
        """Take no more videos; what is in flight may finish within the grace, then the process ends."""
        self.stop.set()
        if self._last_call is None:
            self._last_call = threading.Timer(_GRACE_S, self._give_up)
            self._last_call.daemon = True
            self._last_call.start()

    def close(self) -> None:
        """The worker has ended; a process that goes on with other work is not ended by it."""
        if self._last_call is not None:
            self._last_call.cancel()

    def _give_up(self) -> None:
        with contextlib.suppress(OSError):  # where the run folder is full or away, too, the process ends
            self.release()
            measures = self._pipeline.measures if self._pipeline is not None else {}
            self.log.append("end", attempt=self.attempt, code=INCOMPLETE, **measures)
        logger.warning("event=stopped shard=%d unfinished=%d", self.shard, len(self._in_flight))
        logging.shutdown()
        os._exit(INCOMPLETE)  # a decoder deep in C can't be asked to stop; everything published is whole


def to_video(entry: ManifestVideo) -> Video:
    """The video that a line of the manifest names."""
    return Video(
        input_video=Path(entry.path), id=entry.id, start_s=entry.start_s, end_s=entry.end_s, extra=dict(entry.extra)
    )


def run_shard(run_dir: str, shard: int, attempt: int) -> int:
    """Process one shard of a run; gives the exit code: 0 done, 1 failed, 3 stopped before its end."""
    configure_logging()
    give_back_large_blocks(2**18)
    run = RunDir(Path(run_dir))
    config = run.load_config()
    num_videos = _share_cores(config)
    preflight(config)
    _check_mounted(config.input_video_path)
    lease = Lease(run.lease_path(shard), config.worker.lease_timeout_s)
    if not lease.acquire():
        logger.warning("event=lease_held shard=%d: another worker is at it, nothing to do here", shard)
        return DONE
    log = ShardLog(run.shard_state_path(shard))
    worker = ShardWorker(run, config, shard, attempt, lease, log, num_videos)
    try:
        with _stopping(worker.request_stop):
            return worker.work()
    except LeaseLostError as error:
        logger.warning("event=lease_lost shard=%d: %s", shard, error)
        return INCOMPLETE
    except Exception as error:  # the task's last line
        logger.exception("event=worker_failed shard=%d attempt=%d", shard, attempt)
        with contextlib.suppress(OSError):  # the run folder may be what failed
            if not isinstance(error, MemoryError):  # all else that a video can do is a failure of that video
                worker.release()
            log.append("error", attempt=attempt, message=f"{type(error).__name__}: {error}")
        return FAILED
    finally:
        worker.close()
        lease.release()
        log.close()


def preflight(config: RunConfig) -> None:
    """What a worker can't do without, checked in a second before any video is begun.

    Raises:
        ValueError, FileNotFoundError, StorageError: what is missing, and how to mend it.
    """
    choose_encoder(config.clips.encoder)
    if not config.split.is_fixed_stride:
        from curation.clipping.shot_model import find_weights

        find_weights(config.split.transnetv2_model_dir)
    if missing := missing_weights(config):
        raise FileNotFoundError("\n".join(missing))
    storage_for(config.output_clip_path).exists("clips")


def _check_mounted(root: str | None) -> None:
    """A missing mount is no fault of the videos below it."""
    if root is not None and not Path(root).is_dir():
        raise FileNotFoundError(f"input_video_path {root} is not there on {socket.gethostname()}: is it mounted?")


class _stopping:  # noqa: N801  (a context manager that reads like a statement)
    """Calls a function on the stop signals, in place of submitit's handlers; puts the old ones back."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self._before[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: object) -> None:
        logger.warning("event=signal signal=%s", signal.Signals(number).name)
        self._call()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def _share_cores(config: RunConfig) -> int:
    """Videos to decode at once; gives numeric libraries what is left of the task's own share of the cores.

    Must come before those libraries are imported.
    """
    allotted = os.environ.get("SLURM_CPUS_PER_TASK")
    cores = int(allotted) if allotted else len(os.sched_getaffinity(0)) // config.local.parallel_shards
    num_videos = config.worker.videos_at_once or max(1, cores)
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
    sys.exit(main())
