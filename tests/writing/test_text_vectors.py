"""T5 vectors in an output: each window's rows in its chunk's file, in parts as at once, and nothing of what failed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from numpy.typing import NDArray

from curation.errors import Failure, FailureReason
from curation.model import Clip, Rejection, Video, VideoPart, VideoTask, Window
from curation.pipeline import apply_stage
from curation.writing.clip_writer import ClipWriterStage
from tests.splitting import one_clip
from tests.synthetic import make_video

DIMENSIONS = 1024


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return one_clip(make_video(tmp_path_factory.mktemp("v") / "v.mp4", num_frames=8, width=64, height=48))


def vectors_for(number: int, window: int) -> NDArray[np.float16]:
    """Those of one window, told from all others by their numbers and how many rows there are."""
    rng = np.random.default_rng(100 * number + window)
    return rng.standard_normal((1 + (3 * number + window) % 5, DIMENSIONS)).astype(np.float16)


def has_vectors(number: int, window: int) -> bool:
    return (number + window) % 3 != 0


def clip_of(number: int, mp4: bytes, *, num_windows: int = 2) -> Clip:
    """A clip whose windows have vectors, or not, or (the fourth) that was rejected."""
    clip = Clip(UUID(int=number), "v.mp4", (float(number), number + 1.0), buffer=mp4)
    if number == 3:
        clip.rejection = Rejection("motion", 0.0, 1.0)
        return clip
    for k in range(num_windows):
        vectors = vectors_for(number, k) if has_vectors(number, k) else None
        clip.windows.append(Window(4 * k, 4 * k + 3, caption={"qwen": "a"}, t5_xxl_embedding=vectors))
    return clip


def task_of(clips: list[Clip], **fields: Any) -> VideoTask:
    kept, filtered = [c for c in clips if not c.rejection], [c for c in clips if c.rejection]
    return VideoTask("v", "test", Video(Path("v.mp4"), id="a/v", clips=kept, filtered_clips=filtered, **fields))


def writer_of(folder: Path, **settings: Any) -> ClipWriterStage:
    settings.setdefault("parts_path", str(folder / "parts"))
    return ClipWriterStage(str(folder / "out"), num_clips_per_chunk=3, **settings)


def write_whole(folder: Path, mp4: bytes, *, num_clips: int = 7, **settings: Any) -> Path:
    """Chunks of three clips, each of which comes in two tasks."""
    writer = writer_of(folder, **settings)
    last = (num_clips - 1) // 3
    for index in range(last + 1):
        clips = [clip_of(number, mp4) for number in range(3 * index, min(3 * index + 3, num_clips))]
        list(apply_stage(writer, task_of(clips[:2], clip_chunk_index=index, clip_chunk_goes_on=True)))
        fields = {"clip_chunk_index": index, "num_clip_chunks": index + 1 if index == last else 0}
        list(apply_stage(writer, task_of(clips[2:], **fields)))
    return folder / "out"


def entries(out: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for path in sorted((out / "processed_clip_chunks/a").glob("*.json")):
        document = json.loads(path.read_bytes())
        for entry in [*document["clips"], *document["filtered_clips"]]:
            yield UUID(entry["uuid"]).int, entry


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_each_window_finds_its_own_rows_by_the_list_of_clips(mp4: bytes, tmp_path: Path) -> None:
    out = write_whole(tmp_path, mp4)
    used: dict[str, int] = {}
    for number, entry in entries(out):
        if number == 3:
            assert "t5" not in entry
            continue
        place = entry["t5"]["v0"]
        assert place["path"] == f"t5_xxl/v0/a/v_{number // 3}.npy"
        stored = np.load(out / place["path"])
        assert (stored.dtype, stored.shape[1], stored.flags.c_contiguous) == (np.float16, DIMENSIONS, True)
        assert len(place["rows"]) == len(entry["windows"]) == 2
        for k, rows in enumerate(place["rows"]):
            assert (rows is not None) == has_vectors(number, k)
            if rows is not None:
                first, num_rows = rows
                assert np.array_equal(stored[first : first + num_rows], vectors_for(number, k))
                used[place["path"]] = used.get(place["path"], 0) + num_rows
    assert used == {
        f"t5_xxl/v0/{path.relative_to(out / 't5_xxl/v0')}": len(np.load(path)) for path in out.rglob("*.npy")
    }


def test_metas_say_how_many_tokens_there_were_and_what_was_cut_off(mp4: bytes, tmp_path: Path) -> None:
    clip = clip_of(1, mp4)
    clip.windows[0].t5_xxl_truncated = True
    clip.windows.append(Window(8, 11, t5_xxl_embedding=vectors_for(9, 9)))
    list(apply_stage(writer_of(tmp_path), task_of([clip], num_clip_chunks=1)))
    windows = json.loads((tmp_path / f"out/metas/v0/{clip.uuid}.json").read_bytes())["windows"]
    said = [{name: value for name, value in window.items() if name.startswith("t5")} for window in windows]
    assert said == [
        {"t5_xxl_num_tokens": len(vectors_for(1, 0)), "t5_xxl_truncated": True},
        {"t5_xxl_num_tokens": len(vectors_for(1, 1))} if has_vectors(1, 1) else {},
        {"t5_xxl_num_tokens": len(vectors_for(9, 9))},
    ]


def test_what_is_written_is_no_longer_held(mp4: bytes, tmp_path: Path) -> None:
    task = task_of([clip_of(1, mp4)], num_clip_chunks=1)
    held = task.data.get_major_size()
    list(apply_stage(writer_of(tmp_path), task))
    assert held - task.data.get_major_size() >= len(mp4) + vectors_for(1, 0).nbytes
    assert all(window.t5_xxl_embedding is None for window in task.data.clips[0].windows)


def test_without_vectors_there_is_no_file_and_no_word_of_them(mp4: bytes, tmp_path: Path) -> None:
    clip = clip_of(1, mp4)
    for window in clip.windows:
        window.t5_xxl_embedding = None
    list(apply_stage(writer_of(tmp_path), task_of([clip], num_clip_chunks=1)))
    assert not (tmp_path / "out/t5_xxl").exists()
    assert b"t5" not in b"".join(files_in(tmp_path / "out").values())


def test_vectors_lie_with_their_annotation_version(mp4: bytes, tmp_path: Path) -> None:
    out = write_whole(tmp_path, mp4, num_clips=2, annotation_version="v1")
    assert [path.relative_to(out).as_posix() for path in out.rglob("*.npy")] == ["t5_xxl/v1/a/v_0.npy"]
    assert all(list(entry["t5"]) == ["v1"] for _, entry in entries(out))


def test_a_chunk_with_more_than_waits_in_memory_is_written_the_same(mp4: bytes, tmp_path: Path) -> None:
    """48 MiB, three times what is kept in memory."""
    vectors = [np.full((8192, DIMENSIONS), value, dtype=np.float16) for value in (1, 2, 3)]
    clip = Clip(UUID(int=1), "v.mp4", (0.0, 1.0), buffer=mp4)
    clip.windows = [Window(4 * k, 4 * k + 3, t5_xxl_embedding=each) for k, each in enumerate(vectors)]
    list(apply_stage(writer_of(tmp_path), task_of([clip], num_clip_chunks=1)))
    assert np.array_equal(np.load(tmp_path / "out/t5_xxl/v0/a/v_0.npy", mmap_mode="r"), np.concatenate(vectors))


@pytest.mark.parametrize("is_reversed", [False, True], ids=["in order", "the last part first"])
@pytest.mark.parametrize("cuts", [[0, 3, 7], [0, 0, 7], [0, 1, 2, 5, 7]], ids=str)
def test_parts_leave_the_vectors_of_the_whole(cuts: list[int], is_reversed: bool, mp4: bytes, tmp_path: Path) -> None:
    whole = write_whole(tmp_path / "whole", mp4)
    count = len(cuts) - 1
    for index in reversed(range(count)) if is_reversed else range(count):
        inside = [clip_of(number, mp4) for number in range(cuts[index], cuts[index + 1])]
        part = task_of(inside, part=VideoPart(index, count), num_clip_chunks=1)
        list(apply_stage(writer_of(tmp_path / "parts"), part))  # each in a worker of its own
    assert files_in(tmp_path / "parts/out") == files_in(whole)
    assert files_in(tmp_path / "parts/parts") == {}


def test_a_video_that_fails_leaves_no_vectors(mp4: bytes, tmp_path: Path) -> None:
    writer = writer_of(tmp_path)
    list(apply_stage(writer, task_of([clip_of(number, mp4) for number in range(3)])))
    assert (tmp_path / "out/t5_xxl/v0/a/v_0.npy").is_file()
    list(apply_stage(writer, task_of([clip_of(4, mp4)], clip_chunk_index=1, clip_chunk_goes_on=True)))
    failed = task_of([], clip_chunk_index=1, failure=Failure(FailureReason.DECODE_ERROR, "broken"))
    list(apply_stage(writer, failed))
    assert list(files_in(tmp_path / "out")) == ["processed_videos/a/v.json"]
