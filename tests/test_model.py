"""The data model against the documentation of NeMo Curator's video tasks, and the laws of its counts and sizes."""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation import model
from curation.errors import FailureReason, VideoError
from curation.model import CaptionOutcome, Clip, ClipStats, Rejection, Video, VideoMetadata, VideoTask, Window
from curation.timeline import FrameSpan, FrameTimeline
from curation.written import WrittenFiles
from tests.synthetic import make_video

# Names, order and defaults as the document lists them; ... stands for a field that has to be given
DOCUMENTED: dict[str, dict[str, object]] = {
    "_Window": {
        "start_frame": ...,
        "end_frame": ...,
        "mp4_bytes": None,
        "qwen_llm_input": None,
        "x1_input": None,
        "caption": {},
        "enhanced_caption": {},
        "webp_bytes": None,
    },
    "Clip": {
        "uuid": ...,
        "source_video": ...,
        "span": ...,
        "buffer": None,
        "extracted_frames": {},
        "decoded_motion_data": None,
        "motion_score_global_mean": None,
        "motion_score_per_patch_min_256": None,
        "aesthetic_score": None,
        "cosmos_embed1_frames": None,
        "cosmos_embed1_embedding": None,
        "intern_video_2_frames": None,
        "intern_video_2_embedding": None,
        "windows": [],
        "egomotion": {},
        "cosmos_embed1_text_match": None,
        "intern_video_2_text_match": None,
        "errors": {},
    },
    "ClipStats": {
        "num_filtered_by_motion": 0,
        "num_filtered_by_aesthetic": 0,
        "num_passed": 0,
        "num_transcoded": 0,
        "num_with_embeddings": 0,
        "num_with_caption": 0,
        "num_with_webp": 0,
        "total_clip_duration": 0.0,
        "max_clip_duration": 0.0,
    },
    "VideoMetadata": {
        "size": None,
        "height": None,
        "width": None,
        "framerate": None,
        "num_frames": None,
        "duration": None,
        "video_codec": None,
        "pixel_format": None,
        "audio_codec": None,
        "bit_rate_k": None,
    },
    "Video": {
        "input_video": ...,
        "source_bytes": None,
        "metadata": VideoMetadata(),
        "frame_array": None,
        "clips": [],
        "filtered_clips": [],
        "num_total_clips": 0,
        "num_clip_chunks": 0,
        "clip_chunk_index": 0,
        "clip_stats": ClipStats(),
        "errors": {},
    },
    "VideoTask": {"task_id": ..., "dataset_name": ..., "data": ...},
}
METHODS = {
    "_Window": ["get_major_size"],
    "Clip": ["extract_metadata", "duration", "get_major_size"],
    "ClipStats": ["combine"],
    "Video": [
        "populate_metadata",
        "fraction",
        "weight",
        "get_major_size",
        "has_metadata",
        "is_10_bit_color",
        "input_path",
    ],
    "VideoTask": ["validate", "num_items"],
}
GIVEN: dict[str, list[object]] = {
    "_Window": [0, 255],
    "Clip": [uuid.UUID(int=1), "a.mp4", (0.0, 1.0)],
    "Video": [Path("a.mp4")],
    "VideoTask": ["task", "dataset", Video(Path("a.mp4"))],
}


def make_clip(*, span: tuple[float, float] = (0.0, 1.0), windows: Sequence[Window] = (), **held: Any) -> Clip:
    return Clip(uuid=uuid.uuid4(), source_video="a.mp4", span=span, windows=list(windows), **held)


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("movie") / "movie.mp4"
    return make_video(path, num_frames=50, rate=Fraction(25), width=192, height=108)


# The document


