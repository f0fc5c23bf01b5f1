"""Clips by smart copy against their sources: numbers in the pictures, times and bits."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
import pytest
from numpy.typing import NDArray

from curation.timeline import FrameSpan
from curation.video.copyplan import PacketReader, PacketRef
from curation.video.decode import AnyPacket
from curation.video.encode import EncoderSettings
from curation.video.h264 import is_idr, length_prefixed, length_prefixed_units, nal_type, parse_extradata
from curation.video.probe import ProbedVideo, probe_file
from curation.video.smartcopy import SmartClip
from tests.footage import MEDIA
from tests.splitting import smart_copy
from tests.synthetic import frames_of, make_video, read_number

NUM_FRAMES = 200
CUTS = (47, 111, 112, 160)
SETTINGS = EncoderSettings("libx264", "superfast", 23)
UNEVEN_STEPS = np.random.default_rng(4).choice([1, 2, 3, 5, 11], size=NUM_FRAMES).tolist()
UNEVEN_TIMES = [Fraction(sum(UNEVEN_STEPS[:index]), 60) for index in range(NUM_FRAMES)]

Luma = NDArray[np.uint8]


@dataclass(frozen=True)
class Structure:
    """How a source is coded, and how many frames after its last copied one a clip may have: those of one reordering."""

    options: dict[str, str]
    max_tail: int
    suffix: str = ".mp4"
    times_s: Sequence[Fraction] | None = None


def gop(length: int, *, bframes: int = 3, more: str = "") -> dict[str, str]:
    return {"x264-params": f"keyint={length}:bframes={bframes}{more}"}


STRUCTURES = {
    "GOP 30": Structure(gop(30), 3),
    "GOP 60 without scene cuts": Structure(gop(60, more=":scenecut=0"), 3),
    "GOP 250 with scene cuts": Structure(gop(250), 3),
    "GOP 250 without scene cuts": Structure(gop(250, more=":scenecut=0"), 3),
    "no B-frames": Structure(gop(40, bframes=0), 0),
    "16 B-frames in a pyramid": Structure(gop(60, bframes=16, more=":b-pyramid=normal:b-adapt=0:ref=8"), 16),
    "only key frames": Structure(gop(1), 0),
    "open GOP": Structure(gop(30, more=":open-gop=1"), NUM_FRAMES),
    "uneven times": Structure(gop(40), 3, times_s=UNEVEN_TIMES),
    "Matroska": Structure(gop(30), 3, suffix=".mkv"),
    "transport stream": Structure(gop(30), 3, suffix=".ts"),
}


# What a file holds


def packets_of(video: Path | bytes) -> list[AnyPacket]:
    with av.open(io.BytesIO(video) if isinstance(video, bytes) else video, "r") as container:
        return [packet for packet in container.demux(container.streams.video[0]) if packet.size]


def units_of(sample: bytes) -> list[bytes]:
    return list(length_prefixed_units(sample, length_bytes=4))


def luma_of(video: Path | bytes) -> list[Luma]:
    """The brightness of each frame, by a decoder that ends at the first fault."""
    with av.open(io.BytesIO(video) if isinstance(video, bytes) else video, "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.options = {"err_detect": "explode"}
        return [np.array(frame.to_ndarray()[: frame.height]) for frame in container.decode(stream)]


def refs_of(path: Path) -> list[PacketRef]:
    with av.open(path, "r") as container:
        stream = container.streams.video[0]
        reader = PacketReader(bytes(stream.codec_context.extradata or b""))
        return [ref for ref in map(reader.read, container.demux(stream)) if ref is not None]


@dataclass(frozen=True)
class Source:
    """A video, what is known of it, and the samples that a clip may copy."""

    path: Path
    structure: Structure
    probed: ProbedVideo
    samples: list[bytes]
    """In decoding order, without what has no place in a clip's samples."""
    ticks: list[int]
    luma: list[Luma]

    @classmethod
    def of(cls, path: Path, structure: Structure) -> "Source":
        refs = refs_of(path)
        samples, ticks = [ref.sample for ref in refs], [ref.tick for ref in refs]
        return cls(path, structure, probe_file(path, name="source"), samples, ticks, luma_of(path))

    def clip(self, span: FrameSpan, **settings: Any) -> bytes:
        return smart_copy(self.path, span, **settings)


@dataclass(frozen=True)
class Cut:
    """A clip and the frames of the source that it must hold."""

    source: Source
    span: FrameSpan
    mp4: bytes

    @property
    def num_copied(self) -> int:
        return sum(bytes(packet) in set(self.source.samples) for packet in packets_of(self.mp4))

    def is_copied(self) -> list[bool]:
        """For each frame in presentation order."""
        known = set(self.source.samples)
        packets = sorted(packets_of(self.mp4), key=lambda packet: packet.pts or 0)
        return [bytes(packet) in known for packet in packets]


