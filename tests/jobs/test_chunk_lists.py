"""Which videos a split output has is read from its summary, a line at a time; their lists come in order."""

import json
from pathlib import Path

import pytest

from curation.errors import StorageError
from curation.storage import storage_for
from jobs.chunk_lists import SummaryVideo, chunk_documents, summary_videos

SUMMARY = """{
 "num_input_videos": 3,
 "captions": {
  "qwen": {
   "num_windows": 1
  }
 },
 "videos": {
  "a \\"b\\".mp4": {"status": "done", "num_clip_chunks": 2, "captions": {}},
  "日本/é.mp4": {"status": "failed", "failure": {"reason": "truncated", "message": "}"}},
  "c": {"status": "missing"}
 }
}
"""


def summary(folder: Path, text: str) -> list[SummaryVideo]:
    (folder / "summary.json").write_text(text, encoding="utf-8")
    return list(summary_videos(storage_for(str(folder))))


def test_each_video_of_a_summary_is_read(tmp_path: Path) -> None:
    json.loads(SUMMARY)
    expected = [('a "b".mp4', "done", 2), ("日本/é.mp4", "failed", 0), ("c", "missing", 0)]
    assert summary(tmp_path, SUMMARY) == [SummaryVideo(*each) for each in expected]


def test_a_summary_of_no_video_has_none(tmp_path: Path) -> None:
    assert summary(tmp_path, '{\n "num_input_videos": 0,\n "videos": {\n\n }\n}\n') == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param('{"videos": {}}', "no list of videos", id="of another program"),
        pytest.param(SUMMARY[: SUMMARY.index('  "c"')], "ends before", id="cut off"),
        pytest.param(SUMMARY.replace('"c": {"status": "missing"}', '"c": 3'), "no video", id="another entry"),
    ],
)
def test_what_is_no_summary_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        summary(tmp_path, text)


def test_a_folder_without_a_summary_is_no_finished_output(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no finished split output: it has no summary\.json"):
        list(summary_videos(storage_for(str(tmp_path))))


def test_lists_come_in_the_order_of_the_videos(tmp_path: Path) -> None:
    folder = tmp_path / "processed_clip_chunks"
    folder.mkdir()
    for video, index in (("b", 0), ("a", 0), ("a", 1)):
        (folder / f"{video}_{index}.json").write_text(json.dumps({"video_id": video, "clip_chunk_index": index}))
    found = chunk_documents(storage_for(str(tmp_path)), [("b", 1), ("failed", 0), ("a", 2)])
    assert [(each["video_id"], each["clip_chunk_index"]) for each in found] == [("b", 0), ("a", 0), ("a", 1)]
    with pytest.raises(StorageError, match="a_2"):
        list(chunk_documents(storage_for(str(tmp_path)), [("a", 3)]))
