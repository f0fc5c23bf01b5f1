"""What goes wrong in a decode child costs the video that it is at, with its reason; nothing is lost or given twice."""

import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from curation.clipping.fixed_stride import FixedStrideExtractorStage
from curation.clipping.reader import VideoReaderStage
from curation.clipping.transcoding import ClipTranscodingStage
from curation.errors import FailureReason, StopRunError, VideoError
from curation.model import Clip, Video, VideoTask
from curation.pipeline import Pipeline, Stage
from curation.pipeline.sandbox import DecodeSandbox, _Watch
from curation.preview.preview import PreviewStage
from curation.video.probe import SourceLimits
from tests.faulty_stages import MIB, Adding, Asking, Carrying, Chunks, Faulty, LeavesBehind
from tests.footage import small_footage
from tests.synthetic import make_video
from tests.video.test_limits import make_black

QUICK = {"stall_timeout_s": 4.0, "video_timeout_s": 12.0, "memory_bytes": 400 * MIB}


def tasks(*names: str) -> Iterator[VideoTask]:
    return (VideoTask(name, "test", Video(Path(name), id=name)) for name in names)


def sandboxed(*stages: Stage, **limits: float) -> Pipeline:
    pipeline = Pipeline("p", sandbox=DecodeSandbox(**(QUICK | limits)))  # type: ignore[arg-type]
    for stage in stages:
        pipeline.add_stage(stage)
    return pipeline


def reasons(found: Sequence[VideoTask]) -> dict[str, FailureReason | None]:
    return {each.data.id: each.data.failure.reason if each.data.failure else None for each in found}


def children_of_this_process() -> set[int]:
    folder = Path(f"/proc/{os.getpid()}/task")
    return {int(pid) for each in folder.glob("*/children") for pid in each.read_text().split()}


@pytest.mark.parametrize(
    ("fault", "reason", "says"),
    [
        pytest.param("spin", FailureReason.STALLED, "no progress for 4 s", id="a decoder that spins"),
        pytest.param("hang", FailureReason.STALLED, "no progress for 4 s", id="a decoder that waits for ever"),
        pytest.param("segfault", FailureReason.CRASHED, "ended by SIGSEGV, 3 times", id="a decoder that crashes"),
        pytest.param("leave", FailureReason.CRASHED, "with exit status 7, 3 times", id="a decoder that exits"),
        pytest.param("leak", FailureReason.MEMORY, "more memory than it may take", id="a decoder that leaks"),
        pytest.param("crawl", FailureReason.TIMEOUT, "took more than 12 s", id="a video without an end"),
    ],
)
def test_a_fault_costs_its_video_and_no_other(fault: str, reason: FailureReason, says: str) -> None:
    before = children_of_this_process()
    found = sandboxed(Faulty()).run(tasks("a", fault, "b", "c"))
    assert [each.data.id for each in found] == ["a", fault, "b", "c"]
    assert reasons(found) == {"a": None, fault: reason, "b": None, "c": None}
    failure = found[1].data.failure
    assert failure is not None
    assert failure.message.startswith(f"{fault}: ")
    assert says in failure.message
    assert children_of_this_process() == before


def test_several_children_have_several_videos_at_once_and_each_fault_costs_one() -> None:
    names = ["a", "spin", "b", "segfault", "leak", "c", "hang", "d"]
    found = sandboxed(Faulty(), num_children=3).run(tasks(*names))
    assert sorted(each.data.id for each in found) == sorted(names)
    assert {name for name, reason in reasons(found).items() if reason is None} == {"a", "b", "c", "d"}


def test_a_child_that_was_killed_from_outside_is_replaced_and_no_chunk_is_lost_or_given_twice(tmp_path: Path) -> None:
    found = sandboxed(Chunks(tmp_path / "died")).run(tasks("a", "dies_once", "b"))
    assert (tmp_path / "died").exists()
    assert [(each.data.id, each.data.clip_chunk_index) for each in found] == [
        (name, index) for name in ("a", "dies_once", "b") for index in range(3)
    ]
    assert set(reasons(found).values()) == {None}


def test_a_video_that_kills_each_child_fails_after_the_chunks_that_it_gave(tmp_path: Path) -> None:
    found = sandboxed(Chunks(tmp_path / "died")).run(tasks("dies_always", "b"))
    assert [(each.data.id, each.data.clip_chunk_index) for each in found[:2]] == [
        ("dies_always", 0),
        ("dies_always", 1),
    ]
    assert reasons(found) == {"dies_always": FailureReason.CRASHED, "b": None}
    assert len(found) == 6


def test_what_earlier_videos_left_behind_is_no_fault_of_the_next() -> None:
    found = sandboxed(LeavesBehind(), memory_bytes=300 * MIB).run(tasks(*"abcdefg"))
    assert set(reasons(found).values()) == {None}


def test_models_stay_in_the_worker_and_children_call_them() -> None:
    model = Adding()
    found = sandboxed(Asking(model), num_children=2).run(tasks(*"1234567"))
    sums = {each.data.id: each.data.errors["sum"].rsplit(" ", 1) for each in found}
    assert {name: said for name, (said, _) in sums.items()} == {
        str(n): f"{n + 5} (300, 1000) {n + 5} {n + 5}" for n in range(1, 8)
    }
    assert str(os.getpid()) not in {pid for _, pid in sums.values()}
    assert model.pids == {os.getpid()}


