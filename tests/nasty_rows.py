"""Videos as the field has them, one row each, and the laws that their clips must keep: of what they were made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from curation.errors import FailureReason
from curation.video.probe import DEFAULT_LIMITS, SourceLimits
from tests import synthetic
from tests.clipping.test_bad_input import cut_off, garbage_in_the_media
from tests.footage import MEDIA, footage
from tests.nasty_laws import (
    Law,
    Outcome,
    at_most,
    clip_error,
    clip_note,
    fails,
    has_luma,
    has_size,
    has_spans,
    hears,
    in_sync,
    is_recorded_as,
    is_tagged,
    is_turned,
    reads,
    runs,
    shown_in,
    shows,
    shows_beginning,
    spans_of,
    video_error,
)
from tests.nasty_videos import (
    PHONE_TIMES_S,
    WRAP_S,
    changing_sound,
    dissolve,
    duration_of_days,
    garbage_in_matroska,
    joined_streams,
    live_recording,
    million_frames,
    small,
    thumbnails_first,
)
from tests.video.test_hdr import GREY_26, PEAK, WHITE, eetf, grey, hlg_of, luma_of, make_hdr, pq_of
from tests.video.test_interlaced import bar_at, bar_in, combing, make_source
from tests.video.test_limits import frames_at, make_black, make_streams
from tests.video.test_pictures import FULL, LIMITED, make_bands
from tests.video.test_probe import with_cover
from tests.video.test_sound import AVI_DELAY_S, clicks, with_sound

MILLISECOND = Fraction(1, 1000)
THIRD = Fraction(1, 3)
LIGHTS = (0.0, GREY_26, WHITE, PEAK)


@dataclass(frozen=True)
class Row:
    """A nasty video.

    Attributes:
        make: writes it into a folder.
        settings: of the pipeline, see ``pipeline_of``.
        part_s: start and end that the manifest asks for.
        has_errors: clips may carry errors, which the laws name; otherwise none may.
    """

    name: str
    make: Callable[[Path], Path]
    laws: Sequence[Law]
    settings: Mapping[str, Any] = field(default_factory=dict)
    part_s: tuple[float | None, float | None] = (None, None)
    has_errors: bool = False


def made(name: str = "v.mp4", **settings: Any) -> Callable[[Path], Path]:
    """Two seconds of 96x64 with numbers in it, see ``small``."""
    return lambda folder: small(folder, name, **settings)


def bad(make: Callable[[Path], Path], name: str = "v.mp4") -> Callable[[Path], Path]:
    return lambda folder: make(folder / name)


def sounding(name: str = "v.mp4", **settings: Any) -> Callable[[Path], Path]:
    """Four seconds with a click and a flash at each whole second."""
    return made(name, **{"num_frames": 120, "audio": "clicks", **settings})


def beside_pictures(at_s: Sequence[float], length_s: float, start_s: Fraction = Fraction(0)) -> Callable[[Path], Path]:
    """Four seconds of pictures beside this sound."""
    sound = clicks(48_000, 1, at_s=at_s, length_s=length_s)
    return lambda folder: with_sound(folder / "v.mp4", sound, rate=48_000, layout="mono", start_s=start_s)


B_FRAMES = {"bf": "3", "g": "600", "sc_threshold": "0"}
OPEN_GOPS = {"x264-params": "keyint=30:bframes=3:open-gop=1"}
CLOSED_GOPS = {"x264-params": "keyint=30:bframes=3"}
SMART_COPY = {"clip_encoding": "smart-copy"}
SOUND = {"clip_len_s": 1.7}
EVERY_SECOND_OF_4 = [0, 1, 2, 3]

TIME_ROWS = [
    Row("phone, 30 to 5 fps", made(times_s=PHONE_TIMES_S, rate=Fraction(5)), [shows(60, times_s=PHONE_TIMES_S)]),
    Row("phone, 30 to 5 fps, mkv", made("v.mkv", times_s=PHONE_TIMES_S, rate=Fraction(5)), [
        shows(60, times_s=PHONE_TIMES_S, tolerance_s=MILLISECOND)
    ]),
    Row("cuts in the middle of a GOP with B-frames", made(options=B_FRAMES), [shows(60)]),
    Row("a part that begins in a GOP with B-frames, ts", made("v.ts", options=B_FRAMES), [
        shows(30, first=15, start_s=Fraction(1, 2))
    ], part_s=(0.5, 1.5)),
    Row("header: duration of 24 days", duration_of_days, [shows(60)]),
    Row("header: a million frames, avi", million_frames, [shows(60)]),
    Row("header: no duration, no sizes, mkv", live_recording, [shows(60, tolerance_s=MILLISECOND)]),
    Row("starts at 2.333 s, mp4", made(start_time_s=Fraction(7, 3)), [shows(60)]),
    Row("starts at 2.333 s, ts", made("v.ts", start_time_s=Fraction(7, 3)), [shows(60)]),
    Row("starts at -0.333 s, hidden by an edit list", made(start_time_s=-THIRD, options=B_FRAMES), [
        shows(50, first=10, times_s=[Fraction(k, 30) for k in range(50)])
    ]),
    Row("hidden lead-in, smart copy", made(start_time_s=-THIRD, options=CLOSED_GOPS), [
        shows(50, first=10, times_s=[Fraction(k, 30) for k in range(50)])
    ], SMART_COPY),
    Row("ts whose clock begins anew after 1 s", made("v.ts", start_time_s=WRAP_S - 1), [shows(60)]),
    Row("B-frames in avi", made("v.avi", options={"bf": "3", "g": "20"}), [shows(60)]),
    Row("open GOPs, smart copy", made(options=OPEN_GOPS, num_frames=120), [
        shows(120), clip_note("clip_encoding", "smart-copy")
    ], SMART_COPY),
    Row("closed GOPs, smart copy", made(options=CLOSED_GOPS, num_frames=120), [
        shows(120), clip_note("clip_encoding", "smart-copy")
    ], SMART_COPY),
    Row("one frame", made(num_frames=1), [shows(1)]),
]  # fmt: skip


def turned(turn: str, degrees: int, *, hflip: bool = False) -> Row:
    """Expected is what the display matrix does to a stored upright picture of 160x120, counterclockwise."""
    size = "120x160" if degrees % 180 else "160x120"
    make = made(num_frames=3, width=160, height=120, rotation_degrees=degrees, hflip=hflip)
    mirror = " and mirrored" if hflip else ""
    return Row(f"display matrix: {degrees} degrees{mirror}", make, [shows(3), is_turned(turn), has_size(size)])


def wide(size: tuple[int, int], aspect: Fraction, shown: str) -> Row:
    make = made(num_frames=3, width=size[0], height=size[1], sample_aspect_ratio=aspect)
    return Row(f"pixels of {aspect}, {size[0]}x{size[1]}", make, [shows(3), has_size(shown)])


def hdr(name: str, transfer: str, signal_of: Callable[[float], float]) -> Row:
    """Expected is the luma of BT.1886 after the tone curve of BT.2390, at a peak of 1000 cd/m2."""
    lossless = {"x265-params": "log-level=none:lossless=1"}
    signals = [grey(signal_of(light)) for light in LIGHTS]
    levels = [luma_of(eetf(light, peak=PEAK)) for light in LIGHTS]
    return Row(
        f"{name}, 10 bits, light of 0/26/203/1000 cd/m2",
        lambda folder: make_hdr(folder / "v.mp4", signals, transfer=transfer, codec="libx265", options=lossless),
        [has_luma(levels), is_tagged(1, 1, 1)],
    )


def sdr_of_bt2020(folder: Path) -> Path:
    lossless = {"x265-params": "log-level=none:lossless=1"}
    signals = [grey(level) for level in (0.0, 0.25, 0.5, 1.0)]
    return make_hdr(folder / "v.mp4", signals, transfer="bt2020", codec="libx265", options=lossless)


def full_range(codec: str, pix_fmt: str) -> Row:
    return Row(
        f"full range, {codec} {pix_fmt}",
        lambda folder: make_bands(folder / "v.mkv", codec=codec, pix_fmt=pix_fmt, levels=FULL, full_range=True),
        [has_luma([level[0] for level in LIMITED])],
    )


def combs(outcome: Outcome) -> float:
    """Where nothing is woven, 0 but for the encoder; 10.5 where fields are."""
    return max(combing(rgb) for rgb in outcome.pictures()[1:])


def bars_off(outcome: Outcome) -> float:
    """How far the moving bar is from where the field that is shown first has it, in pixels: 12 to the other field."""
    return float(np.abs([bar_in(rgb) - bar_at(2 * index) for index, rgb in enumerate(outcome.pictures())]).max())


def interlaced(name: str, suffix: str, codec: str, fields: Any) -> Row:
    """Expected: progressive pictures at the frames' own times, 25 a second, of the field that is shown first."""
    return Row(
        f"interlaced, {name}",
        lambda folder: make_source(folder / f"v{suffix}", codec=codec, fields=fields),
        [
            shows(24, times_s=[Fraction(k, 25) for k in range(24)], tolerance_s=MILLISECOND),
            at_most("combs", 2, "levels", combs),
            at_most("bar off", 3, "px", bars_off),
        ],
    )


