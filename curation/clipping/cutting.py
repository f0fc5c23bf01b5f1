"""Clips while their frames go by: each has an encoder and a sampler, and ends when its end is known and reached."""

from collections import deque
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np

from curation.clipping.clip_motion import ClipMotion
from curation.clipping.recipe import ClipRecipe
from curation.errors import FailureReason, VideoError
from curation.model import Clip, Video, Window
from curation.source_profile import SourceProfile
from curation.timeline import FrameSpan, FrameTimeline
from curation.video.copyplan import PacketReader, PacketRef, why_not_copyable
from curation.video.decode import AnyPacket, PictureNormalizer
from curation.video.encode import ClipEncoder, sound_end_s
from curation.video.frames import ClipSampler
from curation.video.h264 import ParameterSets
from curation.video.motion import MotionTrack
from curation.video.profile import profile_at
from curation.video.smartcopy import SmartClip
from curation.video.source import profile_needed, timeline_needed

_MAX_WAITING_BYTES = 256 * 2**20
"""Of pictures that wait until it is known whether their clip is made: 6 s of 720p at 30 frames a second."""
_AUDIO_PATIENCE_S = 5  # how far the pictures may run ahead of the sound before a clip is closed without the rest


class OpenClip:
    """A clip that has begun; its end may not be known yet."""

    def __init__(
        self,
        recipe: ClipRecipe,
        video: Video,
        span: FrameSpan,
        *,
        nearest_end: int | None = None,
        packets: "Packets",
        normalize: PictureNormalizer,
        track: MotionTrack | None = None,
    ) -> None:
        """Begin at ``span.start``; ``span.end`` is the clip's end, or the furthest that it may be.

        Args:
            nearest_end: the nearest that its end may be; None where ``span.end`` is certain.
            normalize: makes pictures of the clip's size.
            track: of the video's motion; None where it is not measured.
        """
        self._recipe = recipe
        self.normalize = normalize
        self._timeline = timeline = timeline_needed(video)
        self.start = span.start
        self.end = span.end if nearest_end is None else None
        self._error: VideoError | None = None
        self._num_scaled = 0
        self._name = f"{video.id} clip from frame {span.start}"
        self._why_encoded = packets.why_not_copyable
        self.encoder = self._encoder(packets)
        self._waiting: deque[tuple[int, av.VideoFrame]] = deque()
        is_known = self.end is not None
        self.motion = ClipMotion(track, span, timeline, end_is_known=is_known) if track is not None else None
        at_least = len(span) if nearest_end is None else nearest_end - span.start
        self._sampler = ClipSampler(
            recipe.requests,
            times_s=timeline.clip_times_s(span),
            end_s=float(timeline.boundary(span.end) - timeline.boundary(span.start)),
            windows=recipe.possible_windows(len(span), at_least=at_least),
            nearest_end=at_least,
        )

    def _encoder(self, packets: "Packets") -> ClipEncoder | SmartClip:
        timeline, profile = self._timeline, self.normalize.profile
        encoder: ClipEncoder | SmartClip
        where: dict[str, Any] = {
            "time_base": timeline.time_base,
            "rate": timeline.average_rate,
            "start_tick": timeline.tick(self.start),
            "end_tick": timeline.tick(self.end) if self.end is not None else None,
            "name": self._name,
        }
        if packets.sets is not None:
            encoder = SmartClip(self._recipe.encoder, profile, packets.sets, **where)
            packets.begin(encoder)
        else:
            encoder = ClipEncoder(self._recipe.encoder, profile, **where)
        if self._recipe.keep_audio and profile.audio_stream is not None:
            encoder.open_audio(rate=profile.audio_rate, layout=profile.audio_layout)
        return encoder

    def end_at(self, end: int) -> None:
        """Say where the clip ends."""
        self.end = end
        self.encoder.end_at(self._timeline.tick(end))
        if self.motion is not None:
            self.motion.end_at(end)

    def add_picture(self, index: int, frame: av.VideoFrame, *, is_scaled: bool) -> None:
        """Take frame ``index`` of the source, an upright picture. What the encoder refuses costs this clip alone.

        Args:
            is_scaled: the frame came in another size than the clip's first.
        """
        self._num_scaled += is_scaled
        self._waiting.append((index, frame))
        if self.motion is not None and self.motion.is_dropped:
            self._waiting.clear()
        while len(self._waiting) > self._num_patient(index, frame):
            self._encode(*self._waiting.popleft())

    def _num_patient(self, index: int, frame: av.VideoFrame) -> int:
        """How many pictures may wait: none where it would spare nothing."""
        if self.motion is None or isinstance(self.encoder, SmartClip) or not self.motion.may_be_dropped(index):
            return 0
        return _MAX_WAITING_BYTES // (frame.width * frame.height * 3 // 2)

    def _encode(self, index: int, frame: av.VideoFrame) -> None:
        if self._error is not None:
            return
        inside = index - self.start
        try:
            is_key = inside % self._recipe.window_size == 0  # each window starts with one
            self.encoder.add_picture(frame, tick=self._timeline.tick(index), is_key=is_key)
            self._sampler.add(inside, frame)
        except VideoError as error:
            if error.reason is FailureReason.MEMORY:  # of the process: no clip's fault
                raise
            self._error = error

    def finish(self, clip: Clip) -> Clip:
        """Put mp4, windows and sampled frames on the clip; or the reason why there are none in its ``errors``."""
        assert clip.frame_span is not None
        num_frames = len(clip.frame_span)
        clip.encoder = self._recipe.encoder.describe()
        if self.motion is not None:
            self.motion.give(clip)
            if self.motion.is_dropped:
                clip.encoder = ""
                return clip
        while self._waiting:
            self._encode(*self._waiting.popleft())
        try:
            buffer = self.encoder.finish()
            self._note_encoding(clip)
            if self._error is not None:
                raise self._error
            if self.encoder.num_frames == 0:
                raise VideoError(FailureReason.NO_FRAMES, f"{self._name}: none of its frames could be decoded")
        except VideoError as error:
            if error.reason is FailureReason.MEMORY:
                raise
            clip.errors["transcode"] = f"{error.reason}: {error.message}"
            return clip
        clip.buffer = buffer
        clip.windows = [Window(window.start, window.end - 1) for window in self._recipe.windows(num_frames)]
        self._sampler.give(clip)
        if lost := num_frames - self.encoder.num_frames:
            clip.errors["frames"] = f"{lost} of {num_frames} frames could not be decoded"
        return clip

    def _note_encoding(self, clip: Clip) -> None:
        """Say how much of a clip was copied, or why nothing was, and what was scaled."""
        if self._num_scaled:
            width, height = self.normalize.profile.coded_size
            clip.notes["frames_scaled"] = f"{self._num_scaled} of another size than the first, {width}x{height}"
        if isinstance(self.encoder, SmartClip):
            clip.encoder = self.encoder.encoder
            clip.notes["clip_encoding"] = "smart-copy"
            clip.notes["frames_encoded"] = f"{self.encoder.num_encoded} of {self.encoder.num_frames}"
        elif self._recipe.copies:
            clip.notes["clip_encoding"] = "transcode"
            clip.notes["why_not_copied"] = f"its video {self._why_encoded}"


