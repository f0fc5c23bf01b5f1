"""Decoding that begins in the middle of a file and gives what decoding all of it gives, or says that it can't."""

from fractions import Fraction
from typing import Any, TypeAlias

import av
import av.video.stream
import numpy as np

from curation.errors import FailureReason, VideoError
from curation.source_profile import SourceProfile
from curation.timeline import FrameTimeline
from curation.video.h264 import NalType, length_prefixed_units, nal_type, parse_extradata, start_coded_units

AnyPacket: TypeAlias = "av.Packet[Any]"  # generic in its stub only

_WARM_UP_FRAMES = 4
"""Decoded before the first that is wanted: a deinterlacer looks at the frame before, as does what compares frames."""
_SETS = {NalType.SPS, NalType.PPS}


class CleanStart:
    """An IDR of an H.264 file from which on a decoder needs nothing that came before, or the file's beginning.

    Packets are read from the file's beginning on, without a seek: a sound decoder's state may go back to there (noise,
    for example, comes from a generator that it seeds once). Pictures before the IDR are not decoded.

    Every picture must come, in its order: a decoder that begins elsewhere loses others than one that begins at the
    first packet, and what is counted by pictures would no longer be the same. What can't be known to be the same is an
    error, and the video is then processed whole.
    """

    def __init__(self, profile: SourceProfile, timeline: FrameTimeline, *, wanted: int, name: str) -> None:
        """Choose the last place from which on all frames from ``wanted`` on are exact.

        Raises:
            VideoError: NOT_IN_PARTS, where its frames are counted.
        """
        self._name, self._timeline = name, timeline
        self._is_interlaced, self._stream = profile.interlaced, profile.video_stream
        idr = timeline.idr_frames
        place = int(np.searchsorted(idr, wanted - _WARM_UP_FRAMES, side="right")) - 1
        self.first_frame = int(idr[place]) if place >= 0 else 0
        self._has_begun = self.first_frame == 0
        self._is_midway = not self._has_begun
        self._next = self.first_frame  # the frame that should come
        self._length_bytes: int | None = None
        self._sees_sets = False
        if profile.counts_frames:
            raise self._error("its frames have no times of their own")

    def admits(self, packet: AnyPacket) -> bool:
        """Whether the decoder gets a packet of the video stream.

        Raises:
            VideoError: NOT_IN_PARTS, where the decoder would need something of those before.
        """
        if self._has_begun:
            return True
        if packet.has_sidedata("new_extradata"):
            raise self._error("its container changes the decoder's settings on the way")
        if self._length_bytes is None:
            self._length_bytes = self._read_length_bytes(packet)
        found = self._sets_in(packet)
        if packet.pts != self._timeline.tick(self.first_frame) or not packet.is_keyframe:
            self._sees_sets |= bool(found)
            return False
        if (self._sees_sets or not self._length_bytes) and found != _SETS:
            raise self._error("its IDRs come without the parameter sets")
        self._has_begun = True
        return True

    def _read_length_bytes(self, packet: AnyPacket) -> int:
        assert isinstance(packet.stream, av.video.stream.VideoStream)
        try:
            return parse_extradata(bytes(packet.stream.codec_context.extradata or b""))[1]
        except ValueError as error:
            raise self._error(f"its parameter sets can't be read: {error}") from error

    def _sets_in(self, packet: AnyPacket) -> set[int]:
        """The kinds of parameter sets in a packet; with start codes only those of key packets are asked for."""
        if not self._length_bytes and not packet.is_keyframe:
            return set()
        sample = bytes(packet)
        try:
            units = (
                length_prefixed_units(sample, length_bytes=self._length_bytes)
                if self._length_bytes
                else start_coded_units(sample)
            )
            return {nal_type(unit) for unit in units} & _SETS
        except ValueError as error:
            raise self._error(f"a packet is damaged: {error}") from error

    def wants(self, frame: object) -> bool:
        """Whether a decoded frame is of use: every picture is, and sound that may be heard beside one from here on.

        Raises:
            VideoError: NOT_IN_PARTS, where a picture before it is missing, or interlaced ones come among others.
        """
        if isinstance(frame, av.VideoFrame):
            self._check(frame)
            return True
        if self._has_begun or not isinstance(frame, av.AudioFrame) or frame.pts is None or frame.time_base is None:
            return True
        base = Fraction(frame.time_base.numerator, frame.time_base.denominator)
        end_s = frame.pts * base + Fraction(frame.samples, frame.sample_rate)
        return end_s > self._timeline.tick(self.first_frame) * self._timeline.time_base

    def _check(self, frame: av.VideoFrame) -> None:
        timeline = self._timeline
        if frame.is_corrupt or self._next >= timeline.num_frames or frame.pts != timeline.tick(self._next):
            raise self._error(f"picture {self._next} is missing or damaged")
        is_first = self._next == self.first_frame
        if frame.interlaced_frame != self._is_interlaced and (is_first or not self._is_interlaced):
            raise self._error("interlaced pictures and others are mixed")
        self._next += 1

    def finish(self) -> None:
        """The file has ended.

        Raises:
            VideoError: NOT_IN_PARTS, where pictures at its end are missing.
        """
        if self._next < self._timeline.num_frames:
            raise self._error(f"picture {self._next} is missing")

    def reason_of(self, reason: FailureReason) -> FailureReason:
        """What a failure to decode means: begun midway it may be for want of what came before."""
        return FailureReason.NOT_IN_PARTS if self._is_midway else reason

    def _error(self, why: str) -> VideoError:
        return VideoError(FailureReason.NOT_IN_PARTS, f"{self._name}: {why}")
