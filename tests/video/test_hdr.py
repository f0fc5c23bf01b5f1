"""HDR sources become SDR clips; expected are the formulas of BT.2100, BT.2390, BT.2087 and BT.1886, number by number.

Levels are those that BT.2408 table 1 names: 18 % grey has 26 cd/m2, reference white 203, the nominal peak 1000.
"""

import io
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal, cast

import av
import numpy as np
import pytest
from av.sidedata.sidedata import SideData
from av.sidedata.sidedata import Type as SideDataType
from av.video.stream import VideoStream

from curation.model import Video
from curation.source_profile import HdrSignal
from curation.video.decode import PictureNormalizer, decode_frames
from curation.video.probe import probe_file, probe_video
from curation.video.tonemap import hlg_light, pq_light, pq_signal, sdr_signal
from curation.writing.records import record_document
from tests.splitting import clips_of, numbers_of, one_clip
from tests.synthetic import frames_of, make_video, orientation_of, read_number, upright

Rgb = tuple[float, float, float]
Transfer = Literal["pq", "hlg"]

TRC = {"pq": 16, "hlg": 18, "bt2020": 14}  # ITU-T H.273
BT709_TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])  # BT.2087
GREY_26, WHITE, PEAK = 26.0, 203.0, 1000.0


def pq_of(light: float) -> float:
    """ST 2084, inverse EOTF."""
    power = (light / 10_000) ** 0.1593017578125
    return float(((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375)


def light_of(signal: float) -> float:
    """ST 2084, EOTF."""
    root = signal ** (1 / 78.84375)
    return float(10_000 * (max(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125))


def hlg_of(light: float) -> float:
    """HLG signal of a grey of so many cd/m2 on a display of 1000 cd/m2: BT.2100 table 5, OOTF and OETF."""
    scene = (light / PEAK) ** (1 / 1.2)
    if scene <= 1 / 12:
        return math.sqrt(3 * scene)
    return 0.17883277 * math.log(12 * scene - 0.28466892) + 0.55991073


def eetf(light: float, *, peak: float) -> float:
    """BT.2390 section 5.4.1, from a display of 0..peak to one of 0..203 cd/m2."""
    source, highest = pq_of(light) / pq_of(peak), pq_of(WHITE) / pq_of(peak)
    knee = 1.5 * highest - 0.5
    if source < knee:
        return light
    t = (source - knee) / (1 - knee)
    signal = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * highest
    return light_of(signal * pq_of(peak))


def luma_of(light: float) -> float:
    """8-bit luma of limited range on a display of BT.1886 whose white has 203 cd/m2."""
    return 16 + 219 * math.pow(light / WHITE, 1 / 2.4)


def ycbcr(rgb: Rgb, *, red: float, blue: float, bits: int) -> tuple[float, float, float]:
    """R'G'B' 0..1 in limited range; ``red`` and ``blue`` are the matrix's shares of luma."""
    luma = red * rgb[0] + (1 - red - blue) * rgb[1] + blue * rgb[2]
    scale = 2 ** (bits - 8)
    chroma = [(rgb[2] - luma) / (2 - 2 * blue), (rgb[0] - luma) / (2 - 2 * red)]
    return scale * (16 + 219 * luma), scale * (128 + 224 * chroma[0]), scale * (128 + 224 * chroma[1])


def make_hdr(
    path: Path, signals: Sequence[Rgb], *, transfer: str, codec: str = "ffv1", options: dict[str, str] | None = None
) -> Path:
    """Three frames of 10 bits with a band of 16 columns for each R'G'B' signal, in BT.2020."""
    levels = np.round([ycbcr(rgb, red=0.2627, blue=0.0593, bits=10) for rgb in signals]).astype(np.uint16)
    with av.open(path, "w") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=30, options=options or {}))
        stream.width, stream.height, stream.pix_fmt = 16 * len(signals), 64, "yuv420p10le"
        context = stream.codec_context
        context.thread_count = 2
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, TRC[transfer], 9, 1
        for index in range(3):
            frame = av.VideoFrame(16 * len(signals), 64, "yuv420p10le")
            for number, plane in enumerate(frame.planes):
                samples = np.zeros((plane.height, plane.line_size // 2), np.uint16)
                samples[:, : plane.width] = np.repeat(levels[:, number], plane.width // len(signals))
                plane.update(samples.tobytes())
            frame.pts, frame.time_base = index, Fraction(1, 30)
            frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range = 9, TRC[transfer], 9, 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def shown_levels(path: Path) -> list[list[int]]:
    """Y, Cb, Cr in the middle of each band of the first picture that the encoder is given."""
    probed = probe_file(path, name="v")
    frame = next(iter(decode_frames(path, probed.profile, probed.timeline, name="v")))
    assert isinstance(frame, av.VideoFrame)
    picture = PictureNormalizer(probed.profile)(frame)
    assert picture.format.name == "yuv420p"
    assert (picture.pts, picture.time_base) == (frame.pts, frame.time_base)
    planes = [np.frombuffer(memoryview(p), np.uint8).reshape(p.height, -1)[32 * p.height // 64] for p in picture.planes]
    width = picture.width
    return [[int(planes[0][x]), int(planes[1][x // 2]), int(planes[2][x // 2])] for x in range(8, width, 16)]


def grey(signal: float) -> Rgb:
    return signal, signal, signal


# The curves


@pytest.mark.parametrize(("light", "signal"), [(0.0, 0.0), (100.0, 0.508), (203.0, 0.581), (1000.0, 0.752), (1e4, 1.0)])
def test_pq_has_the_levels_of_its_standard(light: float, signal: float) -> None:
    """Source: BT.2408 table 1 and annex; SMPTE ST 2084."""
    assert float(pq_signal(np.array(light))) == pytest.approx(signal, abs=6e-4)
    assert float(pq_light(np.array(pq_of(light)))) == pytest.approx(light, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("signal", "light"), [(0.0, 0.0), (0.5, 1000 / 12**1.2), (0.75, 203.0), (0.38, 26.0), (1, 1000)]
)
def test_hlg_has_the_levels_of_its_standard(signal: float, light: float) -> None:
    """Source: BT.2100 table 5 (half the signal is a twelfth of the light) and BT.2408 table 1."""
    assert hlg_light(np.full(3, signal)).tolist() == pytest.approx([light] * 3, rel=0.02, abs=1e-3)


@pytest.mark.parametrize("peak", [150.0, WHITE, 600.0, PEAK, 4000.0, 10_000.0])
def test_brighter_in_is_never_darker_out_and_all_that_the_source_shows_fits(peak: float) -> None:
    lights = np.linspace(0, peak, 2000)
    signals = np.repeat(pq_signal(lights)[:, None], 3, axis=1)
    shown = sdr_signal(signals, HdrSignal("pq", peak))[:, 1]
    assert (np.diff(shown) > -1e-9).all()
    assert shown[0] == 0
    assert shown[-1] == pytest.approx((min(peak, WHITE) / WHITE) ** (1 / 2.4), abs=2e-3)


# Pictures


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_greys_get_the_luma_of_the_formulas(tmp_path: Path, transfer: str) -> None:
    lights = [0.0, 0.5, 2.0, 10.0, GREY_26, 50.0, 80.0, 120.0, WHITE, 400.0, 700.0, PEAK]
    signal_of = pq_of if transfer == "pq" else hlg_of
    path = make_hdr(tmp_path / "v.mkv", [grey(signal_of(light)) for light in lights], transfer=transfer)
    expected = [[luma_of(eetf(light, peak=PEAK)), 128, 128] for light in lights]
    assert np.abs(np.array(shown_levels(path)) - expected).max() <= 1.6  # 1 is half a step of 10 bits near black


def test_reference_white_and_grey_look_alike_in_pq_and_hlg(tmp_path: Path) -> None:
    """Source: BT.2408 table 1: 26 cd/m2 is 38 % of both, 203 cd/m2 is 58 % of PQ and 75 % of HLG."""
    pq = make_hdr(tmp_path / "pq.mkv", [grey(0.38), grey(0.58)], transfer="pq")
    hlg = make_hdr(tmp_path / "hlg.mkv", [grey(0.38), grey(0.75)], transfer="hlg")
    assert np.abs(np.array(shown_levels(pq)) - shown_levels(hlg)).max() <= 2


@pytest.mark.parametrize(
    ("colour", "tolerance"),
    [
        *[pytest.param(rgb, 2, id=str(rgb)) for rgb in [(1, 0.5, 0.25), (0.3, 0.6, 0.9), (0.2, 1, 0.3), (1, 0.9, 0.1)]],
        # at the edge, where 0.007 cd/m2 are 3 steps, the 10 bits of the source and the lattice show
        *[pytest.param(rgb, 7, id=f"pure {rgb}") for rgb in [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)]],
    ],
)
def test_colours_that_sdr_has_stay_what_they_are(tmp_path: Path, colour: Rgb, tolerance: int) -> None:
    """Light of 20 cd/m2 in BT.709's own primaries: below the knee only the coding changes."""
    red, green, blue = (20 * BT709_TO_BT2020 @ np.array(colour)).tolist()
    path = make_hdr(tmp_path / "v.mkv", [(pq_of(red), pq_of(green), pq_of(blue))], transfer="pq")
    shown = [(20 * each / WHITE) ** (1 / 2.4) for each in colour]
    expected = ycbcr((shown[0], shown[1], shown[2]), red=0.2126, blue=0.0722, bits=8)
    assert np.abs(np.array(shown_levels(path)[0]) - expected).max() <= tolerance


def test_pictures_of_full_range_are_read_as_such(tmp_path: Path) -> None:
    path = make_hdr(tmp_path / "v.mkv", [grey(pq_of(GREY_26)), grey(0.0)], transfer="pq")
    probed = probe_file(path, name="v")
    frame = next(iter(decode_frames(path, probed.profile, probed.timeline, name="v")))
    assert isinstance(frame, av.VideoFrame)
    frame.color_range = 2
    full = round(1023 * pq_of(GREY_26))
    for plane, level in zip(frame.planes, (full, 512, 512), strict=True):
        plane.update(np.full(plane.buffer_size // 2, level, np.uint16).tobytes())
    picture = PictureNormalizer(probed.profile)(frame)
    assert np.frombuffer(memoryview(picture.planes[0]), np.uint8)[0] == pytest.approx(luma_of(GREY_26), abs=1.5)


# Videos


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_a_clip_of_an_hdr_video_says_that_it_is_sdr(tmp_path: Path, transfer: str) -> None:
    lights = [0.0, GREY_26, WHITE, PEAK]
    signal_of = pq_of if transfer == "pq" else hlg_of
    params = {"x265-params": "log-level=none:lossless=1:" + MASTERING}
    signals = [grey(signal_of(light)) for light in lights]
    path = make_hdr(tmp_path / "v.mp4", signals, transfer=transfer, codec="libx265", options=params)
    with av.open(io.BytesIO(one_clip(path)), "r") as container:
        frames = list(container.decode(video=0))
    assert [frame.format.name for frame in frames] == ["yuv420p"] * 3
    tags = {(f.color_primaries, f.color_trc, f.colorspace, int(f.color_range)) for f in frames}
    assert tags == {(1, 1, 1, 1)}
    assert mastering_of(frames[0]) == []
    luma = np.frombuffer(memoryview(frames[0].planes[0]), np.uint8).reshape(64, -1)[32, 8:64:16]
    peak = 4000.0 if transfer == "pq" else PEAK  # HLG adapts to its display and has no other peak
    assert luma.tolist() == pytest.approx([luma_of(eetf(light, peak=peak)) for light in lights], abs=3)


MASTERING = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(40000000,50)"  # 4000 cd/m2


def mastering_of(frame: av.VideoFrame) -> list[object]:
    kind = SideDataType.MASTERING_DISPLAY_METADATA
    return [each for each in cast(list[object], frame.side_data) if isinstance(each, SideData) and each.type == kind]


@pytest.mark.parametrize(
    ("transfer", "mastering", "expected"),
    [
        pytest.param("pq", MASTERING, HdrSignal("pq", 4000.0), id="PQ that names its peak"),
        pytest.param("pq", "", HdrSignal("pq", 1000.0), id="PQ"),
        pytest.param("pq", MASTERING.replace("40000000", "1000"), HdrSignal("pq", 1000.0), id="PQ of a dark display"),
        pytest.param("hlg", "", HdrSignal("hlg", 1000.0), id="HLG"),
        pytest.param("bt2020", "", None, id="SDR in BT.2020"),
    ],
)
def test_the_transfer_tells_whether_a_video_is_hdr(
    tmp_path: Path, transfer: str, mastering: str, expected: HdrSignal | None
) -> None:
    params = {"x265-params": f"log-level=none:{mastering}".rstrip(":")}
    path = make_hdr(tmp_path / "v.mp4", [grey(0.5)] * 4, transfer=transfer, codec="libx265", options=params)
    video = Video(path)
    probe_video(video)
    assert video.profile is not None
    assert video.profile.hdr == expected
    assert video.profile.colours == ((1, 1, 1) if expected else (9, 14, 9))
    record = record_document(video, video.clip_stats, provenance={})
    assert record["hdr"] == (expected.transfer if expected else None)


HDR10 = {"x265-params": "log-level=none:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"}


@pytest.mark.parametrize("degrees", [0, 90])
def test_frames_of_an_hdr_video_keep_number_time_and_orientation(tmp_path: Path, degrees: int) -> None:
    path = make_video(
        tmp_path / "v.mp4",
        num_frames=12,
        width=160,
        height=120,
        codec="libx265",
        pix_fmt="yuv420p10le",
        options=HDR10,
        rotation_degrees=degrees,
    )
    clips = clips_of(path, clip_len_s=0.2)
    assert [numbers_of(clip) for clip in clips] == [list(range(6)), list(range(6, 12))]
    times = [time for time, _ in frames_of(clips[1].buffer or b"")]
    assert times == [Fraction(index, 30) for index in range(6)]
    shown = frames_of(clips[0].buffer or b"")[0][1]
    assert shown.shape[:2] == ((120, 160) if degrees == 0 else (160, 120))
    assert read_number(upright(shown)) == 0
    assert (orientation_of(shown) == "upright") == (degrees == 0)


def test_an_hdr_video_of_odd_size_and_wide_pixels_becomes_even_and_square(tmp_path: Path) -> None:
    path = make_video(
        tmp_path / "v.mp4",
        num_frames=3,
        width=181,
        height=121,
        codec="libx265",
        pix_fmt="yuv444p10le",
        options=HDR10,
        sample_aspect_ratio=Fraction(4, 3),
    )
    pictures = [rgb for _, rgb in frames_of(one_clip(path))]
    assert [rgb.shape[:2] for rgb in pictures] == [(120, 242)] * 3  # 181 x 4/3 = 241.3
    assert [read_number(rgb) for rgb in pictures] == [0, 1, 2]
