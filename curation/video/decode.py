"""Decoding a source forward: frames in presentation order, at exact timestamps, upright and with square pixels."""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, TypeAlias

import av
import av.container
import av.error
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from numpy.typing import NDArray

from curation.errors import FailureReason
from curation.model import DecodeCount
from curation.source_files import Source
from curation.source_profile import SourceProfile
from curation.timeline import FrameTimeline
from curation.video.clean_start import CleanStart
from curation.video.container import as_video_error, opened
from curation.video.deinterlace import Deinterlacer
from curation.video.lighten import WithoutMotion
from curation.video.progress import alive
from curation.video.tonemap import ToneMapper

MediaFrame = av.VideoFrame | av.AudioFrame
AnyPacket: TypeAlias = "av.Packet[Any]"  # generic in its stub only
SeePacket = Callable[[AnyPacket], object]
SeeFrame = Callable[[av.VideoFrame], object]


def decode_frames(
    source: Source,
    profile: SourceProfile,
    timeline: FrameTimeline,
    *,
    name: str,
    from_tick: int | None = None,
    with_audio: bool = False,
    count: DecodeCount | None = None,
    see_packet: SeePacket | None = None,
    see_motion: SeeFrame | None = None,
    begin: CleanStart | None = None,
) -> Iterator[MediaFrame]:
    """Decode the chosen streams in the order of the file.

    Args:
        from_tick: leave out video frames before this timestamp; decoding begins at the key frame before it.
        begin: leave out video frames before this place, and be sure that the others are those of the whole file.
        with_audio: yield the audio stream's frames as well, between the pictures as the file has them.
        count: counts every picture that is decoded, also those before ``from_tick``.
        see_packet: shown every packet of the video stream in the order of the file, before it is decoded.
        see_motion: shown every picture with its motion vectors, where its codec is one whose decoder tells them;
            what is yielded has none.

    Yields:
        Video frames in rising presentation order, each with a timestamp and progressive, and audio frames.

    Raises:
        VideoError: UNREADABLE or DECODE_ERROR; with ``begin`` NOT_IN_PARTS.
        StorageError: the file could not be read.
    """
    count = count if count is not None else DecodeCount()
    with_motion = see_motion is not None
    packets = demuxed(source, profile, name=name, from_tick=from_tick, with_audio=with_audio, with_motion=with_motion)
    try:
        yield from _decode(packets, profile, timeline, from_tick, count, see_packet, see_motion, begin)
    except av.error.FFmpegError as error:
        reason = FailureReason.DECODE_ERROR if begin is None else begin.reason_of(FailureReason.DECODE_ERROR)
        raise as_video_error(error, name=name, reason=reason, doing="decode") from error


def demuxed(
    source: Source,
    profile: SourceProfile,
    *,
    name: str,
    from_tick: int | None = None,
    with_audio: bool = False,
    with_motion: bool = False,
) -> Iterator[AnyPacket]:
    """The packets of the chosen streams in the order of the file, and at its end an empty one of each.

    Args:
        from_tick: begin at a key frame at or before this timestamp, where the container can seek; else at the start.
        with_motion: their decoder adds its motion vectors to each picture, where its codec is one that can.

    Raises:
        VideoError, StorageError: as ``opened``.
        av.error.FFmpegError: the packets can't be read.
    """
    if from_tick is not None and not profile.counts_frames:
        with opened(source, name=name) as container:
            if _seek_before(container, profile, from_tick):
                yield from _packets_of(container, profile, with_audio=with_audio, with_motion=with_motion)
                return
    with opened(source, name=name) as container:  # opened again: seeking back is not exact in every container
        yield from _packets_of(container, profile, with_audio=with_audio, with_motion=with_motion)


def _packets_of(
    container: av.container.InputContainer, profile: SourceProfile, *, with_audio: bool, with_motion: bool
) -> Iterator[AnyPacket]:
    streams = [container.streams[profile.video_stream]]
    if with_motion:  # not otherwise: it costs some 0.2 ms a picture, whoever looks at it
        streams[0].codec_context.flags2 |= av.codec.context.Flags2.export_mvs
    if with_audio and profile.audio_stream is not None:
        streams.append(container.streams[profile.audio_stream])
    for stream in streams:
        stream.codec_context.thread_count = 1  # FFmpeg's default is every core of the node, not the task's share
    for packet in container.demux(*streams):
        alive()
        yield packet


