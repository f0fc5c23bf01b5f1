"""What a worker does with its shard: skip what is done, run the pipeline over the rest, commit video by video."""

import contextlib
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from curation import layout
from curation.documents import to_json
from curation.errors import Failure, FailureReason, StorageError
from curation.model import ClipStats, Video, VideoTask
from curation.pipeline import Pipeline
from curation.source_files import is_uri
from curation.storage import Storage, read_ahead, request_counts
from curation.writing.records import record_document
from jobs.annotation import output_storage, source_s3
from jobs.config import RunConfig
from jobs.exits import DONE, INCOMPLETE
from jobs.ledger import Lease, ShardLog, count_begun, read_events, whoami
from jobs.parts import part_of, parts_path
from jobs.parts_at_work import PartsAtWork, Todo, known_size, to_video
from jobs.preflight import scratch_folder
from jobs.progress import ProgressTeller, workers_at_once
from jobs.rundir import RunDir
from jobs.stages import build_pipeline, provenance
from jobs.staging import Room, Staging
from jobs.usage import Usage

logger = logging.getLogger(__name__)

LAST_WORDS_S = 4.0
"""After the grace: to write down where it stands, on a file system that may not answer."""

_GRACE_S = 15.0  # after a signal: what is nearly done may finish; Slurm kills some 30 s after TERM
_AWAY_AFTER = 3  # sources in a row that storage does not give, each tried for a minute
_LOOKERS, _LOOKS_AHEAD = 16, 1024  # looking for a record is waiting, mostly


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
    before_exit: Callable[[], None] = lambda: None
    num_ended: int = 0  # videos that this start brought to their ends
    _pipeline: Pipeline | None = None
    _ended: threading.Event = field(default_factory=threading.Event)
    _last_calls: list[threading.Timer] = field(default_factory=list)
    _in_flight: set[str] = field(default_factory=set)  # guarded by _idle, as are the events of videos
    _released: set[str] = field(default_factory=set)
    _is_all_fed: bool = False
    _said_end: bool = False
    _has_left: bool = False
    _idle: threading.Condition = field(default_factory=threading.Condition)
    _whole: list[Todo] = field(default_factory=list)  # guarded by _idle: of which a part says that it can't be one
    _superseded: set[tuple[int, int]] = field(default_factory=set)
    _newest_attempt: int = 0
    _last_error: StorageError | None = None
    _away: StorageError | None = None  # why videos are left that could not be brought here

    def __post_init__(self) -> None:
        self._parts = PartsAtWork(self.run, self.config, self.lease, self.log)
        self._requests_before = Counter(request_counts())
        self._usage = Usage(self.config)
        self._told = ProgressTeller(
            self.run,
            self.shard,
            num_workers=workers_at_once(self.run, self.config, self.attempt),
            sample=self._usage.sample,
        )
        max_gb, min_gb = self.config.worker.scratch_max_gb, self.config.worker.scratch_min_gb
        self._staging = Staging(
            Path(scratch_folder(self.config)),
            source_s3(self.config),
            Room(None if max_gb is None else round(max_gb * 1e9), round(min_gb * 1e9)),
            num_at_work=self.videos_at_once,
            is_stopped=lambda: self.stop.is_set() or self._ended.is_set(),
        )

    @property
    def storage(self) -> Storage:
        return output_storage(self.config)

    def work(self) -> int:
        """Process the shard; gives the exit code."""
        self.log.append("start", attempt=self.attempt, **whoami())
        todo = self._todo()
        logger.info("event=shard shard=%d attempt=%d videos_to_do=%d", self.shard, self.attempt, len(todo))
        pipeline = build_pipeline(
            self.config,
            videos_at_once=self.videos_at_once,
            before_record=self.lease.check,
            parts_path=parts_path(self.run, self.config),
            give_back=self._staging.give_back if any(is_uri(item.entry.path) for item in todo) else None,
        )
        self._pipeline, self._is_all_fed = pipeline, not todo
        self._told.start(pipeline)
        try:
            for task in pipeline.stream(self._feed(todo)) if todo and not self.stop.is_set() else ():
                self._told.add(task)
                if task.data.num_clip_chunks or task.data.failure:
                    self._finished(task)
        finally:
            with self._idle:  # the feeding thread may still be there: from now on it begins nothing
                self._ended.set()
            self._staging.close()
            self._told.close()
        is_all_done = self._is_all_fed and not self._in_flight and not self._whole
        if self._away is not None:
            self._say_away(self._away)
        code = DONE if (not self.stop.is_set() and self._away is None) or is_all_done else INCOMPLETE
        stages = {
            name: {key: round(s, 3) for key, s in asdict(spent).items()} for name, spent in pipeline.times.items()
        }
        self._say_end(code, stages=stages)
        return code

    def _say_end(self, code: int, **values: object) -> None:
        """Log the end once: the worker may be given up while it comes to it."""
        with self._idle:
            if not self._said_end:
                self._said_end = True
                measures: dict[str, Any] = {"num_windows": self._told.num_windows, **self._usage.measures()}
                measures |= self._pipeline.measures if self._pipeline is not None else {}
                self.log.append("end", attempt=self.attempt, code=code, **values, **measures, **self.requests())

    def requests(self) -> dict[str, dict[str, int]]:
        """What was sent to S3 by this worker, for the log; empty where nothing was."""
        sent = Counter(request_counts()) - self._requests_before
        return {"requests": dict(sorted(sent.items()))} if sent else {}

    def _say_away(self, error: StorageError) -> None:
        logger.error("event=storage_away: %s; what is left of the shard is for `clipmill resume`", error)
        self.log.append("error", attempt=self.attempt, message=f"{type(error).__name__}: {error}")

    def end_away(self, error: StorageError) -> int:
        """Storage gives no answer, which is no fault of any video; gives the exit code."""
        self.release()
        self._say_away(error)
        self._say_end(INCOMPLETE)
        return INCOMPLETE

    def _todo(self) -> list[Todo]:
        """Videos without a record. Those begun before come last: they may end this process again."""
        planned = self.run.shard(self.attempt, self.shard).videos
        entries = self.run.videos_at(video.offset for video in planned)
        begun_here = count_begun(read_events(self.run.shard_state_path(self.shard)))
        todo = []
        paths = (layout.record(entry.id) for entry in entries)
        recorded = read_ahead(self.storage.exists, paths, num_threads=_LOOKERS, at_most=_LOOKS_AHEAD)
        for video, entry, has_record in zip(planned, entries, recorded, strict=True):
            item = Todo(video.offset, entry, video.num_begun, part_of(video), known_size(video, entry))
            item.num_begun += begun_here[item.key]
            self._parts.add(item)
            if has_record:
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
        self._parts.clear(item.key)

    @cached_property
    def _provenance(self) -> dict[str, Any]:
        return provenance(self.config)

    def _record_failure(self, video: Video) -> bool:
        """Record a failed video unless it has a record already."""
        record = record_document(video, ClipStats(), provenance=self._provenance)
        self.lease.check()
        return self.storage.create(layout.record(video.id), to_json(record))

    def _feed(self, todo: list[Todo]) -> Iterator[VideoTask]:
        self._staging.want(item.wanted for item in todo)
        put_off, still_off = list[Todo](), list[Todo]()
        if not (yield from self._feed_once(todo, put_off)) or not (yield from self._feed_once(put_off, still_off)):
            return
        if still_off:  # only these can't be read, so the worker goes on to its end
            self._away = self._last_error
        while (item_to_redo := self._next_whole()) is not None:
            video = to_video(item_to_redo.entry)
            if not self._bring(item_to_redo, video):
                self._away = self._last_error
                return
            if not self._begin(item_to_redo.key):
                return
            yield VideoTask(item_to_redo.key, str(self.run.root), video)
        self._is_all_fed = self._away is None

    def _bring(self, item: Todo, video: Video) -> bool:
        """Have a video's bytes where they can be read, if they are not; False when storage fails, or this worker stops.

        An object that is not there is a failure of its video.
        """
        try:
            video.staged = self._staging.take(item.wanted)
        except FileNotFoundError:
            video.failure = Failure(FailureReason.NOT_FOUND, f"{video.id}: no such object: {item.entry.path}")
        except InterruptedError:
            self._last_error = None
            return False
        except StorageError as error:
            logger.warning("event=not_brought video=%s: %s", video.id, error)
            self._last_error = error
            return False
        return True

    def _feed_once(self, todo: list[Todo], put_off: list[Todo]) -> Generator[VideoTask, None, bool]:
        """Begin what is to do; what storage does not give for now is put off.

        Several in a row say that storage is away: then, and when this worker stops, no more is begun (False).
        """
        num_in_a_row = 0
        for item in todo:
            # what may be quarantined for it is processed alone the last time: it takes no innocent video with it
            is_suspect = item.num_begun >= max(1, self.config.worker.max_attempts - 1)
            if is_suspect:
                self._wait_until_idle()
            if self.stop.is_set():
                return False
            self.lease.check()
            is_done = self._is_superseded(item) or self.storage.exists(layout.record(item.entry.id))
            video = None if is_done else self._parts.to_do(item)
            if video is None:
                self._staging.give_back(item.key)
                continue
            if not self._bring(item, video):
                put_off.append(item)
                num_in_a_row += 1
                if self.stop.is_set() or num_in_a_row == _AWAY_AFTER:
                    self._away = self._last_error
                    return False
                continue
            num_in_a_row = 0
            if not self._begin(item.key):
                return False
            yield VideoTask(task_id=item.key, dataset_name=str(self.run.root), data=video)
            if is_suspect:
                self._wait_until_idle()
        return True

    def _next_whole(self) -> Todo | None:
        """A video that turned out not to be divisible, once known; None when none can come any more."""
        with self._idle:
            while not self._whole and self._parts.are_among(self._in_flight) and not self._ended.is_set():
                if self.stop.is_set():
                    return None
                self._idle.wait(timeout=1.0)
            return self._whole.pop() if self._whole else None

    def _begin(self, video_id: str) -> bool:
        """Mark a video as begun; False when this worker begins nothing more."""
        with self._idle:
            if self.stop.is_set() or self._ended.is_set():
                return False
            self._in_flight.add(video_id)
            self._told.begin(video_id)
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
                self._superseded |= {(v.offset, v.part) for shard in self.run.shards(attempt) for v in shard.videos}
                self._newest_attempt = attempt
        return (item.offset, item.part.index if item.part is not None else 0) in self._superseded

    def _finished(self, task: VideoTask) -> None:
        video, key = task.data, task.task_id
        self._staging.give_back(key)
        if video.part is not None and (video.failure is None or video.failure.reason is FailureReason.NOT_IN_PARTS):
            whole = self._parts.end(video, key)
            with self._idle:
                self._whole += [whole] if whole is not None else []
                self._leave_flight(key)
            return
        if video.failure is not None:
            self._record_failure(video)  # there already, but when the writer itself was at fault
        with self._idle:
            if video.failure is not None:
                reason, message = str(video.failure.reason), video.failure.message
                self.log.append("failed", video=video.id, reason=reason, message=message)
            else:
                stats = video.clip_stats
                self.log.append("done", video=video.id, clips=stats.num_passed, clip_s=stats.total_clip_duration)
            self._leave_flight(key)
        self._parts.clear(key)

    def _leave_flight(self, key: str) -> None:
        """Something came to its end. A part's own end is no end of its video: its begin-marker is taken back."""
        if self._parts.are_among({key}):
            self.log.append("released", video=key)
        self._in_flight.discard(key)
        self._told.end(key)
        self.num_ended += 1
        self._idle.notify_all()

    def release(self) -> None:
        """Take back the begin-markers of what did not finish for a reason that is not the videos'."""
        with self._idle:
            for video in sorted(self._in_flight - self._released):
                self.log.append("released", video=video)
                self._released.add(video)

    def request_stop(self) -> None:
        """Take no more videos; what is in flight may finish within the grace, then the process ends."""
        self.stop.set()
        for delay_s, call in ((_GRACE_S, self._give_up), (_GRACE_S + LAST_WORDS_S, end_now)):
            timer = threading.Timer(delay_s, call)
            timer.daemon = True
            timer.start()
            self._last_calls.append(timer)
        with contextlib.suppress(OSError):
            self.release()  # now: a site may kill long before the grace is over, and that is no video's fault

    def close(self) -> None:
        """The worker has ended; a process that goes on with other work is not ended by it."""
        for timer in self._last_calls:
            timer.cancel()

    def _give_up(self) -> None:
        logger.warning("event=stopped shard=%d unfinished=%d", self.shard, len(self._in_flight))
        with contextlib.suppress(OSError):  # where the run folder is full or away, too, the process ends
            self.release()
            self._say_end(INCOMPLETE)
            self.lease.release()
            self._staging.close()
            self._told.close()
        self.leave()
        end_now()

    def leave(self) -> None:
        """What comes last of all, once."""
        with self._idle:
            has_left, self._has_left = self._has_left, True
        if not has_left:
            self.before_exit()


def end_now() -> None:
    """A decoder deep in C can't be asked to stop; everything published is whole."""
    logging.shutdown()
    os._exit(INCOMPLETE)
