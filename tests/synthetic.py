"""Videos made in process whose every frame says which one it is, which way up it is, and when it is shown.

The picture, in fractions of its width and height, so that scaling and a change of aspect do not matter:
two rows of 12 black or white blocks over the top hold the frame number; the four corners have four colours;
a patch at the bottom in the middle flashes; behind all that a coloured texture moves.
"""

import colorsys
import io
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import reduce
from pathlib import Path
from typing import Final, Literal, TypeAlias, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream
from numpy.typing import NDArray

from curation.video.scheduling import open_encoder

Picture = NDArray[np.uint8]  # RGB, shape (height, width, 3)
Box = tuple[float, float, float, float]  # left, top, right, bottom as fractions of the width and the height
Packets: TypeAlias = "list[Packet[Stream]]"

BLOCKS_PER_ROW: Final = 12
STRIP: Final[Box] = (0.14, 0.0, 0.86, 0.16)
FLASH_PATCH: Final[Box] = (0.42, 0.88, 0.58, 1.0)
CORNERS: Final[list[list[Box]]] = [[(x, y, x + 0.12, y + 0.12) for x in (0.0, 0.88)] for y in (0.0, 0.88)]
CORNER_COLOURS: Final = np.array([[(220, 30, 30), (30, 190, 60)], [(30, 60, 220), (230, 210, 30)]], dtype=np.float64)
MAX_COLOUR_DISTANCE: Final = 110.0
DARKEST_WHITE: Final = 165.0
BRIGHTEST_BLACK: Final = 90.0
MAX_NUMBER: Final = 2**16 - 1

SAMPLE_RATE: Final = 48_000
CLICK_HZ: Final = 1000
CLICK_SAMPLES: Final = SAMPLE_RATE // 100  # 10 ms
AUDIO_CODECS: Final = {".webm": "libopus", ".mpg": "mp2", ".avi": "mp2"}  # the others take AAC

QUICK_OPTIONS: Final[dict[str, dict[str, str]]] = {
    "libx264": {"preset": "veryfast", "crf": "23", "mbtree": "0"},  # mbtree with AVX-512: not the same bytes twice
    "libx265": {"preset": "ultrafast", "crf": "23", "x265-params": "log-level=none"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "30", "b": "0"},
    "libsvtav1": {"preset": "10", "crf": "30"},
    "mpeg4": {"b": "2M"},
    "mpeg2video": {"b": "3M"},
}

_TURNS: Final[dict[str, Callable[[NDArray[np.generic]], NDArray[np.generic]]]] = {
    "upright": lambda picture: picture,
    "rotated_90_cw": lambda picture: np.rot90(picture, -1),
    "rotated_180": lambda picture: np.rot90(picture, 2),
    "rotated_90_ccw": lambda picture: np.rot90(picture, 1),
    "flipped_horizontally": lambda picture: picture[:, ::-1],
    "flipped_vertically": lambda picture: picture[::-1],
    "transposed": lambda picture: np.swapaxes(picture, 0, 1),
    "antitransposed": lambda picture: np.rot90(np.swapaxes(picture, 0, 1), 2),
}


def _word(number: int) -> list[bool]:
    """The 24 blocks of a number: guard 10, 16 bits, 4 bits of checksum, guard 01."""
    checksum = (number ^ number >> 4 ^ number >> 8 ^ number >> 12 ^ 0b0101) & 0xF
    return [digit == "1" for digit in f"10{number:016b}{checksum:04b}01"]


def _block(index: int) -> Box:
    left, top, right, bottom = STRIP
    row, column = divmod(index, BLOCKS_PER_ROW)
    width, height = (right - left) / BLOCKS_PER_ROW, (bottom - top) / 2
    return left + column * width, top + row * height, left + (column + 1) * width, top + (row + 1) * height


def _region(rgb: Picture, box: Box) -> Picture:
    """A view of the pixels in the box, at least one."""
    height, width = rgb.shape[:2]
    left, top, right, bottom = int(box[0] * width), int(box[1] * height), int(box[2] * width), int(box[3] * height)
    return rgb[top : max(bottom, top + 1), left : max(right, left + 1)]


