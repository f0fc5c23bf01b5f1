"""Clips that copy packets, in players of all kinds: the ffmpeg program, OpenCV and a browser show the same frames.

The same cuts, transcoded, stand beside them: what a player gets wrong in both is its own.
"""

import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray

from curation.model import Clip
from curation.video.probe import probe_file
from tests.chromium import Chromium, require_chromium
from tests.footage import MEDIA
from tests.patience import PATIENCE_S
from tests.splitting import clips_of, mp4_of
from tests.synthetic import Picture, make_video, read_number
from tests.video.test_smartcopy import packets_of, refs_of, sync_samples_of

NUM_FRAMES: Final = 250
SHOTS: Final = (47, 111, 112, 160)
THUMBNAIL: Final = (160, 96)
UNEVEN_STEPS: Final = np.random.default_rng(7).choice([1, 2, 3, 5, 11], size=NUM_FRAMES).tolist()
UNEVEN_TIMES: Final = [Fraction(sum(UNEVEN_STEPS[:index]), 60) for index in range(NUM_FRAMES)]
MIN_DIFFERENCE: Final = 0.3  # of 255, on average: frames nearer than that look alike
ENCODINGS: Final = ("smart-copy", "transcode")

Reader = Callable[[Picture, int], int]


@dataclass(frozen=True)
class Case:
    """A source and how it is cut: in the middle of GOPs, so that frames are encoded at both ends."""

    params: str = ""
    clip_len_s: float = 2.7
    limit_clips: int = 0
    source: dict[str, Any] = field(default_factory=dict)


CASES: Final = {
    "GOP 30 with sound": Case("keyint=30", source={"audio": "clicks"}),
    "GOP 30 without B-frames": Case("keyint=30:bframes=0"),
    "GOP 250 with scene cuts": Case("keyint=250"),
    "16 B-frames in a pyramid": Case("keyint=60:bframes=16:b-pyramid=normal:b-adapt=0:ref=8", clip_len_s=3.1),
    "16 B-frames with sound": Case("keyint=60:bframes=16:b-pyramid=normal:b-adapt=0:ref=8", source={"audio": "clicks"}),
    "uneven times": Case("keyint=40", clip_len_s=4.7, source={"times_s": UNEVEN_TIMES}),
    "real footage": Case(clip_len_s=3.1, limit_clips=2),
}


