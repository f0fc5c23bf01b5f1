"""Documents of clips read back, and what the next annotation version says of them."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.model import CaptionOutcome, Window
from curation.writing.captions import window_captions
from curation.writing.earlier import Annotations, annotated_provenance, restored_clip, restored_window

keys = st.sampled_from(["qwen", "nemotron", "qwen3_vl_2b"])
texts = st.text(max_size=20)
counts = st.integers(0, 10**6)
outcomes = st.one_of(
    st.builds(CaptionOutcome, st.sampled_from(["success", "truncated"]), st.just(""), counts, counts),
    st.builds(CaptionOutcome, st.just("error"), texts, counts, counts, st.lists(texts, max_size=2).map(tuple)),
)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    window = Window(draw(st.integers(0, 1000)), 2000)
    window.caption = draw(st.dictionaries(keys, texts))
    window.enhanced_caption = draw(st.dictionaries(st.just("qwen_lm"), texts))
    window.caption_outcomes = draw(st.dictionaries(st.one_of(keys, st.just("qwen_lm")), outcomes))
    return window


def document(window: Window) -> dict[str, Any]:
    return {"start_frame": window.start_frame, "end_frame": window.end_frame, **window_captions(window)}


@given(windows())
def test_a_window_is_read_back_as_it_was_written(window: Window) -> None:
    assert restored_window(document(window)) == window


@given(windows())
def test_captions_made_anew_take_the_place_of_all_that_was_said(window: Window) -> None:
    assert document(restored_window(document(window), Annotations(made=frozenset({"captions"})).replaced)) == {
        "start_frame": window.start_frame,
        "end_frame": window.end_frame,
    }


@given(windows())
def test_captions_told_anew_keep_what_they_are_told_from(window: Window) -> None:
    told = restored_window(document(window), Annotations(made=frozenset({"enhancement"})).replaced)
    assert (told.caption, told.enhanced_caption) == (window.caption, {})
    assert told.caption_outcomes.keys() == window.caption_outcomes.keys() - {"qwen_lm"}


def entry(**meta: Any) -> dict[str, Any]:
    """A list's entry of a clip of 600 frames, captioned and measured."""
    described = {
        "source_video": "/raw/a.mp4",
        "width": 320,
        "height": 180,
        "framerate": 24.0,
        "num_frames": 600,
        "video_codec": "h264",
        "num_bytes": 1000,
        "motion_score": {"global_mean": 0.1, "per_patch_min_256": 0.01},
        "aesthetic_score": 5.5,
        "text_match": {"text": "a road", "probability": 0.9},
        "errors": {"motion": "m", "preview_0_255": "p", "frames": "f", "caption_preparation": "c", "t5_xxl": "t"},
        "notes": {"clip_encoding": "smart-copy", "motion_source": "s"},
        "windows": [
            {"start_frame": 0, "end_frame": 255, "qwen_caption": "one"},
            {"start_frame": 256, "end_frame": 599, "qwen_caption": "two"},
        ],
        "frame_span_source": [24, 624],
        "rejection": None,
        "provenance": {"encoder": "libx264", "config_hash": "of the split", "prompts": {"qwen": "?"}},
        **meta,
    }
    return {
        "uuid": "0ba07dbf-548b-58d7-ab81-a81008382f75",
        "span": [1.0, 26.0],
        "sha256": "00",
        "num_previews": 2,
        "windows": [[0, 255], [256, 599]],
        "embeddings": {"ce1_embd_224p": "AAAA"},
        "metas": {"v0": described},
    }


@pytest.mark.parametrize(
    ("made", "messages"),
    [
        pytest.param({"captions"}, {"motion", "preview_0_255", "frames"}, id="captions, and the vectors made of them"),
        pytest.param({"previews"}, {"motion", "frames", "caption_preparation", "t5_xxl"}, id="previews"),
        pytest.param({"motion"}, {"preview_0_255", "frames", "caption_preparation", "t5_xxl"}, id="motion"),
        pytest.param(set(), {"motion", "preview_0_255", "frames", "caption_preparation", "t5_xxl"}, id="nothing"),
    ],
)
def test_what_went_wrong_is_told_until_it_is_tried_again(made: set[str], messages: set[str]) -> None:
    assert restored_clip(entry(), Annotations(made=frozenset(made))).errors.keys() == messages


def test_a_clip_is_the_same_clip() -> None:
    clip = restored_clip(entry(), Annotations(made=frozenset({"captions", "previews", "motion"})))
    assert clip.uuid == UUID("0ba07dbf-548b-58d7-ab81-a81008382f75")
    assert (clip.source_video, clip.span) == ("/raw/a.mp4", (1.0, 26.0))
    assert clip.frame_span is not None
    assert (clip.frame_span.start, clip.frame_span.end) == (24, 624)
    assert (clip.motion_score_global_mean, clip.aesthetic_score) == (None, 5.5)
    assert clip.written is not None
    assert (clip.written.sha256, clip.written.num_previews, clip.written.paths) == ("00", 0, ())
    assert [(w.start_frame, w.end_frame, w.caption) for w in clip.windows] == [(0, 255, {}), (256, 599, {})]


def test_windows_made_anew_keep_what_is_known_of_the_same_frames() -> None:
    clip = restored_clip(entry(), Annotations(made=frozenset({"previews"}), windows=(128, 64)))
    spans = [(window.start_frame, window.end_frame) for window in clip.windows]
    assert spans == [(0, 127), (128, 255), (256, 383), (384, 511), (512, 599)]
    assert all(window.caption == {} for window in clip.windows)
    same = restored_clip(entry(), Annotations(made=frozenset({"previews"}), windows=(256, 128)))
    assert [window.caption for window in same.windows] == [{"qwen": "one"}, {"qwen": "two"}]


def test_each_kind_of_annotation_names_the_run_that_made_it() -> None:
    of_split = {"encoder": "libx264", "config_hash": "of the split", "prompts": {"qwen": "?"}}
    first = annotated_provenance(
        of_split, {"config_hash": "one"}, Annotations(made=frozenset({"captions", "previews"}))
    )
    assert first == {
        "encoder": "libx264",
        "config_hash": "of the split",
        "annotations": {"captions": {"config_hash": "one"}, "previews": {"config_hash": "one"}},
    }
    second = annotated_provenance(first, {"config_hash": "two"}, Annotations("v1", frozenset({"captions"})))
    assert second["annotations"] == {"captions": {"config_hash": "two"}, "previews": {"config_hash": "one"}}


def test_an_unknown_kind_of_annotation_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown annotations \['subtitles'\]; known: captions, enhancement"):
        Annotations(made=frozenset({"subtitles"}))