def _colour_at(rgb: Picture, box: Box) -> NDArray[np.float64]:
    """Mean RGB of the middle of the box, away from its blurred edges; shape (3,), 0..255."""
    left, top, right, bottom = box
    inset_x, inset_y = (right - left) / 4, (bottom - top) / 4
    middle = _region(rgb, (left + inset_x, top + inset_y, right - inset_x, bottom - inset_y))
    return np.asarray(middle.mean(axis=(0, 1)), dtype=np.float64)


def read_number(rgb: Picture) -> int:
    """The frame number burnt into an upright picture of any size down to 48x27.

    Raises:
        ValueError: a block is neither black nor white (two frames blended?), or guard or checksum do not fit.
    """
    levels = [float(_colour_at(rgb, _block(index)).mean()) for index in range(2 * BLOCKS_PER_ROW)]
    grey = [index for index, level in enumerate(levels) if BRIGHTEST_BLACK < level < DARKEST_WHITE]
    if grey:
        raise ValueError(f"no frame number: blocks {grey} are neither black nor white")
    bits = [level >= DARKEST_WHITE for level in levels]
    number = int("".join("01"[bit] for bit in bits[2:18]), 2)
    if bits != _word(number):
        raise ValueError(f"no frame number: guard or checksum do not fit in {''.join('01'[bit] for bit in bits)}")
    return number


def orientation_of(rgb: Picture) -> str:
    """How the picture was turned from upright: a key of ``_TURNS``, read from the colours of its corners.

    Raises:
        ValueError: the corners are not those of a synthetic picture.
    """
    seen = np.array([[_colour_at(rgb, box) for box in row] for row in CORNERS])
    for name, turn in _TURNS.items():
        if np.linalg.norm(seen - turn(CORNER_COLOURS), axis=-1).max() < MAX_COLOUR_DISTANCE:
            return name
    raise ValueError(f"the corners have unknown colours: {seen.round().astype(int).tolist()}")


def upright(rgb: Picture) -> Picture:
    """The picture turned back, so that its number can be read."""
    turned = (cast(Picture, turn(rgb)) for turn in _TURNS.values())
    return next(picture for picture in turned if orientation_of(picture) == "upright")


def flash_is_on(rgb: Picture) -> bool:
    """Whether the patch at the bottom of an upright picture is white."""
    return bool(_colour_at(rgb, FLASH_PATCH).mean() > 127)


def _texture(seed: int, *, width: int, height: int) -> Picture:
    """A colourful tile, 2 x 2 times the picture, without a seam; neighbouring seeds differ in hue and brightness."""
    rng = np.random.default_rng(seed)
    hue, value = (seed * 0.618) % 1.0, 0.75 if seed % 2 else 0.4
    across = np.arange(width, dtype=np.float32)[None, :, None] / width
    down = np.arange(height, dtype=np.float32)[:, None, None] / height
    tile = np.zeros((height, width, 3), dtype=np.float32) + 255 * np.array(colorsys.hsv_to_rgb(hue, 0.6, value))
    for _ in range(3):
        cycles, phases = rng.integers(1, 6, size=2), rng.random(3, dtype=np.float32)
        tile += 22 * np.sin(2 * np.pi * (cycles[0] * across + cycles[1] * down + phases))
    return np.tile(np.clip(tile, 0, 255).astype(np.uint8), (2, 2, 1))


def _paint(rgb: Picture, number: int, *, flash: bool) -> None:
    for index, bit in enumerate(_word(number)):
        _region(rgb, _block(index))[:] = 255 if bit else 0
    for boxes, colours in zip(CORNERS, CORNER_COLOURS, strict=True):
        for box, colour in zip(boxes, colours, strict=True):
            _region(rgb, box)[:] = colour
    _region(rgb, FLASH_PATCH)[:] = 255 if flash else 0


