"""What a source is: its stream, what its first frame tells, and when each of its frames is shown.

Headers lie about counts and durations, so the packets are read through once (no decoding: some 20 ms a minute).
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import av.container
import av.error
import av.stream
import av.video.stream
import numpy as np
from numpy.typing import NDArray

from curation.errors import FailureReason, VideoError
from curation.model import Video, VideoMetadata
from curation.source_files import RemoteFile, Source
from curation.source_profile import PictureShape, SourceProfile
from curation.timeline import FrameTimeline
from curation.video.container import as_video_error, check_there, missing_bytes, opened, size_of
from curation.video.packet_times import PacketTimes, idr_frames, packet_times, size_changes
from curation.video.profile import profile_of
from curation.video.progress import alive

Disposition = av.stream.Disposition


@dataclass(frozen=True, slots=True)
class SourceLimits:
    """The largest source that is taken; the defaults refuse nothing but bombs and mistakes."""

    max_pixels: int = 36_000_000  # 8192x4320 has 35.4 million
    max_duration_s: float = 86_400.0
    max_frames: int = 5_200_000  # a day at 60 Hz has 5.18 million
    max_streams: int = 64

    @property
    def for_decoders(self) -> dict[str, str]:
        """FFmpeg's options for a decoder that refuses a bomb before it takes memory for it.

        With room to spare, because decoders count the padding around a picture, too.
        """
        return {"max_pixels": str(min(2 * self.max_pixels + 2**20, 2**31 - 1))}


DEFAULT_LIMITS = SourceLimits()
NO_LIMITS = SourceLimits(
    max_pixels=sys.maxsize, max_duration_s=math.inf, max_frames=sys.maxsize, max_streams=sys.maxsize
)
"""For what is known to be harmless, such as clips."""


_FORGIVEN_S, _FORGIVEN_SHARE = 1.0, 0.05  # headers round, and sound may end a little after the pictures


@dataclass(frozen=True)
class ProbedVideo:
    """All that is known of a source before its pictures are decoded.

    Attributes:
        claimed_s: how long the container says it lasts, from its first picture on; 0 where it says nothing.
    """

    metadata: VideoMetadata
    profile: SourceProfile
    timeline: FrameTimeline
    claimed_s: float


def probe_file(
    file: Path | RemoteFile, *, name: str, allow_truncated: bool = False, limits: SourceLimits = NO_LIMITS
) -> ProbedVideo:
    """Probe a local file, or one that is read where it lies. See ``probe_bytes``."""
    num_bytes = size_of(file, name=name)
    return _probe(file, num_bytes, name=name, allow_truncated=allow_truncated, limits=limits)


def probe_bytes(
    source: bytes, *, name: str, allow_truncated: bool = False, limits: SourceLimits = NO_LIMITS
) -> ProbedVideo:
    """Probe a video held in memory.

    Raises:
        VideoError: NOT_FOUND, EMPTY_FILE, UNREADABLE, NO_VIDEO_STREAM, NO_FRAMES, TRUNCATED, DECODE_ERROR or LIMITS.
    """
    return _probe(source, len(source), name=name, allow_truncated=allow_truncated, limits=limits)


def _probe(source: Source, num_bytes: int, *, name: str, allow_truncated: bool, limits: SourceLimits) -> ProbedVideo:
    if not allow_truncated:
        _check_whole(source, num_bytes, name=name)
    with opened(source, name=name, options=limits.for_decoders) as container:
        _check_streams(container, limits, name=name)
        stream = choose_video_stream(container, name=name)
        _check_pixels(source, stream, limits, name=name)
        frame = _first_frame(container, stream, limits, name=name)
        profile = profile_of(container, stream, frame)
    # opened again: seeking back is not exact in every container
    with opened(source, name=name, options=limits.for_decoders) as container:
        stream = choose_video_stream(container, name=name)
        timeline, profile = _timeline(container, stream, limits, profile, name=name)
        metadata = _metadata(container, stream, profile, timeline, num_bytes)
        claimed_s = _claimed_s(container, timeline)
    return ProbedVideo(metadata, profile, timeline, claimed_s)


def _claimed_s(container: av.container.InputContainer, timeline: FrameTimeline) -> float:
    """Seconds from the first picture to the end that the header names, which may be that of the sound."""
    if not container.duration:
        return 0.0
    start = (container.start_time or 0) / av.time_base
    return start + container.duration / av.time_base - float(int(timeline.ticks[0]) * timeline.time_base)


def _check_whole(source: Source, num_bytes: int, *, name: str) -> None:
    """Comes before anything is decoded: that the file is cut off is the cause, that a frame is missing its effect."""
    check_there(source, name=name)
    try:
        lost = missing_bytes(source, name=name)
    except OSError as error:
        raise as_video_error(error, name=name, reason=FailureReason.UNREADABLE, doing="read") from error
    if lost:
        message = f"{name}: the file is cut off: after its {num_bytes} bytes at least {lost} are missing"
        raise VideoError(FailureReason.TRUNCATED, message)


def choose_video_stream(container: av.container.InputContainer, *, name: str) -> av.video.stream.VideoStream:
    """The first real video stream: cover art and timed thumbnails are pictures, not video.

    Raises:
        VideoError: NO_VIDEO_STREAM.
    """
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    for stream in container.streams.video:
        if not stream.disposition & pictures:
            return stream
    found = {"cover art" if other.type == "video" else other.type for other in container.streams}
    kinds = ", ".join(sorted(found)) or "none"
    raise VideoError(FailureReason.NO_VIDEO_STREAM, f"{name}: no video stream (streams: {kinds})")


def _decoder_of(stream: av.video.stream.VideoStream, *, name: str) -> av.VideoCodecContext:
    context: av.VideoCodecContext | None = stream.codec_context  # None for a codec unknown to FFmpeg, says no stub
    if context is None:
        raise VideoError(FailureReason.DECODE_ERROR, f"{name}: no decoder for the codec of its video stream")
    return context


def _check_streams(container: av.container.InputContainer, limits: SourceLimits, *, name: str) -> None:
    num_streams = len(container.streams)
    if num_streams > limits.max_streams:
        message = f"{name}: {num_streams} streams, limits.max_streams is {limits.max_streams}"
        raise VideoError(FailureReason.LIMITS, message)


def _check_pixels(source: Source, stream: av.video.stream.VideoStream, limits: SourceLimits, *, name: str) -> None:
    """Comes before the first frame is decoded."""
    context = _decoder_of(stream, name=name)
    width, height = context.width, context.height
    if not width * height:  # a decoder that refuses a size forgets what the container said
        width, height = _declared_size(source, stream.index, name=name)
    _check_size(width, height, limits, name=name)


def _check_size(width: int, height: int, limits: SourceLimits, *, name: str) -> None:
    if width * height > limits.max_pixels:
        message = f"{name}: pictures of {width}x{height}, limits.max_pixels is {limits.max_pixels}"
        raise VideoError(FailureReason.LIMITS, message)


def _declared_size(source: Source, index: int, *, name: str) -> tuple[int, int]:
    """What the container says of a stream's width and height, asking no decoder; 0 where it says nothing."""
    with opened(source, name=name, options={"codec_whitelist": "none"}) as container:
        sizes = {each.index: (each.codec_context.width, each.codec_context.height) for each in container.streams.video}
    return sizes.get(index, (0, 0))