@pytest.mark.parametrize("name", DOCUMENTED)
def test_each_class_is_a_dataclass_of_that_name(name: str) -> None:
    assert is_dataclass(getattr(model, name))


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_documented_fields_come_first_and_in_order(name: str) -> None:
    documented = list(DOCUMENTED[name])
    assert [each.name for each in fields(getattr(model, name))][: len(documented)] == documented


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_constructor_takes_the_documented_fields_by_position(name: str) -> None:
    given_values = GIVEN.get(name, [])
    values = [*given_values, *(object() for _ in range(len(DOCUMENTED[name]) - len(given_values)))]
    made = getattr(model, name)(*values)
    assert [getattr(made, field_name) for field_name in DOCUMENTED[name]] == values


@pytest.mark.parametrize("name", DOCUMENTED)
def test_fields_that_are_not_given_are_empty(name: str) -> None:
    made = getattr(model, name)(*GIVEN.get(name, []))
    defaults = {key: value for key, value in DOCUMENTED[name].items() if value is not ...}
    assert {key: getattr(made, key) for key in defaults} == defaults


@pytest.mark.parametrize(("name", "method"), [(name, method) for name, of in METHODS.items() for method in of])
def test_the_documented_methods_are_there(name: str, method: str) -> None:
    assert hasattr(getattr(model, name), method)


def test_the_window_has_a_public_name_too() -> None:
    assert model.Window is model._Window


def test_two_objects_share_no_container() -> None:
    one, other = make_clip(), make_clip()
    one.errors["transcode"] = "refused"
    one.extracted_frames["motion"] = np.zeros(1, np.uint8)
    assert (other.errors, other.extracted_frames) == ({}, {})


# Windows and clips


def test_the_end_of_a_window_is_inclusive() -> None:
    assert Window(256, 383).span == FrameSpan(256, 384)


@pytest.mark.parametrize(
    ("caption", "outcomes", "has_caption"),
    [
        pytest.param({}, {}, False, id="none"),
        pytest.param({"qwen": "a"}, {}, True, id="a text"),
        pytest.param({"qwen": ""}, {"qwen": "success"}, False, id="an empty text"),
        pytest.param({"qwen": "a"}, {"qwen": "truncated"}, True, id="a truncated text"),
        pytest.param({"qwen": "a"}, {"qwen": "error"}, False, id="a text beside an error"),
        pytest.param({"qwen": "a"}, {"qwen": "success", "qwen_lm": "error"}, True, id="an error of the enhancement"),
        pytest.param({"qwen": "a", "nemotron": "b"}, {"qwen": "error"}, True, id="one of two"),
    ],
)
def test_a_window_has_a_caption_when_a_model_said_something_of_it(
    caption: dict[str, str], outcomes: dict[str, Literal["success", "truncated", "error"]], has_caption: bool
) -> None:
    found = {key: CaptionOutcome(status) for key, status in outcomes.items()}
    assert Window(0, 255, caption=caption, caption_outcomes=found).has_caption is has_caption


def test_the_duration_of_a_clip_is_that_of_its_span() -> None:
    assert make_clip(span=(2.5, 6.0)).duration == 3.5


def test_a_clip_without_bytes_has_no_metadata() -> None:
    assert make_clip().extract_metadata() is None


def test_the_metadata_of_a_clip_are_those_of_its_own_video(movie: Path) -> None:
    content = movie.read_bytes()
    assert make_clip(buffer=content).extract_metadata() == {
        "width": 192,
        "height": 108,
        "framerate": 25.0,
        "num_frames": 50,
        "video_codec": "h264",
        "num_bytes": len(content),
    }


def test_bytes_that_are_no_video_are_an_error() -> None:
    with pytest.raises(VideoError) as caught:
        make_clip(buffer=b"this is no video" * 100).extract_metadata()
    assert caught.value.reason is FailureReason.UNREADABLE