def _seek_before(container: av.container.InputContainer, profile: SourceProfile, tick: int) -> bool:
    """Seek to a key frame at or before ``tick``; False when the container lands after it or can't seek."""
    stream = container.streams[profile.video_stream]
    try:
        container.seek(tick, stream=stream, backward=True)
        landed = next((p.pts for p in container.demux(stream) if p.pts is not None and p.is_keyframe), None)
        container.seek(tick, stream=stream, backward=True)
    except av.error.FFmpegError:
        return False
    return landed is not None and landed <= tick


def _decode(
    packets: Iterator[AnyPacket],
    profile: SourceProfile,
    timeline: FrameTimeline,
    from_tick: int | None,
    count: DecodeCount,
    see_packet: SeePacket | None,
    see_motion: SeeFrame | None,
    begin: CleanStart | None,
) -> Iterator[MediaFrame]:
    times = iter(timeline.ticks.tolist() if profile.counts_frames else ())
    deinterlacer, lighten = Deinterlacer(), WithoutMotion()
    last: int | None = None
    for packet in packets:
        is_video = packet.stream.index == profile.video_stream
        if see_packet is not None and is_video:
            see_packet(packet)
        is_left_out = begin is not None and is_video and not begin.admits(packet)
        for frame in () if is_left_out else frames_of_packet(packet, is_audio=not is_video):
            count.num_frames += isinstance(frame, av.VideoFrame)
            if isinstance(frame, av.VideoFrame) and profile.counts_frames:
                frame.pts = next(times, None)
            if begin is not None and not begin.wants(frame):
                continue
            if isinstance(frame, av.AudioFrame):
                yield frame
            elif isinstance(frame, av.VideoFrame) and is_shown(frame, after=last):
                last = frame.pts
                if see_motion is not None:
                    see_motion(frame)
                    frame = lighten(frame)
                yield from _not_before(from_tick, deinterlacer.add(frame))
    if begin is not None:
        begin.finish()
    yield from _not_before(from_tick, deinterlacer.finish())


def is_shown(frame: av.VideoFrame, *, after: int | None) -> bool:
    """Whether a decoded picture is one of the source's: whole, and known when to be shown.

    What the decoder itself flags as corrupt is made up from other pictures.
    """
    return frame.pts is not None and not frame.is_corrupt and (after is None or frame.pts > after)