def _first_frame(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    limits: SourceLimits,
    *,
    name: str,
) -> av.VideoFrame:
    context = _decoder_of(stream, name=name)
    context.thread_count = 1
    context.options = limits.for_decoders
    try:
        for frame in container.decode(stream):
            assert isinstance(frame, av.VideoFrame)
            _check_size(frame.width, frame.height, limits, name=name)
            return frame
    except av.error.FFmpegError as error:
        raise as_video_error(error, name=name, reason=FailureReason.NO_FRAMES, doing="decode a first frame") from error
    raise VideoError(FailureReason.NO_FRAMES, f"{name}: the video stream yields no frame")


def _timeline(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    limits: SourceLimits,
    profile: SourceProfile,
    *,
    name: str,
) -> tuple[FrameTimeline, SourceProfile]:
    """The timeline, and the profile with the shapes of pictures after the first."""
    max_frames, decoder_options, counts_frames = limits.max_frames, limits.for_decoders, profile.counts_frames
    shown = packet_times(container, stream, profile, max_frames=max_frames, decoder_options=decoder_options, name=name)
    if shown is None:
        shown = _decoded_ticks(container, stream, limits, profile, name=name)
    if not shown:
        raise VideoError(FailureReason.NO_FRAMES, f"{name}: the video stream holds no frame")
    time_base = Fraction(stream.time_base or Fraction(1, 1000))
    # FFmpeg adds a delay for reordering to the pictures that are counted, and not to the sound beside them
    delay = min(shown.ticks) - (stream.start_time or 0) if counts_frames else 0
    ticks = np.frombuffer(shown.ticks, dtype=np.int64)
    ticks = ticks - delay if delay else ticks
    timeline = timeline_of(ticks, shown.end - delay, time_base=time_base, rate=stream.average_rate)
    if not counts_frames:
        timeline = replace(timeline, idr_frames=idr_frames(ticks, shown.idr, timeline))
    for _, shape in shown.shapes:
        _check_size(*shape.coded_size, limits, name=name)
    changes, shapes = size_changes(ticks, shown.shapes, timeline, counts_frames=counts_frames)
    timeline, profile = replace(timeline, size_changes=changes), replace(profile, later_shapes=shapes)
    if timeline.duration > limits.max_duration_s:
        message = f"{name}: lasts {float(timeline.duration)} s, limits.max_duration_s is {limits.max_duration_s}"
        raise VideoError(FailureReason.LIMITS, message)
    return timeline, profile