# Sizes


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("buffer", bytes(1000)),
        ("extracted_frames", {"a": np.zeros((2, 250), np.uint8), "b": np.zeros(500, np.uint8)}),
        ("extracted_frame_indices", {"a": np.zeros(125, np.int64)}),
        ("decoded_motion_data", np.zeros(250, np.float32)),
        ("cosmos_embed1_frames", np.zeros(250, np.float32)),
        ("cosmos_embed1_embedding", np.zeros(250, np.float32)),
        ("intern_video_2_frames", np.zeros(250, np.float32)),
        ("intern_video_2_embedding", np.zeros(250, np.float32)),
        ("egomotion", {"a": bytes(600), "b": bytes(400)}),
        ("frame_times_s", np.zeros(125, np.float64)),
        ("windows", [Window(0, 9, mp4_bytes=bytes(600)), Window(10, 19, webp_bytes=bytes(400))]),
    ],
)
def test_the_size_of_a_clip_counts_each_thing_that_it_holds(name: str, held: object) -> None:
    clip = make_clip()
    setattr(clip, name, held)
    assert clip.get_major_size() == 1000


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("mp4_bytes", bytes(1000)),
        ("webp_bytes", bytes(1000)),
        ("qwen_llm_input", {"prompt": "x" * 200, "multi_modal_data": {"video": [np.zeros(800, np.uint8)]}}),
        ("x1_input", np.zeros((10, 25), np.float32)),
        ("caption", {"qwen": "x" * 1000}),
        ("enhanced_caption", {"qwen_lm": "ü" * 500}),
    ],
)
def test_the_size_of_a_window_counts_each_thing_that_it_holds(name: str, held: object) -> None:
    window = Window(0, 255)
    setattr(window, name, held)
    assert window.get_major_size() == 1000


def test_a_model_input_of_torch_counts_its_elements() -> None:
    torch = pytest.importorskip("torch")
    assert Window(0, 255, x1_input=torch.zeros(250, dtype=torch.float32)).get_major_size() == 1000


def test_the_size_of_a_video_counts_its_bytes_frames_times_and_clips() -> None:
    video = Video(
        Path("a.mp4"),
        source_bytes=bytes(10000),
        frame_array=np.zeros((2, 10, 25, 2), np.uint8),
        clips=[make_clip(buffer=bytes(200))],
        filtered_clips=[make_clip(buffer=bytes(30))],
        timeline=FrameTimeline(
            ticks=np.arange(5, dtype=np.int64),
            time_base=Fraction(1, 25),
            end_tick=5,
            idr_frames=np.array([0, 3], dtype=np.int64),
            size_changes=np.array([3], dtype=np.int64),
        ),
    )
    assert video.get_major_size() == 10000 + 1000 + 200 + 30 + 8 * (5 + 2 + 1)


def test_what_holds_nothing_has_no_size() -> None:
    assert (Window(0, 255).get_major_size(), make_clip().get_major_size(), Video(Path("a")).get_major_size()) == (
        0,
        0,
        0,
    )


# Statistics

counts = st.integers(0, 10**9)
seconds = st.integers(0, 10**6).map(lambda quarters: quarters / 4)  # sums of quarters are exact
stats = st.builds(ClipStats, *[counts] * 7, seconds, seconds)


def combined(*parts: ClipStats) -> ClipStats:
    total = ClipStats()
    for part in parts:
        total.combine(part)
    return total


@given(stats, stats)
def test_combining_adds_counts_and_keeps_the_longest_clip(one: ClipStats, other: ClipStats) -> None:
    total = replace(one)
    total.combine(other)
    names = [each.name for each in fields(ClipStats) if each.name != "max_clip_duration"]
    assert [getattr(total, name) for name in names] == [getattr(one, name) + getattr(other, name) for name in names]
    assert total.max_clip_duration == max(one.max_clip_duration, other.max_clip_duration)


@given(stats, stats)
def test_combining_leaves_the_other_alone(one: ClipStats, other: ClipStats) -> None:
    before = replace(other)
    one.combine(other)
    assert other == before


@given(stats)
def test_combining_with_nothing_changes_nothing(one: ClipStats) -> None:
    assert combined(one) == one == combined(one, ClipStats())