class Packets:
    """The source's packets for clips that copy them: from the first that a clip yet to begin may need."""

    def __init__(self, recipe: ClipRecipe, profile: SourceProfile) -> None:
        self._is_asked, self._profile = recipe.copies, profile
        self._reader: PacketReader | None = None
        self._recent: deque[PacketRef] = deque()
        self.why_not_copyable: str | None = None

    @property
    def sets(self) -> ParameterSets | None:
        """The source's parameter sets; None where its packets are not copied."""
        return self._reader.sets if self._reader is not None else None

    def see(self, packet: AnyPacket, clips: Sequence[OpenClip]) -> PacketRef | None:
        """Give the next packet of the file to the open clips, and keep it; None where nothing is copied from it."""
        if not self._is_asked or self.why_not_copyable is not None:
            return None
        if self._reader is None:
            assert isinstance(packet.stream, av.VideoStream)
            self.why_not_copyable = why_not_copyable(packet.stream, self._profile)
            if self.why_not_copyable is not None:
                return None
            self._reader = PacketReader(bytes(packet.stream.codec_context.extradata or b""))
        found = self._reader.read(packet)
        if found is not None:
            self._recent.append(found)
            for clip in clips:
                if isinstance(clip.encoder, SmartClip):
                    clip.encoder.add_packet(found)
        return found

    def begin(self, encoder: SmartClip) -> None:
        """Give a new clip what was read before its first picture came."""
        for packet in self._recent:
            encoder.add_packet(packet)

    def forget_before(self, tick: int) -> None:
        """A clip that begins at ``tick`` or later copies from an IDR on that is not before it."""
        while self._recent and (not self._recent[0].is_idr or self._recent[0].tick < tick):
            self._recent.popleft()