def timeline_of(
    ticks: Sequence[int] | NDArray[np.int64], end: int, *, time_base: Fraction, rate: Fraction | None
) -> FrameTimeline:
    """A timeline from timestamps in any order; a last frame without a duration gets that of a typical one."""
    unique = np.unique(np.asarray(ticks, dtype=np.int64))
    last = int(unique[-1])
    if end <= last:
        step = int(np.median(np.diff(unique))) if len(unique) > 1 else round(1 / (rate or 25) / time_base)
        end = last + max(1, step)
    return FrameTimeline(ticks=unique, time_base=time_base, end_tick=end)


def _decoded_ticks(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    limits: SourceLimits,
    profile: SourceProfile,
    *,
    name: str,
) -> PacketTimes:
    """What the decoded frames tell, for containers whose packets have no timestamps (raw streams, old AVI)."""
    shown, size = PacketTimes(max_frames=limits.max_frames, name=name), profile.coded_size
    try:
        container.seek(0)
        for frame in container.decode(stream):
            alive()
            assert isinstance(frame, av.VideoFrame)
            if (frame.width, frame.height) != size:
                size = frame.width, frame.height
                shown.change(PictureShape(size, profile.pixel_aspect))
            if frame.pts is not None:
                shown.add(frame.pts, getattr(frame, "duration", 0) or 0)
        return shown
    except av.error.FFmpegError as error:
        doing = "decode for the timestamps that its packets lack"
        raise as_video_error(error, name=name, reason=FailureReason.DECODE_ERROR, doing=doing) from error


def _metadata(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    profile: SourceProfile,
    timeline: FrameTimeline,
    num_bytes: int,
) -> VideoMetadata:
    audio = container.streams[profile.audio_stream] if profile.audio_stream is not None else None
    return VideoMetadata(
        size=num_bytes,
        height=profile.display_size[1],
        width=profile.display_size[0],
        framerate=float(timeline.average_rate),
        num_frames=timeline.num_frames,
        duration=float(timeline.duration),
        video_codec=stream.codec_context.name,
        pixel_format=stream.codec_context.pix_fmt,
        audio_codec=audio.codec_context.name if audio is not None and audio.codec_context is not None else None,
        bit_rate_k=round(num_bytes * 8 / 1000 / float(timeline.duration)),
    )


def source_of(video: Video) -> Source:
    """Where a video's bytes are: in memory, where somebody put them there, else where they were brought, else its file.

    Raises:
        VideoError: NOT_FOUND, for a URI whose bytes nobody brought.
    """
    if video.source_bytes is not None:
        return video.source_bytes
    if video.staged is not None:
        return video.staged
    if isinstance(video.input_video, Path):
        return video.input_video
    raise VideoError(FailureReason.NOT_FOUND, f"{video.id}: {video.input_video} is no file of this machine")


def probe_video(video: Video, *, allow_truncated: bool = False, limits: SourceLimits = NO_LIMITS) -> None:
    """Fill ``metadata``, ``profile`` and ``timeline`` from the video's bytes or, where it has none, its file.

    Raises:
        VideoError: as ``probe_bytes``.
    """
    source = source_of(video)
    if isinstance(source, bytes):
        probed = probe_bytes(source, name=video.id, allow_truncated=allow_truncated, limits=limits)
    else:
        probed = probe_file(source, name=video.id, allow_truncated=allow_truncated, limits=limits)
    video.metadata, video.profile, video.timeline = probed.metadata, probed.profile, probed.timeline
    video.is_vfr = probed.timeline.is_vfr
    shown_s = float(probed.timeline.duration)
    if probed.claimed_s - shown_s > max(_FORGIVEN_S, _FORGIVEN_SHARE * probed.claimed_s):
        # a demuxer that meets garbage may end there without an error: what it gave is used, and this says so
        video.errors["duration"] = f"the container lasts {probed.claimed_s:.2f} s, its pictures {shown_s:.2f} s"
    # the first, which tells what the header does not, and the first of each size after it
    video.decode_count.num_frames += 1 + len(probed.profile.later_shapes)