@dataclass(frozen=True)
class Cut:
    """A clip in both encodings, and what every player has to show.

    Attributes:
        numbers: of its frames in the source.
        times_s: when each is shown, and when the last one ends.
        is_copied: for each frame, whether the smart copy holds the source's own packet.
        read: the number of the frame in a picture, which should be the given one.
    """

    mp4: dict[str, bytes]
    numbers: range
    times_s: list[float]
    is_copied: list[bool]
    size: tuple[int, int]
    read: Reader

    @property
    def seams(self) -> list[int]:
        """Frames that are copied where the one before is not, or the other way around."""
        return [k for k in range(1, len(self.numbers)) if self.is_copied[k] != self.is_copied[k - 1]]

    @property
    def has_even_times(self) -> bool:
        """Whether a frame's number follows from its time."""
        return float(np.ptp(np.diff(self.times_s))) < 1e-6

    def middle_s(self, frame: int) -> float:
        """A time at which no other frame is shown."""
        return (self.times_s[frame] + self.times_s[frame + 1]) / 2

    def visits(self) -> list[int]:
        """Frames to jump to: around each seam, first and last, backwards and then forwards."""
        last = len(self.numbers) - 1
        wanted = sorted({0, 1, last // 2, last - 1, last, *self.seams, *(k - 1 for k in self.seams)})
        return [*reversed(wanted), *wanted[1:]]

    def frames_in(self, pictures: Sequence[Picture], expected: Sequence[int]) -> list[int]:
        """Which frames of the clip the pictures show, where they should show these."""
        pairs = zip(pictures, expected, strict=True)
        return [self.read(picture, self.numbers[k]) - self.numbers.start for picture, k in pairs]


def read_burnt_in(picture: Picture, expected: int) -> int:
    return read_number(picture)


def nearest_in(path: Path) -> Reader:
    """Reads frames of real footage: the expected one, unless another that looks different is nearer."""
    with av.open(path, "r") as container:
        decoded = (frame.to_rgb().to_ndarray() for frame in container.decode(video=0))
        known = np.stack([_gist(picture.astype(np.uint8, copy=False)) for picture in decoded])

    def read(picture: Picture, expected: int) -> int:
        found = int(_difference(known, _gist(picture)).argmin())
        return expected if _difference(known[found], known[expected]) < MIN_DIFFERENCE else found

    return read


def _gist(picture: Picture) -> NDArray[np.float32]:
    """How bright 64x36 fields are, about their mean: players differ in how they make RGB of YUV."""
    fields = cv2.resize(picture, (64, 36), interpolation=cv2.INTER_AREA).astype(np.float32).mean(axis=2)
    return np.asarray(fields - fields.mean(), np.float32)


def _difference(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.abs(left - right).mean(axis=(-2, -1)))


def made(folder: Path, name: str) -> tuple[Path, Reader]:
    """The source of a case, and how its frames are told apart."""
    if name == "real footage":
        path = MEDIA / "big_buck_bunny_1.mp4"
        return path, nearest_in(path)
    case = CASES[name]
    options = {"x264-params": case.params}
    path = folder / "v.mp4"
    make_video(path, num_frames=NUM_FRAMES, width=160, height=96, cuts=SHOTS, options=options, **case.source)
    return path, read_burnt_in


def cut_of(clips: dict[str, Clip], path: Path, read: Reader) -> Cut:
    probed, mp4 = probe_file(path, name="source"), {encoding: mp4_of(clip) for encoding, clip in clips.items()}
    span = clips["smart-copy"].frame_span
    assert span is not None
    timeline, own = probed.timeline, {ref.sample for ref in refs_of(path)}
    times_s = [float(timeline.boundary(k) - timeline.boundary(span.start)) for k in range(span.start, span.end + 1)]
    packets = sorted(packets_of(mp4["smart-copy"]), key=lambda packet: packet.pts or 0)
    is_copied = [bytes(packet) in own for packet in packets]
    return Cut(mp4, range(span.start, span.end), times_s, is_copied, probed.profile.coded_size, read)


@pytest.fixture(scope="module", params=CASES)
def cuts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Cut]:
    """All clips of one source."""
    path, read = made(tmp_path_factory.mktemp("source"), request.param)
    case = CASES[request.param]
    cutting: dict[str, Any] = {"clip_len_s": case.clip_len_s, "limit_clips": case.limit_clips, "preset": "ultrafast"}
    made_as = [clips_of(path, clip_encoding=each, **cutting) for each in ENCODINGS]
    return [cut_of(dict(zip(ENCODINGS, clips, strict=True)), path, read) for clips in zip(*made_as, strict=True)]


def test_the_clips_are_joined_from_encoded_and_copied_frames(cuts: list[Cut]) -> None:
    assert any(cut.seams and not cut.is_copied[0] for cut in cuts)
    assert sum(len(cut.seams) for cut in cuts) >= 2


# The ffmpeg program


def ffmpeg(path: Path, *arguments: str) -> bytes:
    """What it writes to its output, as it stops at the first fault; it must not say a word."""
    strict = ["-v", "warning", "-err_detect", "explode", "-xerror"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *strict, "-nostdin", "-i", str(path), *arguments]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False)
    assert (done.stderr.decode(), done.returncode) == ("", 0)
    return done.stdout


def times_and_pictures(path: Path) -> tuple[list[float], list[Picture]]:
    """Of each frame when it is shown, by ffmpeg, and a small picture."""
    width, height = THUMBNAIL
    listing = path.with_suffix(".txt")
    each_frame = ["-map", "0:v", "-fps_mode", "passthrough", "-enc_time_base", "demux"]
    raw = ["-s", f"{width}x{height}", "-pix_fmt", "rgb24", "-f", "rawvideo"]
    pixels = ffmpeg(path, *each_frame, "-f", "framemd5", str(listing), *each_frame, *raw, "-")
    pictures = np.frombuffer(pixels, np.uint8).reshape(-1, height, width, 3)
    lines = listing.read_text().splitlines()
    tick_s = next(Fraction(line.split(":")[1].strip()) for line in lines if line.startswith("#tb"))
    ticks = [int(line.split(",")[2]) for line in lines if not line.startswith("#")]
    return [float(tick * tick_s) for tick in ticks], list(pictures)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_ffmpeg_has_nothing_to_say_and_finds_every_frame_at_its_time(
    cuts: list[Cut], encoding: str, tmp_path: Path
) -> None:
    for cut in cuts:
        path = tmp_path / "clip.mp4"
        path.write_bytes(cut.mp4[encoding])
        ffmpeg(path, "-f", "null", "-")
        times_s, pictures = times_and_pictures(path)
        assert all(np.diff(times_s) > 0)
        assert times_s == pytest.approx(cut.times_s[:-1], abs=1e-6)
        frames = range(len(cut.numbers))
        assert cut.frames_in(pictures, frames) == list(frames)
        path.with_suffix(".txt").unlink()


