"""How a source must be read, from its header and its first frame: geometry, colours, fields, sound."""

import struct
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

import av
import av.container
import av.video.stream
import numpy as np
from av.sidedata.sidedata import SideData
from av.sidedata.sidedata import Type as SideDataType

from curation.source_profile import HdrSignal, PictureShape, SourceProfile
from curation.timeline import FrameTimeline
from curation.video.tonemap import NOMINAL_PEAK

_BT709 = (1, 1, 1)  # ITU-T H.273, as the other numbers of colours
_PQ, _HLG = 16, 18
_DARKEST_PEAK, _BRIGHTEST_PEAK = 100, 10_000  # cd/m2: an SDR display, all that PQ can say; others are mistakes


def profile_of(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, frame: av.VideoFrame
) -> SourceProfile:
    """The profile of a source with this video stream, whose first frame this is."""
    rotation, mirrored = _orientation(frame)
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if aspect <= 0:
        aspect = Fraction(1)
    size = frame.width, frame.height
    decodable = (s for s in container.streams.audio if s.codec_context is not None and s.codec_context.sample_rate)
    audio = next(decodable, None)
    hdr = _hdr(frame)
    return SourceProfile(
        video_stream=stream.index,
        audio_stream=audio.index if audio is not None else None,
        audio_rate=audio.codec_context.sample_rate if audio is not None else 0,
        audio_layout=audio.codec_context.layout.name if audio is not None else "",
        coded_size=size,
        display_size=_display_size(size, aspect, rotation=rotation),
        pixel_aspect=aspect,
        rotation=rotation,
        mirrored=mirrored,
        colours=(frame.color_primaries, frame.color_trc, frame.colorspace) if hdr is None else _BT709,
        interlaced=frame.interlaced_frame,
        hdr=hdr,
        # AVI counts chunks in decoding order and knows no other time
        counts_frames=container.format.name == "avi" and stream.codec_context.has_b_frames,
    )


def profile_at(
    profile: SourceProfile, timeline: FrameTimeline, index: int, first: av.VideoFrame | None = None
) -> SourceProfile:
    """The profile of the frames from ``index`` on, up to the next change of size.

    Args:
        first: the first of them that was decoded, where there is one: no packet tells the size in some codecs.
    """
    place = int(np.searchsorted(timeline.size_changes, index, side="right"))
    shape = profile.later_shapes[place - 1] if place else PictureShape(profile.coded_size, profile.pixel_aspect)
    size, aspect = (first.width, first.height) if first is not None else shape.coded_size, shape.pixel_aspect
    if (size, aspect) == (profile.coded_size, profile.pixel_aspect):
        return profile
    display_size = _display_size(size, aspect, rotation=profile.rotation)
    return replace(profile, coded_size=size, pixel_aspect=aspect, display_size=display_size)


def _display_size(size: tuple[int, int], aspect: Fraction, *, rotation: int) -> tuple[int, int]:
    width, height = size
    upright = even(float(width * aspect)) if aspect != 1 else width // 2 * 2, height // 2 * 2
    return upright if rotation % 180 == 0 else (upright[1], upright[0])


def even(value: float) -> int:
    """The nearest even number, at least 2: 4:2:0 chroma can't have half a sample."""
    return max(2, round(value / 2) * 2)


def _orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """Degrees clockwise and mirroring that the display matrix asks for.

    The matrix maps a stored point (p, q) to (a p + c q, b p + d q) on screen, with q downwards. A mirrored picture is
    taken as mirrored left to right first and rotated then.

    Source:
        ISO/IEC 14496-12 section 8.3.2 (track header matrix).
    """
    matrix = _side_data(frame, SideDataType.DISPLAYMATRIX)
    if matrix is None:
        return 0, False
    a, b, _, c, d = struct.unpack("<5i", matrix[:20])
    mirrored = a * d - b * c < 0
    cosine, sine = (d, -c) if mirrored else (a, b)
    return round(np.degrees(np.arctan2(sine, cosine)) / 90) % 4 * 90, mirrored


def _side_data(frame: av.VideoFrame, kind: SideDataType) -> bytes | None:
    side_data: Iterable[object] = frame.side_data  # a sequence of side data, which its stub calls a mapping
    return next((bytes(each) for each in side_data if isinstance(each, SideData) and each.type == kind), None)


def _hdr(frame: av.VideoFrame) -> HdrSignal | None:
    if frame.color_trc == _HLG:
        return HdrSignal("hlg", NOMINAL_PEAK)
    if frame.color_trc == _PQ:
        return HdrSignal("pq", _mastering_peak(frame) or NOMINAL_PEAK)
    return None


def _mastering_peak(frame: av.VideoFrame) -> float | None:
    """cd/m2 of the brightest white of the display on which the video was mastered.

    Source:
        SMPTE ST 2086, as AVMasteringDisplayMetadata holds it: 10 rationals and then, of 2 flags, whether the last 2
        rationals (the darkest and the brightest light) are there.
    """
    mastering = _side_data(frame, SideDataType.MASTERING_DISPLAY_METADATA)
    if mastering is None:
        return None
    *_, numerator, denominator, _, has_luminance = struct.unpack("<20i2i", mastering[:88])
    if not has_luminance or denominator <= 0:
        return None
    peak = numerator / denominator
    return peak if _DARKEST_PEAK <= peak <= _BRIGHTEST_PEAK else None
