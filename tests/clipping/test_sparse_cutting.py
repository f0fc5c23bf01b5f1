"""Copied clips of which little is decoded: the same to the last byte as by one who decodes everything."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from curation.clipping import sparse_cutting
from curation.clipping.clips import new_clip
from curation.clipping.fixed_stride import FixedStrideExtractorStage
from curation.clipping.transcoding import ClipTranscodingStage
from curation.errors import VideoError
from curation.model import Clip, Video
from curation.timeline import FrameSpan
from curation.video.decode import AnyPacket
from curation.video.frames import FrameRequest
from curation.video.h264 import is_idr, length_prefixed_units
from curation.video.probe import probe_video
from tests.footage import MEDIA, footage
from tests.splitting import task_of
from tests.synthetic import make_video
from tests.video.test_smartcopy import remuxed

NUM_FRAMES = 330
CUTS = (47, 111, 112, 160, 290)
PREVIEW = FrameRequest("preview", 1.0, 48, "yuv420p")
CAPTIONS = FrameRequest("captions", 2.0, 32, "rgb24")
WHOLE = FrameRequest("whole", 3.0, 24, "rgb24", width=24, scope="clip")


@dataclass(frozen=True)
class Case:
    """A source, and how it is cut."""

    params: str = "keyint=30"
    suffix: str = ".mp4"
    length_s: float = 2.7
    stride_s: float | None = None
    requests: Sequence[FrameRequest] = ()
    source: dict[str, Any] = field(default_factory=dict)
    part: dict[str, Any] = field(default_factory=dict)
    limit: int = 0


CASES = {
    "GOP 30": Case(),
    "GOP 30, previews": Case(requests=[PREVIEW]),
    "GOP 60, all requests": Case("keyint=60:scenecut=0", requests=[PREVIEW, CAPTIONS, WHOLE]),
    "GOP 250 with scene cuts": Case("keyint=250", requests=[CAPTIONS]),
    "GOP 250 without scene cuts": Case("keyint=250:scenecut=0", requests=[WHOLE]),
    "pyramid": Case("keyint=60:bframes=16:b-pyramid=normal:b-adapt=0:ref=8", requests=[PREVIEW, WHOLE]),
    "no B-frames": Case("keyint=40:bframes=0", requests=[CAPTIONS]),
    "only key frames": Case("keyint=1", requests=[CAPTIONS]),
    "open GOP": Case("keyint=30:open-gop=1", requests=[CAPTIONS]),
    "overlapping clips": Case("keyint=45", stride_s=0.9, requests=[PREVIEW, WHOLE]),
    "gaps between clips": Case("keyint=30", length_s=0.7, stride_s=2.3, requests=[WHOLE]),
    "clips within one GOP": Case("keyint=120:scenecut=0", length_s=0.4, requests=[WHOLE]),
    "clips from IDR to IDR": Case("keyint=30:scenecut=0", length_s=2.0),
    "one clip": Case("keyint=50", length_s=1000.0, requests=[CAPTIONS]),
    "sound": Case("keyint=60", requests=[PREVIEW], source={"audio": "clicks"}),
    "sound, overlapping": Case("keyint=30", stride_s=1.1, source={"audio": "clicks"}),
    "a part": Case("keyint=30", source={"audio": "clicks"}, part={"start_s": 2.2, "end_s": 8.13}, requests=[PREVIEW]),
    "a clip limit": Case("keyint=30", limit=2, requests=[CAPTIONS]),
    "Matroska": Case("keyint=60", suffix=".mkv", source={"audio": "clicks"}, requests=[CAPTIONS]),
    "transport stream": Case("keyint=60", suffix=".ts", source={"audio": "clicks"}, requests=[CAPTIONS]),
    "a part of a transport stream": Case("keyint=30", suffix=".ts", part={"start_s": 3.3}, requests=[CAPTIONS]),
}


@dataclass(frozen=True)
class Outcome:
    """All that becomes of a video."""

    clips: list[dict[str, Any]]
    error: str
    num_decoded: int
    """By the cutting alone."""


def seen(clip: Clip) -> dict[str, Any]:
    """Everything about a clip, in a form that can be compared."""
    return {
        "uuid": clip.uuid,
        "mp4": clip.buffer,
        "windows": [(window.start_frame, window.end_frame) for window in clip.windows],
        "errors": clip.errors,
        "notes": clip.notes,
        "frames": {key: (frames.shape, frames.tobytes()) for key, frames in clip.extracted_frames.items()},
        "indices": {key: indices.tolist() for key, indices in clip.extracted_frame_indices.items()},
    }


def split(path: Path, case: Case) -> Video:
    task = task_of(path, "v", **case.part)
    probe_video(task.data)
    list(FixedStrideExtractorStage(case.length_s, case.stride_s, 0.0, case.limit).process(task))
    return task.data


def outcome(video: Video, case: Case, *, is_dense: bool = False) -> Outcome:
    if is_dense:  # one who does not know where the IDRs are decodes everything
        assert video.timeline is not None
        video.timeline = replace(video.timeline, idr_frames=np.empty(0, np.int64))
    stage = ClipTranscodingStage(
        preset="ultrafast", clip_encoding="smart-copy", window_size=40, remainder_threshold=20, encoder="libx264"
    )
    stage.request_frames(case.requests)
    before, clips, error = video.decode_count.num_frames, [], ""
    try:
        clips = [seen(clip) for clip in stage.finished_clips(video)]
    except VideoError as failure:
        clips, error = [], f"{failure.reason}: {failure.message}"
    return Outcome(clips, error, video.decode_count.num_frames - before)


def made(folder: Path, case: Case, *, num_frames: int = NUM_FRAMES) -> Path:
    path = folder / f"v{case.suffix}"
    options = {"x264-params": case.params}
    return make_video(path, num_frames=num_frames, width=96, height=64, cuts=CUTS, options=options, **case.source)


def assert_alike(path: Path, case: Case) -> Outcome:
    """That both ways lead to the same, and sparsely to no more work; gives it."""
    sparse, dense = outcome(split(path, case), case), outcome(split(path, case), case, is_dense=True)
    assert (sparse.clips, sparse.error) == (dense.clips, dense.error)
    assert sparse.num_decoded <= dense.num_decoded
    return sparse


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_clips_are_those_of_one_who_decodes_everything(case: Case, tmp_path: Path) -> None:
    found = assert_alike(made(tmp_path, case), case)
    assert found.clips
    assert found.num_decoded < NUM_FRAMES
    assert {clip["notes"]["clip_encoding"] for clip in found.clips} == {"smart-copy"}
    assert [clip["errors"] for clip in found.clips] == [{}] * len(found.clips)


@pytest.mark.parametrize(
    ("name", "requests"),
    [
        pytest.param("bikes.mp4", (), id="bikes"),
        pytest.param("bikes.mp4", (PREVIEW,), id="bikes, previews"),
        pytest.param("bikes.mp4", (CAPTIONS, WHOLE), id="bikes, captions"),
        pytest.param("big_buck_bunny_1.mp4", (CAPTIONS, WHOLE), id="bunny 1, captions"),
        pytest.param("big_buck_bunny_2.mp4", (PREVIEW,), id="bunny 2, previews"),
    ],
)
def test_clips_of_real_footage_are_those_of_one_who_decodes_everything(
    name: str, requests: Sequence[FrameRequest]
) -> None:
    path = MEDIA / name if (MEDIA / name).exists() else footage(name)
    assert assert_alike(path, Case(length_s=3.1, requests=requests)).clips


# How much is decoded


def idr_and_reference(path: Path) -> tuple[list[bool], list[bool], list[int]]:
    """Of each packet whether it is an IDR and whether others may refer to it, and its timestamp."""
    with av.open(path, "r") as container:
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
    units = [list(length_prefixed_units(bytes(packet), length_bytes=4)) for packet in packets]
    slices = [[unit for unit in each if unit[0] & 31 in {1, 5}] for each in units]
    return [is_idr(each) for each in units], [each[0][0] >> 5 & 3 > 0 for each in slices], [p.pts or 0 for p in packets]


def least_decodes(path: Path, wanted: Callable[[int], bool]) -> int:
    """From each IDR to the last wanted frame of its GOP: those that others may refer to, and the wanted ones."""
    idr, reference, ticks = idr_and_reference(path)
    begins = [*(place for place, each in enumerate(idr) if each), len(idr)]
    order = sorted(ticks)
    total = 0
    for first, following in pairwise(begins):
        is_wanted = [wanted(order.index(ticks[place])) for place in range(first, following)]
        last = max((place for place, each in enumerate(is_wanted) if each), default=-1)
        total += sum(is_wanted[place] or reference[first + place] for place in range(last + 1))
    return total


def is_encoded(clips: Sequence[Clip], path: Path) -> Callable[[int], bool]:
    """Frames whose clip does not hold a packet of theirs, by what the clips hold."""
    with av.open(path, "r") as container:
        own = {bytes(packet) for packet in container.demux(container.streams.video[0]) if packet.size}
    encoded: set[int] = set()
    for clip in clips:
        assert clip.buffer is not None
        assert clip.frame_span is not None
        with av.open(io.BytesIO(clip.buffer), "r") as container:
            packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
        for index, packet in enumerate(sorted(packets, key=lambda each: each.pts or 0)):
            if bytes(packet) not in own:
                encoded.add(clip.frame_span.start + index)
    return encoded.__contains__


@pytest.mark.parametrize("bframes", [0, 3])
@pytest.mark.parametrize("length_s", [2.7, 4.0, 10.0])
def test_only_frames_that_are_encoded_are_decoded_and_those_that_they_need(
    length_s: float, bframes: int, tmp_path: Path
) -> None:
    case = Case(f"keyint=30:scenecut=0:bframes={bframes}", length_s=length_s)
    path = made(tmp_path, case)
    video = split(path, case)
    clips = video.clips
    found = outcome(video, case)
    assert found.num_decoded == least_decodes(path, is_encoded(clips, path))
    assert found.num_decoded < NUM_FRAMES * 0.4


def test_nothing_is_decoded_where_all_can_be_copied(tmp_path: Path) -> None:
    case = Case("keyint=30:scenecut=0:bframes=0", length_s=2.0)
    assert outcome(split(made(tmp_path, case), case), case).num_decoded == 0


def test_no_frame_is_decoded_twice_however_many_are_asked_for(tmp_path: Path) -> None:
    every = FrameRequest("every", 60.0, 24, "rgb24", scope="clip")
    case = Case("keyint=60", stride_s=0.5, requests=[every])
    assert assert_alike(made(tmp_path, case), case).num_decoded == NUM_FRAMES


@pytest.mark.parametrize("bound", ["_MAX_HELD_FRAMES", "_MAX_HELD_BYTES", "_MAX_HELD_S"])
def test_a_group_too_long_to_be_held_is_decoded_while_it_comes(
    bound: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sparse_cutting, bound, {"_MAX_HELD_FRAMES": 50, "_MAX_HELD_BYTES": 10_000, "_MAX_HELD_S": 2}[bound]
    )
    long = Case("keyint=120:scenecut=0", requests=[PREVIEW], source={"audio": "clicks"})
    assert assert_alike(made(tmp_path, long), long).num_decoded == NUM_FRAMES
    mixed = Case("keyint=120", requests=[PREVIEW])
    assert assert_alike(made(tmp_path, mixed), mixed).num_decoded > 0


# Where it is hard


def rewritten(source: Path, target: Path, change: Callable[[int, bytes], bytes]) -> Path:
    """The packets of a video in another file, each with its bytes changed."""
    with av.open(source, "r") as container, av.open(target, "w") as muxer:
        stream = muxer.add_stream_from_template(container.streams.video[0])
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
        for index, packet in enumerate(packets):
            other: AnyPacket = av.Packet(change(index, bytes(packet)))
            other.stream, other.time_base, other.is_keyframe = stream, packet.time_base, packet.is_keyframe
            other.pts, other.dts, other.duration = packet.pts, packet.dts, packet.duration
            muxer.mux(other)
    return target


def flipped(sample: bytes, seed: int) -> bytes:
    """With some bits of the second half flipped: coefficients, no headers."""
    rng, changed = np.random.default_rng(seed), bytearray(sample)
    for place in rng.integers(len(sample) // 2, len(sample), size=4).tolist():
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


DAMAGES: dict[str, Callable[[int, bytes], bytes]] = {
    "wrong lengths of units": lambda index, sample: b"\xff" + sample[1:] if index in {70, 205} else sample,
    "cut off units": lambda index, sample: sample[: len(sample) // 2] if index in {70, 205} else sample,
    "zeros": lambda index, sample: bytes(len(sample)) if index == 128 else sample,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("params", ["keyint=30:bframes=3", "keyint=60:bframes=0:scenecut=0"])
def test_damaged_packets_lead_to_the_same(damage: Callable[[int, bytes], bytes], params: str, tmp_path: Path) -> None:
    case = Case(params, requests=[CAPTIONS])
    assert_alike(rewritten(made(tmp_path, case), tmp_path / "damaged.mp4", damage), case)


def without_pictures(found: Outcome) -> list[dict[str, Any]]:
    shapes = [{key: shape for key, (shape, _) in clip["frames"].items()} for clip in found.clips]
    return [clip | {"mp4": None, "frames": shape} for clip, shape in zip(found.clips, shapes, strict=True)]


def assert_alike_but_for_guesses(path: Path, case: Case) -> None:
    """What a decoder makes up for a damaged picture depends on all that it decoded before."""
    sparse, dense = outcome(split(path, case), case), outcome(split(path, case), case, is_dense=True)
    assert sparse.clips
    assert (without_pictures(sparse), sparse.error) == (without_pictures(dense), dense.error)


@pytest.mark.parametrize("params", ["keyint=30:bframes=3", "keyint=60:bframes=0:scenecut=0"])
def test_damage_that_only_a_decoder_finds_changes_nothing_but_its_guesses(params: str, tmp_path: Path) -> None:
    def damage(index: int, sample: bytes) -> bytes:
        return flipped(sample, index) if index % 37 == 11 else sample

    case = Case(params, requests=[CAPTIONS])
    assert_alike_but_for_guesses(rewritten(made(tmp_path, case), tmp_path / "damaged.mp4", damage), case)


def test_a_transport_stream_that_lost_packets_changes_nothing_but_guesses(tmp_path: Path) -> None:
    case = Case("keyint=30", suffix=".ts", requests=[CAPTIONS])
    whole = made(tmp_path, case).read_bytes()
    packets = [whole[place : place + 188] for place in range(0, len(whole), 188)]
    path = tmp_path / "lossy.ts"
    path.write_bytes(b"".join(packet for index, packet in enumerate(packets) if index < 40 or index % 61 != 7))
    assert_alike_but_for_guesses(path, case)


def test_other_parameter_sets_on_the_way_lead_to_the_same(tmp_path: Path) -> None:
    parts = []
    for index, params in enumerate(["keyint=20", "keyint=20:bframes=1:cabac=0:ref=2"]):
        name, first = tmp_path / f"{index}.mp4", 100 * index
        options = {"x264-params": params}
        parts.append(make_video(name, num_frames=100, first_number=first, width=96, height=64, options=options))
    path = remuxed(parts[0], tmp_path / "joined.mp4", other=parts[1])
    for length_s in (0.9, 1.5):
        found = assert_alike(path, Case(length_s=length_s, requests=[WHOLE]))
        assert [clip["errors"] for clip in found.clips] == [{}] * len(found.clips)


def test_parameter_sets_that_come_between_two_clips_are_not_missed(tmp_path: Path) -> None:
    """The group that brings them shows nothing of a clip; those after it bring none."""
    first, second = (
        make_video(tmp_path / f"{k}.mp4", num_frames=90, width=96, height=64, options={"x264-params": params})
        for k, params in enumerate(["keyint=30:scenecut=0", "keyint=30:scenecut=0:cabac=0:ref=2"])
    )
    joined = remuxed(first, tmp_path / "joined.mp4", other=second)
    sets = {7, 8}

    def only_once(index: int, sample: bytes) -> bytes:
        if index <= 90:
            return sample
        units = [unit for unit in length_prefixed_units(sample, length_bytes=4) if unit[0] & 31 not in sets]
        return b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)

    path = rewritten(joined, tmp_path / "once.mp4", only_once)
    assert assert_alike(path, Case(length_s=0.8, stride_s=4.2, requests=[WHOLE])).clips


@pytest.mark.parametrize("hidden", [20, 30, 45])
def test_frames_that_an_edit_list_hides_lead_to_the_same(hidden: int, tmp_path: Path) -> None:
    case = Case("keyint=30:bframes=0", requests=[WHOLE], length_s=1.3)
    path = remuxed(made(tmp_path, case), tmp_path / "hidden.mp4", hidden=hidden)
    assert assert_alike(path, case).clips


def test_clips_of_any_spans_lead_to_the_same(tmp_path: Path) -> None:
    case = Case("keyint=45:bframes=5:b-pyramid=normal", requests=[CAPTIONS, WHOLE])
    path = made(tmp_path, case)
    rng = np.random.default_rng(5)
    for _ in range(4):
        starts = np.sort(rng.integers(0, NUM_FRAMES - 1, size=6)).tolist()
        spans = [FrameSpan(start, min(NUM_FRAMES, start + int(rng.integers(1, 120)))) for start in starts]
        found = []
        for is_dense in (False, True):
            video = split(path, case)
            assert video.timeline is not None
            video.clips = [new_clip(video, video.timeline, span, "") for span in spans]
            clips = outcome(video, case, is_dense=is_dense).clips
            found.append(sorted(clips, key=lambda clip: str(clip["uuid"])))
        assert found[0] == found[1]


# Where a stream begins anew


def test_the_probe_knows_the_frames_of_each_idr(tmp_path: Path) -> None:
    for suffix in (".mp4", ".mkv", ".ts"):
        path = make_video(
            tmp_path / f"v{suffix}",
            num_frames=100,
            width=96,
            height=64,
            start_time_s=Fraction(3),
            options={"x264-params": "keyint=30:scenecut=0:bframes=3"},
        )
        video = Video(path)
        probe_video(video)
        assert video.timeline is not None
        assert video.timeline.idr_frames.tolist() == [0, 30, 60, 90]


def test_key_frames_of_open_gops_and_of_other_codecs_are_none_at_which_a_stream_begins_anew(tmp_path: Path) -> None:
    open_gop = make_video(
        tmp_path / "v.mp4", num_frames=100, width=96, height=64, options={"x264-params": "keyint=30:open-gop=1"}
    )
    other = make_video(tmp_path / "o.mp4", num_frames=40, width=96, height=64, codec="mpeg4")
    for path, expected in ((open_gop, [0]), (other, [])):
        video = Video(path)
        probe_video(video)
        assert video.timeline is not None
        assert video.timeline.idr_frames.tolist() == expected