def _not_before(tick: int | None, frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    return (frame for frame in frames if tick is None or (frame.pts is not None and frame.pts >= tick))


def frames_of_packet(packet: AnyPacket, *, is_audio: bool) -> Sequence[object]:
    """Decode a packet; a broken audio packet is left out (its gap becomes silence), a broken picture is an error.

    A picture that the container itself knows to be incomplete is left out: a decoder would invent the rest of it.
    """
    if packet.is_corrupt and not is_audio:
        return ()
    try:
        return packet.decode()
    except av.error.FFmpegError:
        if is_audio:
            return ()
        raise


class PictureNormalizer:
    """Makes decoded frames upright SDR pictures, 8-bit yuv420p, with square pixels and even sides.

    A frame that already is so is passed on untouched. Rotation and mirroring move whole samples, so nothing is lost.
    """

    def __init__(self, profile: SourceProfile) -> None:
        self.profile = profile
        self._reformatter = VideoReformatter()
        self._tone_mapper = ToneMapper(profile.hdr) if profile.hdr is not None else None
        width, height = profile.display_size
        self._upright = (width, height) if profile.rotation % 180 == 0 else (height, width)

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The frame as a player shows it; size ``profile.display_size``, timestamps kept."""
        profile = self.profile
        if self._tone_mapper is not None:
            frame = self._tone_mapper(frame)
        same_size = self.fits(frame)
        scaled = frame
        if not _is_limited_420(frame) or not same_size or profile.pixel_aspect != 1:
            width = self._upright[0] if profile.pixel_aspect != 1 or not same_size else frame.width
            height = frame.height if same_size else self._upright[1]
            scaled = to_yuv420p(frame, self._reformatter, width=width, height=height)
        if (scaled.width, scaled.height) == self._upright and not profile.mirrored and profile.rotation == 0:
            return scaled
        planes = [self._turn(plane) for plane in yuv_planes(scaled, size=self._upright)]
        return frame_from_planes(planes, like=scaled)

    def fits(self, frame: av.VideoFrame) -> bool:
        """Whether a frame has the size that the profile tells; another is scaled to it."""
        return (frame.width, frame.height) == self.profile.coded_size

    def of(self, profile: SourceProfile) -> "PictureNormalizer":
        """One for that profile: this one, where it is."""
        return self if profile == self.profile else PictureNormalizer(profile)

    def _turn(self, plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.profile.mirrored:
            plane = plane[:, ::-1]
        return np.rot90(plane, k=-self.profile.rotation // 90)


def to_yuv420p(frame: av.VideoFrame, reformatter: VideoReformatter, *, width: int, height: int) -> av.VideoFrame:
    """Scale to a size as 8-bit 4:2:0 of limited range, keeping the colour matrix of the source."""
    scaled = reformatter.reformat(
        frame,
        width=width,
        height=height,
        format="yuv420p",
        interpolation=Interpolation.BICUBIC,
        src_color_range=ColorRange.JPEG if _is_full_range(frame) else ColorRange.MPEG,
        dst_color_range=ColorRange.MPEG,
        threads=1,
    )
    scaled.pts, scaled.time_base = frame.pts, frame.time_base
    return scaled


def _is_full_range(frame: av.VideoFrame) -> bool:
    return frame.format.name.startswith("yuvj") or frame.color_range == ColorRange.JPEG


def _is_limited_420(frame: av.VideoFrame) -> bool:
    return frame.format.name == "yuv420p" and not _is_full_range(frame)  # VP9 and AV1 have full range in yuv420p


def yuv_planes(frame: av.VideoFrame, *, size: tuple[int, int] | None = None) -> list[NDArray[np.uint8]]:
    """The three planes of a yuv420p frame as views, uint8, cut to ``size`` (width, height) from the top left."""
    width, height = size or (frame.width, frame.height)
    sizes = [(width, height), ((width + 1) // 2, (height + 1) // 2), ((width + 1) // 2, (height + 1) // 2)]
    return [
        np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:rows, :columns]
        for plane, (columns, rows) in zip(frame.planes, sizes, strict=True)
    ]


def frame_from_planes(planes: list[NDArray[np.uint8]], *, like: av.VideoFrame) -> av.VideoFrame:
    """A yuv420p frame of these planes with the timestamp and colour description of another."""
    packed = pack_yuv420p(planes)
    frame = av.VideoFrame.from_ndarray(packed, format="yuv420p")
    frame.pts, frame.time_base = like.pts, like.time_base
    frame.colorspace, frame.color_range = like.colorspace, like.color_range
    return frame


def pack_yuv420p(planes: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Planes of even size as one uint8 array of shape (height * 3 // 2, width), FFmpeg's packed order."""
    height, width = planes[0].shape
    return np.concatenate([np.ascontiguousarray(plane).reshape(-1) for plane in planes]).reshape(height * 3 // 2, width)


class SmallRgb:
    """Scales decoded frames to a small upright RGB picture with area averaging, straight from the decoder's format."""

    def __init__(self, profile: SourceProfile, *, width: int, height: int) -> None:
        self._profile = profile
        self._size = (width, height) if profile.rotation % 180 == 0 else (height, width)
        self._reformatter = VideoReformatter()  # kept: a new context for each frame costs a quarter more

    def __call__(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """uint8 RGB, shape (height, width, 3)."""
        small = self._reformatter.reformat(
            frame,
            width=self._size[0],
            height=self._size[1],
            format="rgb24",
            interpolation=Interpolation.AREA,
            threads=1,
        ).to_ndarray()
        if self._profile.mirrored:
            small = small[:, ::-1]
        return np.ascontiguousarray(np.rot90(small, k=-self._profile.rotation // 90))


def seconds_per_tick(frame: MediaFrame) -> Fraction:
    """A frame's time base as an exact fraction, whatever rational type PyAV gives."""
    base = frame.time_base
    if base is None:
        raise ValueError("a decoded frame has a time base")
    return Fraction(base.numerator, base.denominator)
