"""How a source must be read, so that its pictures are upright with square pixels, and its colours right."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal


@dataclass(frozen=True, slots=True)
class HdrSignal:
    """How the pictures of an HDR video are coded: PQ (SMPTE ST 2084) or HLG (ARIB STD-B67).

    Attributes:
        peak_cd_m2: of the display on which the video was mastered; nominal where the video does not tell.
    """

    transfer: Literal["pq", "hlg"]
    peak_cd_m2: float


@dataclass(frozen=True, slots=True)
class PictureShape:
    """Width and height of decoded pictures, and the aspect of their pixels."""

    coded_size: tuple[int, int]
    pixel_aspect: Fraction


@dataclass(frozen=True, slots=True)
class SourceProfile:
    """How a source must be read: which stream, and what makes its pictures upright with square pixels.

    Attributes:
        video_stream: index of the stream in the container.
        audio_stream: index of the audio stream to keep, or None.
        audio_rate: its samples per second, 0 without one.
        audio_layout: FFmpeg's name of its channel layout, empty without one.
        coded_size: width and height of the decoded picture.
        display_size: width and height after pixel aspect and rotation, both even.
        rotation: degrees clockwise that make the picture upright (0, 90, 180, 270).
        mirrored: whether the picture is mirrored left to right before it is rotated.
        counts_frames: the container's timestamps do not follow presentation order: the k-th frame that the decoder
            gives has the k-th time.
        colours: primaries, transfer and matrix of its clips as ITU-T H.273 numbers them: those of the source, 2 says
            unknown; those of BT.709 where pictures are tone-mapped.
        interlaced: whether its first frame is; frames that are made progressive are told by their own flags.
        hdr: None for SDR, whose numbers are passed on as they are.
        later_shapes: of the pictures from each of the timeline's ``size_changes`` on; sizes above are of the first.
    """

    video_stream: int
    audio_stream: int | None
    audio_rate: int
    audio_layout: str
    coded_size: tuple[int, int]
    display_size: tuple[int, int]
    pixel_aspect: Fraction
    rotation: int
    mirrored: bool
    counts_frames: bool
    colours: tuple[int, int, int]
    interlaced: bool
    hdr: HdrSignal | None
    later_shapes: tuple[PictureShape, ...] = ()
