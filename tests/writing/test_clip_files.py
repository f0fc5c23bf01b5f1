"""Clips that are written early leave exactly what clips that are written late leave, whatever goes wrong."""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from curation.errors import Failure, FailureReason, StorageError, VideoError
from curation.model import CaptionOutcome, Clip, Rejection, Video, VideoTask, Window
from curation.pipeline import Stage, apply_stage, chunks
from curation.preview.preview import PreviewStage
from curation.storage.local import LocalStorage
from curation.writing.clip_files import ClipFilesStage
from curation.writing.clip_writer import ClipWriterStage
from tests.splitting import one_clip, splitting, task_of
from tests.synthetic import make_video


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds at 30 frames a second."""
    return make_video(tmp_path_factory.mktemp("source") / "v.mp4", num_frames=60, width=96, height=64, audio="clicks")


@pytest.fixture(scope="module")
def mp4(source: Path) -> bytes:
    return one_clip(source)


class Captioning(Stage):
    """Stands for a model: says of each window which it is. Fails on one part of each video when told so."""

    name = "captioning"

    def __init__(self, fails_on: int | None = None) -> None:
        self._fails_on = fails_on
        self._num_seen = 0

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        self._num_seen += 1
        if self._num_seen - 1 == self._fails_on:
            raise VideoError(FailureReason.DECODE_ERROR, f"{task.data.id}: part {self._fails_on}")
        for clip in task.data.clips:
            for window in clip.windows:
                window.caption["qwen"] = f"{clip.uuid} {window.start_frame}"
                window.caption_outcomes["qwen"] = CaptionOutcome("success", "", 100, 10)
        yield task


class Rejecting(Stage):
    """Rejects a clip of each part, and loses the bytes of another."""

    name = "rejecting"

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        video = task.data
        if len(video.clips) > 2:
            rejected, lost = video.clips.pop(), video.clips[0]
            rejected.rejection = Rejection("motion", 0.0, 0.1)
            video.filtered_clips.append(rejected)
            lost.buffer, lost.errors["transcode"] = None, "encode_error: refused"
        yield task


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run(output: Path, source: Path, *, early: bool, fails_on: int | None = None, **settings: Any) -> list[VideoTask]:
    pipeline = splitting(clip_len_s=0.4, **settings).add_stage(PreviewStage(target_height=64)).add_stage(Rejecting())
    if early:
        pipeline.add_stage(ClipFilesStage(str(output)))
    return pipeline.add_stage(Captioning(fails_on)).add_stage(ClipWriterStage(str(output))).run([task_of(source)])


def record_in(folder: Path) -> dict[str, Any]:
    """The record, without what depends on how far the decoder was when another stage failed."""
    record: dict[str, Any] = json.loads((folder / "processed_videos/v.mp4.json").read_bytes())
    assert record.pop("num_decoded_frames") > 0
    return record


def clip_of(content: bytes | None, number: int = 1, **fields: Any) -> Clip:
    return Clip(UUID(int=number), "v.mp4", (0.0, 2.0), buffer=content, **fields)


def part(clips: list[Clip], index: int = 0, *, is_last: bool = True) -> VideoTask:
    video = Video(Path("v.mp4"), id="v", clips=clips, clip_chunk_index=index)
    video.num_clip_chunks = index + 1 if is_last else 0
    return VideoTask("v", "test", video)


def passed(stage: Stage, *tasks: VideoTask) -> list[VideoTask]:
    return [result for task in tasks for result in apply_stage(stage, task)]


@pytest.mark.parametrize("num_clips_per_chunk", [1, 3, 32])
@pytest.mark.parametrize("max_part_bytes", [1, 2**30], ids=["clip by clip", "chunk by chunk"])
def test_early_and_late_give_the_same_bytes(
    tmp_path: Path, source: Path, num_clips_per_chunk: int, max_part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "MAX_PART_BYTES", max_part_bytes)
    for early in (True, False):
        run(tmp_path / str(early), source, early=early, num_clips_per_chunk=num_clips_per_chunk)
    late = files_in(tmp_path / "False")
    assert files_in(tmp_path / "True") == late
    assert any(name.startswith("previews/") for name in late)
    if num_clips_per_chunk > 2 and max_part_bytes > 1:
        assert any(name.startswith("filtered_clips/") for name in late)


@pytest.mark.parametrize("fails_on", range(5))
def test_of_a_video_that_fails_on_any_part_early_and_late_leave_the_same_record_alone(
    tmp_path: Path, source: Path, fails_on: int
) -> None:
    """Parts before the one that fails are written when it does, and those after it may be, too."""
    for early in (True, False):
        run(tmp_path / str(early), source, early=early, fails_on=fails_on, num_clips_per_chunk=1)
    assert list(files_in(tmp_path / "True")) == list(files_in(tmp_path / "False")) == ["processed_videos/v.mp4.json"]
    assert record_in(tmp_path / "True") == record_in(tmp_path / "False")


def test_what_was_written_early_of_a_part_that_comes_after_the_failure_is_deleted(tmp_path: Path, mp4: bytes) -> None:
    files, writer = ClipFilesStage(str(tmp_path)), ClipWriterStage(str(tmp_path))
    clips = [clip_of(mp4, 1 + k, windows=[Window(0, 59, webp_bytes=b"webp")]) for k in range(3)]
    parts = [part([clip], k, is_last=k == 2) for k, clip in enumerate(clips)]
    passed(files, *parts)
    assert len(files_in(tmp_path)) == 3 + 3  # mp4s and previews
    parts[1].data.failure = Failure(FailureReason.DECODE_ERROR, "v: damaged")
    found = passed(writer, parts[1], parts[0], parts[2])
    assert [task.data.clip_chunk_index for task in found] == [1]
    assert list(files_in(tmp_path)) == ["processed_videos/v.json"]


def test_a_part_that_fails_while_it_is_written_early_leaves_nothing(
    tmp_path: Path, mp4: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a clip of it is still being written when another one is found to be none."""
    write = LocalStorage.write

    def write_slowly(self: LocalStorage, path: str, content: bytes) -> None:
        time.sleep(0.1)
        write(self, path, content)

    monkeypatch.setattr(LocalStorage, "write", write_slowly)
    for output in (tmp_path / "early", tmp_path / "late"):
        tasks = [part([clip_of(mp4, 1)], is_last=False), part([clip_of(mp4, 2), clip_of(b"no mp4", 3)], 1)]
        if output.name == "early":
            tasks = passed(ClipFilesStage(str(output)), *tasks)
            assert len(files_in(output)) == 2
        passed(ClipWriterStage(str(output)), *tasks)
    assert list(files_in(tmp_path / "early")) == ["processed_videos/v.json"]
    assert files_in(tmp_path / "early") == files_in(tmp_path / "late")


