"""The detector and the transcoder in one decode give, byte for byte, what they give one after the other."""

import io
from pathlib import Path
from typing import Any, Literal

import av
import pytest

from curation.clipping import one_pass
from curation.clipping.clips import split_hash
from curation.clipping.one_pass import OnePassStage
from curation.clipping.reader import VideoReaderStage
from curation.clipping.transcoding import ClipTranscodingStage
from curation.clipping.transnetv2 import TransNetV2ClipExtractionStage
from curation.model import Video, VideoTask
from curation.pipeline import Pipeline, Stage
from curation.preview.preview import PreviewStage
from curation.video.decode import AnyPacket
from curation.video.h264 import is_idr, length_prefixed_units
from tests.footage import MEDIA, footage, small_footage
from tests.remembering_detector import Detector
from tests.splitting import Alone

pytest.importorskip("torch", reason="the shot detector needs torch: pip install 'clipmill[models]'")

SOURCES = {
    "bunny": lambda: small_footage("big_buck_bunny_2.mp4"),  # five shots, with sound
    "bikes": lambda: footage("bikes.mp4"),  # six short shots, B-frames
    "city": lambda: footage("cityCC0.mpg"),  # odd height, late first timestamp
}

RULES = [
    pytest.param({"min_length_s": 2.0, "crop_s": 0.5}, id="as by default"),
    pytest.param({"min_length_s": 0.0, "crop_s": 0.0, "max_length_s": 1.3}, id="long shots cut in pieces"),
    pytest.param(
        {"min_length_s": 1.0, "crop_s": 0.2, "max_length_s": 1.5, "max_length_mode": "truncate"}, id="truncated"
    ),
    pytest.param({"min_length_s": 0.5, "crop_s": 0.1, "limit_clips": 2}, id="two clips at most"),
    pytest.param({"min_length_s": 0.5, "crop_s": 0.5, "max_length_s": 1.7, "snap_to_idr": True}, id="snapped to IDRs"),
]


@pytest.fixture(scope="module")
def models(transnetv2_weights: Path) -> Path:
    return transnetv2_weights.parent


def outcome(
    splitter: Stage, path: Path, *, clip_encoding: Literal["transcode", "smart-copy"] = "transcode", **range_s: float
) -> list[dict[str, Any]]:
    """Everything about the clips of a video: places, bytes, windows, previews."""
    transcoder = ClipTranscodingStage(
        preset="ultrafast", clip_encoding=clip_encoding, window_size=40, remainder_threshold=20, num_clips_per_chunk=2
    )
    pipeline = Pipeline("p").add_stage(VideoReaderStage()).add_stage(splitter).add_stage(transcoder)
    video = Video(path, id=path.name, **range_s)  # type: ignore[arg-type]
    tasks = pipeline.add_stage(PreviewStage(target_fps=5.0, target_height=90, compression_level=0)).run(
        [VideoTask(path.name, "test", video)]
    )
    assert all(task.data.failure is None for task in tasks)
    return [
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


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", SOURCES)
def test_one_decode_gives_what_two_give(name: str, rules: dict[str, Any], models: Path) -> None:
    path = SOURCES[name]()
    together = outcome(Detector(models, **rules), path)
    assert together == outcome(Alone(Detector(models, **rules)), path)


@pytest.mark.parametrize("snap_to_idr", [False, True], ids=["cropped", "snapped"])
def test_packets_are_copied_alike_in_one_decode_and_in_two(models: Path, snap_to_idr: bool) -> None:
    rules: dict[str, Any] = {"min_length_s": 0.5, "crop_s": 0.1, "max_length_s": 2.0}
    path = SOURCES["bunny"]()
    rules["snap_to_idr"] = snap_to_idr
    together = outcome(Detector(models, **rules), path, clip_encoding="smart-copy")
    assert {clip["notes"]["clip_encoding"] for clip in together} == {"smart-copy"}
    assert together == outcome(Alone(Detector(models, **rules)), path, clip_encoding="smart-copy")


def test_a_clip_that_begins_at_the_idr_of_its_cut_is_copied_from_its_first_frame_on(models: Path) -> None:
    path = MEDIA / "big_buck_bunny_1.mp4"  # cuts at 69, 179 and 254; IDRs at 0, 131 and 254
    cropped, snapped = (
        outcome(Detector(models, min_length_s=1.0, snap_to_idr=snaps), path, clip_encoding="smart-copy")
        for snaps in (False, True)
    )
    assert num_encoded(snapped) < num_encoded(cropped)
    assert all("snapped_to_idr" not in clip["notes"] for clip in cropped)
    moved = [clip for clip in snapped if "snapped_to_idr" in clip["notes"]]
    assert [clip["frames"].start for clip in moved] == [0, 254]
    assert {clip["notes"]["snapped_to_idr"] for clip in moved} == {"begins 0.000 s after the cut"}
    own = {bytes(packet) for packet in packets_of(path)}
    for clip in moved:
        first = packets_of(clip["mp4"])[0]
        assert bytes(first) in own
        assert is_idr(length_prefixed_units(bytes(first), length_bytes=4))


def packets_of(video: Path | bytes) -> list[AnyPacket]:
    with av.open(io.BytesIO(video) if isinstance(video, bytes) else video, "r") as container:
        return [packet for packet in container.demux(container.streams.video[0]) if packet.size]


def num_encoded(clips: list[dict[str, Any]]) -> int:
    return sum(int(clip["notes"]["frames_encoded"].split()[0]) for clip in clips)


def test_without_the_snap_ids_are_those_of_before_there_was_one(models: Path) -> None:
    settings = {"threshold": 0.4, "min_length_s": 2.0, "max_length_s": 60.0, "max_length_mode": "stride", "crop_s": 0.5}
    before = split_hash({"splitting_algorithm": "transnetv2", **settings})
    assert TransNetV2ClipExtractionStage(models).settings_hash == before
    assert TransNetV2ClipExtractionStage(models, snap_to_idr=True).settings_hash != before


def test_a_line_too_short_to_wait_for_certainty_gives_the_same(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules: dict[str, Any] = {"min_length_s": 2.0, "crop_s": 0.1}  # two of the five shots are too short
    path = SOURCES["bunny"]()
    patient = outcome(Detector(models, **rules), path)
    monkeypatch.setattr(one_pass, "_PATIENT_LINE_BYTES", 0)
    assert outcome(Detector(models, **rules), path) == patient


def test_a_picture_too_large_for_the_line_is_decoded_twice_to_the_same_clips(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = SOURCES["bikes"]()
    once = outcome(Detector(models, min_length_s=1.0), path)
    monkeypatch.setattr(one_pass, "_MAX_LINE_BYTES", 0)
    assert outcome(Detector(models, min_length_s=1.0), path) == once


def test_a_part_of_a_video_in_one_decode(models: Path) -> None:
    rules: dict[str, Any] = {"min_length_s": 0.5, "crop_s": 0.1}
    path = SOURCES["bunny"]()
    part: dict[str, Any] = {"start_s": 3.0, "end_s": 9.0}
    together = outcome(Detector(models, **rules), path, **part)
    assert together
    assert together == outcome(Alone(Detector(models, **rules)), path, **part)


def test_the_splitter_and_the_transcoder_are_joined(models: Path) -> None:
    joined = Detector(models).joined(ClipTranscodingStage())
    assert isinstance(joined, OnePassStage)
    assert Detector(models).joined(PreviewStage()) is None
