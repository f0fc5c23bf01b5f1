"""Which clips are still, by the measure of the tools that people know, from what the decoder of the source says."""

import math
import pickle
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from curation.clipping.clips import new_clip
from curation.clipping.cutting import OpenClip, Packets
from curation.clipping.reader import VideoReaderStage
from curation.clipping.recipe import ClipRecipe
from curation.clipping.transcoding import ClipTranscodingStage
from curation.filtering.motion import MotionFilterStage, MotionVectorDecodeStage, measure_mp4
from curation.model import Clip, Video, VideoTask
from curation.pipeline import Pipeline, Stage
from curation.timeline import FrameSpan
from curation.video.decode import PictureNormalizer, decode_frames
from curation.video.encode import EncoderSettings
from curation.video.motion import MotionRequest, MotionTrack, motion_request, score
from curation.video.motion_flow import FlowMeter
from curation.video.motion_vectors import sample_vectors, vectors_of
from curation.video.probe import probe_bytes
from curation.video.scheduling import open_encoder
from curation.video.source import decode_video, profile_needed, timeline_needed
from tests.filtering.nemo_motion import nemo_motion
from tests.footage import MEDIA, footage, small_footage
from tests.remembering_detector import Detector
from tests.splitting import Alone, mp4_of, one_clip, splitting, task_of

SOURCES = {
    "bunny": lambda: MEDIA / "big_buck_bunny_1.mp4",
    "bikes": lambda: footage("bikes.mp4"),  # B-frames, and a height that is no multiple of 16
    "city": lambda: footage("cityCC0.mpg"),  # MPEG-2: a key frame each half second
    "small": lambda: small_footage("big_buck_bunny_2.mp4"),  # lower than a patch of 256 pixels
}
SMALL = SOURCES | {"bunny": lambda: small_footage("big_buck_bunny_1.mp4")}
SIZE = 384, 256


def filtered(source: Path, *stages: Stage, **settings: Any) -> tuple[list[Clip], VideoTask]:
    """All clips of a video in order, kept or not, and the last task."""
    asked: dict[str, Any] = {"clip_len_s": 5.0, "encoder": "libx264", "preset": "ultrafast"} | settings
    return run(splitting(**asked), source, *stages)


def run(pipeline: Pipeline, source: Path, *stages: Stage) -> tuple[list[Clip], VideoTask]:
    for stage in stages or [MotionFilterStage()]:
        pipeline.add_stage(stage)
    tasks = pipeline.run([task_of(source)])
    assert [task.data.failure for task in tasks if task.data.failure] == []
    clips = [clip for task in tasks for clip in (*task.data.clips, *task.data.filtered_clips)]
    return sorted(clips, key=lambda clip: clip.span), tasks[-1]


def scores(clips: Sequence[Clip]) -> list[tuple[float | None, float | None]]:
    return [(clip.motion_score_global_mean, clip.motion_score_per_patch_min_256) for clip in clips]


def textured(width: int, height: int) -> NDArray[np.uint8]:
    """Something to see everywhere: soft noise."""
    noise = np.random.default_rng(3).normal(size=(height, width))
    waves = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.fftfreq(width)[None] ** 2
    soft = np.fft.ifft2(np.fft.fft2(noise) * np.exp(-600 * waves)).real
    return np.asarray(np.clip(128 + 45 * soft / soft.std(), 16, 235), np.uint8)