PICTURE_ROWS = [
    turned("rotated_90_ccw", 90),
    turned("rotated_180", 180),
    turned("rotated_90_cw", 270),
    turned("flipped_horizontally", 0, hflip=True),
    turned("antitransposed", 90, hflip=True),
    wide((720, 576), Fraction(64, 45), "1024x576"),
    wide((1440, 1080), Fraction(4, 3), "1920x1080"),
    hdr("PQ", "pq", pq_of),
    hdr("HLG", "hlg", hlg_of),
    Row("SDR of BT.2020, 10 bits", sdr_of_bt2020, [has_luma([16, 71, 126, 235]), is_tagged(9, 14, 9)]),
    full_range("libx264", "yuvj420p"),
    full_range("libvpx-vp9", "yuv420p"),
    interlaced("top field first, mp4", ".mp4", "libx264", "top first"),
    interlaced("bottom field first, mpg", ".mpg", "mpeg2video", "bottom first"),
    Row("odd size, 161x121", made("v.mkv", num_frames=3, width=161, height=121, codec="ffv1", pix_fmt="yuv444p"), [
        shows(3, tolerance_s=MILLISECOND), has_size("160x120")
    ]),
    Row("2x2, libx264", made("v.mkv", num_frames=3, width=2, height=2, codec="ffv1"), [has_size("2x2")]),
    Row("2x2, too small for libsvtav1", made("v.mkv", num_frames=3, width=2, height=2, codec="ffv1"), [
        clip_error("transcode", "encode_error"), clip_error("transcode", "libsvtav1 refused 2x2")
    ], {"encoder": "libsvtav1", "preset": "10"}, has_errors=True),
    Row("1x1, even for libx264 nothing is left", made("v.mkv", num_frames=3, width=1, height=1, codec="ffv1"), [
        clip_error("transcode", "encode_error")
    ], has_errors=True),
]  # fmt: skip

