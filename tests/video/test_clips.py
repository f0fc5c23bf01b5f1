"""What a clip holds: its frames, their times, its key frames, the layout of its file. Frame numbers are burnt in."""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from curation.clipping.transcoding import ClipTranscodingStage
from curation.model import Clip, VideoTask
from curation.video.encode import choose_encoder
from tests.footage import MEDIA, footage
from tests.splitting import clips_of, mp4_of, numbers_of, one_clip, splitting, task_of, times_of
from tests.synthetic import Picture, frames_of, make_video, read_number

CLIP_LEN_S = Fraction(7, 10)
MILLISECOND = Fraction(1, 1000)


@dataclass(frozen=True)
class Source:
    """A video of 60 frames and what is known of it because it was made so."""

    suffix: str = ".mp4"
    rate: Fraction = Fraction(30)
    times_s: tuple[Fraction, ...] = ()
    tolerance_s: Fraction = Fraction(0)  # of the container's clock
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def expected_s(self) -> list[Fraction]:
        return list(self.times_s) or [index / self.rate for index in range(60)]

    @property
    def end_s(self) -> Fraction:
        return self.expected_s[-1] + 1 / self.rate

    def make(self, folder: Path) -> Path:
        path, times_s = folder / f"source{self.suffix}", self.expected_s
        return make_video(path, num_frames=60, rate=self.rate, times_s=times_s, width=96, height=64, **self.options)

    def expected_clips(self) -> list[range]:
        """Clip k holds the frames of ``k L <= t < (k + 1) L``."""
        clips = [int(time_s // CLIP_LEN_S) for time_s in self.expected_s]
        starts = [index for index, clip in enumerate(clips) if index == 0 or clip != clips[index - 1]]
        return [range(start, end) for start, end in pairwise([*starts, 60])]


def random_times_s(tick_s: Fraction) -> tuple[Fraction, ...]:
    steps = np.random.default_rng(7).integers(1, int(Fraction(1, 9) / tick_s), size=59).tolist()
    return tuple(sum(steps[:index]) * tick_s for index in range(60))


PHONE_TIMES_S = tuple(Fraction(min(i, 40), 30) + Fraction(max(0, i - 40), 5) for i in range(60))
B_FRAMES = {"bf": "3", "g": "600", "sc_threshold": "0"}
SOURCES = {
    "mp4": Source(),
    "ntsc film": Source(rate=Fraction(24000, 1001)),
    "30 to 5 fps": Source(times_s=PHONE_TIMES_S, rate=Fraction(5)),
    "random times": Source(times_s=random_times_s(Fraction(1, 90_000))),
    "clock of 10 MHz": Source(times_s=random_times_s(Fraction(1, 10_000_000)), rate=Fraction(20)),
    "one long GOP with B-frames": Source(options={"options": B_FRAMES}),
    "mp4 that starts late": Source(options={"start_time_s": Fraction(7, 3)}),
    "ts": Source(".ts"),
    "ts that starts late": Source(".ts", options={"start_time_s": Fraction(7, 3)}),
    "mkv": Source(".mkv", tolerance_s=MILLISECOND),
    "mkv with ntsc": Source(".mkv", rate=Fraction(30000, 1001), tolerance_s=MILLISECOND),
    "mkv that starts late": Source(".mkv", tolerance_s=MILLISECOND, options={"start_time_s": Fraction(5, 3)}),
    "hevc": Source(".mkv", tolerance_s=MILLISECOND, options={"codec": "libx265"}),
    "webm": Source(".webm", tolerance_s=MILLISECOND, options={"codec": "libvpx-vp9"}),
    "mpg": Source(".mpg", options={"codec": "mpeg2video", "options": {"bf": "2", "g": "15"}}),
    "avi": Source(".avi", options={"codec": "mpeg4"}),
    "avi with B-frames": Source(".avi", options={"codec": "mpeg4", "options": {"bf": "2"}}),
    "avi with B-frames of H.264": Source(".avi", options={"options": {"bf": "3", "g": "20"}}),
}


@pytest.fixture(scope="module", params=SOURCES)
def cut(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, list[Clip]]:
    """A source and its clips."""
    source = SOURCES[request.param]
    return source, clips_of(source.make(tmp_path_factory.mktemp("source")), clip_len_s=float(CLIP_LEN_S))


def test_the_clips_show_each_frame_exactly_once_in_the_clip_of_its_second(cut: tuple[Source, list[Clip]]) -> None:
    source, clips = cut
    assert [numbers_of(clip) for clip in clips] == [list(frames) for frames in source.expected_clips()]


def test_a_clip_shows_its_frames_when_the_source_does_beginning_at_0(cut: tuple[Source, list[Clip]]) -> None:
    source, clips = cut
    for clip, frames in zip(clips, source.expected_clips(), strict=True):
        expected_s = [source.expected_s[index] - source.expected_s[frames[0]] for index in frames]
        found_s = times_of(clip)
        assert found_s[0] == 0
        assert max(abs(a - b) for a, b in zip(found_s, expected_s, strict=True)) <= source.tolerance_s


def test_the_last_frame_of_a_clip_is_shown_until_the_first_of_the_next(cut: tuple[Source, list[Clip]]) -> None:
    source, clips = cut
    ends_s = [*source.expected_s, source.end_s]
    for clip, frames in zip(clips, source.expected_clips(), strict=True):
        expected_s = ends_s[frames.stop] - ends_s[frames.start]
        assert abs(end_of(mp4_of(clip)) - expected_s) <= source.tolerance_s


def test_a_clip_knows_its_seconds_on_the_source(cut: tuple[Source, list[Clip]]) -> None:
    source, clips = cut
    bounds_s = [*source.expected_s, source.end_s]
    expected_s = [(bounds_s[frames.start], bounds_s[frames.stop]) for frames in source.expected_clips()]
    assert np.allclose(
        [clip.span for clip in clips], np.array(expected_s, float), atol=float(source.tolerance_s) + 1e-9
    )


def end_of(mp4: bytes) -> Fraction:
    """When the last picture stops being shown, by its packet and by the track's header, which must agree."""
    with av.open(io.BytesIO(mp4), "r") as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        last = max(packets, key=lambda packet: packet.pts or 0)
        end_tick = (last.pts or 0) + (last.duration or 0)
        assert end_tick == stream.duration
        return end_tick * Fraction(stream.time_base or 0)


@pytest.mark.parametrize("name", ["big_buck_bunny_1.mp4", "cityCC0.mpg"])
def test_the_clips_of_real_footage_have_as_many_frames_as_are_shown_in_their_seconds(name: str) -> None:
    path = MEDIA / name if (MEDIA / name).exists() else footage(name)
    with av.open(path) as container:
        times_s = [Fraction(frame.pts or 0) * Fraction(frame.time_base or 0) for frame in container.decode(video=0)]
    clips = clips_of(path, clip_len_s=1.0, end_s=2.5)
    found = [len(packets_of(mp4_of(clip))) for clip in clips]
    assert found == [sum(k <= time_s - times_s[0] < min(k + 1, 2.5) for time_s in times_s) for k in range(3)]


# Which clips


def test_a_part_of_a_video_begins_and_ends_with_the_frames_of_its_seconds(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", num_frames=90, width=96, height=64, options=B_FRAMES)
    clips = clips_of(path, start_s=0.5, end_s=2.1, clip_len_s=1.0)
    assert [numbers_of(clip) for clip in clips] == [list(range(15, 45)), list(range(45, 63))]


def test_overlapping_clips_hold_the_shared_frames_twice(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", num_frames=60, width=96, height=64)
    clips = clips_of(path, clip_len_s=1.0, clip_stride_s=0.4)
    expected = [range(start, min(start + 30, 60)) for start in (0, 12, 24, 36, 48)]
    assert [numbers_of(clip) for clip in clips] == [list(frames) for frames in expected]


def test_no_more_clips_than_the_limit(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", num_frames=60, width=96, height=64)
    clips = clips_of(path, clip_len_s=0.5, limit_clips=2)
    assert [numbers_of(clip) for clip in clips] == [list(range(15)), list(range(15, 30))]


def test_a_video_of_many_clips_leaves_in_chunks_of_which_the_last_knows_their_number(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", num_frames=60, width=96, height=64)
    videos = [task.data for task in splitting(clip_len_s=0.4, num_clips_per_chunk=2).run([task_of(path)])]
    assert [len(video.clips) for video in videos] == [2, 2, 1]
    assert [video.clip_chunk_index for video in videos] == [0, 1, 2]
    assert [video.num_clip_chunks for video in videos] == [0, 0, 3]
    assert [video.num_total_clips for video in videos] == [5, 5, 5]
    assert [number for video in videos for clip in video.clips for number in numbers_of(clip)] == list(range(60))


def test_a_video_without_clips_leaves_as_one_empty_chunk(tmp_path: Path) -> None:
    (task,) = ClipTranscodingStage().process(task_of(make_video(tmp_path / "v.mp4", num_frames=3)))
    assert (task.data.clips, task.data.num_clip_chunks) == ([], 1)


# The file


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """640 frames: three caption windows, made from a source with B-frames and its key frames elsewhere."""
    path = tmp_path_factory.mktemp("long") / "v.mp4"
    return one_clip(make_video(path, num_frames=640, width=96, height=64, options=B_FRAMES))


def packets_of(mp4: bytes) -> "list[av.Packet[av.VideoStream]]":
    with av.open(io.BytesIO(mp4), "r") as container:
        return [packet for packet in container.demux(container.streams.video[0]) if packet.size]


def decoded_alone(mp4: bytes, frames: range) -> Iterator[Picture]:
    """Decode a run of packets with a decoder that has seen nothing else."""
    with av.open(io.BytesIO(mp4), "r") as container:
        decoder = av.CodecContext.create("h264", "r")
        assert isinstance(decoder, av.VideoCodecContext)
        decoder.extradata = container.streams.video[0].codec_context.extradata
        for packet in [*packets_of(mp4)[frames.start : frames.stop], None]:
            for frame in decoder.decode(packet):
                yield cast(Picture, frame.to_ndarray(format="rgb24"))


@pytest.mark.parametrize("window", [range(256), range(256, 512), range(512, 640)], ids=str)
def test_each_window_of_a_clip_begins_with_a_key_frame_and_decodes_alone(long_clip: bytes, window: range) -> None:
    assert packets_of(long_clip)[window.start].is_keyframe
    assert [read_number(rgb) for rgb in decoded_alone(long_clip, window)] == list(window)


def test_pictures_lie_in_the_file_as_they_are_shown(long_clip: bytes) -> None:
    ticks = [packet.pts for packet in packets_of(long_clip)]
    assert ticks == sorted(tick for tick in ticks if tick is not None)
    with av.open(io.BytesIO(long_clip), "r") as container:
        assert {frame.pict_type for frame in container.decode(video=0)} == {PictureType.I, PictureType.P}


def boxes_of(mp4: bytes) -> list[bytes]:
    """ISO/IEC 14496-12 section 4.2: size and type of each outer box."""
    kinds, position = [], 0
    while position < len(mp4):
        kinds.append(mp4[position + 4 : position + 8])
        position += int.from_bytes(mp4[position : position + 4], "big")
    return kinds


def test_the_index_lies_before_the_media(long_clip: bytes) -> None:
    kinds = boxes_of(long_clip)
    assert kinds.index(b"moov") < kinds.index(b"mdat")


def test_a_clip_is_the_same_bytes_every_time_with_its_sound(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", num_frames=60, width=320, height=240, audio="clicks")
    assert one_clip(path) == one_clip(path)


# Encoders


@pytest.mark.parametrize("encoder", ["libx264", "libsvtav1", "libvpx-vp9", "h264_nvenc"])
def test_every_encoder_that_works_here_keeps_each_frame_and_its_time(tmp_path: Path, encoder: str) -> None:
    try:
        choose_encoder(encoder)
    except ValueError as error:
        pytest.skip(str(error))
    path = make_video(tmp_path / "v.mp4", num_frames=20, width=320, height=240, times_s=PHONE_TIMES_S[30:50])
    before = os.sched_getscheduler(0)
    found = [(time_s, read_number(rgb)) for time_s, rgb in frames_of(one_clip(path, encoder=encoder))]
    assert found == [(time_s - PHONE_TIMES_S[30], number) for number, time_s in enumerate(PHONE_TIMES_S[30:50])]
    # an encoder that makes its process a real-time one (SVT-AV1, as root) would starve the machine
    assert {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")} == {before}


def test_an_encoder_that_does_not_work_here_is_a_clear_error_at_setup() -> None:
    listed = [name for name in ("h264_nvenc", "libopenh264") if fails(name)]
    if not listed:
        pytest.skip("every encoder works here")
    with pytest.raises(ValueError, match=f"no working encoder on this machine \\({listed[0]}: .{{8,}}\\)"):
        ClipTranscodingStage(encoder=listed[0]).setup()


def fails(encoder: str) -> bool:
    try:
        choose_encoder(encoder)
    except ValueError:
        return True
    return False


def test_an_unknown_encoder_is_told_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"unknown encoder 'mpeg1'; known: auto, h264_nvenc, libx264"):
        ClipTranscodingStage(encoder="mpeg1").setup()


def test_auto_takes_the_first_encoder_that_works_here(tmp_path: Path) -> None:
    expected = next(name for name in ("h264_nvenc", "libx264") if not fails(name))
    (task,) = splitting(encoder="auto").run([task_of(make_video(tmp_path / "v.mp4", num_frames=3))])
    assert task.data.clips[0].encoder.startswith(f"{expected} ")


def test_an_encoder_that_refuses_the_pictures_costs_the_clip_its_bytes_and_says_why(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", num_frames=3, width=96, height=64)
    task = VideoTask("v", "test", task_of(path).data)
    (task,) = splitting(preset="no such preset").run([task])
    (clip,) = task.data.clips
    assert clip.buffer is None
    assert clip.windows == []
    assert clip.errors["transcode"].startswith("encode_error: v.mp4 clip ")