def moving(path: Path, *, pixels: float, codec: str = "libx264", num_frames: int = 150, x264: str = "") -> Path:
    """A picture that moves to the left by so many pixels a frame, all of it, at 30 frames a second."""
    (width, height), world = SIZE, textured(2 * SIZE[0], SIZE[1])
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.options = {"x264-params": x264} if x264 else {}
        open_encoder(stream.codec_context)
        for index in range(num_frames):
            shown = np.roll(world, -round(pixels * index), axis=1)[:, :width]
            packed = np.vstack([shown, np.full((height // 2, width), 128, np.uint8)])
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(packed), format="yuv420p")
            frame = frame.reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = index, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", SOURCES)
def test_the_measure_of_a_clip_is_that_of_nemo_curator(name: str) -> None:
    mp4 = one_clip(SOURCES[name](), encoder="libx264", preset="superfast")
    found = score(measure_mp4(mp4, motion_request(), name=name))
    mean, patch, num_frames = nemo_motion(mp4)
    assert found.num_samples == num_frames
    assert found.global_mean == pytest.approx(mean, rel=1e-5)
    assert found.per_patch_min_256 == pytest.approx(patch, rel=1e-4, abs=1e-9)


def test_other_rates_and_shares_are_theirs_too() -> None:
    mp4 = one_clip(footage("bikes.mp4"), encoder="libx264", preset="ultrafast")
    found = score(measure_mp4(mp4, motion_request(6.0, 0.3), name="v"))
    mean, patch, num_frames = nemo_motion(mp4, target_fps=6.0, ratio=0.3)
    assert (found.num_samples, found.source) == (num_frames, "vectors")
    assert (found.global_mean, found.per_patch_min_256) == pytest.approx((mean, patch), rel=1e-4)


@pytest.mark.parametrize("bframes", [0, 3])
def test_a_picture_that_moves_by_so_many_pixels_has_that_score(bframes: int, tmp_path: Path) -> None:
    """Whatever the frames refer to: motion is per frame."""
    path = moving(tmp_path / "v.mp4", pixels=2, x264=f"bframes={bframes}:b-adapt=0:ref=1:scenecut=0")
    (clip,), _ = filtered(path)
    assert clip.motion_score_global_mean == pytest.approx(2 / sum(SIZE), rel=0.1)
    assert clip.motion_score_per_patch_min_256 == pytest.approx(2 / sum(SIZE), rel=0.2)  # some blocks are intra
    assert clip.notes["motion_source"].startswith("vectors of ")


@pytest.mark.parametrize("codec", ["libx265", "libvpx-vp9", "libsvtav1", "mjpeg", "mpeg4", "mpeg2video"])
def test_other_codecs_have_the_same_score(codec: str, tmp_path: Path) -> None:
    """HEVC, VP9 and AV1 decoders tell no vectors, and intra pictures have none: their pictures are compared."""
    path = moving(tmp_path / "v.mkv", pixels=3, codec=codec, num_frames=120)
    (clip,), _ = filtered(path)
    assert clip.motion_score_global_mean == pytest.approx(3 / sum(SIZE), rel=0.15)
    assert clip.notes["motion_source"].startswith("vectors" if codec.startswith("mpeg") else "flow")


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_still_is_rejected_with_filter_measure_and_limit(codec: str, tmp_path: Path) -> None:
    (clip,), task = filtered(moving(tmp_path / "v.mp4", pixels=0, codec=codec))
    assert scores([clip]) == [(0.0, 0.0)]
    assert task.data.clips == []
    assert clip.rejection is not None
    assert (clip.rejection.filter, clip.rejection.measure, clip.rejection.limit) == ("motion", 0.0, 0.00098)


def test_what_moves_in_a_corner_only_is_rejected_by_its_patch(tmp_path: Path) -> None:
    path = moving(tmp_path / "v.mp4", pixels=2)
    (clip,), _ = filtered(path, MotionFilterStage(per_patch_min_256_threshold=1.0))
    assert clip.rejection is not None
    assert clip.rejection.measure == clip.motion_score_per_patch_min_256
    assert clip.rejection.limit == 1.0


@pytest.mark.parametrize("name", ["bunny", "bikes"])
def test_flow_and_vectors_agree_on_real_footage(name: str) -> None:
    """In the median frame that moves; between two shots neither means anything."""
    mp4 = one_clip(SMALL[name](), encoder="libx264", preset="superfast")
    probed, flow, ratios = probe_bytes(mp4, name=name), FlowMeter(), []
    seen: deque[tuple[int, av.VideoFrame]] = deque(maxlen=1)

    def see(frame: av.VideoFrame) -> None:
        index, vectors = seen[0][0] + 1 if seen else 0, vectors_of(frame)
        if index % 5 == 0 and vectors is not None:
            told = sample_vectors(vectors, (frame.width, frame.height), distance=1).mean
            if told > 0.0002:
                ratios.append(flow.sample(seen[0][1], frame).mean / told)
        seen.append((index, frame))

    deque(decode_frames(mp4, probed.profile, probed.timeline, name=name, see_motion=see), maxlen=0)
    assert len(ratios) > 20
    assert 1 / 1.4 < np.median(ratios) < 1.4


@pytest.mark.parametrize("name", ["bunny", "bikes", "city"])
def test_a_sparse_decode_measures_what_a_full_one_does(name: str) -> None:
    full, _ = filtered(SMALL[name](), clip_len_s=4.0)
    sparse, task = filtered(SMALL[name](), clip_len_s=4.0, clip_encoding="smart-copy")
    assert scores(sparse) == scores(full)
    assert task.data.decode_count.num_frames <= (task.data.metadata.num_frames or 0) + 1


def test_shots_that_are_cut_as_they_are_found_have_the_same_scores(transnetv2_weights: Path) -> None:
    def splits(splitter: Stage) -> Pipeline:
        transcoder = ClipTranscodingStage(encoder="libx264", preset="ultrafast")
        return Pipeline("p").add_stage(VideoReaderStage()).add_stage(splitter).add_stage(transcoder)

    source = small_footage("big_buck_bunny_2.mp4")
    splitter = Detector(transnetv2_weights.parent, min_length_s=0.5)
    together, task = run(splits(splitter), source)
    one_after_the_other, _ = run(splits(Alone(splitter)), source)
    assert len(together) > 1
    assert scores(together) == scores(one_after_the_other)
    assert task.data.decode_count.num_frames == (task.data.metadata.num_frames or 0) + 1  # the probe decodes one


def test_only_who_asks_gets_vectors_and_nobody_keeps_them(tmp_path: Path) -> None:
    path = moving(tmp_path / "v.mp4", pixels=1, num_frames=20)
    probed = probe_bytes(path.read_bytes(), name="v")
    seen: list[bool] = []
    for see in (None, lambda frame: seen.append(vectors_of(frame) is not None)):
        frames = list(decode_frames(path, probed.profile, probed.timeline, name="v", see_motion=see))
        assert [vectors_of(frame) for frame in frames if isinstance(frame, av.VideoFrame)] == [None] * 20
    assert seen == [False] + [True] * 19


def test_a_picture_without_its_vectors_is_the_same_picture(tmp_path: Path) -> None:
    path = moving(tmp_path / "v.mp4", pixels=1, num_frames=20)
    probed = probe_bytes(path.read_bytes(), name="v")
    one, other = (
        [
            (frame.pts, frame.time_base, frame.pict_type, frame.to_ndarray().tobytes())
            for frame in decode_frames(path, probed.profile, probed.timeline, name="v", see_motion=see)
            if isinstance(frame, av.VideoFrame)
        ]
        for see in (None, lambda _: None)
    )
    assert one == other


def test_score_only_leaves_out_none(tmp_path: Path) -> None:
    (clip,), task = filtered(moving(tmp_path / "v.mp4", pixels=0), MotionFilterStage(score_only=True))
    assert task.data.clips == [clip]
    assert (clip.motion_score_global_mean, clip.rejection) == (0.0, None)


def test_alone_it_measures_the_clips_own_mp4() -> None:
    """A clip that has only its buffer, through both stages as NeMo Curator has them."""
    source = one_clip(footage("bikes.mp4"), encoder="libx264", preset="ultrafast")
    clip = Clip(UUID(int=1), "v", (0.0, 10.0), buffer=source)
    stages = Pipeline("p").add_stage(MotionVectorDecodeStage()).add_stage(MotionFilterStage())
    (task,) = stages.run([VideoTask("v", "test", Video(Path("v"), clips=[clip]))])
    mean, patch, _ = nemo_motion(source)
    assert task.data.clips == [clip]
    assert clip.motion_score_global_mean == pytest.approx(mean, rel=1e-5)
    assert clip.motion_score_per_patch_min_256 == pytest.approx(patch, rel=1e-4)
    assert clip.decoded_motion_data is None


@pytest.mark.parametrize(
    ("buffer", "reason"),
    [pytest.param(b"no video", "unreadable", id="no video"), pytest.param(None, "no mp4", id="nothing")],
)
def test_what_cannot_be_measured_stays_with_the_reason(buffer: bytes | None, reason: str) -> None:
    clip = Clip(UUID(int=1), "v", (0.0, 1.0), buffer=buffer)
    task = VideoTask("v", "test", Video(Path("v"), clips=[clip]))
    (task,) = Pipeline("p").add_stage(MotionFilterStage()).run([task])
    assert task.data.clips == [clip]
    assert clip.rejection is None
    assert clip.motion_score_global_mean is None
    assert reason in clip.errors["motion"]


def test_a_single_picture_cannot_be_measured(tmp_path: Path) -> None:
    (clip,), task = filtered(moving(tmp_path / "v.mp4", pixels=0, num_frames=1))
    assert task.data.clips == [clip]
    assert "no frame has motion vectors" in clip.errors["motion"]


@pytest.mark.parametrize("stages", [(), (MotionVectorDecodeStage(),)], ids=["filter", "decode and filter"])
def test_a_rejected_clip_has_an_mp4_unless_that_is_not_wanted(stages: tuple[Stage, ...], tmp_path: Path) -> None:
    path = moving(tmp_path / "v.mp4", pixels=0, num_frames=300)
    (kept,), _ = filtered(path, *stages, MotionFilterStage(), clip_len_s=1000.0)
    assert mp4_of(kept)
    (dropped,), task = filtered(path, *stages, MotionFilterStage(encode_rejected=False), clip_len_s=1000.0)
    assert task.data.filtered_clips == [dropped]
    assert (dropped.buffer, dropped.windows, dropped.errors) == (None, [], {})
    assert dropped.rejection == kept.rejection
    assert scores([dropped]) == scores([kept])


@pytest.mark.parametrize("num_frames", [60, 300])
def test_a_still_clip_that_is_not_wanted_costs_no_encode(num_frames: int, tmp_path: Path) -> None:
    """Its pictures wait until it is certain: no frame of ten seconds has come to the encoder then."""
    video = task_of(moving(tmp_path / "v.mp4", pixels=0, num_frames=num_frames)).data
    timeline, profile = timeline_needed(video), profile_needed(video)
    (request,) = MotionFilterStage(encode_rejected=False).frame_requests()
    assert isinstance(request, MotionRequest)
    recipe = ClipRecipe(EncoderSettings("libx264", "superfast", 23), False, False, 256, 128, (), request)
    track, span = MotionTrack(request, rate=timeline.average_rate), FrameSpan(0, num_frames)
    normalize, indices = PictureNormalizer(profile), count()
    opened = OpenClip(recipe, video, span, packets=Packets(recipe, profile), normalize=normalize, track=track)
    frames = decode_video(video, see_motion=lambda frame: track.add(next(indices), frame))
    for index, frame in enumerate(frames):
        assert isinstance(frame, av.VideoFrame)
        opened.add_picture(index, normalize(frame), is_scaled=False)
    clip = opened.finish(new_clip(video, timeline, span, ""))
    assert opened.encoder.num_frames == 0
    assert (clip.buffer, clip.errors) == (None, {})


@pytest.mark.parametrize("settings", [{}, {"clip_encoding": "smart-copy"}], ids=["transcode", "smart-copy"])
def test_clips_that_move_are_the_same_bytes_whoever_else_is_dropped(settings: dict[str, str]) -> None:
    with_all, _ = filtered(footage("bikes.mp4"), MotionFilterStage(False, 0.0025), **settings)
    without, _ = filtered(footage("bikes.mp4"), MotionFilterStage(False, 0.0025, encode_rejected=False), **settings)
    assert [clip.buffer for clip in without if clip.rejection is None] == [
        clip.buffer for clip in with_all if clip.rejection is None
    ]
    assert {clip.rejection is None for clip in with_all} == {True, False}


def test_the_stages_travel_into_decode_children() -> None:
    for stage in (MotionFilterStage(), MotionVectorDecodeStage()):
        assert stage.in_child
        assert pickle.loads(pickle.dumps(stage)).frame_requests() == stage.frame_requests()


@pytest.mark.parametrize(("fps", "ratio"), [(0.0, 0.5), (math.nan, 0.5), (2.0, 0.0), (2.0, 1.1)])
def test_settings_out_of_range_are_refused(fps: float, ratio: float) -> None:
    with pytest.raises(ValueError, match="target_fps > 0 and target_duration_ratio"):
        MotionVectorDecodeStage(target_fps=fps, target_duration_ratio=ratio)
