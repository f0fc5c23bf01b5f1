"""Encoding a clip in memory: one mp4 with faststart, exact timestamps, a key frame at each window start, its audio."""

import functools
import io
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO

import av
import av.container
import av.error
import numpy as np
from av.audio.resampler import AudioResampler
from av.video.frame import PictureType
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from curation.errors import FailureReason, VideoError
from curation.source_profile import SourceProfile
from curation.video.decode import seconds_per_tick
from curation.video.scheduling import open_encoder

logger = logging.getLogger(__name__)

AUTO_ENCODERS = ("h264_nvenc", "libx264", "libopenh264")
"""Tried in this order by ``auto``: the first that really encodes on this node is used (docs/rules.md, Clips)."""

ENCODERS = (*AUTO_ENCODERS, "libsvtav1", "libvpx-vp9")

_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
_AUDIO_SLACK_S = 0.01  # containers round audio timestamps (Matroska to 1 ms): less than this is not a gap
_AUDIO_BIT_RATE = 128_000
_RGB_MATRIX, _BT601_MATRIX = 0, 6  # ITU-T H.273


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """How clips are encoded.

    Attributes:
        encoder: one of ENCODERS; ``auto`` is resolved by ``choose_encoder`` before it comes here.
        preset: the encoder's own speed name; empty for its default. Only libx264 and libsvtav1 read it.
        crf: constant quality, lower is better; read by libx264, libsvtav1 and libvpx-vp9, as CQ by nvenc.
        threads: threads of one encoder. One gives the same bytes on every machine.
    """

    encoder: str
    preset: str
    crf: int
    threads: int = 1

    def describe(self) -> str:
        """One line for provenance."""
        return f"{self.encoder} preset={self.preset or 'default'} crf={self.crf}"


@functools.cache
def choose_encoder(name: str) -> str:
    """Resolve ``auto`` and check a choice, by encoding a few frames: being listed says nothing.

    Raises:
        ValueError: the encoder is unknown, or does not work on this machine.
    """
    if name != "auto" and name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}; known: auto, {', '.join(ENCODERS)}")
    reasons = []
    for candidate in AUTO_ENCODERS if name == "auto" else (name,):
        problem = _try_encoder(candidate)
        if problem is None:
            return candidate
        reasons.append(f"{candidate}: {problem}")
    raise ValueError(f"no working encoder on this machine ({'; '.join(reasons)})")