def pictures(
    num_frames: int, *, width: int, height: int, first_number: int, cuts: Sequence[int], flashes: set[int]
) -> Iterator[Picture]:
    """The frames of a video, as they are before encoding.

    Raises:
        ValueError: a number does not fit in 16 bits.
    """
    if not 0 <= first_number <= first_number + num_frames - 1 <= MAX_NUMBER:
        raise ValueError(f"frame numbers need 0..{MAX_NUMBER}, got {first_number} and {num_frames} frames")
    texture = _texture(0, width=width, height=height)
    for index in range(num_frames):
        if index in cuts:
            texture = _texture(sorted(cuts).index(index) + 1, width=width, height=height)
        left, top = index * max(1, width // 160) % width, index * max(1, height // 240) % height
        rgb = texture[top : top + height, left : left + width].copy()
        _paint(rgb, first_number + index, flash=index in flashes)
        yield rgb


def _common_tick_s(times_s: Sequence[Fraction]) -> Fraction:
    """The longest tick of which every time is a whole multiple."""
    denominator = math.lcm(*(time_s.denominator for time_s in times_s))
    numerator = reduce(math.gcd, (int(time_s * denominator) for time_s in times_s))
    return Fraction(numerator or 1, denominator)


def _delayed(packets: Packets, start_time_s: Fraction) -> Packets:
    """The packets, shown later by exactly that time: their time base is made as fine as that needs."""
    for packet in packets:
        encoder_tick_s = Fraction(packet.time_base)
        tick_s = _common_tick_s([encoder_tick_s, start_time_s])
        factor, delay = int(encoder_tick_s / tick_s), int(start_time_s / tick_s)
        if packet.pts is None or packet.dts is None:
            raise ValueError(f"the encoder gave a packet without a time: {packet}")
        packet.pts, packet.dts = packet.pts * factor + delay, packet.dts * factor + delay
        packet.duration = (packet.duration or 0) * factor
        packet.time_base = tick_s
    return packets


def _encode_video(stream: VideoStream, frames: Iterator[Picture], times_s: Sequence[Fraction]) -> Packets:
    tick_s = Fraction(stream.codec_context.time_base or 0)
    ticks = [int(time_s / tick_s) for time_s in times_s]
    packets: Packets = []
    for rgb, pts in zip(frames, ticks, strict=True):
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        frame.pts, frame.time_base = pts, tick_s
        packets += stream.encode(frame)
    packets += stream.encode()
    durations = dict(zip(ticks, np.diff(ticks).tolist(), strict=False))
    for packet in packets:
        packet.duration = durations.get(
            packet.pts or 0, max(1, int(1 / Fraction(stream.codec_context.framerate) / tick_s))
        )
    return packets


def _clicks(duration_s: Fraction) -> NDArray[np.float32]:
    """Silence with a burst of 1 kHz for 10 ms at each whole second; shape (1, num_samples)."""
    samples = np.zeros(round(duration_s * SAMPLE_RATE), dtype=np.float32)
    burst = 0.8 * np.sin(2 * np.pi * CLICK_HZ / SAMPLE_RATE * np.arange(CLICK_SAMPLES))
    for start in range(0, len(samples) - CLICK_SAMPLES, SAMPLE_RATE):
        samples[start : start + CLICK_SAMPLES] = burst
    return samples[None]


def _encode_clicks(stream: AudioStream, duration_s: Fraction) -> Packets:
    frame = av.AudioFrame.from_ndarray(_clicks(duration_s), format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
    return [*stream.encode(frame), *stream.encode()]


def _add_audio(container: OutputContainer, suffix: str) -> AudioStream:
    codec = AUDIO_CODECS.get(suffix, "aac")
    return cast(AudioStream, container.add_stream(codec, rate=SAMPLE_RATE, layout="mono"))


def _open(path: Path, *, tick_s: Fraction = Fraction(1)) -> OutputContainer:
    """Open for writing; in MP4 the index goes first, and edit lists can say each video tick and audio sample."""
    mp4 = {"movflags": "faststart", "movie_timescale": str(math.lcm(SAMPLE_RATE, tick_s.denominator))}
    return av.open(path, "w", container_options=mp4 if path.suffix in (".mp4", ".mov") else {})


def _flashing_frames(times_s: Sequence[Fraction], end_s: Fraction) -> set[int]:
    """For each whole second the frame that begins nearest to it."""
    begins, seconds = np.array(times_s, dtype=np.float64), np.arange(math.ceil(end_s))
    return set(np.abs(begins[None, :] - seconds[:, None]).argmin(axis=1).tolist())


def make_video(
    path: Path,
    *,
    num_frames: int,
    rate: Fraction = Fraction(30),
    times_s: Sequence[Fraction] | None = None,
    width: int = 320,
    height: int = 240,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    sample_aspect_ratio: Fraction | None = None,
    rotation_degrees: int = 0,
    hflip: bool = False,
    start_time_s: Fraction = Fraction(0),
    audio: Literal["none", "clicks"] = "none",
    first_number: int = 0,
    cuts: Sequence[int] = (),
) -> Path:
    """Write a video; the container follows from the suffix. MP4 keeps every time exactly, Matroska to 1 ms.

    Args:
        times_s: When each frame is shown; default ``i / rate``. The last frame lasts ``1 / rate``.
        width: Of the stored picture, before any rotation, as is ``height``.
        options: Of the encoder, over those of ``QUICK_OPTIONS``.
        rotation_degrees: Counterclockwise, what a player does to the stored, upright picture (MP4 only).
        hflip: A player mirrors the picture after turning it (MP4 only).
        start_time_s: Added to the times of video and sound; MPEG-TS and MPEG-PS add one of their own, AVI has none.
        audio: ``clicks``: at each whole second (before ``start_time_s``) a burst, and one frame flashes.
        cuts: Indices of the frames that begin a new shot.
    """
    times = [Fraction(index) / rate for index in range(num_frames)] if times_s is None else list(times_s)
    tick_s = 1 / rate if times_s is None else _common_tick_s(times)
    end_s = times[-1] + 1 / rate
    mux_tick_s = _common_tick_s([tick_s, start_time_s])
    flashes = _flashing_frames(times, end_s) if audio == "clicks" else set()
    frames = pictures(num_frames, width=width, height=height, first_number=first_number, cuts=cuts, flashes=flashes)
    with _open(path, tick_s=mux_tick_s) as container:
        video = cast(VideoStream, container.add_stream(codec, rate=rate, options=QUICK_OPTIONS.get(codec, {})))
        video.codec_context.options |= options or {}
        video.width, video.height, video.pix_fmt = width, height, pix_fmt
        video.codec_context.thread_count = 2  # the same bytes on any number of cores
        video.codec_context.time_base, video.time_base = tick_s, mux_tick_s
        video.codec_context.sample_aspect_ratio = sample_aspect_ratio or Fraction(0)
        open_encoder(video.codec_context)
        packets = _delayed(_encode_video(video, frames, times), start_time_s)
        if audio == "clicks":
            packets += _delayed(_encode_clicks(_add_audio(container, path.suffix), end_s), start_time_s)
        container.mux(sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base))
    if rotation_degrees or hflip:
        _write_display_matrix(path, rotation_degrees, hflip=hflip, width=width, height=height)
    return path


def _write_display_matrix(path: Path, degrees_ccw: int, *, hflip: bool, width: int, height: int) -> None:
    """Patch the matrix of the first track, which is the video.

    Source:
        ISO/IEC 14496-12, 8.3.2 (tkhd) and 6.2.2: (x, y) goes to (a x + c y + tx, b x + d y + ty), y downwards.
    """
    if path.suffix not in (".mp4", ".mov") or degrees_ccw % 90:
        raise ValueError(f"a display matrix needs MP4 and right angles, got {path.suffix} and {degrees_ccw}")
    cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][degrees_ccw // 90 % 4]
    mirror = -1 if hflip else 1
    a, b, c, d = mirror * cos, -sin, mirror * sin, cos
    tx, ty = -min(0, a * width) - min(0, c * height), -min(0, b * width) - min(0, d * height)
    one, unit = 1 << 16, 1 << 30
    matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, tx * one, ty * one, unit)
    contents = bytearray(path.read_bytes())
    header = contents.index(b"tkhd") + 4
    offset = header + (52 if contents[header] == 1 else 40)  # version 1 has three times of 8 bytes for 4
    contents[offset : offset + len(matrix)] = matrix
    path.write_bytes(contents)


