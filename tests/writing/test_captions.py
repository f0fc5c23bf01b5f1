"""What captions leave behind: entries of windows, and totals that are what counting the entries gives."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.errors import Failure, FailureReason
from curation.model import CaptionOutcome, Clip, Video, VideoTask, Window
from curation.pipeline import apply_stage
from curation.writing.captions import (
    CaptionTotals,
    add_captions,
    count_captions,
    model_caption,
    totals_document,
    totals_of,
    window_captions,
)
from curation.writing.clip_writer import ClipWriterStage

outcomes = st.builds(
    CaptionOutcome,
    status=st.sampled_from(["success", "truncated", "error"]),
    reason=st.sampled_from(["", "too long"]),
    prompt_tokens=st.integers(0, 10**6),
    output_tokens=st.integers(0, 512),
    flags=st.sampled_from([(), ("empty",), ("repeated", "stage2_failed")]),
)
windows = st.builds(
    lambda found: Window(0, 255, caption_outcomes=found),
    st.dictionaries(st.sampled_from(["qwen", "nemotron", "qwen_lm"]), outcomes),
)
clips = st.lists(st.lists(windows, max_size=3).map(lambda found: clip_of(*found)), max_size=5)


def clip_of(*of: Window, number: int = 1) -> Clip:
    return Clip(UUID(int=number), "v.mp4", (0.0, 2.0), windows=list(of))


def captioned(start: int, end: int, text: str, **outcome: Any) -> Window:
    made = CaptionOutcome(**{"status": "success", "prompt_tokens": 100, "output_tokens": 10, **outcome})
    return Window(start, end, caption={"qwen": text}, caption_outcomes={"qwen": made})


def written(folder: Path, parts: Sequence[Sequence[Clip]], *, failure: Failure | None = None) -> None:
    """Let the writer write a video whose clips come in parts, each a chunk of its own."""
    writer = ClipWriterStage(str(folder))
    for index, part in enumerate(parts):
        is_last = index == len(parts) - 1
        video = Video(Path("v.mp4"), id="v", clips=list(part), clip_chunk_index=index)
        video.num_clip_chunks = len(parts) if is_last else 0
        video.failure = failure if is_last else None
        list(apply_stage(writer, VideoTask("v", "test", video)))


def document(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


# A window's entry


def test_a_window_has_the_keys_of_cosmos_curate_for_each_of_its_captions() -> None:
    window = captioned(0, 255, "A cat.")
    window.enhanced_caption["qwen_lm"] = "A cat on a mat."
    window.caption_outcomes["qwen_lm"] = CaptionOutcome("truncated", "", 30, 512)
    found = window_captions(window)
    assert found == {
        "qwen_caption": "A cat.",
        "qwen_lm_enhanced_caption": "A cat on a mat.",
        "qwen_prompt_tokens": 100,
        "qwen_output_tokens": 10,
        "qwen_status": "success",
        "qwen_lm_prompt_tokens": 30,
        "qwen_lm_output_tokens": 512,
        "qwen_lm_status": "truncated",
    }


def test_an_error_has_its_reason_and_no_text() -> None:
    window = Window(0, 255, caption_outcomes={"qwen": CaptionOutcome("error", "longer than 32768 tokens")})
    found = window_captions(window)
    assert (found["qwen_status"], found["qwen_reason"]) == ("error", "longer than 32768 tokens")
    assert "qwen_caption" not in found


@pytest.mark.parametrize(("flags", "expected"), [((), None), (("empty",), ["empty"]), (("a", "b"), ["a", "b"])])
def test_only_a_caption_that_someone_should_look_at_has_flags(
    flags: tuple[str, ...], expected: list[str] | None
) -> None:
    assert window_captions(captioned(0, 255, "x", flags=flags)).get("qwen_flags") == expected


def test_a_window_whose_caption_nobody_asked_for_has_no_key_of_captions() -> None:
    assert window_captions(Window(0, 255)) == {}


@pytest.mark.parametrize(
    ("entry", "caption"),
    [
        ({}, None),
        ({"qwen_caption": "one", "qwen_lm_enhanced_caption": "two"}, "one"),
        ({"qwen_lm_enhanced_caption": "two", "qwen_caption": "one"}, "one"),
        ({"nemotron_caption": "one", "qwen_caption": "two"}, "one"),
        ({"qwen_status": "error", "qwen_reason": "no"}, None),
    ],
)
def test_the_caption_of_a_window_is_that_of_the_first_model_that_saw_it(
    entry: dict[str, Any], caption: str | None
) -> None:
    assert model_caption(entry) == caption


# Totals


@given(clips)
def test_totals_are_what_counting_the_outcomes_gives(found: list[Clip]) -> None:
    expected: dict[str, Counter[str]] = {}
    for clip in found:
        for window in clip.windows:
            for key, outcome in window.caption_outcomes.items():
                counter = expected.setdefault(key, Counter())
                counter["num_windows"] += 1
                counter[f"num_{outcome.status}"] += 1
                counter["num_flagged"] += len(outcome.flags) > 0
                counter["prompt_tokens"] += outcome.prompt_tokens
                counter["output_tokens"] += outcome.output_tokens
    totals = totals_document(count_captions(found))
    assert {key: +Counter(each) for key, each in totals.items()} == {key: +each for key, each in expected.items()}


@given(clips, st.integers(0, 5))
def test_the_totals_of_parts_add_up_to_those_of_the_whole(found: list[Clip], cut: int) -> None:
    for order in ((found[:cut], found[cut:]), (found[cut:], found[:cut])):
        totals: dict[str, CaptionTotals] = {}
        for part in order:
            add_captions(totals, count_captions(part))
        assert totals == count_captions(found)


@given(clips, clips)
def test_adding_leaves_what_is_added_alone(found: list[Clip], more: list[Clip]) -> None:
    totals, added = count_captions(found), count_captions(more)
    add_captions(totals, added)
    add_captions(totals, added)
    assert added == count_captions(more)


@given(clips)
def test_totals_come_back_from_their_document(found: list[Clip]) -> None:
    totals = count_captions(found)
    assert totals_of(json.loads(json.dumps({"captions": totals_document(totals)}))) == totals


def test_a_record_from_before_there_were_captions_has_none() -> None:
    assert totals_of({"status": "done"}) == {}


# Documents


def test_chunks_and_record_count_the_captions_that_the_metas_hold(tmp_path: Path) -> None:
    parts = [
        [
            clip_of(captioned(0, 255, "a"), captioned(256, 400, "b", status="truncated"), number=1),
            clip_of(captioned(0, 99, "", flags=("empty",)), number=2),
        ],
        [clip_of(Window(0, 99, caption_outcomes={"qwen": CaptionOutcome("error", "refused")}), number=3)],
    ]
    written(tmp_path, parts)
    metas = [document(path) for path in (tmp_path / "metas/v0").iterdir()]
    entries = [window for meta in metas for window in meta["windows"]]
    expected = {
        "num_windows": 4,
        "num_success": 2,
        "num_truncated": 1,
        "num_error": 1,
        "num_flagged": 1,
        "prompt_tokens": sum(entry["qwen_prompt_tokens"] for entry in entries),
        "output_tokens": sum(entry["qwen_output_tokens"] for entry in entries),
    }
    assert document(tmp_path / "processed_videos/v.json")["captions"] == {"qwen": expected}
    chunks = [document(tmp_path / f"processed_clip_chunks/v_{index}.json") for index in range(2)]
    assert {key: sum(chunk["captions"]["qwen"][key] for chunk in chunks) for key in expected} == expected


def test_a_chunk_says_of_each_window_what_its_meta_says(tmp_path: Path) -> None:
    clip = clip_of(captioned(0, 255, "a"), Window(256, 511), captioned(512, 700, "c"))
    clip.windows[0].enhanced_caption["qwen_lm"] = "more"
    written(tmp_path, [[clip]])
    (entry,) = document(tmp_path / "processed_clip_chunks/v_0.json")["clips"]
    windows_of_meta = document(tmp_path / f"metas/v0/{clip.uuid}.json")["windows"]
    assert entry["windows"] == [[each["start_frame"], each["end_frame"]] for each in windows_of_meta]
    spans = [{"start_frame": start, "end_frame": end} for start, end in entry["windows"]]
    assert [span | found for span, found in zip(spans, entry["captions"], strict=True)] == windows_of_meta


def test_where_no_captions_were_asked_for_nothing_tells_of_them(tmp_path: Path) -> None:
    clip = clip_of(Window(0, 255))
    written(tmp_path, [[clip]])
    assert document(tmp_path / f"metas/v0/{clip.uuid}.json")["windows"] == [{"start_frame": 0, "end_frame": 255}]
    chunk = document(tmp_path / "processed_clip_chunks/v_0.json")
    assert "captions" not in chunk["clips"][0]
    assert chunk["captions"] == document(tmp_path / "processed_videos/v.json")["captions"] == {}


def test_a_video_that_fails_half_way_counts_no_captions(tmp_path: Path) -> None:
    failure = Failure(FailureReason.DECODE_ERROR, "v: damaged")
    written(tmp_path, [[clip_of(captioned(0, 255, "a"))], []], failure=failure)
    assert document(tmp_path / "processed_videos/v.json")["captions"] == {}


def test_captions_stay_with_the_caller_and_model_inputs_do_not(tmp_path: Path) -> None:
    window = captioned(0, 255, "a")
    window.qwen_llm_input, window.x1_input = {"prompt": "x"}, object()
    written(tmp_path, [[clip_of(window)]])
    assert window.caption == {"qwen": "a"}
    assert window.get_major_size() == len("a")