def test_what_another_worker_has_finished_is_not_taken_from_it(tmp_path: Path, mp4: bytes) -> None:
    files, writer = ClipFilesStage(str(tmp_path)), ClipWriterStage(str(tmp_path))
    passed(ClipWriterStage(str(tmp_path)), part([clip_of(mp4, 1)], is_last=False), part([clip_of(mp4, 2)], 1))
    before = files_in(tmp_path)
    first, second = part([clip_of(mp4, 1)], is_last=False), part([clip_of(mp4, 2)], 1)
    first.data.failure = Failure(FailureReason.DECODE_ERROR, "v: damaged")
    passed(writer, *passed(files, first, second))
    assert files_in(tmp_path) == before


class OvertakenStorage(LocalStorage):
    """Another worker finishes a video between this one's last look and its record."""

    def create(self, path: str, content: bytes) -> bool:
        super().create(path, b"{}")
        return super().create(path, content)


def test_a_part_of_a_video_that_another_worker_finished_just_before_is_left_to_it(tmp_path: Path, mp4: bytes) -> None:
    writer = ClipWriterStage(str(tmp_path))
    writer._storage = OvertakenStorage(str(tmp_path))
    first, second = part([], is_last=False), part([clip_of(mp4, 2)], 1)
    first.data.failure = Failure(FailureReason.DECODE_ERROR, "v: damaged")
    passed(writer, *passed(ClipFilesStage(str(tmp_path)), first, second))
    assert [path.read_bytes() for path in (tmp_path / "clips").iterdir()] == [mp4]


def test_clips_that_are_written_hold_no_bytes_and_what_the_captions_need_stays(tmp_path: Path, mp4: bytes) -> None:
    prompt = {"prompt": "Describe it."}
    window = Window(0, 59, webp_bytes=b"webp", mp4_bytes=b"mp4", qwen_llm_input=prompt)
    (task,) = passed(ClipFilesStage(str(tmp_path)), part([clip_of(mp4, windows=[window])]))
    assert task.data.get_major_size() == len("Describe it.")
    assert task.data.clips[0].windows[0].qwen_llm_input is prompt


def test_a_clip_without_bytes_is_left_to_the_writer(tmp_path: Path) -> None:
    (task,) = passed(ClipFilesStage(str(tmp_path)), part([clip_of(None, windows=[Window(0, 9, webp_bytes=b"webp")])]))
    assert files_in(tmp_path) == {}
    assert task.data.clips[0].windows[0].webp_bytes == b"webp"


def fails_on_storage(make: Callable[[str], Stage], folder: Path, mp4: bytes) -> None:
    folder.mkdir()
    (folder / "clips").write_bytes(b"a file where a folder is needed")
    with pytest.raises(StorageError, match="can't write clips/"):
        passed(make(str(folder)), part([clip_of(mp4)]))


def test_when_storage_fails_early_or_late_the_run_stops(tmp_path: Path, mp4: bytes) -> None:
    fails_on_storage(ClipFilesStage, tmp_path / "early", mp4)
    fails_on_storage(ClipWriterStage, tmp_path / "late", mp4)
