"""Which packets of an H.264 source a clip can copy: what bars a source, what bars a packet, and which frames are left.

A clip is, in decoding order: a head of encoded frames, up to the first IDR inside the clip; a body of the source's own
packets; a tail of encoded frames, where the last packets refer to frames beyond the clip.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import av

from curation.source_profile import SourceProfile
from curation.video.decode import AnyPacket
from curation.video.h264 import (
    LENGTH_BYTES,
    NalType,
    SequenceParameters,
    is_idr,
    length_prefixed,
    length_prefixed_units,
    nal_type,
    parse_extradata,
    start_coded_units,
)

MAX_REORDERED = 32
"""Twice what H.264 allows: a gap that so many packets don't close is none that reordering made."""

_PARAMETER_SETS = {NalType.SPS, NalType.PPS, NalType.SPS_EXTENSION, NalType.SUBSET_SPS}
_NOT_IN_SAMPLES = _PARAMETER_SETS | {NalType.ACCESS_UNIT_DELIMITER, NalType.FILLER}


# Which sources


def why_not_copyable(stream: av.VideoStream, profile: SourceProfile) -> str | None:
    """Why a source's packets can't become those of a clip, in words that follow "its video"; None when they can."""
    if stream.codec_context.name != "h264":
        return f"is {stream.codec_context.name}, not h264"
    reason = _why_not_shown_as_stored(profile)
    if reason is not None:
        return reason
    try:
        sets, _ = parse_extradata(bytes(stream.codec_context.extradata or b""))
        sequences, free_id = sets.sequences, sets.free_id()
    except ValueError as error:
        return f"has no parameter sets that can be read: {error}"
    if free_id is None:
        return "leaves no id for another parameter set"
    reasons = (_why_not_encodable(sequence, size=profile.coded_size) for sequence in sequences)
    return next((reason for reason in reasons if reason is not None), None)


def _why_not_shown_as_stored(profile: SourceProfile) -> str | None:
    if profile.rotation or profile.mirrored:
        return f"must be turned by {profile.rotation} degrees" + (" and mirrored" if profile.mirrored else "")
    if profile.pixel_aspect != 1:
        return f"has a pixel aspect of {profile.pixel_aspect}"
    if profile.display_size != profile.coded_size:
        return f"has an odd size, {profile.coded_size[0]}x{profile.coded_size[1]}"
    if profile.interlaced or profile.hdr is not None:
        return "is interlaced" if profile.interlaced else "is HDR"
    if profile.counts_frames:
        return "has timestamps that do not follow presentation order"
    return None


def _why_not_encodable(sequence: SequenceParameters, *, size: tuple[int, int]) -> str | None:
    """Why frames that the encoder makes can't stand beside the source's: it gives progressive 8-bit 4:2:0."""
    if sequence.chroma_format != 1:
        return f"has chroma format {sequence.chroma_format}, not 1 (4:2:0)"
    if sequence.bit_depth != 8:
        return f"has {sequence.bit_depth} bits a sample, not 8"
    if not sequence.is_progressive:
        return "may be interlaced"
    if sequence.is_full_range:
        return "has samples of full range"
    if sequence.size != size:
        return f"has pictures of {sequence.size[0]}x{sequence.size[1]} beside {size[0]}x{size[1]}"
    return None


# Packets


@dataclass(frozen=True, slots=True)
class PacketRef:
    """A packet of a source, in the form in which a clip can hold it.

    Attributes:
        tick: presentation timestamp on the source.
        sample: its NAL units, each behind a length of 4 bytes, without parameter sets.
        is_idr: a decoder can begin here, and nothing after it refers to what is before.
        is_copyable: False for what the container hides or knows to be damaged, and for what other parameter sets
            describe than those in front of the stream.
    """

    tick: int
    sample: bytes
    is_idr: bool
    is_copyable: bool = True


class PacketReader:
    """Reads the packets of one stream, all of them in decoding order: parameter sets among them hold for the rest."""

    def __init__(self, extradata: bytes) -> None:
        """Read what the container holds in front.

        Raises:
            ValueError: it holds no parameter sets.
        """
        self._extradata = extradata
        self.sets, self._length_bytes = parse_extradata(extradata)
        self._known = {unit.rstrip(b"\x00") for unit in (*self.sets.sps, *self.sets.pps)}
        self._has_other_sets = False

    def read(self, packet: AnyPacket) -> PacketRef | None:
        """The packet, or None where it holds no picture or none that is known when to be shown."""
        if packet.size == 0 or packet.pts is None:
            return None
        sample = bytes(packet)
        try:
            units = list(self._units(sample))
        except ValueError:  # damaged: a decoder may make something of it
            return PacketRef(packet.pts, sample, is_idr=False, is_copyable=False)
        self._has_other_sets |= self._brings_other_sets(packet, units)
        kept = [unit for unit in units if nal_type(unit) not in _NOT_IN_SAMPLES]
        if len(kept) != len(units) or self._length_bytes != LENGTH_BYTES:
            sample = length_prefixed(kept)
        is_copyable = bool(kept) and not (self._has_other_sets or packet.is_discard or packet.is_corrupt)
        return PacketRef(packet.pts, sample, is_idr=is_idr(kept), is_copyable=is_copyable)

    def _units(self, sample: bytes) -> Iterator[bytes]:
        if self._length_bytes == 0:
            return start_coded_units(sample)
        return length_prefixed_units(sample, length_bytes=self._length_bytes)

    def _brings_other_sets(self, packet: AnyPacket, units: Sequence[bytes]) -> bool:
        sets = (unit.rstrip(b"\x00") for unit in units if nal_type(unit) in _PARAMETER_SETS)
        if any(unit not in self._known for unit in sets):
            return True
        has_new = packet.has_sidedata("new_extradata")  # the container's own: another sample description
        return has_new and bytes(packet.get_sidedata("new_extradata")) != self._extradata


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """Which packets of a clip are copied; its frames before ``first_tick`` and after ``last_tick`` are encoded.

    Attributes:
        packets: indices of the copied packets, one run in decoding order; empty when there is no IDR in the clip.
        first_tick: of the first copied frame; the clip's end when none is.
        last_tick: of the last copied frame; the clip's end when none is.
    """

    packets: range
    first_tick: int
    last_tick: int