BROKEN_ROWS = [
    Row("mp4 cut at 60 %", bad(cut_off(0.6)), [fails(FailureReason.TRUNCATED, "the file is cut off")]),
    Row("mkv cut at 60 %", bad(cut_off(0.6), "v.mkv"), [fails(FailureReason.TRUNCATED, "the file is cut off")]),
    Row("ts cut at 60 %, which says nothing of its length", bad(cut_off(0.6), "v.ts"), [shows_beginning(24, 50)],
        has_errors=True),
    Row("mp4 cut at 60 %, allow_truncated", bad(cut_off(0.6)), [shows_beginning(24, 50)], {"allow_truncated": True},
        has_errors=True),
    Row("mkv cut at 60 %, allow_truncated", bad(cut_off(0.6), "v.mkv"), [shows_beginning(24, 50)],
        {"allow_truncated": True}, has_errors=True),
    Row("no bytes", bad(synthetic.empty), [fails(FailureReason.EMPTY_FILE, "0 bytes")]),
    Row("no moov", bad(synthetic.no_moov), [fails(FailureReason.UNREADABLE, "can't open it as media")]),
    Row("cut at the start of its media", bad(synthetic.mdat_cut), [fails(FailureReason.TRUNCATED, "cut off")]),
    Row("cut at the start of its media, allow_truncated", bad(synthetic.mdat_cut), [
        fails(FailureReason.NO_FRAMES, "frame")
    ], {"allow_truncated": True}),
    Row("sound only", bad(synthetic.audio_only), [fails(FailureReason.NO_VIDEO_STREAM, "streams: audio")]),
    Row("a text called .mp4", bad(synthetic.not_a_video), [fails(FailureReason.UNREADABLE, "can't open it as media")]),
    Row("garbage in the middle, mp4", bad(garbage_in_the_media), [fails(FailureReason.DECODE_ERROR, "can't decode")]),
    Row("zeros from the middle on, mkv", garbage_in_matroska, [
        shows_beginning(30, 70), video_error("duration", "the container lasts 4.00 s, its pictures ")
    ], has_errors=True),
    Row("cover art before the video", lambda folder: with_cover(folder / "v.mp4", small(folder, "plain.mp4")), [
        shows(60), has_size("96x64")
    ]),
    Row("timed thumbnails before the video", thumbnails_first, [shows(60), has_size("96x64")]),
]  # fmt: skip