def _try_encoder(name: str) -> str | None:
    grey = np.full((384, 256), 128, np.uint8)  # 256x256 in packed yuv420p
    try:
        context = av.CodecContext.create(name, "w")
        assert isinstance(context, av.VideoCodecContext)
        context.width, context.height, context.pix_fmt = 256, 256, "yuv420p"
        context.time_base, context.framerate, context.thread_count = Fraction(1, 25), Fraction(25), 1
        open_encoder(context)
        packets = []
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(grey, format="yuv420p")
            frame.pts, frame.time_base = index, context.time_base
            packets += context.encode(frame)
        packets += context.encode(None)
    except av.codec.codec.UnknownCodecError:
        return "not in this build of FFmpeg"
    except (av.error.FFmpegError, ValueError, OSError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None if packets else "gives no packets"


class ClipEncoder:
    """Encodes one clip while its frames go by.

    Video frames come in order through ``add_picture``; audio through ``add_audio`` at any time before ``finish``.
    """

    def __init__(
        self,
        settings: EncoderSettings,
        profile: SourceProfile,
        *,
        time_base: Fraction,
        rate: Fraction,
        start_tick: int,
        end_tick: int | None,
        name: str,
    ) -> None:
        """Open the encoder.

        Args:
            time_base: seconds per tick of the source; the clip keeps it, so its timestamps are the source's.
            rate: average frames per second, for rate control only.
            start_tick: timestamp of the clip's first frame on the source.
            end_tick: timestamp at which its last frame ends; None while that is not known, see ``end_at``.

        Raises:
            VideoError: ENCODE_ERROR, for example a picture too large for the encoder.
        """
        self._name = name
        self._start, self._end, self._time_base = start_tick, end_tick, time_base
        self._buffer = io.BytesIO()
        self.num_frames = 0
        self._container = open_mp4(self._buffer)
        self._video = add_video_stream(self._container, settings, profile, time_base=time_base, rate=rate)
        self._sound: ClipSound | None = None
        self._newest: av.Packet[Any] | None = None

    def open_audio(self, *, rate: int, layout: str) -> None:
        """Announce an audio track; must come before the first picture."""
        track = AudioTrack(self._container, write=self._container.mux, rate=rate, layout=layout)
        self._sound = ClipSound(track, start_tick=self._start, time_base=self._time_base)

    def end_at(self, end_tick: int) -> None:
        """Say where the clip ends, before ``finish`` at the latest."""
        self._end = end_tick

    def add_picture(self, frame: av.VideoFrame, *, tick: int, is_key: bool) -> None:
        """Encode the next frame, shown from ``tick`` on.

        Raises:
            VideoError: ENCODE_ERROR.
        """
        try:
            packets = encode_at(self._video, frame, tick=tick - self._start, is_key=is_key)
            self._write(packets)
        except (av.error.FFmpegError, ValueError) as error:
            raise refused(self._video, error, name=self._name) from error
        self.num_frames += 1
        if self._sound is not None:
            self._sound.hear_until(tick, end_tick=self._end)

    def _write(self, packets: "list[av.Packet[Any]]") -> None:
        """Mux all but the newest: how long the last one is shown is known at the end, and the encoder only guesses."""
        for packet in packets:
            if self._newest is not None:
                self._container.mux(self._newest)
            self._newest = packet

    def _write_last(self, end: int) -> None:
        if self._newest is not None and self._newest.pts is not None:
            self._newest.duration = end - self._start - self._newest.pts
            self._container.mux(self._newest)

    def add_audio(self, frame: av.AudioFrame) -> None:
        """Take the part of a decoded audio frame that lies inside the clip; the rest is ignored."""
        if self._sound is not None:
            self._sound.add(frame, end_tick=self._end)

    def finish(self) -> bytes:
        """Flush and return the mp4.

        Raises:
            ValueError: nobody said where the clip ends.
            VideoError: ENCODE_ERROR.
        """
        if self._end is None:
            raise ValueError(f"{self._name}: end_at must come before finish")
        try:
            self._write(self._video.encode(None))
            self._write_last(self._end)
            if self._sound is not None:
                self._sound.finish(self._end)
            self._container.close()
        except (av.error.FFmpegError, ValueError) as error:
            raise refused(self._video, error, name=self._name) from error
        return self._buffer.getvalue()


def open_mp4(buffer: io.BytesIO, *, ticks_per_second: int = 1000) -> av.container.OutputContainer:
    """An mp4 to be written into memory, with the index before the media.

    Args:
        ticks_per_second: of the movie's clock, in which edit lists say how long a track lasts. Only a track whose
            pictures are reordered needs one.
    """

    def reopen(_url: str, _flags: int, _options: dict[str, str]) -> BinaryIO:
        return io.BytesIO(buffer.getvalue())  # faststart reads what is written to move it

    # no muxer name or version in the file: the bytes depend on the frames alone
    options = {"movflags": "+faststart", "fflags": "+bitexact", "movie_timescale": str(ticks_per_second)}
    return av.open(buffer, "w", format="mp4", options=options, io_open=reopen)


def add_video_stream(
    container: av.container.OutputContainer,
    settings: EncoderSettings,
    profile: SourceProfile,
    *,
    time_base: Fraction,
    rate: Fraction,
) -> av.VideoStream:
    """A video stream and its encoder, which opens at the first frame."""
    stream = container.add_stream(settings.encoder, rate=rate)
    assert isinstance(stream, av.VideoStream)
    context = stream.codec_context
    context.width, context.height = profile.display_size
    context.pix_fmt, context.time_base = "yuv420p", time_base
    context.thread_count = settings.threads
    context.color_primaries, context.color_trc, matrix = profile.colours
    context.colorspace = _BT601_MATRIX if matrix == _RGB_MATRIX else matrix  # what swscale gives
    context.color_range = ColorRange.MPEG
    context.options = encoder_options(settings)
    context.flags |= av.codec.context.Flags.bitexact
    return stream


def encode_at(stream: av.VideoStream, frame: av.VideoFrame, *, tick: int, is_key: bool) -> "list[av.Packet[Any]]":
    """Encode a frame as shown at ``tick`` of the stream's encoder; the frame itself stays as it was."""
    if not stream.codec_context.is_open:
        open_encoder(stream.codec_context)
    kept = frame.pts, frame.time_base, frame.pict_type
    frame.pts, frame.time_base = tick, stream.codec_context.time_base
    frame.pict_type = PictureType.I if is_key else PictureType.NONE
    try:
        return list(stream.encode(frame))
    finally:
        frame.pts, frame.time_base, frame.pict_type = kept


def refused(stream: av.VideoStream, error: Exception, *, name: str) -> VideoError:
    """What it means that an encoder does not take a frame."""
    size = f"{stream.codec_context.width}x{stream.codec_context.height}"
    reason = FailureReason.MEMORY if isinstance(error, MemoryError) else FailureReason.ENCODE_ERROR
    return VideoError(reason, f"{name}: {stream.name} refused {size}: {error}")


def encoder_options(settings: EncoderSettings) -> dict[str, str]:
    """Private options of each encoder for the same wish: constant quality, closed GOPs, key frames where asked."""
    if settings.encoder == "libx264":
        # without B-frames superfast is the knee of cost against quality; forced key frames are IDR, GOPs are closed;
        # mbtree gives other bytes on each run on CPUs with AVX-512 (measured), and a rerun must give the same
        params = "bframes=0:weightp=0:open-gop=0:mbtree=0"
        options = {"crf": str(settings.crf), "forced-idr": "1", "x264-params": params}
        return options | ({"preset": settings.preset} if settings.preset else {})
    if settings.encoder == "h264_nvenc":
        return {"rc": "vbr", "cq": str(settings.crf), "forced-idr": "1", "bf": "0"}
    if settings.encoder == "libsvtav1":
        return {"crf": str(settings.crf)} | ({"preset": settings.preset} if settings.preset.isdigit() else {})
    if settings.encoder == "libvpx-vp9":
        return {"crf": str(settings.crf), "b": "0", "deadline": "good", "cpu-used": "4"}
    return {}


class ClipSound:
    """The sound of a clip whose end may not be known yet: what may lie beyond it waits."""

    def __init__(self, track: "AudioTrack", *, start_tick: int, time_base: Fraction) -> None:
        self._track, self._start, self._time_base = track, start_tick, time_base
        self._ahead: deque[av.AudioFrame] = deque()

    def add(self, frame: av.AudioFrame, *, end_tick: int | None) -> None:
        """Take a decoded frame; what lies outside the clip is left out."""
        if frame.pts is not None:
            self._ahead.append(frame)
            self.hear_until(end_tick, end_tick=end_tick)

    def hear_until(self, tick: int | None, *, end_tick: int | None) -> None:
        """Encode what is certain to lie inside the clip: all that ends before a picture of it begins at ``tick``."""
        length_s = (end_tick - self._start) * self._time_base if end_tick is not None else None
        while tick is not None and self._ahead:
            if length_s is None and sound_end_s(self._ahead[0]) > tick * self._time_base:
                return
            self._track.add(self._ahead.popleft(), origin_s=self._start * self._time_base, length_s=length_s)

    def finish(self, end_tick: int) -> None:
        """Encode what is left up to the clip's end."""
        self.hear_until(end_tick, end_tick=end_tick)
        self._track.flush(length_s=(end_tick - self._start) * self._time_base)


def sound_end_s(frame: av.AudioFrame) -> Fraction:
    """When a decoded audio frame has been heard, in the container's seconds."""
    return (frame.pts or 0) * seconds_per_tick(frame) + Fraction(frame.samples, frame.sample_rate)


class AudioTrack:
    """AAC from the source's samples, placed so that sample 0 is heard with the clip's first frame."""

    def __init__(
        self,
        container: av.container.OutputContainer,
        *,
        write: "Callable[[list[av.Packet[Any]]], None]",
        rate: int,
        layout: str,
    ) -> None:
        """Announce the track to the container; ``write`` takes its packets."""
        self._rate = min(_AAC_RATES, key=lambda known: (abs(known - rate), known))
        self._layout = layout if layout in {"mono", "stereo"} else "stereo"
        self._write = write
        stream = container.add_stream("aac", rate=self._rate, layout=self._layout)
        assert isinstance(stream, av.AudioStream)
        self._stream = stream
        self._stream.bit_rate = _AUDIO_BIT_RATE
        self._resampler = self._new_resampler()
        self._source_format: tuple[str, str, int] | None = None
        self._num_samples = 0
        self._position: int | None = None

    def _new_resampler(self) -> AudioResampler:
        return AudioResampler(format="fltp", layout=self._layout, rate=self._rate)

    def add(self, frame: av.AudioFrame, *, origin_s: Fraction, length_s: Fraction | None) -> None:
        """Place a decoded frame by its timestamp; a gap becomes silence, an overlap is cut.

        Args:
            length_s: what lies beyond is left out; None for a frame that is certain to lie inside.
        """
        if frame.pts is None:
            return
        start_s = frame.pts * seconds_per_tick(frame) - origin_s
        if (length_s is not None and start_s >= length_s) or sound_end_s(frame) <= origin_s:
            return
        if self._position is None:
            self._position = round(start_s * self._rate)
        source_format = (frame.format.name, frame.layout.name, frame.sample_rate)
        is_gap = abs(start_s - Fraction(self._position, self._rate)) > _AUDIO_SLACK_S
        if is_gap or source_format != self._source_format:  # broadcasts change from stereo to 5.1 and back
            self._take(self._resampler.resample(None), length_s)
            self._resampler = self._new_resampler()
            self._position = round(start_s * self._rate)
            self._source_format = source_format
        self._take(self._resampler.resample(frame), length_s)

    def _take(self, frames: list[av.AudioFrame], length_s: Fraction | None) -> None:
        for frame in frames:
            assert self._position is not None
            samples = np.asarray(frame.to_ndarray(), dtype=np.float32)
            self._place(samples, self._position, limit=round(length_s * self._rate) if length_s is not None else None)
            self._position += samples.shape[1]

    def _place(self, samples: NDArray[np.float32], start: int, *, limit: int | None) -> None:
        """Append what of ``samples`` (channels, count) is new and inside ``limit``, after silence where needed."""
        end = start + samples.shape[1] if limit is None else min(start + samples.shape[1], limit)
        if end <= self._num_samples:
            return
        if start > self._num_samples:
            self._encode(np.zeros((samples.shape[0], start - self._num_samples), np.float32))
        self._encode(samples[:, self._num_samples - start : end - start])

    def _encode(self, samples: NDArray[np.float32]) -> None:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=self._layout)
        frame.sample_rate, frame.time_base = self._rate, Fraction(1, self._rate)
        frame.pts = self._num_samples
        self._num_samples += samples.shape[1]
        self._write(list(self._stream.encode(frame)))

    def flush(self, *, length_s: Fraction) -> None:
        """Write what the resampler and the encoder still hold; a track without any sample becomes silence."""
        if self._position is not None:
            self._take(self._resampler.resample(None), length_s)
        if self._num_samples == 0:
            self._encode(np.zeros((2 if self._layout == "stereo" else 1, round(length_s * self._rate)), np.float32))
        self._write(list(self._stream.encode(None)))
