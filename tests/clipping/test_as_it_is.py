"""A clip that is split again, as one clip of all of it, keeps its bytes."""

import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from curation.clipping.fixed_stride import FixedStrideExtractorStage
from curation.clipping.reader import VideoReaderStage
from curation.clipping.transcoding import ClipTranscodingStage
from curation.video.frames import FrameRequest, sample_clip
from tests.footage import small_footage
from tests.splitting import clips_of, mp4_of, one_clip, task_of
from tests.synthetic import make_video

LONG: dict[str, Any] = {"clip_len_s": 1e8, "encoder": "libx264", "keeps_whole": True}


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of real footage with several windows."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    path.write_bytes(
        one_clip(small_footage("big_buck_bunny_1.mp4"), encoder="libx264", window_size=128, remainder_threshold=64)
    )
    return path


def again(path: Path, **settings: Any) -> bytes:
    (clip,) = clips_of(path, **(LONG | {"window_size": 128, "remainder_threshold": 64} | settings))
    return mp4_of(clip)


def test_a_clip_keeps_its_bytes(clip_file: Path) -> None:
    assert again(clip_file) == clip_file.read_bytes()
    assert again(clip_file, clip_encoding="smart-copy") == clip_file.read_bytes()


def test_a_clip_with_sound_keeps_its_bytes(tmp_path: Path) -> None:
    source = make_video(tmp_path / "film.mp4", num_frames=60, audio="clicks")
    path = tmp_path / "clip.mp4"
    path.write_bytes(one_clip(source, encoder="libx264"))
    with av.open(path) as container:
        assert len(container.streams.audio) == 1
    assert again(path) == path.read_bytes()


def test_a_copied_clip_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "copied.mp4"
    path.write_bytes(one_clip(small_footage("big_buck_bunny_1.mp4"), encoder="libx264", clip_encoding="smart-copy"))
    assert again(path, window_size=400, remainder_threshold=1) == path.read_bytes()


def test_its_frames_are_sampled_as_those_of_any_clip(clip_file: Path) -> None:
    request = FrameRequest("preview", 1.0, 48, "yuv420p", scope="window")
    transcoder = ClipTranscodingStage(encoder="libx264", window_size=128, remainder_threshold=64, keeps_whole=True)
    transcoder.request_frames([request])
    (task,) = VideoReaderStage().process(task_of(clip_file))
    (task,) = FixedStrideExtractorStage(1e8).process(task)
    (task,) = transcoder.process(task)
    (clip,) = task.data.clips
    found = dict(clip.extracted_frames)
    clip.extracted_frames = {}
    sample_clip(clip, [request])
    assert found.keys() == clip.extracted_frames.keys() == {"preview"}
    assert all((found[key] == clip.extracted_frames[key]).all() for key in found)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"clip_len_s": 2.0}, id="a part of it is another clip"),
        pytest.param({"window_size": 100}, id="a window begins amid its key frames"),
        pytest.param({"encoder": "libsvtav1"}, id="another codec is wanted"),
        pytest.param({"start_s": 0.5}, id="its start is left out"),
    ],
)
def test_what_would_be_made_otherwise_is_made(clip_file: Path, settings: dict[str, Any]) -> None:
    clips = clips_of(clip_file, **(LONG | {"window_size": 128, "remainder_threshold": 64} | settings))
    assert clip_file.read_bytes() not in [mp4_of(clip) for clip in clips]


def remux(source: Path, target: Path, options: dict[str, str], *, shift_s: float = 0.0) -> Path:
    """The same packets in another file."""
    with av.open(source) as old, av.open(target, "w", options=options) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            if packet.pts is not None and packet.dts is not None:
                ticks = round(Fraction(shift_s) / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + ticks, packet.dts + ticks, copy
                new.mux(packet)
    return target


def test_a_file_that_is_not_laid_out_as_a_clip_is_made_anew(clip_file: Path, tmp_path: Path) -> None:
    index_last = remux(clip_file, tmp_path / "index last.mp4", {})
    assert again(index_last) != index_last.read_bytes()
    matroska = remux(clip_file, tmp_path / "clip.mkv", {})
    assert again(matroska)[4:8] == b"ftyp"


def test_a_hidden_beginning_is_not_kept(clip_file: Path, tmp_path: Path) -> None:
    cut = remux(clip_file, tmp_path / "shifted.mp4", {"movflags": "+faststart"}, shift_s=-1.0)
    with av.open(cut) as container:
        num_seen = sum(not packet.is_discard and bool(packet.size) for packet in container.demux(video=0))
        assert num_seen < container.streams.video[0].frames  # so that there is something to hide
    assert again(cut) != cut.read_bytes()


def test_sound_that_is_not_wanted_is_left_out(tmp_path: Path) -> None:
    source = make_video(tmp_path / "film.mp4", num_frames=60, audio="clicks")
    path = tmp_path / "clip.mp4"
    path.write_bytes(one_clip(source, encoder="libx264"))
    mute = tmp_path / "mute.mp4"
    shutil.copy(path, mute)
    mute.write_bytes(again(path, keep_audio=False))
    with av.open(mute) as container:
        assert not container.streams.audio
