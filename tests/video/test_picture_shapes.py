"""Where pictures change their size or their pixels' shape, as the packets tell."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.errors import FailureReason, VideoError
from curation.model import Video
from curation.source_profile import PictureShape
from curation.timeline import FrameTimeline
from curation.video.packet_times import size_changes
from curation.video.picture_shapes import vp9_size
from curation.video.probe import NO_LIMITS, SourceLimits, probe_file, probe_video
from tests.nasty_videos import joined_streams, small

B_FRAMES = {"x264-params": "keyint=10:bframes=3:scenecut=0"}
SMALL, LARGE = (96, 64), (192, 128)
WIDE = Fraction(64, 45)


def parts_of(codec: str, sizes: Sequence[tuple[int, int]] = (SMALL, LARGE)) -> list[dict[str, object]]:
    options = B_FRAMES if codec == "libx264" else None
    return [{"codec": codec, "width": width, "height": height, "options": options} for width, height in sizes]


def changes_in(path: Path, limits: SourceLimits = NO_LIMITS) -> list[tuple[int, PictureShape]]:
    probed = probe_file(path, name="v", limits=limits)
    return list(zip(probed.timeline.size_changes.tolist(), probed.profile.later_shapes, strict=True))


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        pytest.param("libx264", ".ts", id="H.264 with B-frames"),
        pytest.param("libx265", ".ts", id="HEVC"),
        pytest.param("mpeg2video", ".ts", id="MPEG-2"),
        pytest.param("mpeg4", ".ts", id="MPEG-4"),
        pytest.param("libvpx", ".webm", id="VP8"),
        pytest.param("libvpx-vp9", ".webm", id="VP9"),
        pytest.param("libsvtav1", ".mkv", id="AV1"),
    ],
)
def test_the_first_frame_of_another_size_is_known(tmp_path: Path, codec: str, suffix: str) -> None:
    path = joined_streams(tmp_path, parts_of(codec, [SMALL, LARGE, SMALL]), suffix=suffix)
    assert changes_in(path) == [(30, PictureShape(LARGE, Fraction(1))), (60, PictureShape(SMALL, Fraction(1)))]


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video", "mpeg4"])
def test_the_first_frame_with_pixels_of_another_shape_is_known(tmp_path: Path, codec: str) -> None:
    plain, wide = parts_of(codec, [(192, 144), (192, 144)])
    path = joined_streams(tmp_path, [wide | {"sample_aspect_ratio": Fraction(4, 3)}, plain])
    assert [frame for frame, _ in changes_in(path)] == [30]
    (_, shape), *_ = changes_in(path)
    assert shape == PictureShape((192, 144), Fraction(1))


def test_size_and_pixels_change_together(tmp_path: Path) -> None:
    wide, square = parts_of("libx264", [(180, 144), LARGE])
    path = joined_streams(tmp_path, [square, wide | {"sample_aspect_ratio": WIDE}])
    assert changes_in(path) == [(30, PictureShape((180, 144), WIDE))]


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_streams_of_one_size_change_nothing(tmp_path: Path, codec: str) -> None:
    assert changes_in(joined_streams(tmp_path, parts_of(codec, [SMALL, SMALL, SMALL]))) == []


def test_other_parameter_sets_of_the_same_size_change_nothing(tmp_path: Path) -> None:
    one, other = parts_of("libx264", [SMALL, SMALL])
    path = joined_streams(tmp_path, [one, other | {"options": {"profile": "baseline", "bf": "0"}}])
    assert changes_in(path) == []


def test_each_picture_that_is_decoded_to_know_its_size_is_counted(tmp_path: Path) -> None:
    video = Video(joined_streams(tmp_path, parts_of("libx264", [SMALL, LARGE, SMALL])))
    probe_video(video)
    assert video.decode_count.num_frames == 3


def test_later_pictures_beyond_the_limit_fail_the_video(tmp_path: Path) -> None:
    path = joined_streams(tmp_path, parts_of("libx264"))
    with pytest.raises(VideoError, match=r"pictures of 192x128, limits\.max_pixels is 20000") as caught:
        changes_in(path, SourceLimits(max_pixels=20_000))
    assert caught.value.reason is FailureReason.LIMITS


def test_a_header_that_no_decoder_confirms_is_not_believed(tmp_path: Path) -> None:
    path = joined_streams(tmp_path, parts_of("libvpx-vp9", [SMALL, LARGE]), suffix=".webm")
    content = bytearray(path.read_bytes())
    header = content.rindex(b"\x49\x83\x42")  # the sync code of the second key frame, after it its size
    content[header + 8 :] = bytes(len(content) - header - 8)
    path.write_bytes(content)
    assert probe_file(path, name="v").timeline.num_frames > 30  # the packet is there
    assert changes_in(path) == []


def vp9_header(profile: int, colours: str, size: tuple[int, int]) -> bytes:
    """Of a key frame, with these bits of color_config."""
    reserved = "0" if profile == 3 else ""
    start = f"10{profile & 1}{profile >> 1}{reserved}0010{0x498342:024b}"
    bits = f"{start}{colours}{size[0] - 1:016b}{size[1] - 1:016b}"
    return int(bits.ljust(256, "1"), 2).to_bytes(32, "big")


@pytest.mark.parametrize(
    ("profile", "colours"),
    [
        pytest.param(0, "0100", id="8 bits 4:2:0"),
        pytest.param(1, "0100100", id="8 bits 4:2:2"),
        pytest.param(1, "1110", id="8 bits RGB"),
        pytest.param(2, "00100", id="10 bits 4:2:0"),
        pytest.param(3, "10100000", id="12 bits 4:4:4"),
        pytest.param(3, "11110", id="12 bits RGB"),
    ],
)
def test_a_vp9_header_is_read_in_every_profile(profile: int, colours: str) -> None:
    """VP9 specification, section 6.2.2: bit_depth, color_space, color_range, subsampling, reserved."""
    assert vp9_size(vp9_header(profile, colours, (3840, 2160))) == (3840, 2160)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "gbrp"])
def test_the_size_of_a_vp9_key_frame_stands_in_its_header(tmp_path: Path, pix_fmt: str) -> None:
    path = small(tmp_path, "v.webm", num_frames=3, width=98, height=66, codec="libvpx-vp9", pix_fmt=pix_fmt)
    with av.open(path) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [vp9_size(bytes(packet)) for packet in packets] == [(98, 66), None, None]


@given(st.binary(max_size=24))
def test_what_is_no_vp9_has_no_size_of_vp9(sample: bytes) -> None:
    """Its sync code is one of 16 million."""
    assert vp9_size(sample) is None


# Positions in the file, and frames


def changed(ticks: list[int], *positions: int, counts_frames: bool = False) -> list[int]:
    timeline = FrameTimeline(np.unique(np.array(ticks, np.int64)), Fraction(1, 10), max(ticks) + 1)
    shapes = [(position, PictureShape((position, 2), Fraction(1))) for position in positions]
    found, kept = size_changes(np.array(ticks, np.int64), shapes, timeline, counts_frames=counts_frames)
    assert len(found) == len(kept)
    return [int(frame) for frame in found]


@pytest.mark.parametrize(
    ("ticks", "positions", "expected"),
    [
        pytest.param([10, 12, 11, 13, 15, 14], [3], [3], id="a closed GOP"),
        pytest.param([10, 11, 12, 15, 13, 14], [3], [3], id="frames shown before the key frame have its size"),
        pytest.param([10, 11, 14, 12, 13, 15], [3], [2], id="frames of the old size are shown after the new one"),
        pytest.param([10, 11, 12], [0], [], id="hidden frames had another size"),
        pytest.param([10, 11, 12], [3], [], id="none is shown"),
        pytest.param([10, 11, 12], [1, 1, 2], [1, 2], id="twice between two frames"),
    ],
)
def test_the_first_frame_shown_of_those_of_the_new_size_counts(
    ticks: list[int], positions: list[int], expected: list[int]
) -> None:
    assert changed(ticks, *positions) == expected


def test_where_frames_are_counted_their_order_in_the_file_counts() -> None:
    assert changed([10, 12, 11, 14, 13, 15], 3, counts_frames=True) == [3]