@given(stats, stats, stats)
def test_the_order_of_combining_does_not_matter(one: ClipStats, two: ClipStats, three: ClipStats) -> None:
    assert combined(one, two, three) == combined(three, combined(two, one)) == combined(combined(one, two), three)


def test_kept_and_filtered_clips_count_by_the_rules_of_the_contract() -> None:
    captioned = [Window(0, 255, caption={"qwen": "a"}, webp_bytes=b"x"), Window(256, 511, caption={"qwen": "b"})]
    vector = np.zeros(4, np.float32)
    kept = [
        make_clip(span=(0.0, 2.0), buffer=b"x", windows=captioned, cosmos_embed1_embedding=vector),
        make_clip(span=(2.0, 5.5), buffer=b"x", intern_video_2_embedding=vector, cosmos_embed1_embedding=vector),
        make_clip(span=(6.0, 7.0), windows=[Window(0, 24)]),
    ]
    filtered = [
        make_clip(span=(7.0, 17.0), buffer=b"x", windows=captioned, rejection=Rejection("motion", 0.0, 0.1)),
        make_clip(span=(20.0, 21.0), rejection=Rejection("aesthetic", 1.0, 3.5), intern_video_2_embedding=vector),
        make_clip(span=(21.0, 22.0), buffer=b"x", rejection=Rejection("aesthetic", 2.0, 3.5)),
    ]
    assert ClipStats.of(kept, filtered) == ClipStats(
        num_filtered_by_motion=1,
        num_filtered_by_aesthetic=2,
        num_passed=3,
        num_transcoded=4,
        num_with_embeddings=2,
        num_with_caption=1,
        num_with_webp=1,
        total_clip_duration=18.5,
        max_clip_duration=10.0,
    )


def test_a_clip_that_was_written_counts_as_one_that_is_held() -> None:
    webp = Window(0, 255, webp_bytes=b"x")
    held = [make_clip(buffer=b"x", windows=[webp]), make_clip(buffer=b"x", windows=[Window(0, 255)])]
    written = [
        make_clip(written=WrittenFiles({}, "sha256", ("clips/a.mp4",), num_previews), windows=[Window(0, 255)])
        for num_previews in (1, 0)
    ]
    assert ClipStats.of(written, []) == ClipStats.of(held, [])


def test_no_clips_count_nothing() -> None:
    assert ClipStats.of([], []) == ClipStats()


@given(st.lists(st.tuples(st.booleans(), st.booleans(), seconds), max_size=12), st.integers(0, 12))
def test_the_statistics_of_a_video_are_those_of_its_chunks_combined(
    clips: list[tuple[bool, bool, float]], cut: int
) -> None:
    def count(part: list[tuple[bool, bool, float]]) -> ClipStats:
        made = [(keep, make_clip(span=(0.0, length), buffer=b"x" if full else None)) for keep, full, length in part]
        return ClipStats.of([clip for keep, clip in made if keep], [clip for keep, clip in made if not keep])

    assert combined(count(clips[:cut]), count(clips[cut:])) == count(clips)


# Videos


def test_all_clips_are_the_fraction_of_a_video_without_clips() -> None:
    assert Video(Path("a.mp4")).fraction == 1.0


def test_the_fraction_of_a_chunk_counts_kept_and_filtered_clips() -> None:
    video = Video(Path("a.mp4"), clips=[make_clip(), make_clip()], filtered_clips=[make_clip()], num_total_clips=12)
    assert video.fraction == 0.25


@pytest.mark.parametrize(
    ("size", "duration", "num_total_clips", "weight"),
    [
        pytest.param(1000, 300.0, 0, 1.0, id="five minutes weigh one"),
        pytest.param(1000, 60.0, 0, 0.2, id="by duration"),
        pytest.param(1000, 600.0, 4, 0.5, id="by the fraction of clips"),
        pytest.param(None, 300.0, 0, 0.0, id="nothing without a size"),
        pytest.param(1000, None, 0, 0.0, id="nothing without a duration"),
    ],
)
def test_the_weight_of_a_video(size: int | None, duration: float | None, num_total_clips: int, weight: float) -> None:
    metadata = VideoMetadata(size=size, duration=duration)
    video = Video(Path("a.mp4"), metadata=metadata, clips=[make_clip()], num_total_clips=num_total_clips)
    assert video.weight == pytest.approx(weight)