class Sound:
    """The source's sound around the pictures that are cut, for clips that are open and clips that are yet to begin."""

    def __init__(self, timeline: FrameTimeline) -> None:
        self._timeline = timeline
        self._recent: deque[av.AudioFrame] = deque()
        self._heard_until: Fraction | None = None

    def hear(self, frame: av.AudioFrame, clips: Sequence[OpenClip]) -> None:
        """Give a decoded frame to the open clips, and keep it."""
        if frame.pts is None:
            return
        self._heard_until = sound_end_s(frame)
        self._recent.append(frame)
        for clip in clips:
            clip.encoder.add_audio(frame)

    def begin(self, clip: OpenClip) -> None:
        """Give a new clip what was heard before its first picture came."""
        for frame in self._recent:
            clip.encoder.add_audio(frame)

    def forget_before(self, tick: int) -> None:
        """Sound heard before the current picture can't belong to a clip that is yet to begin."""
        now = tick * self._timeline.time_base
        while self._recent and sound_end_s(self._recent[0]) <= now:
            self._recent.popleft()

    def has_come_to(self, end_tick: int, *, now: int) -> bool:
        """Whether all sound before ``end_tick`` was heard, or is too late to wait for."""
        end = end_tick * self._timeline.time_base
        return (self._heard_until or 0) >= end or now * self._timeline.time_base - end > _AUDIO_PATIENCE_S