def plan_copy(packets: Sequence[PacketRef], *, start_tick: int, end_tick: int) -> CopyPlan:
    """Decide which packets make up the body of the clip ``start_tick <= t < end_tick``.

    Args:
        packets: in decoding order; of the clip none is missing, and any number may lie around it.
    """
    first = next((i for i, each in enumerate(packets) if begins_body(each, start_tick, end_tick)), len(packets))
    num_copied = count_gap_free(packets[first:], after_tick=start_tick - 1, end_tick=end_tick)
    if num_copied == 0:
        return CopyPlan(range(0), end_tick, end_tick)
    body = range(first, first + num_copied)
    return CopyPlan(body, packets[first].tick, max(packets[i].tick for i in body))


def begins_body(packet: PacketRef, start_tick: int, end_tick: int | None) -> bool:
    """Whether copying can begin with a packet; an ``end_tick`` of None is not known yet."""
    is_inside = start_tick <= packet.tick and (end_tick is None or packet.tick < end_tick)
    return is_inside and packet.is_idr and packet.is_copyable


def count_gap_free(packets: Sequence[PacketRef], *, after_tick: int, end_tick: int) -> int:
    """How many of the packets can be copied: those up to the last one at which no frame before the newest is missing.

    Nothing that they refer to is then left out, and no frame at ``end_tick`` or later comes with them.

    Args:
        packets: in decoding order from an IDR on, or from where an earlier count ended.
        after_tick: of the last frame before them.
    """
    shown = sorted(packet.tick for packet in packets)
    seen: set[int] = set()
    num_copied, newest = 0, after_tick
    for count, (packet, tick) in enumerate(zip(packets, shown, strict=True), start=1):
        is_repeated = packet.tick <= after_tick or packet.tick in seen
        newest = max(newest, packet.tick)
        if is_repeated or not packet.is_copyable or newest >= end_tick or count - num_copied > MAX_REORDERED:
            break
        seen.add(packet.tick)
        if newest == tick:
            num_copied = count
    return num_copied


def decoding_ticks(ticks: Sequence[int], *, end_tick: int) -> list[int]:
    """When to decode frames that lie in a file in this order; each is there when it is shown.

    In mp4 a frame lasts until the next one in the file is decoded, and a track as long as its frames together. So that
    a last frame lasts until ``end_tick`` even where others follow it in the file, and so does the track, the decoding
    times around it and that of the first frame are set accordingly. Evenly shown frames are evenly decoded.

    Args:
        ticks: presentation timestamps in decoding order, each once.
        end_tick: when the last frame stops being shown.

    Returns:
        One tick for each frame, strictly rising, and the end of the last one in the file.
    """
    shown = [*sorted(ticks), end_tick]
    rank = {tick: index for index, tick in enumerate(shown)}
    delay = max(index - rank[tick] for index, tick in enumerate(ticks))
    final = len(ticks) - 1
    length = shown[rank[ticks[final]] + 1] - ticks[final]
    newest = ticks.index(shown[final])
    # what is decoded before anything is shown: as long before as what is shown after all is decoded; but as late as can
    # be where the last frame shown is among it, for how long that one lasts is settled below
    lead = delay if newest < delay - 1 else end_tick - shown[final - delay] - length
    decoded = [shown[0] - lead * (delay - index) // delay for index in range(delay)] + shown[: len(ticks) - delay]
    if newest < final:
        _let_last(decoded, newest, end_tick - shown[final])
    earliest = min(decoded[0], decoded[1] - 1) if final else decoded[0]
    length = min(length, earliest + end_tick - shown[0] - decoded[final])
    decoded[0] = decoded[final] + length - (end_tick - shown[0])
    return [*decoded, decoded[final] + length]


def _let_last(decoded: list[int], index: int, length: int) -> None:
    """Make one frame last that long, by decoding it and those before it earlier, or the one after it."""
    decoded[index + 1] = min(decoded[index + 1], decoded[index] + length)
    decoded[index] = decoded[index + 1] - length
    for before in range(index - 1, -1, -1):
        decoded[before] = min(decoded[before], decoded[before + 1] - 1)