def random_spans(seed: int, num_frames: int) -> list[FrameSpan]:
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, num_frames - 1, size=5).tolist()
    ends = [min(num_frames, start + int(rng.choice([1, 20, 60, 150]))) for start in starts]
    return [FrameSpan(0, num_frames), *(FrameSpan(*span) for span in zip(starts, ends, strict=True))]


@pytest.fixture(scope="module", params=STRUCTURES)
def cuts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Cut]:
    """Clips of one source at random spans."""
    structure = STRUCTURES[request.param]
    path = tmp_path_factory.mktemp("source") / f"v{structure.suffix}"
    make_video(
        path,
        num_frames=NUM_FRAMES,
        width=96,
        height=66,
        cuts=CUTS,
        times_s=structure.times_s,
        rate=Fraction(30),
        options=structure.options,
    )
    source = Source.of(path, structure)
    spans = random_spans(sorted(STRUCTURES).index(request.param), NUM_FRAMES)
    return [Cut(source, span, source.clip(span)) for span in spans]


# Frames and times


def test_a_clip_shows_exactly_the_frames_of_its_span(cuts: list[Cut]) -> None:
    for cut in cuts:
        numbers = [read_number(rgb) for _, rgb in frames_of(cut.mp4)]
        assert numbers == list(range(cut.span.start, cut.span.end))


def test_a_clip_shows_its_frames_when_the_source_does_beginning_at_0(cuts: list[Cut]) -> None:
    for cut in cuts:
        timeline = cut.source.probed.timeline
        times_s = [timeline.boundary(index) for index in range(cut.span.start, cut.span.end)]
        assert [time_s for time_s, _ in frames_of(cut.mp4)] == [time_s - times_s[0] for time_s in times_s]


def test_the_last_frame_is_shown_until_the_next_of_the_source_by_its_packet_and_by_the_track(cuts: list[Cut]) -> None:
    for cut in cuts:
        timeline = cut.source.probed.timeline
        expected_s = timeline.boundary(cut.span.end) - timeline.boundary(cut.span.start)
        with av.open(io.BytesIO(cut.mp4), "r") as container:
            stream = container.streams.video[0]
            last = max((packet for packet in container.demux(stream) if packet.size), key=lambda each: each.pts or 0)
            ends = [(last.pts or 0) + (last.duration or 0), stream.duration or 0]
            assert [end * Fraction(stream.time_base or 0) for end in ends] == [expected_s, expected_s]


def test_the_track_knows_how_many_frames_it_has(cuts: list[Cut]) -> None:
    for cut in cuts:
        with av.open(io.BytesIO(cut.mp4), "r") as container:
            assert container.streams.video[0].frames == len(cut.span)


def test_frames_are_decoded_in_the_order_of_the_file_and_before_they_are_shown(cuts: list[Cut]) -> None:
    for cut in cuts:
        packets = packets_of(cut.mp4)
        decoded = [packet.dts for packet in packets if packet.dts is not None]
        assert decoded == sorted(set(decoded))
        assert all(early <= (packet.pts or 0) for early, packet in zip(decoded, packets, strict=True))


# Bits


def test_a_strict_decoder_has_nothing_to_say(cuts: list[Cut]) -> None:
    for cut in cuts:
        level = av.logging.get_level()
        av.logging.set_level(av.logging.WARNING)
        with av.logging.Capture() as said:
            luma_of(cut.mp4)
        av.logging.set_level(level)
        assert said == []


def test_copied_frames_are_those_of_the_source_bit_for_bit_and_encoded_ones_close_to_it(cuts: list[Cut]) -> None:
    for cut in cuts:
        expected = cut.source.luma[cut.span.start : cut.span.end]
        for mine, theirs, is_copied in zip(luma_of(cut.mp4), expected, cut.is_copied(), strict=True):
            error = np.abs(mine.astype(int) - theirs).mean()
            assert error == 0 if is_copied else error < 4


def test_all_is_copied_from_the_first_idr_inside_but_the_frames_of_one_reordering(cuts: list[Cut]) -> None:
    for cut in cuts:
        timeline, source = cut.source.probed.timeline, cut.source
        start, end = timeline.tick(cut.span.start), timeline.tick(cut.span.end)
        idr = [t for t, sample in zip(source.ticks, source.samples, strict=True) if is_idr(units_of(sample))]
        first = min((tick for tick in idr if start <= tick < end), default=end)
        copied = cut.is_copied()
        num_head = sum(start <= tick < first for tick in source.ticks)
        assert copied[:num_head] == [False] * num_head
        num_copied = sum(copied)
        assert copied[num_head : num_head + num_copied] == [True] * num_copied
        assert len(cut.span) - num_head - num_copied <= source.structure.max_tail