def test_a_model_that_fails_fails_the_video_that_asked() -> None:
    found = sandboxed(Asking(Adding())).run(tasks("1", "9999999", "2"))
    assert reasons(found) == {"1": None, "9999999": FailureReason.INTERNAL, "2": None}
    assert found[1].data.failure is not None
    assert "ValueError: numbers too large" in found[1].data.failure.message


def test_bytes_and_arrays_arrive_as_they_were() -> None:
    clip = Clip(uuid4(), "v", (0.0, 1.0))
    (found,) = sandboxed(Carrying()).run([VideoTask("v", "test", Video(Path("v"), clips=[clip]))])
    carried = found.data.clips[0]
    assert carried.buffer == bytes(range(256)) * 4000
    large = np.arange(60_000 * 3, dtype=np.uint8).reshape(300, 200, 3)
    assert np.array_equal(carried.extracted_frames["large"], large)
    turned = np.arange(90_000, dtype=np.uint8).reshape(300, 300).T
    assert np.array_equal(carried.extracted_frames["turned"], turned)
    assert carried.extracted_frames["small"].shape == (2, 3)
    assert carried.extracted_frames["none"].shape == (0, 3)
    carried.extracted_frames["large"][0] = 0  # and may be written to
    assert carried.uuid == clip.uuid


def test_a_pipeline_that_is_given_up_leaves_no_process_behind() -> None:
    before = children_of_this_process()
    stream = sandboxed(Faulty(), num_children=2, stall_timeout_s=600.0).stream(tasks("a", "b", "spin", "hang", "c"))
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # a generator
    assert children_of_this_process() == before


def test_time_suspended_is_not_taken_for_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that `scontrol suspend` stopped for an hour goes on where it was, child and all."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    watch = _Watch(DecodeSandbox(stall_timeout_s=3.0), os.getpid(), "v")
    now += 3600.0
    watch.look(is_sign_of_life=False)
    for _ in range(3):
        now += 0.5
        watch.look(is_sign_of_life=False)
    now += 3600.0
    with pytest.raises(VideoError, match="no progress for 3 s"):
        watch.look(is_sign_of_life=False)


def test_children_end_when_the_thread_that_uses_them_is_gone() -> None:
    before = children_of_this_process()
    stage = DecodeSandbox().around([Faulty()], {})
    stage.setup()
    worker = threading.Thread(target=lambda: list(stage.process(next(tasks("a")))))
    worker.start()
    worker.join()
    stage.close()
    assert children_of_this_process() == before


class Local(Faulty):
    """Can't be found by its name."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return __import__, ("no_such_module",)


def test_a_stage_that_can_not_be_loaded_in_a_child_stops_the_run() -> None:
    with pytest.raises(StopRunError, match="can't be loaded there: No module named 'no_such_module'"):
        sandboxed(Local()).run(tasks("a"))


def what_is_known_of(task: VideoTask) -> list[object]:
    video = task.data
    clips = [
        (clip.uuid, clip.span, clip.buffer, [(window.span, window.webp_bytes) for window in clip.windows])
        for clip in video.clips
    ]
    num_decoded = video.decode_count.num_frames if video.num_clip_chunks else None
    return [video.id, video.failure, video.metadata, video.clip_chunk_index, video.num_clip_chunks, num_decoded, clips]


def test_real_videos_are_the_same_with_children_and_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    paths = [
        small_footage("big_buck_bunny_1.mp4"),
        tmp_path / "broken.mp4",
        make_video(tmp_path / "b.mp4", num_frames=100),
    ]

    def outcome(sandbox: DecodeSandbox | None) -> tuple[list[object], Pipeline]:
        pipeline = Pipeline("p", sandbox=sandbox).add_stage(VideoReaderStage())
        pipeline.add_stage(FixedStrideExtractorStage(2.0)).add_stage(ClipTranscodingStage(num_clips_per_chunk=3))
        pipeline.add_stage(PreviewStage(compression_level=1))
        found = pipeline.run(VideoTask(path.name, "test", Video(path, id=path.name)) for path in paths)
        return [what_is_known_of(task) for task in found], pipeline

    with caplog.at_level(logging.INFO):
        inside, pipeline = outcome(DecodeSandbox())
    assert len(inside) == 3 + 1 + 1  # chunks of 8 clips, a failure, chunks of 2 clips
    assert inside == outcome(None)[0]
    assert {"video_reader", "fixed_stride", "transcoding", "preview", "decode_children"} <= set(pipeline.times)
    assert pipeline.times["transcoding"].busy_s > pipeline.times["fixed_stride"].busy_s > 0
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in warned] == [
        "event=video_failed video=broken.mp4 stage=video_reader reason=unreadable"
    ] * 2


def test_a_giant_picture_that_the_limits_let_through_is_stopped_by_the_memory_cap(tmp_path: Path) -> None:
    giant = make_black(tmp_path / "giant.mov", codec="mjpeg", pix_fmt="yuvj420p")
    fine = make_video(tmp_path / "fine.mp4", num_frames=50)
    limits = SourceLimits(max_pixels=10**9)
    splitter = FixedStrideExtractorStage(1.0, min_clip_length_s=0.0)
    pipeline = sandboxed(VideoReaderStage(limits=limits), splitter, ClipTranscodingStage())
    found = pipeline.run(VideoTask(path.name, "test", Video(path, id=path.name)) for path in (giant, fine))
    assert reasons(found) == {"giant.mov": FailureReason.MEMORY, "fine.mp4": None}


def test_when_no_child_can_be_started_the_run_stops_and_no_video_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StopRunError, match=r"no decode child can be started: .* with exit status 1, 3 times"):
        sandboxed(Faulty()).run(tasks("a", "b"))