def frames_of(video: Path | bytes) -> list[tuple[Fraction, Picture]]:
    """Each frame of the first video stream: its time in seconds and the stored picture (no rotation applied)."""
    with av.open(io.BytesIO(video) if isinstance(video, bytes) else video, "r") as container:
        return [
            (Fraction(frame.pts or 0) * Fraction(frame.time_base or 0), cast(Picture, frame.to_ndarray(format="rgb24")))
            for frame in container.decode(video=0)
        ]


def _sound_of(video: Path | bytes) -> tuple[Fraction, int, NDArray[np.float64]]:
    """The time of the first sample in seconds, the sample rate, and the first channel, laid out by its timestamps."""
    with av.open(io.BytesIO(video) if isinstance(video, bytes) else video, "r") as container:
        frames = list(container.decode(audio=0))
    rate, end = frames[0].sample_rate, 0
    first_s = Fraction(frames[0].pts or 0) * Fraction(frames[0].time_base or 0)
    parts: list[NDArray[np.generic]] = []
    for frame in frames:
        start = round((Fraction(frame.pts or 0) * Fraction(frame.time_base or 0) - first_s) * rate)
        gap = start - end if start - end > rate // 500 else 0  # up to 2 ms is the rounding of the container
        samples = frame.to_ndarray() if frame.format.is_planar else frame.to_ndarray().reshape(frame.samples, -1).T
        parts += [np.zeros(gap), samples[0]]
        end += gap + frame.samples
    return first_s, rate, np.concatenate(parts).astype(np.float64)


