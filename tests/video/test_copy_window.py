"""Sound of clips by smart copy, and windows cut out of such clips: numbers and flashes in pictures, clicks in sound."""

import io
from fractions import Fraction
from pathlib import Path

import av
import pytest

from curation.errors import FailureReason, VideoError
from curation.timeline import FrameSpan
from curation.video.decode import AnyPacket
from curation.video.encode import EncoderSettings
from curation.video.probe import probe_bytes
from curation.video.smartcopy_files import copy_window
from tests.splitting import smart_copy
from tests.synthetic import click_times_s, flash_is_on, frames_of, make_video, read_number

SETTINGS = EncoderSettings("libx264", "superfast", 23)


def packets_of(mp4: bytes) -> list[AnyPacket]:
    with av.open(io.BytesIO(mp4), "r") as container:
        return [packet for packet in container.demux(container.streams.video[0]) if packet.size]


# Sound


@pytest.fixture(scope="module")
def clicking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds with a click and a flash at each."""
    path = tmp_path_factory.mktemp("sound") / "v.mp4"
    options = {"x264-params": "keyint=70:scenecut=0:bframes=3"}
    return make_video(path, num_frames=300, width=96, height=64, audio="clicks", options=options)


def flashes_of(mp4: bytes) -> list[float]:
    return [float(time_s) for time_s, rgb in frames_of(mp4) if flash_is_on(rgb)]


@pytest.mark.parametrize(
    "span", [FrameSpan(0, 100), FrameSpan(17, 200), FrameSpan(140, 300), FrameSpan(210, 300)], ids=str
)
def test_clicks_and_flashes_coincide(clicking: Path, span: FrameSpan) -> None:
    """The last span begins at an IDR and with a click."""
    mp4 = smart_copy(clicking, span)
    expected = [second - span.start / 30 for second in range(10) if span.start <= 30 * second < span.end]
    assert flashes_of(mp4) == pytest.approx(expected, abs=1e-3)
    assert click_times_s(mp4) == pytest.approx(expected, abs=5e-3)


def test_sound_can_be_left_out(clicking: Path) -> None:
    mp4 = smart_copy(clicking, FrameSpan(3, 40), keep_audio=False)
    assert probe_bytes(mp4, name="clip").metadata.audio_codec is None


# Windows


@pytest.fixture(scope="module")
def clicking_clip(clicking: Path) -> bytes:
    """Frames 40 to 290: a head of 30, IDRs at 30, 100, 170 of the clip, a body, perhaps a tail."""
    return smart_copy(clicking, FrameSpan(40, 290))


@pytest.mark.parametrize("window", [(0, 60), (10, 29), (30, 99), (61, 200), (170, 249)], ids=str)
def test_a_window_holds_exactly_its_frames_at_their_times_with_their_sound(
    clicking_clip: bytes, window: tuple[int, int]
) -> None:
    mp4 = copy_window(clicking_clip, start_frame=window[0], end_frame=window[1], settings=SETTINGS, name="window")
    expected = [(Fraction(k, 30), 40 + window[0] + k) for k in range(window[1] - window[0] + 1)]
    assert [(time_s, read_number(rgb)) for time_s, rgb in frames_of(mp4)] == expected
    assert click_times_s(mp4) == pytest.approx(flashes_of(mp4), abs=5e-3)


def test_a_window_from_one_idr_to_the_next_is_copied(clicking_clip: bytes) -> None:
    mp4 = copy_window(clicking_clip, start_frame=100, end_frame=169, settings=SETTINGS, name="window")
    copied = [bytes(packet) for packet in packets_of(clicking_clip)[100:170]]
    assert [bytes(packet) for packet in packets_of(mp4)] == copied


def test_a_window_in_the_middle_of_a_window_still_decodes(clicking_clip: bytes) -> None:
    inner = clicking_clip
    for _ in range(4):
        last = probe_bytes(inner, name="window").timeline.num_frames - 1
        inner = copy_window(inner, start_frame=7, end_frame=last - 7, settings=SETTINGS, name="window")
    assert [read_number(rgb) for _, rgb in frames_of(inner)] == list(range(40 + 28, 290 - 28))


def test_a_window_that_is_the_whole_clip_is_the_clip(clicking_clip: bytes) -> None:
    assert copy_window(clicking_clip, start_frame=0, end_frame=249, settings=SETTINGS, name="window") == clicking_clip


def test_a_window_beyond_the_clip_is_refused(clicking_clip: bytes) -> None:
    with pytest.raises(VideoError, match=r"no frames 200\.\.250, the clip has 250") as caught:
        copy_window(clicking_clip, start_frame=200, end_frame=250, settings=SETTINGS, name="window")
    assert caught.value.reason == FailureReason.EMPTY_RANGE
