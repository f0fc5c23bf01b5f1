"""What a run leaves on disk: documents with the contract's keys, the record last, nothing of a video that failed."""

import json
import logging
import time
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from curation.errors import Failure, FailureReason, StorageError, VideoError
from curation.model import Clip, Rejection, Video, VideoTask, Window
from curation.pipeline import Stage, apply_stage, chunks
from curation.preview.preview import PreviewStage
from curation.storage import WritesAtOnce
from curation.storage.local import LocalStorage
from curation.writing.clip_writer import ClipWriterStage
from tests.splitting import one_clip, splitting, task_of
from tests.synthetic import make_video

PROVENANCE = {"code_version": "1", "config_hash": "abc"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds at 30 frames a second."""
    path = tmp_path_factory.mktemp("source") / "v.mp4"
    return make_video(path, num_frames=60, width=96, height=64, audio="clicks")


@pytest.fixture(scope="module")
def mp4(source: Path) -> bytes:
    return one_clip(source)


def run(output: Path, *tasks: VideoTask, **settings: Any) -> list[VideoTask]:
    """Split, transcode, preview and write."""
    pipeline = splitting(**settings).add_stage(PreviewStage(target_height=64))
    return pipeline.add_stage(ClipWriterStage(str(output), provenance=PROVENANCE)).run(tasks)


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def document(folder: Path, path: str) -> dict[str, Any]:
    """A document that any JSON reader takes: no NaN, no infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{path} holds {constant}")

    found: dict[str, Any] = json.loads((folder / path).read_bytes(), parse_constant=refuse)
    return found


def finished(video_id: str, clips: list[Clip], *, chunk: int = 0, is_last: bool = True, **fields: Any) -> VideoTask:
    """A chunk as it comes to the writer."""
    video = Video(Path("v.mp4"), id=video_id, clips=clips, clip_chunk_index=chunk, **fields)
    video.num_clip_chunks = chunk + 1 if is_last else 0
    return VideoTask(video_id, "test", video)


def clip_of(mp4: bytes | None, number: int = 1, **fields: Any) -> Clip:
    return Clip(UUID(int=number), "v.mp4", (0.0, 2.0), buffer=mp4, **fields)


def written(writer: Stage, *tasks: VideoTask) -> list[VideoTask]:
    return [result for task in tasks for result in apply_stage(writer, task)]


# A run


def test_a_run_leaves_the_files_of_the_contract_and_no_others(tmp_path: Path, source: Path) -> None:
    (task,) = run(tmp_path, task_of(source, "a/v.mp4"))
    uuids = [str(clip.uuid) for clip in task.data.clips]
    expected = [f"clips/{uuid}.mp4" for uuid in uuids] + [f"metas/v0/{uuid}.json" for uuid in uuids]
    expected += [f"previews/{uuid}/0_29.webp" for uuid in uuids]
    expected += ["processed_clip_chunks/a/v.mp4_0.json", "processed_videos/a/v.mp4.json"]
    assert sorted(files_in(tmp_path)) == sorted(expected)


def test_a_meta_has_the_keys_of_the_contract_with_true_values(tmp_path: Path, source: Path) -> None:
    """docs/rules.md, Records; scores and captions stand there only where they were made."""
    (task,) = run(tmp_path, task_of(source, extra={"camera": "front"}))
    second = task.data.clips[1]
    meta = document(tmp_path, f"metas/v0/{second.uuid}.json")
    expected = {
        "span_uuid": str(second.uuid),
        "source_video": str(source),
        "duration_span": [1.0, 2.0],
        "width_source": 96,
        "height_source": 64,
        "framerate_source": 30.0,
        "clip_location": f"clips/{second.uuid}.mp4",
        "width": 96,
        "height": 64,
        "framerate": 30.0,
        "num_frames": 30,
        "video_codec": "h264",
        "num_bytes": (tmp_path / f"clips/{second.uuid}.mp4").stat().st_size,
        "errors": {},
        "windows": [{"start_frame": 0, "end_frame": 29}],
        "valid": True,
        "valid_reason": None,
        "frame_span_source": [30, 60],
        "extra": {"camera": "front"},
    }
    assert {key: meta[key] for key in expected} == expected
    assert isinstance(meta["schema_version"], int)
    assert meta["provenance"] == {**PROVENANCE, "encoder": "libx264 preset=superfast crf=23"}


def test_a_record_says_what_the_video_is_and_what_became_of_it(tmp_path: Path, source: Path) -> None:
    run(tmp_path, task_of(source, start_s=0.5))
    record = document(tmp_path, "processed_videos/v.mp4.json")
    expected = {
        "video": str(source),
        "video_id": "v.mp4",
        "status": "done",
        "failure": None,
        "width": 96,
        "height": 64,
        "num_frames": 60,
        "duration": 2.0,
        "video_codec": "h264",
        "audio_codec": "aac",
        "is_vfr": False,
        "start_s": 0.5,
        "end_s": None,
        "num_total_clips": 2,
        "num_clip_chunks": 1,
    }
    assert {key: record[key] for key in expected} == expected
    stats = record["clip_stats"]
    assert (stats["num_passed"], stats["num_transcoded"], stats["num_with_webp"]) == (2, 2, 2)
    assert (stats["total_clip_duration"], stats["max_clip_duration"]) == (1.5, 1.0)


def test_the_chunks_of_a_video_hold_all_its_clips_and_the_record_counts_them(tmp_path: Path, source: Path) -> None:
    tasks = run(tmp_path, task_of(source), clip_len_s=0.4, num_clips_per_chunk=2)
    assert len(tasks) == 3
    chunks = [document(tmp_path, f"processed_clip_chunks/v.mp4_{index}.json") for index in range(3)]
    assert [chunk["num_clips"] for chunk in chunks] == [2, 2, 1]
    assert [clip["num_frames"] for chunk in chunks for clip in chunk["clips"]] == [12] * 5
    uuids = {clip["uuid"] for chunk in chunks for clip in chunk["clips"]}
    assert {f"clips/{uuid}.mp4" for uuid in uuids} == {name for name in files_in(tmp_path) if name.endswith(".mp4")}
    record = document(tmp_path, "processed_videos/v.mp4.json")
    assert (record["num_clip_chunks"], record["num_total_clips"], record["clip_stats"]["num_passed"]) == (3, 5, 5)


@pytest.mark.parametrize("num_clips_per_chunk", [1, 2, 3, 5, 32])
def test_clips_that_travel_one_by_one_are_written_as_those_that_travel_together(
    tmp_path: Path, source: Path, num_clips_per_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"clip_len_s": 0.4, "num_clips_per_chunk": num_clips_per_chunk}
    together = run(tmp_path / "together", task_of(source), **settings)
    monkeypatch.setattr(chunks, "MAX_PART_BYTES", 1)
    parts = run(tmp_path / "parts", task_of(source), **settings)
    assert [len(task.data.clips) for task in parts] == [1] * 5
    assert len(together) == -(-5 // num_clips_per_chunk)
    assert files_in(tmp_path / "parts") == files_in(tmp_path / "together")


def test_a_video_without_clips_is_done(tmp_path: Path) -> None:
    written(ClipWriterStage(str(tmp_path)), finished("v", []))
    assert document(tmp_path, "processed_videos/v.json")["status"] == "done"
    assert document(tmp_path, "processed_clip_chunks/v_0.json")["clips"] == []


def test_two_runs_leave_the_same_bytes(tmp_path: Path, source: Path) -> None:
    for folder in ("one", "two"):
        run(tmp_path / folder, task_of(source), clip_len_s=0.7)
    assert files_in(tmp_path / "one") == files_in(tmp_path / "two")


@pytest.mark.parametrize(
    "video_id",
    ["with space.mp4", "ünïcödé 視頻.mp4", "line\nbreak.mp4", "-leading.mp4", "a/b/v.mp4", 'quote".mp4', "per%d.mp4"],
)
def test_a_video_of_any_name_has_its_record_under_that_name(tmp_path: Path, source: Path, video_id: str) -> None:
    path = tmp_path / "in" / video_id
    path.parent.mkdir(parents=True)
    path.write_bytes(source.read_bytes())
    run(tmp_path / "out", task_of(path, video_id))
    assert document(tmp_path / "out", f"processed_videos/{video_id}.json")["video_id"] == video_id
    assert document(tmp_path / "out", f"processed_clip_chunks/{video_id}_0.json")["num_clips"] == 2


def test_videos_with_the_same_name_in_two_folders_do_not_meet(tmp_path: Path, source: Path) -> None:
    first, second = run(tmp_path, task_of(source, "a/v.mp4"), task_of(source, "b/v.mp4"))
    assert not {clip.uuid for clip in first.data.clips} & {clip.uuid for clip in second.data.clips}
    assert len(list((tmp_path / "clips").iterdir())) == 4
    for folder in "ab":
        assert document(tmp_path, f"processed_videos/{folder}/v.mp4.json")["num_total_clips"] == 2


# The record


def test_a_second_run_does_not_replace_the_record(
    tmp_path: Path, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, task_of(source))
    before = files_in(tmp_path)
    run(tmp_path, task_of(source, extra={"run": 2}))
    record = "processed_videos/v.mp4.json"
    assert files_in(tmp_path)[record] == before[record]
    assert "event=already_recorded video=v.mp4" in caplog.text


class SlowForClips(LocalStorage):
    """Notes what is there in the order in which it came to be; clips take longer than all else."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.puts: list[str] = []

    def write(self, path: str, content: bytes) -> None:
        if path.startswith("clips/"):
            time.sleep(0.2)
        super().write(path, content)
        self.puts.append(path)

    def create(self, path: str, content: bytes) -> bool:
        is_new = super().create(path, content)
        self.puts.append(path)
        return is_new


def writer_to(storage: LocalStorage) -> ClipWriterStage:
    writer = ClipWriterStage(storage.root)
    writer._storage, writer._writes = storage, WritesAtOnce(storage)
    return writer


def test_lists_come_after_what_they_name_and_the_record_last(tmp_path: Path, mp4: bytes) -> None:
    storage = SlowForClips(str(tmp_path))
    writer = writer_to(storage)
    webp = Window(0, 59, webp_bytes=b"webp")
    first = finished("v", [clip_of(mp4, 1, windows=[webp])], is_last=False)
    written(writer, first, finished("v", [clip_of(mp4, 2)], chunk=1))
    assert storage.puts[-1] == "processed_videos/v.json"
    assert len(storage.puts) == 2 + 2 + 1 + 2 + 1  # clips, metas, preview, chunks, record
    for chunk in (0, 1):
        place = storage.puts.index(f"processed_clip_chunks/v_{chunk}.json")
        assert storage.puts.index(f"clips/{UUID(int=chunk + 1)}.mp4") < place


def test_of_a_video_that_fails_nothing_appears_after_it_was_taken_back(tmp_path: Path, mp4: bytes) -> None:
    damaged = clip_of(b"no video", 2)
    (task,) = written(writer_to(SlowForClips(str(tmp_path))), finished("v", [clip_of(mp4, 1), damaged]))
    assert task.data.failure is not None
    assert list(files_in(tmp_path)) == ["processed_videos/v.json"]


def test_before_its_last_chunk_a_video_has_no_record(tmp_path: Path, mp4: bytes) -> None:
    written(ClipWriterStage(str(tmp_path)), finished("v", [clip_of(mp4)], is_last=False))
    assert not (tmp_path / "processed_videos").exists()


def test_what_is_on_disk_is_let_go_from_memory(tmp_path: Path, mp4: bytes) -> None:
    task = finished("v", [clip_of(mp4, windows=[Window(0, 59, webp_bytes=b"webp")])])
    written(ClipWriterStage(str(tmp_path)), task)
    assert task.data.get_major_size() == 0


# Failures


def failed(video_id: str) -> VideoTask:
    task = finished(video_id, [])
    task.data.failure = Failure(FailureReason.DECODE_ERROR, f"{video_id}: can't decode")
    return task


def test_a_failed_video_has_a_record_with_its_reason_and_nothing_else(tmp_path: Path) -> None:
    run(tmp_path, task_of(tmp_path / "gone.mp4", "gone.mp4"))
    assert list(files_in(tmp_path)) == ["processed_videos/gone.mp4.json"]
    record = document(tmp_path, "processed_videos/gone.mp4.json")
    assert (record["status"], record["num_total_clips"]) == ("failed", 0)
    assert record["failure"] == {
        "reason": "not_found",
        "message": f"gone.mp4: no such file: {tmp_path / 'gone.mp4'}",
    }


def test_what_was_written_of_a_video_that_fails_half_way_is_taken_back(tmp_path: Path, mp4: bytes) -> None:
    webp = Window(0, 59, webp_bytes=b"webp")
    other, half = finished("other", [clip_of(mp4, 9)]), finished("v", [clip_of(mp4, windows=[webp])], is_last=False)
    writer = ClipWriterStage(str(tmp_path))
    written(writer, other)
    before = files_in(tmp_path)
    written(writer, half, failed("v"))
    assert document(tmp_path, "processed_videos/v.json")["clip_stats"]["num_passed"] == 0
    (tmp_path / "processed_videos/v.json").unlink()
    assert files_in(tmp_path) == before


def test_chunks_that_come_after_a_video_has_failed_leave_nothing(tmp_path: Path, mp4: bytes) -> None:
    """A stage may fail on one chunk while the stage before it goes on with the next."""
    writer = ClipWriterStage(str(tmp_path))
    first, last = finished("v", [clip_of(mp4, 1)], is_last=False), finished("v", [clip_of(mp4, 3)], chunk=2)
    found = written(writer, first, failed("v"), last)
    assert [task.data.failure is not None for task in found] == [False, True]
    assert list(files_in(tmp_path)) == ["processed_videos/v.json"]
    assert document(tmp_path, "processed_videos/v.json")["status"] == "failed"


def test_a_video_that_another_worker_has_finished_is_not_taken_from_it(tmp_path: Path, mp4: bytes) -> None:
    written(ClipWriterStage(str(tmp_path)), finished("v", [clip_of(mp4)]))
    before = files_in(tmp_path)
    half = finished("v", [clip_of(mp4)], is_last=False)
    written(ClipWriterStage(str(tmp_path)), half, failed("v"))
    assert files_in(tmp_path) == before


def test_a_clip_that_can_not_be_read_back_fails_its_video(tmp_path: Path) -> None:
    (task,) = written(ClipWriterStage(str(tmp_path)), finished("v", [clip_of(b"no mp4")]))
    assert task.data.failure is not None
    assert list(files_in(tmp_path)) == ["processed_videos/v.json"]
    assert document(tmp_path, "processed_videos/v.json")["failure"]["reason"] == "unreadable"


def test_a_clip_without_bytes_is_written_down_as_invalid_with_its_reason(tmp_path: Path) -> None:
    clip = clip_of(None, errors={"transcode": "encode_error: libx264 refused 16385x2"})
    written(ClipWriterStage(str(tmp_path)), finished("v", [clip]))
    meta = document(tmp_path, f"metas/v0/{clip.uuid}.json")
    assert (meta["valid"], meta["valid_reason"]) == (False, "encode_error: libx264 refused 16385x2")
    assert meta["num_frames"] is None
    (entry,) = document(tmp_path, "processed_clip_chunks/v_0.json")["clips"]
    assert (entry["valid"], entry["sha256"], entry["num_bytes"]) == (False, None, None)
    assert not (tmp_path / "clips").exists()


def test_a_rejected_clip_lies_apart_with_its_rejection(tmp_path: Path, mp4: bytes) -> None:
    kept = clip_of(mp4, 1, motion_score_global_mean=0.5, motion_score_per_patch_min_256=0.25, aesthetic_score=4.5)
    rejected = clip_of(mp4, 2, rejection=Rejection("motion", 0.0009, 0.00098), motion_score_global_mean=0.0009)
    task = finished("v", [kept], filtered_clips=[rejected])
    written(ClipWriterStage(str(tmp_path)), task)
    assert (tmp_path / f"filtered_clips/{rejected.uuid}.mp4").read_bytes() == mp4
    assert [path.name for path in (tmp_path / "clips").iterdir()] == [f"{kept.uuid}.mp4"]
    meta = document(tmp_path, f"metas/v0/{rejected.uuid}.json")
    assert meta["clip_location"] == f"filtered_clips/{rejected.uuid}.mp4"
    assert meta["rejection"] == {"filter": "motion", "measure": 0.0009, "limit": 0.00098}
    assert (meta["valid"], meta["valid_reason"]) == (False, "rejected by motion")
    assert document(tmp_path, f"metas/v0/{kept.uuid}.json")["motion_score"] == {
        "global_mean": 0.5,
        "per_patch_min_256": 0.25,
    }
    chunk = document(tmp_path, "processed_clip_chunks/v_0.json")
    assert (chunk["num_clips"], chunk["num_filtered_clips"]) == (1, 1)
    stats = document(tmp_path, "processed_videos/v.json")["clip_stats"]
    assert (stats["num_passed"], stats["num_filtered_by_motion"], stats["num_transcoded"]) == (1, 1, 2)
    assert stats["total_clip_duration"] == 4.0


# Storage


@pytest.mark.parametrize("in_the_way", ["clips", "metas", "previews", "processed_clip_chunks", "processed_videos"])
def test_when_storage_fails_the_run_stops_and_no_video_is_recorded(
    tmp_path: Path, source: Path, caplog: pytest.LogCaptureFixture, in_the_way: str
) -> None:
    (tmp_path / in_the_way).write_bytes(b"a file where a folder is needed")
    with pytest.raises(StorageError, match=f"can't (write|look at) {in_the_way}/"):
        run(tmp_path, task_of(source), task_of(source, "second.mp4"))
    assert not [name for name in files_in(tmp_path) if name.startswith("processed_videos/")]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


class Failing(Stage):
    """Fails the second chunk that comes by."""

    name = "failing"

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        if task.data.clip_chunk_index == 1:
            raise VideoError(FailureReason.DECODE_ERROR, f"{task.data.id}: chunk 1")
        yield task


def test_a_video_of_which_one_chunk_fails_leaves_only_its_record(tmp_path: Path, source: Path) -> None:
    pipeline = splitting(clip_len_s=0.4, num_clips_per_chunk=1).add_stage(Failing())
    found = pipeline.add_stage(ClipWriterStage(str(tmp_path))).run([task_of(source)])
    assert [task.data.failure is not None for task in found] == [False, True]
    assert list(files_in(tmp_path)) == ["processed_videos/v.mp4.json"]


def test_the_paths_of_an_output_are_those_of_the_seeds() -> None:
    assert ClipWriterStage.get_output_path_clips("s3://b/o") == "s3://b/o/clips"
    assert ClipWriterStage.get_output_path_clips("o", filtered=True) == "o/filtered_clips"
    assert ClipWriterStage.get_output_path_previews("o") == "o/previews"
    assert ClipWriterStage.get_output_path_metas("o", "v1") == "o/metas/v1"
    assert ClipWriterStage.get_output_path_processed_videos("o") == "o/processed_videos"
    assert ClipWriterStage.get_output_path_processed_clip_chunks("o") == "o/processed_clip_chunks"


def test_a_time_that_is_no_binary_number_is_written_as_it_is(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", num_frames=24, rate=Fraction(24000, 1001), width=96, height=64)
    (task,) = run(tmp_path / "out", task_of(path), clip_len_s=10.0)
    meta = document(tmp_path / "out", f"metas/v0/{task.data.clips[0].uuid}.json")
    assert meta["duration_span"] == [0.0, 1.001]
