"""Stages joined by bounded queues: while one video is decoded, another is written. The only threads of the library."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from curation.errors import Failure, FailureReason, StopRunError
from curation.model import VideoTask
from curation.pipeline.queues import MAX_QUEUED_TASKS, ByteBoundedQueue
from curation.pipeline.stage import BatchStage, Stage
from curation.pipeline.stage_run import StageLook, StageRun, StageTimes

_JUDGED_AFTER_VIDEOS = 100


class FailureBudgetError(StopRunError):
    """So many videos failed that the cause is not likely to be theirs."""


class Sandbox(Protocol):
    """Keeps what can go wrong in C away from the worker's process."""

    def around(self, stages: Sequence[Stage], spent: "dict[str, StageTimes]") -> Stage:
        """One stage that runs these in processes of their own, and adds their seconds to ``spent``."""


class Pipeline:
    """Stages in order, each in threads of its own.

    >>> Pipeline("previews").add_stage(PreviewStage()).run(tasks)  # doctest: +SKIP
    """

    def __init__(
        self,
        name: str,
        description: str = "",
        *,
        max_queue_bytes: int = 256 * 2**20,
        max_failure_rate: float | None = None,
        sandbox: Sandbox | None = None,
    ) -> None:
        """Configure the run.

        Args:
            max_queue_bytes: what the tasks in one queue may hold together.
            max_failure_rate: the run stops when more than this share of the videos failed, from 100 videos on.
            sandbox: runs the first stages, as far as they are ``in_child``; None runs them in threads, as the others.
        """
        self.name = name
        self.description = description
        self.stages: list[Stage] = []
        self.times: dict[str, StageTimes] = {}  # by stage, of the last run; until its end of those in children only
        self._runs: list[StageRun] = []
        self._max_queue_bytes = max_queue_bytes
        self._max_failure_rate = max_failure_rate
        self._sandbox = sandbox

    def add_stage(self, stage: Stage) -> "Pipeline":
        """Append a stage; gives the pipeline back so that calls can be chained."""
        self.stages.append(stage)
        return self

    def run(self, tasks: Iterable[VideoTask] | None = None) -> list[VideoTask]:
        """Run all tasks to the end and give what comes out, failures included, in order of completion."""
        return list(self.stream(tasks or []))

    def stream(self, tasks: Iterable[VideoTask]) -> Iterator[VideoTask]:
        """Run tasks and give each as it leaves the last stage. Tasks are taken from ``tasks`` only as room allows.

        Raises:
            StopRunError: a stage could not read or write, for example, or too many videos failed; what had left the
                pipeline before stays valid.
        """
        self.times = {}
        stages = self._stages_to_run()
        stop = threading.Event()
        errors: list[BaseException] = []
        queues = [ByteBoundedQueue(self._max_queue_bytes, stop, max_tasks=_room_before(stage)) for stage in stages]
        queues.append(ByteBoundedQueue(self._max_queue_bytes, stop))
        feeder = threading.Thread(target=_guarded, args=(_feed, errors, stop, tasks, queues[0]), name="feed")
        runs = [
            StageRun(stage, source, into, stop) for stage, source, into in zip(stages, queues, queues[1:], strict=False)
        ]
        self._runs = runs
        workers = [
            threading.Thread(target=_guarded, args=(run.work, errors, stop), name=run.stage.name)
            for run in runs
            for _ in range(run.stage.num_workers)
        ]
        for thread in (feeder, *workers):
            thread.daemon = True
            thread.start()
        try:
            yield from self._within_budget(queues[-1])
        finally:
            stop.set()
            for stage in stages:
                stage.close()
            for thread in workers:  # the feeder may be waiting inside the caller's iterator
                thread.join()
            for run in runs:
                self._add_times(run)
        if errors:
            raise errors[0]

    def _add_times(self, run: StageRun) -> None:
        times = run.times
        if run.stage.busy_s is not None:
            times.busy_s = run.stage.busy_s
        self.times.setdefault(run.stage.name, StageTimes()).add(times)

    def looks(self) -> list[StageLook]:
        """How the stages stand now, in the order in which tasks go through them; for any thread, at any time.

        ``busy`` are seconds of threads here: where these wait for one engine, its own seconds are known at the end.
        """
        runs = self._runs
        names = {run.stage.name for run in runs}
        in_children = {name: times.busy_s for name, times in dict(self.times).items() if name not in names}
        return [
            StageLook(run.stage.name, run.times, run.num_queued, in_children if k == 0 else {})
            for k, run in enumerate(runs)
        ]

    @property
    def measures(self) -> dict[str, dict[str, Any]]:
        """What stages measured beside their times, so far, by name."""
        found: dict[str, dict[str, Any]] = {}
        for stage in self.stages:
            for name, measured in stage.measures().items():
                found.setdefault(name, {}).update(measured)
        return found

    def _stages_to_run(self) -> list[Stage]:
        """The stages, joined where that saves work, each told what it needs to know of the others."""
        stages = _joined(self.stages)
        _share_frame_requests(stages)
        num_in_child = next((k for k, stage in enumerate(stages) if not stage.in_child), len(stages))
        if self._sandbox is None or num_in_child == 0:
            return stages
        return [self._sandbox.around(stages[:num_in_child], self.times), *stages[num_in_child:]]

    def _within_budget(self, outlet: ByteBoundedQueue) -> Iterator[VideoTask]:
        num_videos, failures = 0, _Failures()
        while (task := outlet.get()) is not None:
            failure = task.data.failure
            if failure is not None and failure.reason is FailureReason.NOT_IN_PARTS:  # it is done whole instead
                yield task
                continue
            num_videos += failure is not None or task.data.num_clip_chunks > 0  # its last task
            if failure is not None:
                failures.count(failure)
            yield task
            rate = failures.num_videos / num_videos if num_videos else 0.0
            if (
                self._max_failure_rate is not None
                and num_videos >= _JUDGED_AFTER_VIDEOS
                and rate > self._max_failure_rate
            ):
                raise FailureBudgetError(failures.message(num_videos, limit=self._max_failure_rate))