def click_times_s(video: Path | bytes) -> list[float]:
    """When the clicks begin, in seconds on the clock of ``frame.pts``; edit lists and start times are honoured.

    A filter matched to the burst has its peak where the burst begins, which the encoder's pre-echo does not move.
    """
    first_s, rate, sound = _sound_of(video)
    length = rate * CLICK_SAMPLES // SAMPLE_RATE
    turned = sound * np.exp(-2j * np.pi * CLICK_HZ / rate * np.arange(len(sound)))
    total = np.concatenate([np.zeros(length + 1), np.cumsum(turned), np.full(length, turned.sum())])
    match = np.abs(total[length:] - total[:-length])  # match[i]: the burst begins at sample i - length
    loud = np.flatnonzero(match > 0.5 * match.max())
    groups = np.split(loud, np.flatnonzero(np.diff(loud) > rate // 4) + 1)
    peaks = [int(group[np.argmax(match[group])]) - length for group in groups if len(group)]
    return [float(first_s) + peak / rate for peak in peaks]


def truncated(path: Path, fraction: float) -> Path:
    """A good video (index first in MP4) of which only the first ``fraction`` of the bytes is there."""
    contents = make_video(path, num_frames=90).read_bytes()
    path.write_bytes(contents[: int(len(contents) * fraction)])
    return path


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def not_a_video(path: Path) -> Path:
    path.write_text("This is a shopping list: milk, eggs, a film projector.\n" * 20, encoding="utf-8")
    return path


def audio_only(path: Path) -> Path:
    """Two seconds of clicks without a picture."""
    with _open(path) as container:
        container.mux(_encode_clicks(_add_audio(container, path.suffix), Fraction(2)))
    return path


def no_moov(path: Path) -> Path:
    """An MP4 without its index, as a recording that was interrupted leaves behind."""
    contents = make_video(path, num_frames=30).read_bytes()
    start = contents.index(b"moov") - 4
    (size,) = struct.unpack_from(">I", contents, start)
    path.write_bytes(contents[:start] + contents[start + size :])
    return path


def mdat_cut(path: Path) -> Path:
    """An MP4 with its whole index and not one byte of its media: it opens, and no frame decodes."""
    contents = make_video(path, num_frames=30).read_bytes()
    path.write_bytes(contents[: contents.index(b"mdat") + 4])
    return path
