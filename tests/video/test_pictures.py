"""What a clip's pictures look like: upright, square pixels, even sizes, the right levels and colours."""

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream
from numpy.typing import NDArray

from tests import synthetic
from tests.splitting import clips_of, numbers_of, one_clip
from tests.synthetic import Picture, frames_of, make_video, orientation_of, read_number, upright

Level = tuple[int, int, int]  # Y, Cb, Cr


def upright_picture(*, width: int, height: int) -> Picture:
    return next(synthetic.pictures(1, width=width, height=height, first_number=0, cuts=(), flashes=set()))


def size_of(rgb: Picture) -> tuple[int, int]:
    return rgb.shape[1], rgb.shape[0]


@pytest.mark.parametrize("hflip", [False, True], ids=["", "mirrored"])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_clip_stores_what_a_player_shows(tmp_path: Path, degrees: int, hflip: bool) -> None:
    path = make_video(tmp_path / "v.mp4", num_frames=3, width=160, height=120, rotation_degrees=degrees, hflip=hflip)
    shown = np.rot90(upright_picture(width=160, height=120), degrees // 90)  # both turn counterclockwise
    shown = shown[:, ::-1] if hflip else shown
    mp4 = one_clip(path)
    pictures = [rgb for _, rgb in frames_of(mp4)]
    assert [size_of(rgb) for rgb in pictures] == [size_of(shown)] * 3
    assert {orientation_of(rgb) for rgb in pictures} == {orientation_of(shown)}
    assert [read_number(upright(rgb)) for rgb in pictures] == [0, 1, 2]
    with av.open(io.BytesIO(mp4), "r") as container:
        assert next(container.decode(video=0)).rotation == 0


@pytest.mark.parametrize(
    ("suffix", "size", "aspect", "expected"),
    [
        pytest.param(".mp4", (180, 144), Fraction(64, 45), (256, 144), id="PAL 16:9"),
        pytest.param(".mkv", (180, 144), Fraction(64, 45), (256, 144), id="PAL 16:9 in mkv"),
        pytest.param(".mp4", (352, 288), Fraction(128, 117), (386, 288), id="CIF, 385.09 wide"),
        pytest.param(".mp4", (144, 108), Fraction(4, 3), (192, 108), id="HDV"),
        pytest.param(".mp4", (180, 120), Fraction(8, 9), (160, 120), id="NTSC 4:3, tall pixels"),
    ],
)
def test_pixels_become_square_and_the_display_keeps_its_shape(
    tmp_path: Path, suffix: str, size: tuple[int, int], aspect: Fraction, expected: tuple[int, int]
) -> None:
    """Width = stored width x pixel aspect, to the nearest even number."""
    path = make_video(tmp_path / f"v{suffix}", num_frames=3, width=size[0], height=size[1], sample_aspect_ratio=aspect)
    mp4 = one_clip(path)
    assert [size_of(rgb) for _, rgb in frames_of(mp4)] == [expected] * 3
    assert [read_number(rgb) for _, rgb in frames_of(mp4)] == [0, 1, 2]
    with av.open(io.BytesIO(mp4), "r") as container:
        assert container.streams.video[0].sample_aspect_ratio in (None, 0, 1)


def test_a_turned_video_with_wide_pixels_is_tall(tmp_path: Path) -> None:
    wide = Fraction(64, 45)
    path = make_video(
        tmp_path / "v.mp4", num_frames=3, width=180, height=144, sample_aspect_ratio=wide, rotation_degrees=90
    )
    assert [size_of(rgb) for _, rgb in frames_of(one_clip(path))] == [(144, 256)] * 3


@pytest.mark.parametrize(
    ("codec", "pix_fmt"), [("ffv1", "yuv420p"), ("ffv1", "yuv444p"), ("libx264rgb", "rgb24")], ids=str
)
@pytest.mark.parametrize("size", [(161, 121), (160, 121), (161, 120)], ids=str)
def test_an_odd_side_loses_one_pixel(tmp_path: Path, codec: str, pix_fmt: str, size: tuple[int, int]) -> None:
    path = make_video(tmp_path / "v.mkv", num_frames=3, width=size[0], height=size[1], codec=codec, pix_fmt=pix_fmt)
    pictures = [rgb for _, rgb in frames_of(one_clip(path))]
    assert [size_of(rgb) for rgb in pictures] == [(160, 120)] * 3
    assert [read_number(rgb) for rgb in pictures] == [0, 1, 2]


def test_an_odd_video_is_turned_without_losing_its_frames(tmp_path: Path) -> None:
    path = make_video(
        tmp_path / "v.mp4",
        num_frames=3,
        width=161,
        height=121,
        pix_fmt="yuv444p",
        rotation_degrees=270,
        hflip=True,
    )
    (clip,) = clips_of(path)
    assert [size_of(rgb) for _, rgb in frames_of(clip.buffer or b"")] == [(120, 160)] * 3
    assert numbers_of(clip) == [0, 1, 2]


def test_pictures_that_change_their_size_in_the_middle_are_in_a_clip_of_their_own(tmp_path: Path) -> None:
    small = make_video(tmp_path / "small.ts", num_frames=30, width=96, height=64)
    large = make_video(tmp_path / "large.ts", num_frames=30, width=192, height=128, first_number=30)
    clips = clips_of(joined(tmp_path / "v.ts", small, large), clip_len_s=10.0)
    assert [numbers_of(clip) for clip in clips] == [list(range(30)), list(range(30, 60))]
    sizes = [{size_of(rgb) for _, rgb in frames_of(clip.buffer or b"")} for clip in clips]
    assert sizes == [{(96, 64)}, {(192, 128)}]


def joined(path: Path, *parts: Path) -> Path:
    """Transport streams of one second, one after the other."""
    with av.open(path, "w") as target:
        stream = None
        for index, part in enumerate(parts):
            with av.open(part) as source:
                video = source.streams.video[0]
                stream = stream or target.add_stream_from_template(video)
                for packet in source.demux(video):
                    if packet.pts is not None and packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + index * 90_000, packet.dts + index * 90_000
                        packet.stream = stream
                        target.mux(packet)
    return path


# Levels. What each pixel format holds for black, mid-grey, white and pure red: BT.601, ITU-R BT.601-7 section 2.5

LIMITED: list[Level] = [(16, 128, 128), (126, 128, 128), (235, 128, 128), (81, 90, 240)]
FULL: list[Level] = [(0, 128, 128), (128, 128, 128), (255, 128, 128), (76, 85, 255)]


def make_bands(
    path: Path, *, codec: str, pix_fmt: str, levels: Sequence[Level], full_range: bool = False, matrix: int = 2
) -> Path:
    """Upright bands of these levels of 8 bits, from left to right; three frames, nearly lossless."""
    options = {"libx264": {"crf": "4"}, "libvpx-vp9": {"crf": "4", "b": "0"}, "mjpeg": {"q": "1"}}[codec]
    with av.open(path, "w") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=30, options=options))
        stream.width, stream.height, stream.pix_fmt = 160, 96, pix_fmt
        context = stream.codec_context
        context.color_range = ColorRange.JPEG if full_range else ColorRange.MPEG
        context.color_primaries = context.color_trc = context.colorspace = matrix
        for index in range(3):
            frame = av.VideoFrame(160, 96, pix_fmt)
            for number, plane in enumerate(frame.planes):
                plane.update(band_plane(plane, [level[number] for level in levels], bits=10 if "10" in pix_fmt else 8))
            frame.pts, frame.time_base, frame.color_range = index, Fraction(1, 30), context.color_range
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def band_plane(plane: "av.video.plane.VideoPlane", levels: Sequence[int], *, bits: int) -> bytes:
    row = np.repeat(np.array(levels) << (bits - 8), plane.width // len(levels))
    samples = np.zeros(
        (plane.height, plane.line_size * 8 // (16 if bits > 8 else 8)), np.uint16 if bits > 8 else np.uint8
    )
    samples[:, : plane.width] = row
    return samples.tobytes()


def first_frame(mp4: bytes) -> av.VideoFrame:
    with av.open(io.BytesIO(mp4), "r") as container:
        return next(container.decode(video=0))


def levels_of(frame: av.VideoFrame) -> NDArray[np.int64]:
    """Y, Cb, Cr in the middle of each of the four bands, shape (4, 3)."""
    planes = [
        np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes
    ]
    return np.array([[p[p.shape[0] // 2, p.shape[1] * (2 * k + 1) // 8] for p in planes] for k in range(4)], np.int64)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "full_range"),
    [
        pytest.param("libx264", "yuv420p", False, id="8 bit"),
        pytest.param("libx264", "yuv422p", False, id="4:2:2"),
        pytest.param("libx264", "yuv444p", False, id="4:4:4"),
        pytest.param("libx264", "yuv420p10le", False, id="10 bit"),
        pytest.param("libx264", "yuv422p10le", False, id="10 bit 4:2:2"),
        pytest.param("libx264", "yuvj420p", True, id="full range"),
        pytest.param("libx264", "yuv420p10le", True, id="10 bit of full range"),
        pytest.param("mjpeg", "yuvj422p", True, id="motion JPEG"),
        pytest.param("libvpx-vp9", "yuv420p", True, id="full range that only a flag tells"),
    ],
)
def test_every_pixel_format_becomes_8_bit_of_limited_range_with_its_levels(
    tmp_path: Path, codec: str, pix_fmt: str, full_range: bool
) -> None:
    levels = FULL if full_range else LIMITED
    path = make_bands(tmp_path / "v.mkv", codec=codec, pix_fmt=pix_fmt, levels=levels, full_range=full_range)
    frame = first_frame(one_clip(path))
    assert frame.format.name == "yuv420p"
    assert np.abs(levels_of(frame) - np.array(LIMITED)).max() <= 3


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
@pytest.mark.parametrize("matrix", [1, 5, 9], ids=["BT.709", "BT.601", "BT.2020"])
def test_a_clip_says_which_colours_its_numbers_mean(tmp_path: Path, pix_fmt: str, matrix: int) -> None:
    """The numbers are those of the source, so what they mean must be, too."""
    path = make_bands(tmp_path / "v.mp4", codec="libx264", pix_fmt=pix_fmt, levels=LIMITED, matrix=matrix)
    frame = first_frame(one_clip(path))
    assert np.abs(levels_of(frame) - np.array(LIMITED)).max() <= 3
    assert frame.colorspace == matrix


def test_a_video_of_rgb_keeps_its_colours(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mkv", num_frames=3, width=96, height=64, codec="libx264rgb", pix_fmt="rgb24")
    pictures = zip(frames_of(path), frames_of(one_clip(path)), strict=True)
    assert max(np.abs(a.astype(int) - b).mean() for (_, a), (_, b) in pictures) < 8