class _Failures:
    """The failures of a run, by reason, and the first of each."""

    def __init__(self) -> None:
        self._reasons: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    @property
    def num_videos(self) -> int:
        return self._reasons.total()

    def count(self, failure: Failure) -> None:
        self._reasons[str(failure.reason)] += 1
        self._first.setdefault(str(failure.reason), failure.message)

    def message(self, num_videos: int, *, limit: float) -> str:
        reasons = "; ".join(
            f"{count} {reason}, first: {self._first[reason]}" for reason, count in self._reasons.items()
        )
        return (
            f"{self.num_videos} of {num_videos} videos failed, more than max_failure_rate {limit:g} allows ({reasons})"
        )


def _room_before(stage: Stage) -> int:
    return max(MAX_QUEUED_TASKS, stage.batch_size if isinstance(stage, BatchStage) else 1)


def _joined(stages: Sequence[Stage]) -> list[Stage]:
    """The stages with neighbours joined where that saves work."""
    joined: list[Stage] = []
    for stage in stages:
        together = joined[-1].joined(stage) if joined else None
        joined = [*joined[:-1], together] if together is not None else [*joined, stage]
    return joined


def _share_frame_requests(stages: Sequence[Stage]) -> None:
    requests = [request for stage in stages for request in stage.frame_requests()]
    for stage in stages:
        if stage.serves_frames:
            stage.request_frames(requests)


def _guarded(work: Callable[..., None], errors: list[BaseException], stop: threading.Event, *args: object) -> None:
    """Run a thread's work; what it raises stops all the others and is raised again by the pipeline."""
    try:
        work(*args)
    except BaseException as error:  # noqa: BLE001  (a thread's last line: raised again in the caller's thread)
        errors.append(error)
        stop.set()


def _feed(tasks: Iterable[VideoTask], into: ByteBoundedQueue) -> None:
    for task in tasks:
        if not into.put(task):
            return
    into.put(None)
