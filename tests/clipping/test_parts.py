"""A long video in parts: together they give, byte for byte, what the whole video gives."""

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from curation.clipping.fixed_stride import FixedStrideExtractorStage
from curation.clipping.lead_in import lead_in, looked_at
from curation.clipping.reader import VideoReaderStage
from curation.clipping.shot_tracker import ShotTracker
from curation.clipping.transcoding import ClipTranscodingStage
from curation.clipping.transnetv2 import TransNetV2ClipExtractionStage
from curation.clipping.transnetv2_windows import FRAME_SHAPE, WindowedPredictor
from curation.errors import FailureReason
from curation.model import Video, VideoPart, VideoTask
from curation.pipeline import Pipeline, Stage
from curation.preview.preview import PreviewStage
from curation.resident import ResidentModel
from curation.timeline import FrameSpan, FrameTimeline
from tests.footage import small_footage
from tests.remembering_detector import Detector
from tests.splitting import Alone
from tests.synthetic import make_video

GOPS = {"g": "24", "bf": "3", "sc_threshold": "0"}


def outcome(splitter: Stage, path: Path, part: VideoPart | None = None) -> tuple[list[dict[str, Any]], int]:
    """Everything about the clips of a video or a part of it, and how many pictures were decoded for it."""
    transcoder = ClipTranscodingStage(preset="ultrafast", window_size=40, remainder_threshold=20)
    pipeline = Pipeline("p").add_stage(VideoReaderStage()).add_stage(splitter).add_stage(transcoder)
    pipeline.add_stage(PreviewStage(target_fps=5.0, target_height=32, compression_level=0))
    tasks = pipeline.run([VideoTask("v", "test", Video(path, id="v", part=part))])
    assert [task.data.failure for task in tasks if task.data.failure] == []
    clips = [
        {
            "uuid": clip.uuid,
            "span": clip.span,
            "frames": clip.frame_span,
            "mp4": clip.buffer,
            "windows": [(window.start_frame, window.end_frame, window.webp_bytes) for window in clip.windows],
            "errors": clip.errors,
            "notes": clip.notes,
        }
        for task in tasks
        for clip in task.data.clips
    ]
    return clips, tasks[-1].data.decode_count.num_frames


def assert_parts_are_the_whole(make: Callable[[], Stage], path: Path, count: int) -> None:
    whole, num_decoded = outcome(make(), path)
    parts = [outcome(make(), path, VideoPart(index, count)) for index in range(count)]
    assert [clip for clips, _ in parts for clip in clips] == whole
    assert sum(bool(clips) for clips, _ in parts) > 1
    assert max(decoded for _, decoded in parts) < num_decoded  # none of them decodes all of it


# Cuts at regular times

TIMES = [Fraction(k, 30) + (Fraction(k % 3, 90) if 60 <= k < 180 else 0) for k in range(300)]
SYNTHETIC: dict[str, dict[str, Any]] = {
    "sound and B-frames": {"audio": "clicks", "options": GOPS},
    "variable frame rate": {"times_s": TIMES, "options": GOPS},
    "a late start, in MPEG-TS": {"suffix": ".ts", "audio": "clicks", "start_time_s": Fraction(3), "options": GOPS},
    "Matroska": {"suffix": ".mkv", "audio": "clicks", "options": GOPS},
    "an open GOP": {"options": {**GOPS, "g": "48", "x264-params": "open-gop=1:keyint=48:min-keyint=24"}},
    "turned": {"rotation_degrees": 90, "options": GOPS},
}


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("name", [name for name in SYNTHETIC if "open" not in name])
def test_parts_of_a_stride_are_the_whole(name: str, count: int, tmp_path: Path) -> None:
    settings = dict(SYNTHETIC[name])
    path = tmp_path / f"v{settings.pop('suffix', '.mp4')}"
    make_video(path, num_frames=300, width=96, height=64, **settings)
    assert_parts_are_the_whole(lambda: FixedStrideExtractorStage(0.6, None, 0.3), path, count)


