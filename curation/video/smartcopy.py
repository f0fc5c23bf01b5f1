"""Frame-exact clips of H.264 by copying packets; only the frames at the ends that no IDR covers are encoded again.

The encoded parts use parameter sets with an id that the source does not use. Both sets lie in the avcC box, so that the
track is a plain ``avc1`` whose samples hold none.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import av
import av.container
import av.error

from curation.source_profile import SourceProfile
from curation.video.copyplan import (
    MAX_REORDERED,
    PacketRef,
    begins_body,
    count_gap_free,
    decoding_ticks,
)
from curation.video.decode import AnyPacket
from curation.video.encode import (
    AudioTrack,
    ClipSound,
    EncoderSettings,
    add_video_stream,
    encode_at,
    open_mp4,
    refused,
)
from curation.video.h264 import ParameterSets, length_prefixed, parse_extradata, start_coded_units

_MIN_MOVIE_CLOCK_HZ = 10_000


@dataclass(frozen=True, slots=True)
class _Held:
    """A frame of which it is not known yet whether it is copied."""

    frame: av.VideoFrame
    tick: int
    is_key: bool


class SmartClip:
    """Makes one clip while its packets and frames go by; the interface of ClipEncoder, and ``add_packet``.

    Packets come in decoding order, each before its frame does, from any point before the clip on; frames in
    presentation order. A caller that decodes everything gives all frames of the clip: at most MAX_REORDERED of them are
    kept until it is known whether they are copied. One that has a CopyPlan gives all packets first and then the frames
    that it leaves. Both get the same bytes.
    """

    def __init__(
        self,
        settings: EncoderSettings,
        profile: SourceProfile,
        sets: ParameterSets,
        *,
        time_base: Fraction,
        rate: Fraction,
        start_tick: int,
        end_tick: int | None,
        name: str,
    ) -> None:
        """As ClipEncoder; ``why_not_copyable`` must have said None of the source.

        Args:
            settings: preset, crf and threads of libx264, whatever encoder they name.
            sets: the source's, of its PacketReader.
            end_tick: None while it is not known, see ``end_at``.
        """
        self._name, self._sets = name, sets
        self._start, self._end, self._time_base = start_tick, end_tick, time_base
        self._buffer = io.BytesIO()
        self._container = open_mp4(self._buffer, ticks_per_second=_movie_clock(time_base))
        self._settings = replace(settings, encoder="libx264")
        self._video = add_video_stream(self._container, self._settings, profile, time_base=time_base, rate=rate)
        self._video.codec_context.options["x264-params"] += f":sps-id={sets.free_id()}"
        self._body: list[PacketRef] = []
        self._num_copied, self._copied_until = 0, start_tick - 1
        self._held: list[_Held] = []
        self._ends_body = False  # nothing more is copied
        self._begins_tail = False  # something was copied since the last encoded frame
        self._encoded: list[PacketRef] = []
        self.num_encoded = 0
        self._sound: ClipSound | None = None
        self._sound_packets: list[AnyPacket] = []

    @property
    def encoder(self) -> str:
        """What encodes the frames that are not copied, in one line."""
        return self._settings.describe()

    @property
    def num_frames(self) -> int:
        """Frames of the clip, copied and encoded; complete after ``finish``."""
        return self._num_copied + self.num_encoded

    def open_audio(self, *, rate: int, layout: str) -> None:
        """Announce an audio track."""
        track = AudioTrack(self._container, write=self._sound_packets.extend, rate=rate, layout=layout)
        self._sound = ClipSound(track, start_tick=self._start, time_base=self._time_base)

    def end_at(self, end_tick: int) -> None:
        """Say where the clip ends, before ``finish`` at the latest."""
        self._end = end_tick

    def add_packet(self, packet: PacketRef) -> None:
        """Take the next packet of the source; those outside the clip are ignored."""
        if self._body or begins_body(packet, self._start, self._end):
            self._body.append(packet)

    def add_picture(self, frame: av.VideoFrame, *, tick: int, is_key: bool) -> None:
        """Take the clip's next frame, shown from ``tick`` on.

        Args:
            is_key: whether it must be a key frame if it is encoded; a copied one stays what it is.

        Raises:
            VideoError: ENCODE_ERROR.
        """
        picture = _Held(frame, tick, is_key)
        if self._ends_body or not self._body or tick < self._body[0].tick:
            self._encode(picture)
        else:
            self._held.append(picture)
            self._copy_until(tick + 1)
            if len(self._held) > MAX_REORDERED:
                self._end_body()
        if self._sound is not None:
            self._sound.hear_until(tick, end_tick=self._end)

    def _copy_until(self, end_tick: int) -> None:
        """Copy what can be and forget the frames of it. All frames before ``end_tick`` have come."""
        waiting = self._body[self._num_copied :]
        count = count_gap_free(waiting, after_tick=self._copied_until, end_tick=end_tick)
        if count:
            self._num_copied += count
            self._copied_until = max(packet.tick for packet in waiting[:count])
            self._begins_tail = True
            self._held = [picture for picture in self._held if picture.tick > self._copied_until]

    def _end_body(self) -> None:
        self._ends_body = True
        for picture in self._held:
            self._encode(picture)
        self._held = []

    def _encode(self, picture: _Held) -> None:
        tick, is_key = picture.tick - self._start, self._begins_tail or picture.is_key
        try:
            self._take(encode_at(self._video, picture.frame, tick=tick, is_key=is_key))
        except (av.error.FFmpegError, ValueError) as error:
            raise refused(self._video, error, name=self._name) from error
        self._begins_tail = False
        self.num_encoded += 1

    def _take(self, packets: Sequence[AnyPacket]) -> None:
        for packet in packets:
            assert packet.pts is not None
            sample = length_prefixed(start_coded_units(bytes(packet)))
            self._encoded.append(PacketRef(self._start + packet.pts, sample, is_idr=packet.is_keyframe))

    def add_audio(self, frame: av.AudioFrame) -> None:
        """Take the part of a decoded audio frame that lies inside the clip; the rest is ignored."""
        if self._sound is not None:
            self._sound.add(frame, end_tick=self._end)

    def finish(self) -> bytes:
        """Encode the tail and return the mp4.

        Raises:
            ValueError: nobody said where the clip ends.
            VideoError: ENCODE_ERROR.
        """
        if self._end is None:
            raise ValueError(f"{self._name}: end_at must come before finish")
        if not self._ends_body:
            self._copy_until(self._end)
            self._end_body()
        try:
            self._flush(self._end)
            for packet in sorted([*self._pictures(self._end), *self._sound_packets], key=_decoded_at_s):
                self._container.mux(packet)
            self._container.close()
        except (av.error.FFmpegError, ValueError) as error:
            raise refused(self._video, error, name=self._name) from error
        return self._buffer.getvalue()

    def _flush(self, end_tick: int) -> None:
        """Empty the encoders and put the parameter sets of all parts in front."""
        context = self._video.codec_context
        if self.num_encoded:
            self._take(self._video.encode(None))
            sets, _ = parse_extradata(bytes(context.extradata or b""))
            context.extradata = (self._sets.joined(sets) if self._num_copied else sets).avcc()
        else:
            context.open()  # the muxer would, and put the encoder's parameter sets in front
            context.extradata = self._sets.avcc()
        if self._sound is not None:
            self._sound.finish(end_tick)

    def _pictures(self, end_tick: int) -> list[AnyPacket]:
        """The clip's packets, on its own clock, in decoding order."""
        samples = sorted(self._encoded, key=lambda each: each.tick)  # without B-frames both orders are one
        num_before = sum(each.tick <= self._copied_until for each in samples)
        samples[num_before:num_before] = self._body[: self._num_copied]
        if not samples:
            return []
        ticks = [each.tick for each in samples]
        lengths = {tick: following - tick for tick, following in pairwise([*sorted(ticks), end_tick])}
        decoded = decoding_ticks(ticks, end_tick=end_tick)
        lengths[ticks[-1]] = decoded[-1] - decoded[-2]
        return [
            self._packet(each, decoded_tick=tick, length=lengths[each.tick])
            for each, tick in zip(samples, decoded, strict=False)
        ]

    def _packet(self, picture: PacketRef, *, decoded_tick: int, length: int) -> AnyPacket:
        packet: AnyPacket = av.Packet(picture.sample)
        packet.stream, packet.time_base = self._video, self._time_base
        packet.pts, packet.dts = picture.tick - self._start, decoded_tick - self._start
        packet.duration, packet.is_keyframe = length, picture.is_idr
        return packet


def _movie_clock(time_base: Fraction) -> int:
    """Ticks per second of a clock that counts the source's ticks exactly, and the sound's samples well enough."""
    ticks_per_second = time_base.denominator
    while ticks_per_second < _MIN_MOVIE_CLOCK_HZ:
        ticks_per_second *= 2
    return ticks_per_second


def _decoded_at_s(packet: AnyPacket) -> float:
    """Decoding time in seconds, near enough for interleaving."""
    assert packet.dts is not None
    return packet.dts * packet.time_base.numerator / packet.time_base.denominator
