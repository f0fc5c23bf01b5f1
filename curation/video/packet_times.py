"""When each frame is shown, where an H.264 stream begins anew, where pictures change their size: by one pass over the
packets, which decodes nothing but one picture at each such change."""

from array import array
from collections.abc import Mapping, Sequence

import av
import av.container
import av.error
import av.video.stream
import numpy as np
from numpy.typing import NDArray

from curation.errors import FailureReason, VideoError
from curation.source_profile import PictureShape, SourceProfile
from curation.timeline import FrameTimeline
from curation.video.container import as_video_error
from curation.video.h264 import is_idr, length_prefixed_units, parse_extradata, start_coded_units
from curation.video.picture_shapes import ShapeWatch
from curation.video.progress import alive


class PacketTimes:
    """When frames are shown, in the order of the file. Eight bytes a frame, for there may be millions.

    Attributes:
        ticks: int64 presentation timestamps.
        idr: positions in ``ticks`` of the pictures that no later one refers beyond.
        shapes: positions from which on pictures have another shape.
    """

    def __init__(self, *, max_frames: int, name: str) -> None:
        self.ticks, self.idr = array("q"), array("q")
        self.shapes: list[tuple[int, PictureShape]] = []
        self._last = (0, 0)
        self._max_frames, self._name = max_frames, name

    def __len__(self) -> int:
        return len(self.ticks)

    @property
    def end(self) -> int:
        """When the frame that is shown last ends."""
        # of it alone the duration is used: packets tell the distance in decoding order, which is another one
        return sum(self._last)

    def change(self, shape: PictureShape) -> None:
        """Take note that the frames to come have another shape than those before."""
        self.shapes.append((len(self.ticks), shape))

    def add(self, tick: int, duration: int, *, is_idr: bool = False) -> None:
        """Take note of the next frame.

        Raises:
            VideoError: LIMITS; nobody waits for the end of ten billion.
        """
        if len(self.ticks) >= self._max_frames:
            message = f"{self._name}: more than {self._max_frames} frames, which is limits.max_frames"
            raise VideoError(FailureReason.LIMITS, message)
        if is_idr:
            self.idr.append(len(self.ticks))
        self._last = max(self._last, (tick, duration)) if self.ticks else (tick, duration)
        self.ticks.append(tick)


def packet_times(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    profile: SourceProfile,
    *,
    max_frames: int,
    decoder_options: Mapping[str, str],
    name: str,
) -> PacketTimes | None:
    """Read all packets of a stream; None where one that is shown has no timestamp.

    Args:
        profile: of its first frame.

    Raises:
        VideoError: UNREADABLE or LIMITS.
        StorageError: the file could not be read.
    """
    shown, length_bytes = PacketTimes(max_frames=max_frames, name=name), _length_bytes(stream)
    watch = ShapeWatch(stream, profile, decoder_options=decoder_options)
    try:
        for packet in container.demux(stream):
            alive()
            sample = bytes(packet) if packet.is_keyframe else b""
            shape = watch.see(packet, sample) if sample else None
            if shape is not None:  # of what an edit list hides, too: what is shown may go on with it
                shown.change(shape)
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.pts is None:
                return None
            begins = packet.is_keyframe and length_bytes is not None and _holds_idr(sample, length_bytes)
            shown.add(packet.pts, packet.duration or 0, is_idr=begins)
    except av.error.FFmpegError as error:
        if not shown:
            raise as_video_error(error, name=name, reason=FailureReason.UNREADABLE, doing="read packets") from error
        # a damaged tail: what was read before it is what there is
    return shown


def _length_bytes(stream: av.video.stream.VideoStream) -> int | None:
    """Of a NAL unit's length in H.264, 0 for start codes (see ``parse_extradata``); None where that is not known."""
    if stream.codec_context.name != "h264":
        return None
    try:
        return parse_extradata(bytes(stream.codec_context.extradata or b""))[1]
    except ValueError:
        return None


def _holds_idr(sample: bytes, length_bytes: int) -> bool:
    """More than that the container calls it a key frame: frames after that of an open GOP refer beyond it."""
    try:
        return is_idr(
            length_prefixed_units(sample, length_bytes=length_bytes) if length_bytes else start_coded_units(sample)
        )
    except ValueError:
        return False


def idr_frames(ticks: NDArray[np.int64], idr: Sequence[int], timeline: FrameTimeline) -> NDArray[np.int64]:
    """Indices of the frames at which the stream begins anew, in presentation as well: what is before is shown before.

    Args:
        ticks: int64, in the order of the file.
        idr: positions in ``ticks``, rising.
    """
    positions = np.array(idr, dtype=np.int64)
    if len(positions) == 0:
        return positions
    begins = np.unique(np.concatenate([[0], positions]))  # of parts; the first may have no IDR
    earliest = np.minimum.accumulate(np.minimum.reduceat(ticks, begins)[::-1])[::-1]  # from each part on
    latest = np.maximum.accumulate(np.maximum.reduceat(ticks, begins))  # up to the end of each part
    is_clean = ticks[begins] == earliest
    is_clean[1:] &= ticks[begins[1:]] > latest[:-1]
    is_clean[0] &= positions[0] == 0
    return np.asarray(np.searchsorted(timeline.ticks, ticks[begins[is_clean]]), dtype=np.int64)


def size_changes(
    ticks: NDArray[np.int64],
    shapes: Sequence[tuple[int, PictureShape]],
    timeline: FrameTimeline,
    *,
    counts_frames: bool,
) -> tuple[NDArray[np.int64], tuple[PictureShape, ...]]:
    """Indices of the frames shown first of those with another shape than those before, rising, and their shapes.

    Args:
        ticks: int64, in the order of the file.
        shapes: positions in ``ticks``, rising, and the shape from there on.
        counts_frames: as ``SourceProfile``.
    """
    known = [(position, shape) for position, shape in shapes if position < len(ticks)]
    if not known:
        return np.empty(0, dtype=np.int64), ()
    positions = np.array([position for position, _ in known], dtype=np.int64)
    earliest = np.minimum.reduceat(ticks, positions)
    frames = positions if counts_frames else np.searchsorted(timeline.ticks, earliest)
    first = {int(frame): shape for frame, (_, shape) in zip(frames, known, strict=True)}
    kept = sorted(frame for frame in first if 0 < frame < timeline.num_frames)
    return np.array(kept, dtype=np.int64), tuple(first[frame] for frame in kept)