class Cutter:
    """Hands the frames of one video to clips whose spans are known beforehand; they may overlap."""

    def __init__(self, recipe: ClipRecipe, video: Video) -> None:
        self._recipe, self._video = recipe, video
        self._timeline = timeline_needed(video)
        profile = profile_needed(video)
        self._normalize = PictureNormalizer(profile)
        self._waiting = deque(sorted(video.clips, key=lambda clip: clip.span))
        self._open: list[tuple[Clip, OpenClip]] = []
        self._sound = Sound(self._timeline)
        self._packets = Packets(recipe, profile)
        self._track: MotionTrack | None = None
        if recipe.motion is not None:
            rate = self._timeline.average_rate
            self._track = MotionTrack(recipe.motion, rate=rate, is_wanted=self._is_unmeasured)
        self.with_audio = recipe.keep_audio and profile.audio_stream is not None
        self.first_frame = first_frame(self._waiting[0])
        self.first_tick = self._timeline.tick(self.first_frame) if self.first_frame > 0 else None

    @property
    def is_done(self) -> bool:
        """Whether every clip has been given."""
        return not self._waiting and not self._open

    def see_packet(self, packet: AnyPacket) -> PacketRef | None:
        """Take note of a packet of the video stream, before its frame comes; gives it as clips can hold it."""
        return self._packets.see(packet, [opened for _, opened in self._open])

    def take(self, frame: av.VideoFrame | av.AudioFrame) -> list[Clip]:
        """Use a decoded frame; gives the clips that it completed."""
        if isinstance(frame, av.AudioFrame):
            self._sound.hear(frame, [opened for _, opened in self._open])
            return []
        assert frame.pts is not None
        index = self._come_to(frame.pts, frame)
        showing = [opened for _, opened in self._open if opened.end is not None and index < opened.end]
        pictures = {normalize: normalize(frame) for normalize in {opened.normalize for opened in showing}}
        for opened in showing:
            opened.add_picture(index, pictures[opened.normalize], is_scaled=not opened.normalize.fits(frame))
        return self._close_before(frame.pts)

    def see_motion(self, frame: av.VideoFrame) -> None:
        """Look at a picture with its motion vectors, before it comes."""
        assert self._track is not None
        assert frame.pts is not None
        self._track.add(int(np.searchsorted(self._timeline.ticks, frame.pts)), frame)

    def num_unmeasured(self, clip: Clip) -> int:
        """How many frames of a clip are still to be measured; as many as it has, where it has not begun."""
        found = next((opened.motion for each, opened in self._open if each is clip), None)
        return found.num_missing if found is not None else len(clip.frame_span or ())

    def _is_unmeasured(self, index: int) -> bool:
        """Whether a clip needs the motion of a frame."""
        if self._waiting and first_frame(self._waiting[0]) <= index:
            return True
        inside = [o.motion for _, o in self._open if o.motion is not None and o.end is not None and index < o.end]
        return any(motion.num_missing for motion in inside)

    def pass_by(self, tick: int) -> list[Clip]:
        """Go on to the frame at ``tick``, of which no clip needs the picture; gives the clips that are complete."""
        self._come_to(tick)
        return self._close_before(tick)

    def rest(self) -> list[Clip]:
        """At the end of the file: what is still open, and clips that never began."""
        while self._waiting:
            self._begin(self._waiting.popleft(), None)
        return self._close(lambda _: True)

    def _come_to(self, tick: int, frame: av.VideoFrame | None = None) -> int:
        """Begin the clips of the frame at ``tick``, forget what none can need from there on; gives its index."""
        index = int(np.searchsorted(self._timeline.ticks, tick))
        while self._waiting and first_frame(self._waiting[0]) <= index:
            self._begin(self._waiting.popleft(), frame)
        self._sound.forget_before(tick)
        self._packets.forget_before(tick)
        if self._track is not None:
            self._track.forget_before(min([index, *(opened.start for _, opened in self._open)]))
        return index

    def _begin(self, clip: Clip, first: av.VideoFrame | None) -> None:
        assert clip.frame_span is not None
        profile = profile_at(profile_needed(self._video), self._timeline, clip.frame_span.start, first)
        self._normalize = self._normalize.of(profile)
        opened = OpenClip(
            self._recipe,
            self._video,
            clip.frame_span,
            packets=self._packets,
            normalize=self._normalize,
            track=self._track,
        )
        self._sound.begin(opened)
        self._open.append((clip, opened))

    def _is_over(self, end: int, *, now: int) -> bool:
        tick = self._timeline.tick(end)
        return now >= tick and (not self.with_audio or self._sound.has_come_to(tick, now=now))

    def _close_before(self, now: int) -> list[Clip]:
        return self._close(lambda end: self._is_over(end, now=now))

    def _close(self, is_over: Callable[[int], bool]) -> list[Clip]:
        over: list[tuple[Clip, OpenClip]] = []
        still_open: list[tuple[Clip, OpenClip]] = []
        for clip, opened in self._open:
            ended = opened.end is not None and is_over(opened.end)
            (over if ended else still_open).append((clip, opened))
        self._open = still_open
        return [opened.finish(clip) for clip, opened in over]


def first_frame(clip: Clip) -> int:
    """Of the source, where the clip begins."""
    assert clip.frame_span is not None
    return clip.frame_span.start
