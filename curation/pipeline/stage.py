"""What a stage is, and what becomes of its tasks: what goes wrong with a video is a value that travels on with it."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from curation.errors import Failure, FailureReason, StopRunError, VideoError
from curation.model import VideoTask
from curation.video.frames import FrameRequest

logger = logging.getLogger(__name__)


class Stage(ABC):
    """One step. ``process`` may yield one task, or several (a long video goes on in chunks)."""

    name: ClassVar[str]
    takes_failures: ClassVar[bool] = False  # whether failed videos are shown to this stage or pass it by
    serves_frames: ClassVar[bool] = False  # whether this stage samples frames for the others
    in_child: ClassVar[bool] = False  # whether it belongs into a decode child, where there are some: it must pickle
    gpu_memory_gb: float = 0.0  # what its models take of a GPU, where there is one
    max_idle_s: float | None = None  # without a task for so long it is asked for what it holds back
    num_workers: int = 1  # threads that run ``process`` at once; tasks of one video leave in the order they came
    max_held_bytes: int | None = None  # threads take no further task while theirs hold more; None: no limit
    busy_s: float | None = None  # its own count of seconds at work, where its threads mostly wait for one thing

    def setup(self) -> None:  # noqa: B027  (most stages have nothing to prepare)
        """Load what ``process`` needs (models, encoders); runs once, before the first task."""

    def close(self) -> None:  # noqa: B027  (most stages have nothing to end)
        """Called once when the pipeline ends, for whatever reason; what ``process`` still does is not wanted."""

    @abstractmethod
    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        """Work on a task.

        Raises:
            VideoError: the video can't be processed; it goes on as a failure with its reason.
            StopRunError: nothing can be processed; the run stops.
        """

    def drained(self) -> Iterable[VideoTask]:
        """What was held back, when no more tasks come, or none came for ``max_idle_s``."""
        return ()

    def measures(self) -> dict[str, dict[str, Any]]:
        """What it measured so far, by name, for the log of the run."""
        return {}

    def joined(self, following: "Stage") -> "Stage | None":
        """One stage that does the work of this one and the next with fewer decodes, where there is one."""
        del following
        return None

    def frame_requests(self) -> list[FrameRequest]:
        """The frames of each clip that this stage wants to find on it."""
        return []

    def request_frames(self, requests: Sequence[FrameRequest]) -> None:  # noqa: B027  (only one stage serves)
        """Told to a stage that serves frames: what the other stages asked for."""


class BatchStage(Stage):
    """A step that is cheaper for several tasks at once, whatever videos they are of."""

    batch_size: int = 8  # tasks at most; what is there is taken, nobody waits for a batch to fill

    @abstractmethod
    def process_batch(self, tasks: Sequence[VideoTask]) -> Sequence[VideoTask]:
        """Work on tasks; raises as ``process``.

        A batch that fails is given again task by task, so that only the task at fault fails: what a task was given by
        the first try must do no harm in the second.
        """

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        """A batch of one."""
        return self.process_batch([task])


def apply_stage(stage: Stage, task: VideoTask) -> Iterator[VideoTask]:
    """Let a stage process a task; what goes wrong with the video becomes a failure that travels on with it."""
    if task.data.failure is not None and not stage.takes_failures:
        yield task
        return
    try:
        yield from stage.process(task)
    except StopRunError:
        raise
    except Exception as error:  # noqa: BLE001  (the stage loop: a defect costs one video)
        yield _failed(task, _failure(stage, task, error))


def apply_batch(stage: BatchStage, tasks: Sequence[VideoTask]) -> Iterator[VideoTask]:
    """Let a stage process tasks together; when that fails one by one, so that only the task at fault does."""
    taken = [task for task in tasks if stage.takes_failures or task.data.failure is None]
    taken_ids = {id(task) for task in taken}
    yield from (task for task in tasks if id(task) not in taken_ids)
    if len(taken) > 1:
        try:
            results = list(stage.process_batch(taken))
        except StopRunError:
            raise
        except Exception as error:  # noqa: BLE001  (the same loop for a batch)
            logger.warning("event=batch_retried stage=%s tasks=%d error=%s", stage.name, len(taken), error)
        else:
            yield from results
            return
    for task in taken:
        yield from apply_stage(stage, task)


def _failure(stage: Stage, task: VideoTask, error: Exception) -> Failure:
    if isinstance(error, VideoError):
        logger.warning("event=video_failed video=%s stage=%s reason=%s", task.data.id, stage.name, error.reason)
        return Failure(error.reason, error.message)
    if isinstance(error, MemoryError):
        logger.warning("event=video_failed video=%s stage=%s reason=memory", task.data.id, stage.name)
        return Failure(FailureReason.MEMORY, f"{task.data.id}: {stage.name} needs more memory than it may take")
    logger.error("event=internal_error video=%s stage=%s", task.data.id, stage.name, exc_info=error)
    return Failure(FailureReason.INTERNAL, f"{stage.name}: {type(error).__name__}: {error}")


def _failed(task: VideoTask, failure: Failure) -> VideoTask:
    task.data.failure = failure
    return task
