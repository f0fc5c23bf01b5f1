"""Videos as the field has them, beyond what ``make_video`` writes by itself: each maker gets a folder."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from curation.video.decode import AnyPacket
from tests.synthetic import make_video
from tests.video.test_sound import clicks, mp2_packets

PHONE_TIMES_S = tuple(Fraction(min(i, 40), 30) + Fraction(max(0, i - 40), 5) for i in range(60))
"""A phone in the dark: 30 frames a second, after the 40th 5 a second."""

WRAP_S = Fraction(2**33, 90_000)
"""When the clock of a transport stream begins anew. Source: ISO/IEC 13818-1 section 2.4.3.7, 33 bits of 90 kHz."""


def small(folder: Path, name: str = "v.mp4", **settings: object) -> Path:
    """Two seconds of 96x64 at 30 frames a second, unless told otherwise."""
    plain: dict[str, object] = {"num_frames": 60, "width": 96, "height": 64}
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return make_video(path, **{**plain, **settings})  # type: ignore[arg-type]


# Headers that lie


def duration_of_days(folder: Path) -> Path:
    """An MP4 whose movie and track last 2^31 - 1 ticks: ISO/IEC 14496-12 sections 8.2.2 and 8.4.2, version 0."""
    path = small(folder)
    contents = bytearray(path.read_bytes())
    for kind in (b"mvhd", b"mdhd"):
        struct.pack_into(">I", contents, contents.index(kind) + 20, 2**31 - 1)
    path.write_bytes(contents)
    return path


def million_frames(folder: Path) -> Path:
    """An AVI whose main header and stream header count a million frames: dwTotalFrames and dwLength."""
    path = small(folder, "v.avi", codec="mpeg4")
    contents = bytearray(path.read_bytes())
    struct.pack_into("<I", contents, contents.index(b"avih") + 8 + 16, 1_000_000)
    struct.pack_into("<I", contents, contents.index(b"strh") + 8 + 32, 1_000_000)
    path.write_bytes(contents)
    return path


def copied(source: Path, target: Path, *, options: dict[str, str] | None = None) -> Path:
    """The packets of a video in another container."""
    with av.open(source) as reader, av.open(target, "w", options=options or {}) as writer:
        streams = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams}
        for packet in reader.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                writer.mux(packet)
    return target


def live_recording(folder: Path) -> Path:
    """Matroska as it is streamed: neither a duration nor the size of anything is known."""
    return copied(small(folder, "whole.mp4"), folder / "v.mkv", options={"live": "1"})


# Tracks that are not the video


def thumbnails_first(folder: Path) -> Path:
    """An MP4 whose first track holds one thumbnail a second, to which the second, the video, refers as its chapters.

    Source:
        ISO/IEC 14496-12 section 8.3.3 (tref); QuickTime File Format, chapter lists.
    """
    path = folder / "v.mp4"
    with av.open(small(folder, "plain.mp4")) as source, av.open(path, "w") as target:
        thumbnails = target.add_stream("mjpeg", rate=1)
        thumbnails.width, thumbnails.height, thumbnails.pix_fmt = 64, 48, "yuvj420p"
        video = target.add_stream_from_template(source.streams.video[0])
        red = av.VideoFrame.from_ndarray(np.full((48, 64, 3), (220, 30, 30), np.uint8), format="rgb24")
        for second in range(2):
            red.pts, red.time_base = second, Fraction(1)
            target.mux(thumbnails.encode(red))
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = video
                target.mux(packet)
    path.write_bytes(_with_chapters(path.read_bytes(), track=2, chapters=1))
    return path


def _with_chapters(contents: bytes, *, track: int, chapters: int) -> bytes:
    """An MP4 with its index at the end, in which one track names another as its chapters."""
    movie = contents.index(b"moov") - 4
    starts = [at for at in range(movie, len(contents)) if contents[at + 4 : at + 8] == b"trak"]
    start = starts[track - 1]
    (movie_size,), (track_size,) = struct.unpack_from(">I", contents, movie), struct.unpack_from(">I", contents, start)
    assert movie + movie_size == len(contents)
    reference = struct.pack(">I4sI4sI", 20, b"tref", 12, b"chap", chapters)
    longer = bytearray(contents)
    longer[start + track_size : start + track_size] = reference
    struct.pack_into(">I", longer, movie, movie_size + len(reference))
    struct.pack_into(">I", longer, start, track_size + len(reference))
    return bytes(longer)


# Changes in the middle


def joined_streams(folder: Path, parts: Sequence[dict[str, object]], *, suffix: str = ".ts") -> Path:
    """Streams of 30 frames, one after the other, each made with its own settings; numbers go on."""
    path = folder / f"v{suffix}"
    with av.open(path, "w") as target:
        stream = None
        for index, settings in enumerate(parts):
            part = small(folder, f"part{index}{suffix}", **{"num_frames": 30, "first_number": 30 * index, **settings})
            with av.open(part) as source:
                video = source.streams.video[0]
                stream = stream or target.add_stream_from_template(video, opaque=True)
                packets = [each for each in source.demux(video) if each.pts is not None and each.dts is not None]
                shift = int((index + 1) / (video.time_base or 1)) - min(each.pts or 0 for each in packets)
                for packet in packets:
                    packet.pts, packet.dts = (packet.pts or 0) + shift, (packet.dts or 0) + shift
                    packet.stream = stream
                    target.mux(packet)
    return path


def two_sample_descriptions(folder: Path) -> Path:
    """An MP4 whose first 30 frames have 96x64 and whose next 30 have 192x128, each with a description in the index.

    Source:
        ISO/IEC 14496-12 sections 8.5.2 (stsd), 8.7.4 (stsc) and 8.7.5 (stco).
    """
    path, first = folder / "v.mp4", small(folder, "first.mp4", num_frames=30)
    second = small(folder, "second.mp4", num_frames=30, width=192, height=128, first_number=30)
    num_bytes = _one_after_the_other(first, second, path)
    contents = path.read_bytes()
    (start,) = struct.unpack_from(">I", contents, contents.index(b"stco") + 12)
    descriptions = [each[each.index(b"stsd") + 12 : _end_of(each, b"stsd")] for each in (contents, second.read_bytes())]
    contents = _with_table(contents, b"stsd", struct.pack(">II", 0, 2) + b"".join(descriptions))
    contents = _with_table(contents, b"stsc", struct.pack(">8I", 0, 2, 1, 30, 1, 2, 30, 2))
    path.write_bytes(_with_table(contents, b"stco", struct.pack(">4I", 0, 2, start, start + num_bytes)))
    return path


def _one_after_the_other(first: Path, second: Path, target: Path) -> int:
    """The packets of two videos in one MP4 with its index at the end; gives the bytes of those of the first."""
    with av.open(first) as one, av.open(second) as other, av.open(target, "w") as writer:
        stream = writer.add_stream_from_template(one.streams.video[0])
        packets: list[list[AnyPacket]] = [[p for p in each.demux(video=0) if p.size] for each in (one, other)]
        length = sum(packet.duration or 0 for packet in packets[0])
        for packet in packets[1]:
            packet.pts, packet.dts = (packet.pts or 0) + length, (packet.dts or 0) + length
        for packet in [*packets[0], *packets[1]]:
            packet.stream = stream
            writer.mux(packet)
    return sum(packet.size for packet in packets[0])


def _end_of(contents: bytes, kind: bytes) -> int:
    start = contents.index(kind) - 4
    return start + int.from_bytes(contents[start : start + 4], "big")


def _with_table(contents: bytes, kind: bytes, payload: bytes) -> bytes:
    """An MP4 with its index at the end, in which a box of the only track holds something else."""
    start, end = contents.index(kind) - 4, _end_of(contents, kind)
    changed = bytearray(contents)
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        at = contents.index(parent) - 4
        (size,) = struct.unpack_from(">I", contents, at)
        struct.pack_into(">I", changed, at, size + 8 + len(payload) - (end - start))
    changed[start:end] = struct.pack(">I", 8 + len(payload)) + kind + payload
    return bytes(changed)


def garbage_in_matroska(folder: Path) -> Path:
    """The second half of the file is zeros; its size is right."""
    path = small(folder, "v.mkv", num_frames=120)
    contents = path.read_bytes()
    path.write_bytes(contents[: len(contents) // 2] + bytes(len(contents) - len(contents) // 2))
    return path


def dissolve(path: Path, before: Path, after: Path, *, num_frames: int, first: int, length: int) -> Path:
    """The beginnings of two videos, the first of which is dissolved into the second over ``length`` frames."""
    pictures = []
    for source in (before, after):
        with av.open(source) as reader:
            stored = (frame.to_ndarray(format="rgb24", width=320, height=180) for frame in reader.decode(video=0))
            pictures.append([rgb for rgb, _ in zip(stored, range(num_frames), strict=False)])
    with av.open(path, "w") as writer:
        stream = writer.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        stream.codec_context.thread_count = 2
        for index, (old, new) in enumerate(zip(*pictures, strict=True)):
            share = float(np.clip((index - first + 1) / (length + 1), 0, 1))
            frame = av.VideoFrame.from_ndarray(np.round((1 - share) * old + share * new).astype(np.uint8), "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            writer.mux(stream.encode(frame))
        writer.mux(stream.encode(None))
    return path


# Sound


def changing_sound(folder: Path) -> Path:
    """Four seconds of a broadcast: clicks at 0 s and 1 s in mono of 48 kHz, at 2.234 s and 3.234 s in stereo."""
    path, silent = folder / "v.ts", small(folder, "silent.ts", num_frames=120)
    mono_s, stereo_s = 2 - Fraction(768, 48_000), Fraction(2)  # the first in whole packets of 1152 samples
    with av.open(silent) as source, av.open(path, "w") as target:
        video = target.add_stream_from_template(source.streams.video[0])
        audio = target.add_stream("mp2", rate=48_000, layout="mono")
        packets: list[AnyPacket] = [each for each in source.demux(source.streams.video[0]) if each.dts is not None]
        begin_s = Fraction(min(each.pts for each in packets if each.pts is not None), 90_000)
        for packet in packets:
            packet.stream = video
        mono = clicks(48_000, 1, at_s=[0.0, 1.0], length_s=float(mono_s))
        stereo = clicks(44_100, 2, at_s=[0.25, 1.25], length_s=float(stereo_s))
        packets += mp2_packets(mono, audio, rate=48_000, layout="mono", start_s=begin_s)
        packets += mp2_packets(stereo, audio, rate=44_100, layout="stereo", start_s=begin_s + mono_s)
        target.mux(sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base))
    return path
