"""A video that is written in parts leaves the documents of one that is written at once."""

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from curation.model import CaptionOutcome, Clip, Rejection, Video, VideoPart, VideoTask, Window
from curation.pipeline import apply_stage
from curation.storage import storage_for
from curation.writing.clip_writer import ClipWriterStage
from curation.writing.parts import VideoParts
from tests.splitting import one_clip
from tests.synthetic import make_video

PER_CHUNK = 3
LENGTHS_S = [0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9]  # added in another order, the first three are another number


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return one_clip(make_video(tmp_path_factory.mktemp("v") / "v.mp4", num_frames=8, width=64, height=48))


def clip_of(number: int, mp4: bytes) -> Clip:
    """A clip; some are rejected, some have captions, some fit a text."""
    clip = Clip(UUID(int=number), "v.mp4", (0.0, LENGTHS_S[number]), buffer=mp4)
    if number % 3 == 0:
        clip.rejection = Rejection("motion", 0.0, 1.0)
    elif number % 2 == 0:
        clip.windows = [Window(0, 7, caption={"qwen": f"caption {number}"})]
        clip.windows[0].caption_outcomes["qwen"] = CaptionOutcome("success", prompt_tokens=7, output_tokens=number)
    else:
        clip.cosmos_embed1_text_match = ("a street", 0.5)
    return clip


def task_of(clips: list[Clip], **fields: Any) -> VideoTask:
    kept, filtered = [c for c in clips if not c.rejection], [c for c in clips if c.rejection]
    return VideoTask("v", "test", Video(Path("v.mp4"), id="v", clips=kept, filtered_clips=filtered, **fields))


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def writer_of(folder: Path) -> ClipWriterStage:
    return ClipWriterStage(str(folder / "out"), parts_path=str(folder / "parts"), num_clips_per_chunk=PER_CHUNK)


@pytest.mark.parametrize("cuts", [[0, 3, 7], [0, 0, 7], [0, 1, 2, 5, 7]], ids=str)
@pytest.mark.parametrize("is_reversed", [False, True], ids=["in order", "the last part first"])
def test_parts_leave_the_documents_of_the_whole(cuts: list[int], is_reversed: bool, mp4: bytes, tmp_path: Path) -> None:
    clips = [clip_of(number, mp4) for number in range(7)]
    whole = writer_of(tmp_path / "whole")
    for index in range(3):
        fields = {"clip_chunk_index": index, "num_clip_chunks": 3 if index == 2 else 0}
        list(apply_stage(whole, task_of(clips[index * PER_CHUNK : (index + 1) * PER_CHUNK], **fields)))
    count = len(cuts) - 1
    for index in reversed(range(count)) if is_reversed else range(count):
        inside = [clip_of(number, mp4) for number in range(cuts[index], cuts[index + 1])]
        part = task_of(inside, part=VideoPart(index, count), num_clip_chunks=1)
        (result,) = apply_stage(writer_of(tmp_path / "parts"), part)  # each in a worker of its own
    assert result.data.part is None
    assert result.data.clip_stats.num_passed == 4
    assert files_in(tmp_path / "parts" / "out") == files_in(tmp_path / "whole" / "out")
    assert files_in(tmp_path / "parts" / "parts") == {}


def test_of_several_parts_that_ask_for_the_whole_one_gets_it(tmp_path: Path) -> None:
    clips, files = storage_for(str(tmp_path / "out")), storage_for(str(tmp_path / "parts"))
    parts = VideoParts(clips, files, "v", 3)
    assert parts.whole_by() is None
    assert [parts.leave_to(1), parts.leave_to(2), parts.leave_to(1)] == [True, False, True]
    assert parts.whole_by() == 1