def test_parts_whose_sound_depends_on_all_before_it_are_the_whole(tmp_path: Path) -> None:
    """AAC's noise bands come from a generator that its decoder seeds once, at the first packet."""
    pictures, path = (
        make_video(tmp_path / "p.mp4", num_frames=300, width=96, height=64, options=GOPS),
        tmp_path / "v.mp4",
    )
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 480_000)).astype(np.float32)
    with av.open(str(pictures)) as source, av.open(str(path), "w") as target:
        video = target.add_stream_from_template(source.streams.video[0])
        sound = target.add_stream("aac", rate=48_000, layout="mono", bit_rate=24_000, options={"aac_pns": "1"})
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for start in range(0, noise.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(noise[:, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48_000, start, Fraction(1, 48_000)
            packets += sound.encode(frame)
        for packet in sorted([*packets, *sound.encode(None)], key=lambda each: (each.dts or 0) * each.time_base):
            packet.stream = packet.stream if packet.stream is sound else video
            target.mux(packet)
    assert_parts_are_the_whole(lambda: FixedStrideExtractorStage(0.6, None, 0.3), path, 3)


def test_parts_of_real_footage_are_the_whole() -> None:
    assert_parts_are_the_whole(
        lambda: FixedStrideExtractorStage(3.1, None, 0.5), small_footage("big_buck_bunny_1.mp4"), 2
    )


# What can't be done in parts


def refusal(path: Path, splitter: Stage, **transcoding: Any) -> list[FailureReason]:
    """Why each of two parts is refused."""
    reasons = []
    for index in range(2):
        pipeline = Pipeline("p").add_stage(VideoReaderStage()).add_stage(splitter)
        pipeline.add_stage(ClipTranscodingStage(**transcoding))
        video = Video(path, id="v", part=VideoPart(index, 2))
        (task,) = pipeline.run([VideoTask("v", "test", video)])
        reasons += [task.data.failure.reason] if task.data.failure else []
    return reasons


REFUSED: dict[str, dict[str, Any]] = {
    "no IDR but the first": {"options": {"g": "300"}},
    "a codec of which no IDR is known": {"suffix": ".webm", "codec": "libvpx-vp9"},
    "an open GOP": SYNTHETIC["an open GOP"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_differ_is_left_to_the_whole(name: str, tmp_path: Path) -> None:
    settings = dict(REFUSED[name])
    path = tmp_path / f"v{settings.pop('suffix', '.mp4')}"
    make_video(path, num_frames=120, width=96, height=64, **settings)
    assert refusal(path, FixedStrideExtractorStage(1.0, None, 0.5)) == [FailureReason.NOT_IN_PARTS] * 2


def test_limited_clips_and_copied_packets_are_left_to_the_whole(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", num_frames=120, width=96, height=64, options=GOPS)
    assert refusal(path, FixedStrideExtractorStage(1.0, None, 0.5)) == []
    assert refusal(path, FixedStrideExtractorStage(1.0, None, 0.5, limit_clips=2)) == [FailureReason.NOT_IN_PARTS] * 2
    copying = refusal(path, FixedStrideExtractorStage(1.0, None, 0.5), clip_encoding="smart-copy")
    assert copying == [FailureReason.NOT_IN_PARTS] * 2


def test_a_picture_that_can_not_be_decoded_leaves_the_video_to_the_whole(tmp_path: Path) -> None:
    """What the whole video makes of a gap (its decoder conceals it, or fails) is not for a part to say."""
    path = make_video(tmp_path / "v.mp4", num_frames=120, width=96, height=64, options=GOPS)
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][90]
        assert packet.pos is not None
        content = bytearray(path.read_bytes())
        content[packet.pos + 4 : packet.pos + packet.size] = bytes(packet.size - 4)
    path.write_bytes(content)
    assert FailureReason.NOT_IN_PARTS in refusal(path, FixedStrideExtractorStage(1.0, None, 0.5))


# Shots


@given(
    probabilities=st.lists(st.sampled_from([0.1, 0.9]), min_size=4, max_size=60),
    cuts=st.sets(st.integers(1, 59), max_size=3),
    data=st.data(),
)
def test_a_tracker_that_begins_later_finds_the_shots_that_begin_later(
    probabilities: list[float], cuts: set[int], data: st.DataObject
) -> None:
    end = len(probabilities)
    known_from = data.draw(st.integers(1, end - 2), label="known from")
    own = data.draw(st.integers(known_from + 1, end - 1), label="own from")
    changes = data.draw(st.lists(st.integers(0, 9), min_size=end, max_size=end), label="changes")
    forced = sorted(cut for cut in cuts if cut < end)
    later = tracked(probabilities, changes, forced, first=known_from)
    assume(later.first_calm is not None and later.first_calm < own)
    whole = tracked(probabilities, changes, forced, first=0)
    assert [shot for shot in later.finished if shot.start >= own] == [s for s in whole.finished if s.start >= own]


def tracked(probabilities: Sequence[float], changes: Sequence[int], cuts: Sequence[int], *, first: int) -> ShotTracker:
    tracker = ShotTracker(first, threshold=0.5, forced_cuts=cuts)
    for frame in range(first, len(probabilities)):
        tracker.look(frame, float(changes[frame]), is_looked_at=True)
    tracker.know(probabilities[first:])
    tracker.finish(len(probabilities))
    return tracker


@given(num_frames=st.integers(120, 420), own=st.integers(100, 419), seed=st.integers(0, 99))
def test_a_detector_that_begins_later_sees_the_windows_of_the_whole(num_frames: int, own: int, seed: int) -> None:
    steps = np.random.default_rng(seed).integers(1, 40, num_frames - 1)
    ticks = np.cumsum([0, *steps]).astype(np.int64)
    timeline = FrameTimeline(ticks, Fraction(1, 1000), int(ticks[-1]) + 33)
    lead = lead_in(timeline, FrameSpan(0, num_frames), min(own, num_frames - 1), step=30)
    assume(lead is not None)
    assert lead is not None
    assert lead.first_frame < lead.known_from < own
    whole = known(ticks, 0, has_margin=False)
    later = known(ticks, lead.first_frame, has_margin=True)
    assert min(later) == lead.known_from
    assert later == {frame: value for frame, value in whole.items() if frame >= lead.known_from}


def known(ticks: NDArray[np.int64], first: int, *, has_margin: bool) -> dict[int, float]:
    """What a detector says of each frame that it looks at: a number made of all that its window shows."""

    def look(window: NDArray[np.uint8]) -> NDArray[np.float32]:
        ids = window[0, :, 0, 0, 0].astype(np.int64) * 256 + window[0, :, 0, 0, 1]
        return (np.arange(100) + 1.0 + float(ids @ np.arange(1, 101)))[None].astype(np.float32)

    predictor = WindowedPredictor(look, has_margin=has_margin)
    seen = [first + int(frame) for frame in looked_at(ticks[first:], step=30)]
    for frame in seen:
        picture = np.zeros(FRAME_SHAPE, np.uint8)
        picture[0, 0, :2] = divmod(frame, 256)
        predictor.feed(picture)
    return dict(zip(seen[25:] if has_margin else seen, predictor.finish().tolist(), strict=True))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first of one excerpt after the other, small, with an IDR a second: shots in 21 s."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=24, options={"preset": "veryfast", **GOPS})
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        stream.codec_context.time_base, stream.codec_context.thread_count = Fraction(1, 24), 1
        num_frames = 0
        for name in ("big_buck_bunny_1.mp4", "big_buck_bunny_2.mp4"):
            with av.open(str(small_footage(name))) as source:
                for frame in itertools.islice(source.decode(video=0), 252):
                    small = frame.reformat(320, 180, "yuv420p")
                    small.pts, small.time_base = num_frames, Fraction(1, 24)
                    small.pict_type = av.video.frame.PictureType.NONE
                    num_frames += 1
                    target.mux(stream.encode(small))
        target.mux(stream.encode(None))
    return path


SHOT_RULES = [
    pytest.param({"min_length_s": 1.0, "crop_s": 0.2}, id="as by default"),
    pytest.param({"min_length_s": 0.0, "crop_s": 0.0, "max_length_s": 1.3}, id="long shots cut in pieces"),
    pytest.param({"min_length_s": 0.5, "crop_s": 0.5, "max_length_s": 1.7, "snap_to_idr": True}, id="snapped to IDRs"),
]


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("rules", SHOT_RULES)
def test_parts_of_shots_are_the_whole(rules: dict[str, Any], count: int, film: Path, transnetv2_weights: Path) -> None:
    pytest.importorskip("torch", reason="the shot detector needs torch: pip install 'clipmill[models]'")
    assert_parts_are_the_whole(lambda: Detector(transnetv2_weights.parent, **rules), film, count)


def test_parts_of_shots_that_are_found_in_a_decode_of_their_own_are_the_whole(
    film: Path, transnetv2_weights: Path
) -> None:
    pytest.importorskip("torch", reason="the shot detector needs torch: pip install 'clipmill[models]'")
    rules = {"min_length_s": 1.0, "crop_s": 0.2}
    together, _ = outcome(Detector(transnetv2_weights.parent, **rules), film)
    parts = [outcome(Alone(Detector(transnetv2_weights.parent, **rules)), film, VideoPart(k, 3))[0] for k in range(3)]
    assert [clip for clips in parts for clip in clips] == together


class BrightIsTransition(ResidentModel):
    """A detector for which white pictures are the middle of a transition."""

    def setup(self) -> None:
        """Nothing to load."""

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.where(batch.mean(axis=(2, 3, 4)) > 128, 0.9, 0.1).astype(np.float32)


def bright_detector() -> TransNetV2ClipExtractionStage:
    stage = TransNetV2ClipExtractionStage(min_length_s=0.5, crop_s=0.1)
    stage.model = BrightIsTransition()  # type: ignore[assignment]
    return stage


def with_white(path: Path, first: int, end: int) -> Path:
    """400 dark frames, white from ``first`` to ``end``."""
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=24, options={"preset": "ultrafast", "g": "24"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 24)
        for index in range(400):
            level = 235 if first <= index < end else 20 + index % 60
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 24)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("first", "end"), [(170, 230), (199, 201), (200, 203), (198, 200), (50, 300)])
def test_a_transition_over_a_parts_start_is_that_of_the_whole(first: int, end: int, tmp_path: Path) -> None:
    """The second part begins at frame 200; its detector knows of the frames from 150 on."""
    path = with_white(tmp_path / "v.mp4", first, end)
    whole, _ = outcome(bright_detector(), path)
    assert len(whole) == 2
    if first <= 150:
        assert refusal(path, bright_detector()) == [FailureReason.NOT_IN_PARTS]
        return
    parts = [outcome(bright_detector(), path, VideoPart(index, 2))[0] for index in range(2)]
    assert [clip for clips in parts for clip in clips] == whole