SOUND_ROWS = [
    Row("clicks, mp4", sounding(), [
        shows(120, clip_len_s=Fraction(17, 10)), *hears(EVERY_SECOND_OF_4), in_sync()
    ], SOUND),
    Row("clicks, ts", sounding("v.ts"), [*hears(EVERY_SECOND_OF_4), in_sync()], SOUND),
    Row("clicks, avi", sounding("v.avi", codec="mpeg4"), [
        *hears(EVERY_SECOND_OF_4, delay_s=AVI_DELAY_S), in_sync(delay_s=AVI_DELAY_S)
    ], SOUND),
    Row("clicks from 1.3 s on", sounding(options=B_FRAMES), [*hears([2, 3]), in_sync()], SOUND, part_s=(1.3, None)),
    Row("clicks, smart copy", sounding(options=CLOSED_GOPS), [
        *hears(EVERY_SECOND_OF_4), in_sync()
    ], SOUND | SMART_COPY),
    Row("clicks, starts at 2.333 s", sounding(start_time_s=Fraction(7, 3)), [
        *hears(EVERY_SECOND_OF_4), in_sync()
    ], SOUND),
    Row("clicks, 30 to 5 fps", made(times_s=PHONE_TIMES_S, rate=Fraction(5), audio="clicks"), hears([0, 1, 2, 3, 4, 5]),
        {"clip_len_s": 2.2}),
    Row("clicks, ts whose clock begins anew", sounding("v.ts", start_time_s=WRAP_S - Fraction(5, 2)), [
        *hears(EVERY_SECOND_OF_4), in_sync()
    ], SOUND),
    Row("sound longer than the pictures", beside_pictures(range(6), 6), hears(EVERY_SECOND_OF_4), SOUND),
    Row("sound shorter than the pictures", beside_pictures([0, 1, 2], 2.5), hears([0, 1, 2], shorter_ms=900), SOUND),
    Row("sound begins 1.5 s late", beside_pictures([0.5, 1.5], 2.5, Fraction(3, 2)), hears([2, 3]), SOUND),
    Row("sound changes from mono 48 kHz to stereo 44.1 kHz", changing_sound, [
        *hears([0, 1, 2.234, 3.234], delay_s=481 / 46_000, shorter_ms=16)  # the MP2 encoder's delay
    ], SOUND),
]  # fmt: skip


def limits(**values: Any) -> dict[str, SourceLimits]:
    return {"limits": replace(DEFAULT_LIMITS, **values)}


def giant(folder: Path) -> Path:
    return make_black(folder / "v.mov", codec="mjpeg", pix_fmt="yuvj420p")


LIMIT_ROWS = [
    Row("12000x12000", giant, [fails(FailureReason.LIMITS, "12000x12000, limits.max_pixels is 36000000")]),
    Row("25 hours", lambda folder: frames_at(folder / "v.mp4", [0, 1, 90_000]), [
        fails(FailureReason.LIMITS, "lasts 90001.0 s, limits.max_duration_s is 86400.0")
    ]),
    Row("10 hours, limit of 9", lambda folder: frames_at(folder / "v.mp4", [0, 1, 35_999]), [
        fails(FailureReason.LIMITS, "lasts 36000.0 s, limits.max_duration_s is 32400.0")
    ], limits(max_duration_s=32_400.0)),
    Row("10 hours of three pictures", lambda folder: frames_at(folder / "v.mp4", [0, 1, 35_999]), [
        shows(3, times_s=[Fraction(t) for t in (0, 1, 35_999)], clip_len_s=Fraction(36_000))
    ], {"clip_len_s": 36_000.0}),
    Row("30 frames, limit of 29", made(num_frames=30), [
        fails(FailureReason.LIMITS, "more than 29 frames")
    ], limits(max_frames=29)),
    Row("100 sounds", lambda folder: make_streams(folder / "v.mkv", 100), [
        fails(FailureReason.LIMITS, "101 streams, limits.max_streams is 64")
    ]),
]  # fmt: skip