# OpenCV


def opened(path: Path, mp4: bytes) -> cv2.VideoCapture:
    path.write_bytes(mp4)
    return cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)


def remaining(capture: cv2.VideoCapture) -> Iterator[Picture]:
    """All pictures from where it stands, as RGB."""
    is_there, picture = capture.read()
    while is_there:
        yield np.asarray(picture[..., ::-1], np.uint8)
        is_there, picture = capture.read()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_opencv_counts_and_reads_every_frame_in_order(cuts: list[Cut], encoding: str, tmp_path: Path) -> None:
    for index, cut in enumerate(cuts):
        capture = opened(tmp_path / f"{index}.mp4", cut.mp4[encoding])
        assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == len(cut.numbers)
        pictures = list(remaining(capture))
        frames = range(len(cut.numbers))
        assert cut.frames_in(pictures, frames) == list(frames)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_opencv_jumps_to_any_frame_of_even_times(cuts: list[Cut], encoding: str, tmp_path: Path) -> None:
    """Of uneven ones it makes a frame's number out of its time, in sources as well."""
    for index, cut in enumerate(cuts):
        if cut.has_even_times:
            capture = opened(tmp_path / f"{index}.mp4", cut.mp4[encoding])
            visits, pictures = cut.visits(), []
            for frame in visits:
                assert capture.set(cv2.CAP_PROP_POS_FRAMES, frame)
                pictures.append(next(remaining(capture)))
            assert cut.frames_in(pictures, visits) == visits


# Chromium


def passed_over_s(mp4: bytes) -> list[tuple[float, float]]:
    """From when to when a jump shows the key frame that comes only after it, in what reads mp4 with libavformat.

    It takes the last key frame by decoding times, as if each were decoded as long before it is shown as the first one
    is. Of uneven times with B-frames that need not be so, in sources as little as in clips.
    """
    packets = packets_of(mp4)
    shown_s = [float((packet.pts or 0) * packet.time_base) for packet in packets]
    decoded_s = [float((packet.dts or 0) * packet.time_base) for packet in packets]
    lead_s = shown_s[0] - decoded_s[0]
    begins = [(decoded_s[key] + lead_s, shown_s[key]) for key in sync_samples_of(mp4, len(packets))]
    return [(begin, end) for begin, end in begins if begin < end - 1e-6]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_of_even_times_no_jump_passes_over_a_frame(cuts: list[Cut], encoding: str) -> None:
    for cut in cuts:
        if cut.has_even_times:
            assert passed_over_s(cut.mp4[encoding]) == []


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with Chromium(require_chromium()) as browser:
        yield browser


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_chromium_jumps_to_any_frame(cuts: list[Cut], encoding: str, chromium: Chromium) -> None:
    for cut in cuts:
        passed_over = passed_over_s(cut.mp4[encoding])
        frames = [k for k in cut.visits() if not any(a <= cut.middle_s(k) < b for a, b in passed_over)]
        watched = chromium.watch(cut.mp4[encoding], times_s=[cut.middle_s(k) for k in frames])
        assert watched.size == cut.size
        assert watched.duration_s == pytest.approx(cut.times_s[-1], abs=1e-4)
        assert cut.frames_in([shown.picture for shown in watched.shown], frames) == frames
        assert [s.media_time_s for s in watched.shown] == pytest.approx([cut.times_s[k] for k in frames], abs=1e-4)


def test_chromium_plays_through_to_the_end(cuts: list[Cut], chromium: Chromium) -> None:
    cut = max(cuts, key=lambda each: len(each.seams))
    watched = chromium.watch(cut.mp4["smart-copy"], play_rate=4)
    assert watched.ended_at_s == pytest.approx(cut.times_s[-1], abs=1e-4)
    assert all(np.diff(watched.played_s) > 0)
    distances_s = [min(abs(time_s - each) for each in cut.times_s) for time_s in watched.played_s]
    assert max(distances_s) < 1e-4