def test_the_track_is_a_plain_avc1_whose_samples_hold_no_parameter_sets(cuts: list[Cut]) -> None:
    for cut in cuts:
        with av.open(io.BytesIO(cut.mp4), "r") as container:
            assert container.streams.video[0].codec_tag == "avc1"
        kinds = {nal_type(unit) for packet in packets_of(cut.mp4) for unit in units_of(bytes(packet))}
        assert kinds <= {1, 5, 6}


def sync_samples_of(mp4: bytes, num_samples: int) -> list[int]:
    """ISO/IEC 14496-12 section 8.6.2: numbers of samples from 1; without the box every sample is one.

    What FFmpeg says is no help: its parser calls plain I-frames key frames as well.
    """
    if b"stss" not in mp4:
        return list(range(num_samples))
    body = mp4[mp4.index(b"stss") + 8 :]
    count = int.from_bytes(body[:4], "big")
    return [int.from_bytes(body[4 * k : 4 * k + 4], "big") - 1 for k in range(1, count + 1)]


def test_a_decoder_can_begin_where_the_track_says_so(cuts: list[Cut]) -> None:
    for cut in cuts:
        packets = packets_of(cut.mp4)
        idr = [index for index, packet in enumerate(packets) if is_idr(units_of(bytes(packet)))]
        assert sync_samples_of(cut.mp4, len(packets)) == idr


def test_the_same_clip_has_the_same_bytes_with_the_index_first(cuts: list[Cut]) -> None:
    for cut in cuts[1:3]:
        assert cut.mp4 == cut.source.clip(cut.span)
        assert cut.mp4.index(b"moov") < cut.mp4.index(b"mdat")


# While the source goes by


def streamed(source: Source, span: FrameSpan, *, knows_end: bool) -> tuple[bytes, SmartClip]:
    """The clip by one who decodes the whole source and knows nothing of what is copied."""
    timeline = source.probed.timeline
    with av.open(source.path, "r") as container:
        stream = container.streams.video[0]
        reader = PacketReader(bytes(stream.codec_context.extradata or b""))
        clip = SmartClip(
            SETTINGS,
            source.probed.profile,
            reader.sets,
            time_base=timeline.time_base,
            rate=timeline.average_rate,
            start_tick=timeline.tick(span.start),
            end_tick=timeline.tick(span.end) if knows_end else None,
            name="streamed",
        )
        for packet in container.demux(stream):
            ref = reader.read(packet)
            if ref is not None:
                clip.add_packet(ref)
            for frame in packet.decode():
                if frame.pts is not None and timeline.tick(span.start) <= frame.pts < timeline.tick(span.end):
                    clip.add_picture(frame, tick=frame.pts, is_key=frame.pts == timeline.tick(span.start))
    clip.end_at(timeline.tick(span.end))
    return clip.finish(), clip


@pytest.mark.parametrize("knows_end", [True, False], ids=["its end is known", "its end is not known"])
def test_a_clip_made_while_the_source_is_decoded_has_the_same_bytes(cuts: list[Cut], knows_end: bool) -> None:
    for cut in cuts[:3]:
        mp4, clip = streamed(cut.source, cut.span, knows_end=knows_end)
        assert mp4 == cut.mp4
        assert (clip.num_frames, clip.num_encoded) == (len(cut.span), len(cut.span) - cut.num_copied)


def empty_clip(tmp_path: Path) -> SmartClip:
    path = make_video(tmp_path / "v.mp4", num_frames=10, width=96, height=64)
    source = Source.of(path, STRUCTURES["GOP 30"])
    timeline = source.probed.timeline
    with av.open(path, "r") as container:
        sets, _ = parse_extradata(bytes(container.streams.video[0].codec_context.extradata or b""))
    return SmartClip(
        SETTINGS,
        source.probed.profile,
        sets,
        time_base=timeline.time_base,
        rate=Fraction(30),
        start_tick=timeline.tick(2),
        end_tick=None,
        name="empty",
    )


def test_a_clip_without_any_frame_says_so(tmp_path: Path) -> None:
    clip = empty_clip(tmp_path)
    clip.end_at(20_000)
    clip.finish()
    assert clip.num_frames == 0


def test_a_clip_whose_end_nobody_said_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="empty: end_at must come before finish"):
        empty_clip(tmp_path).finish()


# Where it is hard


