"""Windows of a clip in memory by smart copy: packets are read, and only frames of head and tail decoded."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import av
import av.container
import av.error

from curation.errors import FailureReason, VideoError
from curation.timeline import FrameSpan
from curation.video.container import as_video_error, opened
from curation.video.copyplan import PacketReader, PacketRef, plan_copy, why_not_copyable
from curation.video.cut import cut_window
from curation.video.decode import AnyPacket, seconds_per_tick
from curation.video.encode import EncoderSettings
from curation.video.probe import ProbedVideo, probe_bytes
from curation.video.smartcopy import SmartClip

_SOUND_LEAD_IN_S = 1  # a decoder of sound needs some frames before its output is right


def copy_window(mp4: bytes, *, start_frame: int, end_frame: int, settings: EncoderSettings, name: str) -> bytes:
    """The frames ``start_frame..end_frame`` of a clip that was made here, as ``cut_window`` where all can be copied.

    Args:
        start_frame: counted from 0 in presentation order; any frame.
        end_frame: inclusive.

    Raises:
        VideoError: UNREADABLE, EMPTY_RANGE when the clip has fewer frames, DECODE_ERROR or ENCODE_ERROR.
        ValueError: the clip can't be copied.
    """
    window, probed = FrameSpan(start_frame, end_frame + 1), probe_bytes(mp4, name=name)
    num_frames = probed.timeline.num_frames
    if window.end > num_frames:
        found = f"{name}: no frames {start_frame}..{end_frame}, the clip has {num_frames}"
        raise VideoError(FailureReason.EMPTY_RANGE, found)
    if window == FrameSpan(0, num_frames):
        return mp4
    with _opened_part(mp4, probed, window, name=name) as part:
        if len(part.plan.packets) < len(window):
            return part.clip(settings)
    return cut_window(mp4, start_frame=start_frame, end_frame=end_frame, name=name)


@dataclass
class _Part:
    """An open clip, and the packets that a part of it needs, from the last IDR at or before its start."""

    source: bytes
    probed: ProbedVideo
    span: FrameSpan
    name: str
    stream: av.VideoStream
    reader: PacketReader
    packets: list[tuple[PacketRef, AnyPacket]]

    def __post_init__(self) -> None:
        timeline = self.probed.timeline
        self.start_tick, self.end_tick = timeline.tick(self.span.start), timeline.tick(self.span.end)
        refs = [ref for ref, _ in self.packets]
        self.plan = plan_copy(refs, start_tick=self.start_tick, end_tick=self.end_tick)

    def clip(self, settings: EncoderSettings) -> bytes:
        timeline, profile = self.probed.timeline, self.probed.profile
        clip = SmartClip(
            settings,
            profile,
            self.reader.sets,
            time_base=timeline.time_base,
            rate=len(self.span) / (timeline.boundary(self.span.end) - timeline.boundary(self.span.start)),
            start_tick=self.start_tick,
            end_tick=self.end_tick,
            name=self.name,
        )
        for ref, _ in self.packets:
            clip.add_packet(ref)
        for frame in self._frames_to_encode():
            assert frame.pts is not None
            clip.add_picture(frame, tick=frame.pts, is_key=False)
        if profile.audio_stream is not None:
            clip.open_audio(rate=profile.audio_rate, layout=profile.audio_layout)
            for sound in self._heard():
                clip.add_audio(sound)
        mp4 = clip.finish()
        if clip.num_frames != len(self.span):
            lost = f"{self.name}: {len(self.span) - clip.num_frames} of {len(self.span)} frames could not be decoded"
            raise VideoError(FailureReason.DECODE_ERROR, lost)
        return mp4

    def _frames_to_encode(self) -> Iterator[av.VideoFrame]:
        ticks = self.probed.timeline.ticks[self.span.start : self.span.end].tolist()
        yield from self._decoded([tick for tick in ticks if tick < self.plan.first_tick])
        yield from self._decoded([tick for tick in ticks if tick > self.plan.last_tick])

    def _decoded(self, ticks: Sequence[int]) -> Iterator[av.VideoFrame]:
        """The frames at these ticks, which follow each other."""
        if not ticks:
            return
        left = set(ticks)
        begin = max((i for i, (ref, _) in enumerate(self.packets) if ref.is_idr and ref.tick <= ticks[0]), default=0)
        context = self.stream.codec_context
        context.flush_buffers()
        for packet in [*(packet for _, packet in self.packets[begin:] if not packet.is_corrupt), None]:
            for frame in context.decode(packet):
                frame.time_base = self.probed.timeline.time_base
                if frame.pts in left:
                    left.remove(frame.pts)
                    yield frame
            if not left:
                return

    def _heard(self) -> Iterator[av.AudioFrame]:
        """The decoded sound from a little before the part to its end."""
        time_base = self.probed.timeline.time_base
        first, end_s = int(self.probed.timeline.ticks[0]), self.end_tick * time_base
        start = max(first, self.start_tick - int(_SOUND_LEAD_IN_S / time_base))
        with opened(self.source, name=self.name) as container:
            audio = container.streams[self.probed.profile.audio_stream or 0]
            audio.codec_context.thread_count = 1
            container.seek(start, stream=container.streams[self.probed.profile.video_stream], backward=True)
            for packet in container.demux(audio):
                for frame in _sound_of(packet):
                    yield frame
                    if frame.pts is not None and frame.pts * seconds_per_tick(frame) >= end_s:
                        return


def _sound_of(packet: AnyPacket) -> list[av.AudioFrame]:
    try:
        frames: Sequence[object] = packet.decode()
    except av.error.FFmpegError:
        return []  # a gap becomes silence
    return [frame for frame in frames if isinstance(frame, av.AudioFrame)]


@contextmanager
def _opened_part(source: bytes, probed: ProbedVideo, span: FrameSpan, *, name: str) -> Iterator[_Part]:
    """Open a source and read the packets around a span: after a seek, or from the start where no IDR is found so."""
    with ExitStack() as stack:
        try:
            part = _read_part(stack.enter_context(opened(source, name=name)), source, probed, span, name, seeks=True)
            if not any(ref.is_idr and ref.tick <= part.start_tick for ref, _ in part.packets):
                again = stack.enter_context(opened(source, name=name))
                part = _read_part(again, source, probed, span, name, seeks=False)
            yield part
        except av.error.FFmpegError as error:
            raise as_video_error(error, name=name, reason=FailureReason.DECODE_ERROR, doing="copy") from error


def _read_part(
    container: av.container.InputContainer,
    source: bytes,
    probed: ProbedVideo,
    span: FrameSpan,
    name: str,
    *,
    seeks: bool,
) -> _Part:
    stream: Any = container.streams[probed.profile.video_stream]
    reason = why_not_copyable(stream, probed.profile)
    if reason is not None:
        raise ValueError(f"{name}: its video {reason}")
    stream.codec_context.thread_count = 1
    reader = PacketReader(bytes(stream.codec_context.extradata))
    if seeks:
        container.seek(probed.timeline.tick(span.start), stream=stream, backward=True)
    packets: list[tuple[PacketRef, AnyPacket]] = []
    for packet in container.demux(stream):
        if packet.dts is not None and packet.dts >= probed.timeline.tick(span.end):
            break  # no frame is shown before it is decoded
        ref = reader.read(packet)
        if ref is not None:
            packets.append((ref, packet))
    return _Part(source, probed, span, name, stream, reader, packets)
