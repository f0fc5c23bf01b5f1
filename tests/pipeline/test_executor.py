"""The engine: what travels, what stops it, how much it holds. Stages here are small and real."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from curation.errors import Failure, FailureReason, StopRunError, StorageError, VideoError
from curation.model import Video, VideoTask
from curation.pipeline import BatchStage, ByteBoundedQueue, FailureBudgetError, Pipeline, Stage, apply_batch
from curation.video.frames import FrameRequest
from tests.patience import PATIENCE_S

STARTUP_S = 0.3  # how long a thread that must not go on is watched


def task(name: str, *, num_bytes: int = 0) -> VideoTask:
    return VideoTask(name, "test", Video(Path(name), source_bytes=bytes(num_bytes) if num_bytes else None))


def tasks(num_tasks: int, *, num_bytes: int = 0) -> Iterator[VideoTask]:
    return (task(f"v{index}", num_bytes=num_bytes) for index in range(num_tasks))


def ids(found: Iterable[VideoTask]) -> list[str]:
    return [each.data.id for each in found]


class Applying(Stage):
    """Does something to each task."""

    name = "applying"

    def __init__(self, apply: Callable[[VideoTask], object] = lambda _: None) -> None:
        self._apply = apply
        self.seen: list[str] = []

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        self._apply(task)
        self.seen.append(task.data.id)
        yield task


class Doubling(Stage):
    """Gives each task twice, as a long video leaves in chunks."""

    name = "doubling"

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        yield task
        yield VideoTask(f"{task.task_id}+", "test", Video(Path(f"{task.data.id}+")))


class Recording(Applying):
    """Sees the failures, too."""

    name = "recording"
    takes_failures = True


class Asking(Applying):
    def frame_requests(self) -> list[FrameRequest]:
        return [FrameRequest("small", 1.0, 24, "rgb24")]


class Serving(Applying):
    serves_frames = True

    def request_frames(self, requests: Sequence[FrameRequest]) -> None:
        self.asked = list(requests)


class Broken(Applying):
    def setup(self) -> None:
        raise FileNotFoundError("no weights in /models")


def raising(error: Exception, *, on: str) -> Callable[[VideoTask], None]:
    def apply(task: VideoTask) -> None:
        if task.data.id == on:
            raise error

    return apply


def test_every_task_leaves_in_the_order_in_which_it_came() -> None:
    pipeline = Pipeline("p").add_stage(Applying()).add_stage(Applying()).add_stage(Applying())
    assert ids(pipeline.run(tasks(20))) == ids(tasks(20))


def test_without_stages_or_without_tasks_nothing_happens_to_anything() -> None:
    assert ids(Pipeline("p").run(tasks(3))) == ids(tasks(3))
    assert Pipeline("p").add_stage(Applying()).run() == []


def test_what_a_stage_gives_in_several_tasks_arrives_in_their_order() -> None:
    found = Pipeline("p").add_stage(Doubling()).add_stage(Applying()).run(tasks(2))
    assert ids(found) == ["v0", "v0+", "v1", "v1+"]


def test_a_bad_video_fails_alone_and_travels_on_as_a_failure() -> None:
    error = VideoError(FailureReason.NO_FRAMES, "v1: the video stream yields no frame")
    after, recording = Applying(), Recording()
    pipeline = Pipeline("p").add_stage(Applying(raising(error, on="v1"))).add_stage(after).add_stage(recording)
    found = pipeline.run(tasks(3))
    assert ids(found) == ["v0", "v1", "v2"]
    failures = [each.data.failure for each in found]
    assert [failure and (failure.reason, failure.message) for failure in failures] == [
        None,
        (FailureReason.NO_FRAMES, "v1: the video stream yields no frame"),
        None,
    ]
    assert after.seen == ["v0", "v2"]
    assert recording.seen == ["v0", "v1", "v2"]


def test_a_defect_of_a_stage_costs_one_video_and_is_logged_as_an_error(caplog: pytest.LogCaptureFixture) -> None:
    broken = Applying(raising(ZeroDivisionError("division by zero"), on="v1"))
    found = Pipeline("p").add_stage(broken).run(tasks(3))
    failures = [each.data.failure for each in found]
    assert [failure and failure.reason for failure in failures] == [None, FailureReason.INTERNAL, None]
    assert failures[1] is not None
    assert failures[1].message == "applying: ZeroDivisionError: division by zero"
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None


def test_a_video_that_can_not_be_processed_is_no_error_of_the_run(caplog: pytest.LogCaptureFixture) -> None:
    error = VideoError(FailureReason.EMPTY_FILE, "v0: the file has 0 bytes")
    Pipeline("p").add_stage(Applying(raising(error, on="v0"))).run(tasks(1))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "video=v0" in record.getMessage()
    assert "reason=empty_file" in record.getMessage()


@pytest.mark.parametrize("error", [StorageError("can't write x: No space left on device"), StopRunError("no")], ids=str)
def test_when_nothing_can_be_processed_the_run_stops_and_says_why(error: Exception) -> None:
    stage = Applying(raising(error, on="v2"))
    left: list[VideoTask] = []
    with pytest.raises(type(error)) as caught:
        left.extend(Pipeline("p").add_stage(stage).stream(tasks(50)))
    assert caught.value is error
    assert stage.seen == ["v0", "v1"]
    assert ids(left) == ids(tasks(2))[: len(left)]


def test_a_stage_that_can_not_be_set_up_stops_the_run() -> None:
    with pytest.raises(FileNotFoundError, match="no weights in /models"):
        Pipeline("p").add_stage(Applying()).add_stage(Broken()).run(tasks(3))


def test_an_input_that_breaks_off_stops_the_run() -> None:
    def breaking_off() -> Iterator[VideoTask]:
        yield task("v0")
        raise StorageError("can't read the manifest")

    with pytest.raises(StorageError, match="manifest"):
        Pipeline("p").add_stage(Applying()).run(breaking_off())


def test_no_thread_is_left_when_the_caller_takes_no_more() -> None:
    before = threading.active_count()
    stream = Pipeline("p").add_stage(Applying()).add_stage(Applying()).stream(tasks(1000))
    assert next(stream).data.id == "v0"
    stream.close()  # type: ignore[attr-defined]  # a generator
    assert wait_until(lambda: threading.active_count() == before)


def wait_until(holds: Callable[[], bool], *, timeout_s: float = PATIENCE_S) -> bool:
    end = time.monotonic() + timeout_s
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


@pytest.mark.parametrize("num_bytes", [0, 1000])
def test_input_is_taken_only_as_it_is_needed(num_bytes: int) -> None:
    taken: list[str] = []

    def noting() -> Iterator[VideoTask]:
        for each in tasks(1000, num_bytes=num_bytes):
            taken.append(each.data.id)
            yield each

    at_work, go_on = threading.Event(), threading.Event()

    def wait(_: VideoTask) -> None:
        at_work.set()
        go_on.wait(10)

    stream = Pipeline("p", max_queue_bytes=4000).add_stage(Applying(wait)).stream(noting())
    consumer = threading.Thread(target=lambda: list(stream), daemon=True)
    consumer.start()
    assert at_work.wait(5)
    time.sleep(STARTUP_S)
    assert len(taken) <= 8
    go_on.set()
    consumer.join(30)
    assert len(taken) == 1000


def test_a_fast_producer_waits_until_there_is_room_for_its_bytes() -> None:
    queue = ByteBoundedQueue(1000, threading.Event(), max_tasks=100)
    assert queue.put(task("a", num_bytes=600))
    assert queue.put(task("b", num_bytes=400))
    producer = threading.Thread(target=queue.put, args=(task("c", num_bytes=1),), daemon=True)
    producer.start()
    producer.join(STARTUP_S)
    assert producer.is_alive()
    assert ids([queue.get() or task("?")]) == ["a"]
    producer.join(5)
    assert not producer.is_alive()
    assert ids([queue.get() or task("?"), queue.get() or task("?")]) == ["b", "c"]


def test_a_task_larger_than_the_bound_goes_through_alone() -> None:
    queue = ByteBoundedQueue(1000, threading.Event())
    assert queue.put(task("a", num_bytes=5000))
    assert ids([queue.get() or task("?")]) == ["a"]


def test_a_stopped_queue_lets_its_producer_and_its_consumer_go() -> None:
    stop = threading.Event()
    queue = ByteBoundedQueue(1000, stop)
    assert queue.put(task("a", num_bytes=1000))
    stop.set()
    assert not queue.put(task("b", num_bytes=1))
    assert queue.get() is None


def test_a_stage_that_serves_frames_is_told_what_the_others_ask_for() -> None:
    serving = Serving()
    Pipeline("p").add_stage(serving).add_stage(Asking()).add_stage(Asking()).run(tasks(1))
    assert [request.key for request in serving.asked] == ["small", "small"]


class Meeting(Stage):
    """Goes on only when as many threads are in it as it has; in another order than they came."""

    name = "meeting"
    num_workers = 3

    def __init__(self) -> None:
        self.num_set_up = 0
        self._barrier = threading.Barrier(self.num_workers)

    def setup(self) -> None:
        self.num_set_up += 1

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        self._barrier.wait(timeout=PATIENCE_S)
        time.sleep(0.01 * (hash(task.data.id) % 3))
        yield task
        yield VideoTask(f"{task.task_id}+", "test", Video(Path(f"{task.data.id}+")))


def test_a_stage_with_several_workers_has_several_videos_at_once_and_loses_none() -> None:
    meeting, after = Meeting(), Applying()
    pipeline = Pipeline("p").add_stage(Applying()).add_stage(meeting).add_stage(after)
    done = ids(pipeline.run(tasks(12)))
    assert sorted(done) == sorted(f"v{k}{chunk}" for k in range(12) for chunk in ("", "+"))
    assert all(done.index(f"v{k}") < done.index(f"v{k}+") for k in range(12))  # chunks of one video stay in order
    assert after.seen == done
    assert meeting.num_set_up == 1
    assert set(pipeline.times) == {"applying", "meeting"}


def test_an_error_in_one_of_several_workers_stops_them_all() -> None:
    class Refusing(Meeting):
        def process(self, task: VideoTask) -> Iterable[VideoTask]:
            if task.data.id == "v4":
                raise StorageError("the disk is full")
            yield task

    with pytest.raises(StorageError, match="the disk is full"):
        Pipeline("p").add_stage(Refusing()).run(tasks(1000))


class Batching(BatchStage):
    """Refuses the videos with these ids, and every batch that holds one of them."""

    name = "batching"
    batch_size = 4

    def __init__(self, *refused: str, error: type[Exception] = ValueError) -> None:
        self._refused, self._error = refused, error
        self.batches: list[list[str]] = []

    def process_batch(self, tasks: Sequence[VideoTask]) -> Sequence[VideoTask]:
        self.batches.append(ids(tasks))
        for each in tasks:
            if each.data.id in self._refused:
                raise self._error(f"{each.data.id} is refused")
        return [*reversed(tasks)]  # in any order


def test_a_batch_is_what_is_there_up_to_its_size_and_nobody_waits_for_more() -> None:
    batching = Batching()
    with_room = ByteBoundedQueue(10**6, threading.Event(), max_tasks=10)
    for each in tasks(6):
        with_room.put(each)
    assert ids(with_room.get_present(4)) == ["v0", "v1", "v2", "v3"]
    with_room.put(None)
    assert ids(with_room.get_present(4)) == ["v4", "v5"]
    assert with_room.get() is None
    found = Pipeline("p").add_stage(Applying()).add_stage(batching).run(tasks(50))
    assert sorted(ids(found)) == sorted(ids(tasks(50)))
    assert sorted(name for batch in batching.batches for name in batch) == sorted(ids(tasks(50)))
    assert max(len(batch) for batch in batching.batches) <= 4


@pytest.mark.parametrize("error", [ValueError, MemoryError])
def test_a_failing_batch_is_tried_again_one_by_one_and_only_the_task_at_fault_fails(error: type[Exception]) -> None:
    batching = Batching("v1", error=error)
    found = list(apply_batch(batching, list(tasks(4))))
    assert batching.batches == [["v0", "v1", "v2", "v3"], ["v0"], ["v1"], ["v2"], ["v3"]]
    expected = FailureReason.INTERNAL if error is ValueError else FailureReason.MEMORY
    assert {each.data.id: each.data.failure and each.data.failure.reason for each in found} == {
        "v0": None,
        "v1": expected,
        "v2": None,
        "v3": None,
    }


def test_failed_videos_pass_a_batch_by() -> None:
    given = list(tasks(3))
    given[1].data.failure = Failure(FailureReason.NO_FRAMES, "v1: none")
    batching = Batching()
    found = list(apply_batch(batching, given))
    assert sorted(ids(found)) == ["v0", "v1", "v2"]
    assert batching.batches == [["v0", "v2"]]


def test_a_batch_does_not_hide_that_nothing_can_be_processed() -> None:
    with pytest.raises(StorageError):
        list(apply_batch(Batching("v1", error=StorageError), list(tasks(3))))


class Finishing(Stage):
    """Fails the videos with these numbers; the others end in their second chunk."""

    name = "finishing"

    def __init__(self, failing: Callable[[int], bool]) -> None:
        self._failing = failing

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        yield VideoTask(task.task_id, "test", Video(Path(task.data.id)))
        if self._failing(int(task.data.id[1:])):
            raise VideoError(FailureReason.NOT_FOUND, f"{task.data.id}: no such file")
        last = Video(Path(task.data.id), clip_chunk_index=1, num_clip_chunks=2)
        yield VideoTask(task.task_id, "test", last)


def test_a_hopeless_run_is_stopped_after_a_hundred_videos_and_says_why() -> None:
    pipeline = Pipeline("p", max_failure_rate=0.3).add_stage(Finishing(lambda number: number % 3 == 0))
    left: list[VideoTask] = []
    with pytest.raises(FailureBudgetError) as caught:
        left.extend(pipeline.stream(tasks(1000)))
    assert str(caught.value) == (
        "34 of 100 videos failed, more than max_failure_rate 0.3 allows (34 not_found, first: v0: no such file)"
    )


@pytest.mark.parametrize(
    ("rate", "num_videos"),
    [
        pytest.param(0.5, 300, id="half of them may fail, and half do"),
        pytest.param(None, 300, id="no budget"),
        pytest.param(0.1, 99, id="too few to judge"),
    ],
)
def test_within_the_budget_nothing_is_stopped(rate: float | None, num_videos: int) -> None:
    pipeline = Pipeline("p", max_failure_rate=rate).add_stage(Finishing(lambda number: number % 2 == 1))
    found = pipeline.run(tasks(num_videos))
    assert sum(each.data.failure is not None for each in found) == num_videos // 2
