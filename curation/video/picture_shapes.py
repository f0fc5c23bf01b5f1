"""Where pictures begin to have another size, or pixels another shape, by the headers of key packets."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import av
import av.error
import av.video.stream

from curation.source_profile import PictureShape, SourceProfile
from curation.video.decode import AnyPacket
from curation.video.h264 import NalType, nal_type, start_coded_units

_VP9_SYNC_CODE = f"{0x498342:024b}"
_VP9_HEADER_BYTES = 16  # more than comes before the size and the size itself
_HEVC_SPS = 33
_KNOWN = {"h264", "hevc", "av1", "vp8", "vp9", "mpeg1video", "mpeg2video", "mpeg4"}  # of others no parser finds a size
_SEQUENCE_HEADER = b"\x00\x00\x01\xb3"  # of MPEG-2
_SETS_BYTES = 1024  # within so many of a key packet the parameter sets come, where they come in packets

_Header: TypeAlias = tuple[object, ...]
"""What is compared between two key packets."""


@dataclass(frozen=True, slots=True)
class _Codec:
    """Of a stream.

    Attributes:
        extradata: what holds from here on, of the container.
    """

    name: str
    extradata: bytes

    def context(self, options: Mapping[str, str]) -> av.VideoCodecContext:
        """A decoder, which opens at the first packet."""
        context = av.CodecContext.create(self.name, "r")
        assert isinstance(context, av.VideoCodecContext)
        context.thread_count, context.options = 1, dict(options)
        if self.extradata:
            context.extradata = self.extradata
        return context

    def aspect_bytes(self, sample: bytes) -> bytes:
        """Of a key packet, those that change when its pixels get another shape; empty where it has none."""
        if self.name in {"mpeg1video", "mpeg2video"}:
            place = sample.find(_SEQUENCE_HEADER) + 7
            return bytes([sample[place] >> 4]) if 7 <= place < len(sample) else b""
        if self.name not in {"h264", "hevc"} or self.extradata[:1] == b"\x01":  # avcC, hvcC: sets are in the container
            return b""
        is_sequence = _is_h264_sequence if self.name == "h264" else _is_hevc_sequence
        return next((unit for unit in start_coded_units(sample[:_SETS_BYTES]) if is_sequence(unit)), b"")


class ShapeWatch:
    """Tells of each key packet whether pictures have another shape from there on.

    Headers are only compared. A change that they tell is believed when a decoder gives a picture of another shape.
    """

    def __init__(
        self, stream: av.video.stream.VideoStream, profile: SourceProfile, *, decoder_options: Mapping[str, str]
    ) -> None:
        """Watch a stream whose first frame has the profile's shape."""
        context = stream.codec_context
        self._is_known = context.codec.canonical_name in _KNOWN
        self._codec = _Codec(context.name, bytes(context.extradata or b""))
        self._options = decoder_options
        self._first_aspect, self._profile = context.sample_aspect_ratio, profile
        self._shape = PictureShape(profile.coded_size, profile.pixel_aspect)
        self._header: _Header | None = None
        self._aspect_bytes = b""

    def see(self, packet: AnyPacket, sample: bytes) -> PictureShape | None:
        """Take the next packet that the container calls a key frame; gives the new shape, None where it is the old."""
        if packet.is_corrupt or not self._is_known:
            return None
        if packet.has_sidedata("new_extradata"):
            self._codec = _Codec(self._codec.name, bytes(packet.get_sidedata("new_extradata")))
        header = self._header_of(sample)
        if header is None or header == self._header:
            return None
        shape = self._decoded(packet) if self._header is not None else self._shape
        if shape is None:  # damaged: the next key packet will tell
            return None
        is_other, self._header, self._shape = shape != self._shape, header, shape
        return shape if is_other else None

    def _header_of(self, sample: bytes) -> _Header | None:
        """What FFmpeg's parser finds, and where it does not read the shape of pixels, the bytes that tell it."""
        if "vp9" in self._codec.name:  # its parser finds no size
            return vp9_size(sample)
        context = self._codec.context({})
        try:
            context.parse(sample)
            context.parse(b"")
        except av.error.FFmpegError:
            return None
        if not context.width:
            return None
        self._aspect_bytes = self._codec.aspect_bytes(sample) or self._aspect_bytes
        return context.width, context.height, context.sample_aspect_ratio, self._aspect_bytes

    def _decoded(self, packet: AnyPacket) -> PictureShape | None:
        context = self._codec.context(self._options)
        try:
            frames = [*context.decode(packet), *context.decode(None)]
        except (av.error.FFmpegError, ValueError):
            return None
        if not frames:
            return None
        said = context.sample_aspect_ratio
        aspect = self._profile.pixel_aspect if said == self._first_aspect else _or_square(said)
        return PictureShape((frames[0].width, frames[0].height), aspect)


def _or_square(aspect: Fraction | None) -> Fraction:
    return aspect if aspect else Fraction(1)


def _is_h264_sequence(unit: bytes) -> bool:
    return nal_type(unit) == NalType.SPS


def _is_hevc_sequence(unit: bytes) -> bool:
    return unit[0] >> 1 & 63 == _HEVC_SPS


def vp9_size(sample: bytes) -> tuple[int, int] | None:
    """Width and height of a VP9 key frame; None of what does not begin with one.

    Source:
        VP9 Bitstream & Decoding Process Specification sections 6.2 (uncompressed_header) and 6.2.2 (color_config).
    """
    bits = "".join(f"{byte:08b}" for byte in sample[:_VP9_HEADER_BYTES])
    profile = int(bits[3:4] + bits[2:3] or "0", 2)
    at = 5 if profile == 3 else 4
    sync_code = bits[at + 4 : at + 28]  # after show_existing_frame, frame_type, show_frame, error_resilient_mode
    if len(sample) < _VP9_HEADER_BYTES or bits[:2] != "10" or bits[at : at + 2] != "00" or sync_code != _VP9_SYNC_CODE:
        return None
    at += 29 if profile >= 2 else 28  # bit_depth
    is_rgb, has_subsampling = bits[at : at + 3] == "111", profile in {1, 3}
    at += 3 + (not is_rgb) + has_subsampling * (1 if is_rgb else 3)
    return int(bits[at : at + 16], 2) + 1, int(bits[at + 16 : at + 32], 2) + 1