def size_changes(folder: Path) -> Path:
    """96x64 becomes 192x128."""
    return joined_streams(folder, [{"options": CLOSED_GOPS}, {"options": CLOSED_GOPS, "width": 192, "height": 128}])


def all_numbers(outcome: Outcome) -> str:
    return runs([each.number for clip in outcome.clips for each in shown_in(clip)])


CHANGE_ROWS = [
    Row("size changes at 1 s, ts", size_changes, [
        has_spans([(0, 21), (21, 30), (30, 42), (42, 60)]), has_size("96x64 and 192x128"), reads("0-59", all_numbers)
    ]),
    Row("size changes at 1 s, smart copy", size_changes, [
        has_spans([(0, 21), (21, 30), (30, 42), (42, 60)]), has_size("96x64 and 192x128"), reads("0-59", all_numbers)
    ], SMART_COPY),
    Row("8 bits become 10, ts", lambda folder: joined_streams(folder, [{}, {"pix_fmt": "yuv420p10le"}]), [
        shows(60), is_tagged(2, 2, 2)
    ]),
    Row("other parameter sets from 1 s on, smart copy", lambda folder: joined_streams(folder, [
        {"options": CLOSED_GOPS}, {"options": {"profile": "baseline", "bf": "0"}}
    ]), [shows(60), clip_note("clip_encoding", "smart-copy")], SMART_COPY),
]  # fmt: skip


def at_60_fps(folder: Path) -> Path:
    """Live action with cuts at frames 30 and 76, each frame twice, the first three times."""
    from tests.clipping.test_transnetv2 import repeat_frames  # which is skipped where there is no torch

    path = folder / "v.mp4"
    repeat_frames(footage("bikes.mp4"), path, rate=Fraction(60), lead=1)
    return path


def dissolved(folder: Path) -> Path:
    bunnies = [MEDIA / "big_buck_bunny_1.mp4", MEDIA / "big_buck_bunny_2.mp4"]
    return dissolve(folder / "v.mp4", *bunnies, num_frames=69, first=25, length=20)


def dissolve_is_left_out(outcome: Outcome) -> str:
    """Two shots of 69 frames, of which frames 25-44 are neither."""
    spans = spans_of(outcome)
    is_so = len(spans) == 2 and spans[0][0] == 0 and spans[1][1] == 69
    is_so = is_so and 25 <= spans[0][1] <= 45 and 25 <= spans[1][0] <= 45
    return "2 clips, cut within the dissolve" if is_so else f"clips {spans}"


DETECTOR = {"detects": True}
DETECTOR_ROWS = [
    Row("60 fps at the detector", at_60_fps, [
        has_spans([(0, 61), (61, 153), (153, 200)])
    ], DETECTOR, part_s=(None, 3.33)),
    Row("dissolve of 20 frames at the detector", dissolved, [
        reads("2 clips, cut within the dissolve", dissolve_is_left_out)
    ], DETECTOR),
]  # fmt: skip


def named(name: str) -> Row:
    return Row(f"name {name!r}", made(name, num_frames=12), [shows(12), is_recorded_as(name)])


def is_not_the_other(outcome: Outcome) -> str:
    ids = [{clip.uuid for video in videos for clip in video.clips} for videos in (outcome.videos, outcome.beside)]
    return "ids of its own" if ids[0] and not ids[0] & ids[1] else "ids of the other"


NAME_ROWS = [
    *map(named, ["with spaces .mp4", "日本 é.mp4", "line\nbreak.mp4", "-i.mp4", "12:30.mp4", "%d 'quoted\".mp4"]),
    Row("the basename of another", made("twins/good.mp4", num_frames=12, first_number=500), [
        shows(12, first=500, times_s=[Fraction(k, 30) for k in range(12)]),
        is_recorded_as("twins/good.mp4"),
        reads("ids of its own", is_not_the_other),
    ]),
]  # fmt: skip

ROWS = [
    *TIME_ROWS,
    *PICTURE_ROWS,
    *BROKEN_ROWS,
    *SOUND_ROWS,
    *LIMIT_ROWS,
    *CHANGE_ROWS,
    *DETECTOR_ROWS,
    *NAME_ROWS,
]