@pytest.mark.parametrize(
    ("pixel_format", "is_10_bit"),
    [
        (None, None),
        ("yuv420p10le", True),
        ("yuv422p10be", True),
        ("p010le", True),
        ("gbrp10le", True),
        ("yuv420p", False),
        ("yuv410p", False),
        ("yuvj420p", False),
        ("nv12", False),
        ("yuv420p12le", False),
        ("p016le", False),
    ],
)
def test_10_bits_are_told_from_the_pixel_format(pixel_format: str | None, is_10_bit: bool | None) -> None:
    assert Video(Path("a.mp4"), metadata=VideoMetadata(pixel_format=pixel_format)).is_10_bit_color() is is_10_bit


def test_the_metadata_of_a_video_come_from_its_bytes(movie: Path) -> None:
    content = movie.read_bytes()
    video = Video(Path("elsewhere.mp4"), source_bytes=content)
    video.populate_metadata()
    found = video.metadata
    assert (found.size, found.width, found.height, found.num_frames) == (len(content), 192, 108, 50)
    assert (found.framerate, found.duration, found.video_codec) == (25.0, 2.0, "h264")
    assert (found.pixel_format, found.audio_codec) == ("yuv420p", None)
    assert found.bit_rate_k == round(len(content) * 8 / 2.0 / 1000)


def test_metadata_without_bytes_are_refused(movie: Path) -> None:
    with pytest.raises(ValueError, match="no source_bytes"):
        Video(movie).populate_metadata()


def test_metadata_are_there_once_they_are_populated(movie: Path) -> None:
    video = Video(movie, source_bytes=movie.read_bytes())
    assert not video.has_metadata()
    video.populate_metadata()
    assert video.has_metadata()


@pytest.mark.parametrize("name", ["height", "width", "framerate", "num_frames", "duration", "video_codec"])
def test_metadata_without_one_of_the_needed_fields_are_not_there(name: str) -> None:
    whole = VideoMetadata(1000, 108, 192, 25.0, 50, 2.0, "h264", "yuv420p", None, 4)
    assert Video(Path("a.mp4"), metadata=whole).has_metadata()
    assert not Video(Path("a.mp4"), metadata=replace(whole, **{name: None})).has_metadata()


def test_a_video_is_named_by_its_file_unless_an_id_is_given() -> None:
    assert Video(Path("/videos/a.mp4")).id == "a.mp4"
    assert Video(Path("/videos/a.mp4"), id="2024/a.mp4").id == "2024/a.mp4"


def test_the_path_of_a_video_may_be_given_as_text() -> None:
    video = Video("/videos/a.mp4")  # what users of the other curators write
    assert (video.input_video, video.input_path) == (Path("/videos/a.mp4"), "/videos/a.mp4")


# Tasks


def test_a_task_is_one_video() -> None:
    assert VideoTask("task", "dataset", Video(Path("a.mp4"))).num_items == 1


def test_a_task_with_its_file_is_valid_and_says_nothing(movie: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert VideoTask("task", "dataset", Video(movie)).validate()
    assert not caplog.records


@pytest.mark.parametrize("name", ["missing.mp4", ""], ids=["no such file", "a folder"])
def test_a_task_without_its_file_is_not_valid_and_warns(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert not VideoTask("task", "dataset", Video(tmp_path / name)).validate()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(tmp_path / name) in caplog.text


def test_a_task_with_bytes_needs_no_file(tmp_path: Path) -> None:
    assert VideoTask("task", "dataset", Video(tmp_path / "missing.mp4", source_bytes=b"x")).validate()