def remuxed(source: Path, target: Path, *, hidden: int = 0, other: Path | None = None) -> Path:
    """The packets of a video, the first ones hidden by an edit list, or followed by those of another one.

    The other's parameter sets lie among the samples, as some recorders write them.
    """
    with av.open(source, "r") as first, av.open(target, "w") as muxer:
        stream = muxer.add_stream_from_template(first.streams.video[0])
        packets = packets_of(source)
        step = packets[0].duration or 0
        for packet in packets:
            packet.stream = stream
            packet.pts, packet.dts = (packet.pts or 0) - hidden * step, (packet.dts or 0) - hidden * step
            muxer.mux(packet)
        if other is not None:
            with av.open(other, "r") as second:
                sets, _ = parse_extradata(bytes(second.streams.video[0].codec_context.extradata or b""))
            for packet in packets_of(other):
                units = units_of(bytes(packet))
                sample = length_prefixed([*sets.sps, *sets.pps, *units] if is_idr(units) else units)
                moved: AnyPacket = av.Packet(sample)
                moved.stream, moved.time_base, moved.is_keyframe = stream, packet.time_base, packet.is_keyframe
                moved.pts, moved.dts = (packet.pts or 0) + len(packets) * step, (packet.dts or 0) + len(packets) * step
                moved.duration = packet.duration
                muxer.mux(moved)
    return target


@pytest.mark.parametrize("span", [FrameSpan(0, 50), FrameSpan(5, 12), FrameSpan(20, 60)], ids=str)
def test_frames_that_an_edit_list_hides_are_decoded_and_not_shown(tmp_path: Path, span: FrameSpan) -> None:
    whole = make_video(tmp_path / "whole.mp4", num_frames=90, width=96, height=64, options=gop(30, bframes=0))
    path = remuxed(whole, tmp_path / "hidden.mp4", hidden=20)
    probed = probe_file(path, name="hidden")
    assert probed.timeline.num_frames == 70
    assert [ref.is_copyable for ref in refs_of(path)] == [False] * 20 + [True] * 70
    mp4 = smart_copy(path, span)
    assert [read_number(rgb) for _, rgb in frames_of(mp4)] == [20 + k for k in range(span.start, span.end)]


@pytest.mark.parametrize("span", [FrameSpan(0, 40), FrameSpan(30, 80), FrameSpan(60, 100)], ids=str)
def test_frames_that_other_parameter_sets_describe_are_encoded(tmp_path: Path, span: FrameSpan) -> None:
    parts = []
    for index, options in enumerate([gop(20), gop(20, bframes=1, more=":cabac=0:ref=2")]):
        first, name = 50 * index, tmp_path / f"{index}.mp4"
        parts.append(make_video(name, num_frames=50, first_number=first, width=96, height=64, options=options))
    path = remuxed(parts[0], tmp_path / "joined.mp4", other=parts[1])
    source = Source.of(path, STRUCTURES["GOP 30"])
    cut = Cut(source, span, source.clip(span))
    assert [read_number(rgb) for _, rgb in frames_of(cut.mp4)] == list(range(span.start, span.end))
    described = [index < 50 for index in range(span.start, span.end)]
    assert [known or not copied for known, copied in zip(described, cut.is_copied(), strict=True)] == [True] * len(span)


def test_windows_begin_with_key_frames_where_frames_are_encoded(tmp_path: Path) -> None:
    options = gop(60, bframes=0, more=":scenecut=0")
    source = Source.of(
        make_video(tmp_path / "v.mp4", num_frames=100, width=96, height=64, options=options), STRUCTURES["no B-frames"]
    )
    packets = packets_of(source.clip(FrameSpan(10, 100), window_size=20, remainder_threshold=20))
    assert [10 + index for index, packet in enumerate(packets) if packet.is_keyframe] == [10, 30, 50, 60]


# Real footage


@pytest.fixture(scope="module")
def bunny() -> list[NDArray[np.int_]]:
    """Every fourth pixel of the frames."""
    return [frame[::4, ::4].astype(int) for frame in luma_of(MEDIA / "big_buck_bunny_1.mp4")]


def difference(left: NDArray[np.int_], right: NDArray[np.int_]) -> float:
    return float(np.abs(left - right).mean())


@pytest.mark.parametrize("span", [FrameSpan(0, 130), FrameSpan(69, 100), FrameSpan(100, 262)], ids=str)
def test_of_real_footage_each_frame_is_nearer_to_its_own_than_to_those_that_look_different(
    bunny: list[NDArray[np.int_]], span: FrameSpan
) -> None:
    path = MEDIA / "big_buck_bunny_1.mp4"
    mine = luma_of(smart_copy(path, span))
    assert len(mine) == len(span)
    for index in (0, 1, len(span) // 2, len(span) - 2, len(span) - 1):
        own, shown = bunny[span.start + index], mine[index][::4, ::4].astype(int)
        others = [frame for frame in bunny if difference(frame, own) > 1]
        assert difference(shown, own) < min(difference(shown, other) for other in others)
