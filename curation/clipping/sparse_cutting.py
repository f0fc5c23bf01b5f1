"""Clips whose spans are known beforehand, from a source whose packets they copy: little of it has to be decoded.

A source is read from one IDR to the next. When all packets of such a group are there, it is known which of its frames
a clip can't copy and which are sampled; the decoder gets what these refer to, and for most groups that is nothing.
The result is that of decoding everything, but for what a decoder makes up for a damaged picture out of those before it.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import av
import av.error

from curation.clipping.as_it_is import clip_as_it_is
from curation.clipping.clip_motion import MotionPlan
from curation.clipping.cutting import Cutter, first_frame
from curation.clipping.parts import begin_at
from curation.clipping.recipe import ClipRecipe
from curation.errors import FailureReason
from curation.model import Clip, Video
from curation.timeline import FrameTimeline
from curation.video.container import as_video_error, opened
from curation.video.copyplan import PacketRef, begins_body, count_gap_free, why_not_copyable
from curation.video.decode import AnyPacket, demuxed, frames_of_packet, is_shown
from curation.video.lighten import WithoutMotion
from curation.video.probe import source_of
from curation.video.source import decode_video, profile_needed, timeline_needed

_MAX_HELD_FRAMES = 1000
_MAX_HELD_BYTES = 64 * 2**20
_MAX_HELD_S = 60  # of sound, decoded


def cut_clips(recipe: ClipRecipe, video: Video, *, seeks: bool = True) -> Iterator[Clip]:
    """Give each clip of a video when it is complete; what is copied is decoded only where a request samples it.

    The video lets go of its clips: a complete one is held by who takes it and by nobody else.

    Args:
        seeks: whether what comes before the first clip may be left out, where nothing is copied.

    Raises:
        VideoError: UNREADABLE or DECODE_ERROR.
        StorageError: the file could not be read.
    """
    whole = clip_as_it_is(recipe, video) if recipe.keeps_whole else None
    if whole is not None:
        yield whole
        return
    is_sparse = recipe.copies and len(timeline_needed(video).idr_frames) > 0 and _is_copyable(video)
    yield from _SparsePass(recipe, video).clips() if is_sparse else _cut_densely(recipe, video, seeks=seeks)


def _is_copyable(video: Video) -> bool:
    profile = profile_needed(video)
    with opened(source_of(video), name=video.id) as container:
        stream = container.streams[profile.video_stream]
        return isinstance(stream, av.VideoStream) and why_not_copyable(stream, profile) is None


def _cut_densely(recipe: ClipRecipe, video: Video, *, seeks: bool) -> Iterator[Clip]:
    """Decode forward and hand each frame to the clips it belongs to."""
    cutter, video.clips = Cutter(recipe, video), []
    begin = begin_at(video, cutter.first_frame)
    for frame in decode_video(
        video,
        from_tick=cutter.first_tick if seeks and begin is None else None,
        with_audio=cutter.with_audio,
        see_packet=cutter.see_packet,
        see_motion=cutter.see_motion if recipe.motion is not None else None,
        begin=begin,
    ):
        yield from cutter.take(frame)
        if cutter.is_done:
            break
    yield from cutter.rest()


class _Need:
    """Which frames of a clip must be decoded, known from one IDR to the next."""

    def __init__(self, recipe: ClipRecipe, clip: Clip, timeline: FrameTimeline) -> None:
        assert clip.frame_span is not None
        self.clip = clip
        self.start, self.end = timeline.tick(clip.frame_span.start), timeline.tick(clip.frame_span.end)
        self.motion = MotionPlan.of(recipe.motion, timeline, clip.frame_span) if recipe.motion is not None else None
        self._sampled = set(timeline.ticks[clip.frame_span.start + recipe.sampled_frames(clip)].tolist())
        self._body: list[PacketRef] = []  # those of which it is not known yet whether they are copied
        self._begins: int | None = None  # first tick of the body
        self._copied_until = self.start - 1
        self._ends_body = False

    def see(self, packet: PacketRef) -> None:
        """Take the next packet of the file."""
        if self._begins is None and begins_body(packet, self.start, self.end):
            self._begins = packet.tick
        if self._begins is not None and not self._ends_body:
            self._body.append(packet)

    def settle(self) -> None:
        """All packets before an IDR have come: what is not copied now never will be, nor anything after it."""
        count = count_gap_free(self._body, after_tick=self._copied_until, end_tick=self.end)
        self._copied_until = max([self._copied_until, *(packet.tick for packet in self._body[:count])])
        self._ends_body |= count < len(self._body)
        self._body = []

    def wants(self, tick: int) -> bool:
        """Whether the frame at ``tick`` must be decoded."""
        is_copied = self._begins is not None and self._begins <= tick <= self._copied_until
        return self.start <= tick < self.end and (not is_copied or tick in self._sampled)


@dataclass
class _Group:
    """Packets from an IDR on, with their timestamps.

    Attributes:
        is_plain: it begins with an IDR, and each packet can be copied. Only then may frames be left out: a packet that
            is damaged, hidden, or brings other parameter sets can matter for others, in this group and beyond.
        is_streamed: it is so long that all of it is decoded while it comes.
    """

    packets: list[tuple[AnyPacket, int]] = field(default_factory=list)
    num_bytes: int = 0
    is_plain: bool = True
    is_streamed: bool = False

    def add(self, packet: AnyPacket, ref: PacketRef | None) -> None:
        """Take the next packet."""
        begins = self.packets or self.is_streamed
        self.is_plain &= ref is not None and ref.is_copyable and (ref.is_idr or bool(begins))
        self.packets.append((packet, packet.pts if packet.pts is not None else -1))
        self.num_bytes += packet.size

    def is_too_long(self, timeline: FrameTimeline) -> bool:
        """Whether more is held than memory should have."""
        held_s = (self.packets[-1][1] - self.packets[0][1]) * timeline.time_base
        is_large = len(self.packets) > _MAX_HELD_FRAMES or self.num_bytes > _MAX_HELD_BYTES
        return is_large or held_s > _MAX_HELD_S


class _SparsePass:
    """One way through one video."""

    def __init__(self, recipe: ClipRecipe, video: Video) -> None:
        self._recipe, self._video = recipe, video
        self._timeline, self._profile = timeline_needed(video), profile_needed(video)
        self._cutter = Cutter(recipe, video)
        self._waiting = deque(sorted(video.clips, key=lambda clip: clip.span))
        video.clips = []
        self._needs: list[_Need] = []
        self._idr_ticks = self._timeline.ticks[self._timeline.idr_frames]
        self._group = _Group()
        self._decoder: av.VideoCodecContext | None = None
        self._lighten = WithoutMotion()
        self._newest: int | None = None  # timestamp of the last frame given

    def clips(self) -> Iterator[Clip]:
        """Every clip as it is complete."""
        try:
            yield from self._clips()
        except av.error.FFmpegError as error:
            name, reason = self._video.id, FailureReason.DECODE_ERROR
            raise as_video_error(error, name=name, reason=reason, doing="decode") from error

    def _clips(self) -> Iterator[Clip]:
        for packet in demuxed(
            source_of(self._video),
            self._profile,
            name=self._video.id,
            from_tick=self._cutter.first_tick,
            with_audio=self._cutter.with_audio,
            with_motion=self._recipe.motion is not None,
        ):
            if packet.stream.index != self._profile.video_stream:
                for sound in frames_of_packet(packet, is_audio=True):
                    assert isinstance(sound, av.AudioFrame)
                    self._cutter.take(sound)
            elif packet.size:
                yield from self._take(packet)
                if self._cutter.is_done:
                    return
        yield from self._end_group()
        yield from self._cutter.rest()

    def _take(self, packet: AnyPacket) -> Iterator[Clip]:
        assert isinstance(packet.stream, av.VideoStream)
        self._decoder = packet.stream.codec_context
        ref = self._cutter.see_packet(packet)
        if ref is not None and self._parts(ref):
            yield from self._end_group()
            self._needs = [need for need in self._needs if need.end > ref.tick]
            yield from self._cutter.pass_by(ref.tick)
        if ref is not None:
            self._show_needs(ref)
        self._group.add(packet, ref)
        if self._group.is_streamed or self._group.is_too_long(self._timeline):
            yield from self._stream()

    def _parts(self, packet: PacketRef) -> bool:
        """Whether what is before this packet in the file is shown before it, and none of it needed after it."""
        place = int(self._idr_ticks.searchsorted(packet.tick))
        return packet.is_idr and place < len(self._idr_ticks) and int(self._idr_ticks[place]) == packet.tick

    def _show_needs(self, packet: PacketRef) -> None:
        while self._waiting and self._timeline.tick(first_frame(self._waiting[0])) <= packet.tick:
            self._needs.append(_Need(self._recipe, self._waiting.popleft(), self._timeline))
        for need in self._needs:
            need.see(packet)

    def _end_group(self) -> Iterator[Clip]:
        """Decode what is needed of a complete group, and all of it where that is not certain."""
        group, self._group = self._group, _Group()
        for need in self._needs:
            need.settle()
        if group.is_streamed or not group.is_plain:
            yield from self._give(group.packets, wanted=None, is_end=True)
            return
        wanted = {tick for _, tick in group.packets if any(need.wants(tick) for need in self._needs)}
        ticks = [tick for _, tick in group.packets]
        for need in self._needs:
            if need.motion is not None:
                wanted |= need.motion.needed(ticks, at_most=self._cutter.num_unmeasured(need.clip))
        last = max((place for place, (_, tick) in enumerate(group.packets) if tick in wanted), default=-1)
        yield from self._give(group.packets[: last + 1], wanted=wanted, is_end=True)

    def _stream(self) -> Iterator[Clip]:
        packets, self._group.packets, self._group.is_streamed = self._group.packets, [], True
        yield from self._give(packets, wanted=None, is_end=False)
        now = self._newest
        self._needs = [need for need in self._needs if now is None or need.end > now]

    def _give(
        self, packets: Sequence[tuple[AnyPacket, int]], *, wanted: set[int] | None, is_end: bool
    ) -> Iterator[Clip]:
        """Decode packets and hand the wanted frames, None for all, to their clips; at the end those left as well."""
        for packet, tick in packets:
            assert self._decoder is not None
            # without the others nothing is missing: no frame refers to one that FFmpeg leaves out here
            self._decoder.skip_frame = "DEFAULT" if wanted is None or tick in wanted else "NONREF"
            yield from self._hand_on(frames_of_packet(packet, is_audio=False), wanted)
        if is_end and self._decoder is not None and (packets or wanted is None):
            self._decoder.skip_frame = "DEFAULT"
            yield from self._hand_on(self._decoder.decode(None), wanted)
            self._decoder.flush_buffers()

    def _hand_on(self, frames: Sequence[object], wanted: set[int] | None) -> Iterator[Clip]:
        for frame in frames:
            assert isinstance(frame, av.VideoFrame)
            self._video.decode_count.num_frames += 1
            if not is_shown(frame, after=self._newest):
                continue
            self._newest = frame.pts
            frame.time_base = self._timeline.time_base
            if self._recipe.motion is not None:
                self._cutter.see_motion(frame)
            if wanted is None or frame.pts in wanted:
                yield from self._cutter.take(self._lighten(frame))
