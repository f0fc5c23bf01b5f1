"""What must hold of the clips of a video, in words and numbers: the frames by the numbers burnt into them, their times,
size and orientation, levels, sound; or the reason why there are none."""

import io
import json
import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from curation import layout
from curation.errors import FailureReason
from curation.model import Clip, Video, VideoTask
from curation.writing.clip_writer import ClipWriterStage
from tests.synthetic import Picture, click_times_s, flash_is_on, frames_of, orientation_of, read_number, upright

CLIP_LEN_S = Fraction(7, 10)
MAX_SOUND_OFFSET_MS = 5.0
MAX_TRACK_DIFFERENCE_MS = 1.0
LARGEST_SILENCE = 0.01
_FLOAT_ERROR_S = Fraction(1, 10**9)  # spans of clips are binary numbers


@dataclass(frozen=True)
class Outcome:
    """What became of a video, in all its chunks, and of the good one that went beside it."""

    videos: Sequence[Video]
    beside: Sequence[Video]

    @property
    def clips(self) -> list[Clip]:
        return [clip for video in self.videos for clip in video.clips]

    @property
    def kept(self) -> list[Clip]:
        """Those with bytes."""
        return [clip for clip in self.clips if clip.buffer is not None]

    def pictures(self) -> list[Picture]:
        return [rgb for clip in self.kept for _, rgb in frames_of(bytes_of(clip))]


def bytes_of(clip: Clip) -> bytes:
    """Its mp4.

    Raises:
        ValueError: it has none.
    """
    if clip.buffer is None:
        raise ValueError(f"a clip without bytes: {clip.errors}")
    return clip.buffer


@dataclass(frozen=True)
class Law:
    """What is expected in words, and a look at the outcome: whether it is so, and what was found."""

    expected: str
    look: Callable[[Outcome], tuple[bool, str]]


def reads(expected: str, found: Callable[[Outcome], object]) -> Law:
    """What is found must read as expected."""

    def look(outcome: Outcome) -> tuple[bool, str]:
        words = str(found(outcome))
        return words == expected, words

    return Law(expected, look)


def at_most(what: str, limit: float, unit: str, found: Callable[[Outcome], float]) -> Law:
    """A measure must not be above its limit."""

    def look(outcome: Outcome) -> tuple[bool, str]:
        value = found(outcome)
        return value <= limit, f"{what} {value:.2f} {unit}"

    return Law(f"{what} <= {limit:g} {unit}", look)


# Frames


@dataclass(frozen=True)
class Shown:
    """A frame of a clip: the number burnt into it and its time on the source."""

    number: int
    time_s: Fraction


def shown_in(clip: Clip) -> list[Shown]:
    start_s = Fraction(clip.span[0])
    return [Shown(read_number(upright(rgb)), start_s + time_s) for time_s, rgb in frames_of(bytes_of(clip))]


def runs(numbers: Sequence[int]) -> str:
    """``0-14, 16-20`` for numbers that mostly follow each other."""
    grouped = groupby(enumerate(numbers), key=lambda each: each[1] - each[0])
    found = [[number for _, number in group] for _, group in grouped]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in found)


def shows(
    num_frames: int,
    *,
    times_s: Sequence[Fraction] = (),
    first: int = 0,
    start_s: Fraction = Fraction(0),
    tolerance_s: Fraction = Fraction(0),
    clip_len_s: Fraction = CLIP_LEN_S,
) -> Law:
    """Each frame once, in the clip of its second, at its time on the source, whose zero is its first frame.

    Args:
        times_s: of the frames; 30 a second from ``start_s`` on unless given.
        first: the number burnt into the first of them.
        start_s: where the part of the source that is wanted begins.
    """
    times = list(times_s) or [start_s + Fraction(k, 30) for k in range(num_frames)]
    frames = [Shown(first + k, time_s) for k, time_s in enumerate(times)]
    clips = [list(group) for _, group in groupby(frames, key=lambda each: (each.time_s - start_s) // clip_len_s)]

    def look(outcome: Outcome) -> tuple[bool, str]:
        found = [shown_in(clip) for clip in outcome.clips]
        if [[each.number for each in clip] for clip in found] != [[each.number for each in clip] for clip in clips]:
            return False, "frames " + " | ".join(runs([each.number for each in clip]) for clip in found)
        pairs = zip((e for clip in found for e in clip), frames, strict=True)
        off_s = max(abs(a.time_s - b.time_s) for a, b in pairs)
        return off_s <= tolerance_s + _FLOAT_ERROR_S, f"those frames, off by up to {float(off_s) * 1000:.1f} ms"

    within = f" to {float(tolerance_s) * 1000:g} ms" if tolerance_s else ""
    span = f"{float(times[0]):.3f}..{float(times[-1]):.3f} s{within}"
    return Law(f"frames {frames[0].number}-{frames[-1].number} at {span} in {len(clips)} clip(s)", look)


def shows_beginning(at_least: int, below: int, *, rate: int = 30) -> Law:
    """The first frames without a gap, each itself at its own time; how many is not said."""

    def look(outcome: Outcome) -> tuple[bool, str]:
        found = [each for clip in outcome.kept for each in shown_in(clip)]
        numbers = [each.number for each in found]
        off_s = max((abs(each.time_s - Fraction(each.number, rate)) for each in found), default=Fraction(0))
        is_right = numbers == list(range(len(numbers))) and at_least <= len(numbers) < below and off_s <= _MILLISECOND
        return is_right, f"frames {runs(numbers)}, off by up to {float(off_s) * 1000:.1f} ms"

    return Law(f"frames 0-n without a gap, each at its time, {at_least} <= n + 1 < {below}", look)


_MILLISECOND = Fraction(1, 1000) + _FLOAT_ERROR_S


# Pictures


def size_of(outcome: Outcome) -> str:
    return " and ".join(dict.fromkeys(f"{rgb.shape[1]}x{rgb.shape[0]}" for rgb in outcome.pictures()))


def has_size(size: str) -> Law:
    """Square pixels are part of it."""

    def found(outcome: Outcome) -> str:
        aspects = set()
        for clip in outcome.clips:
            with av.open(io.BytesIO(bytes_of(clip)), "r") as container:
                aspects.add(container.streams.video[0].sample_aspect_ratio or Fraction(1))
        return f"{size_of(outcome)}, pixels {'/'.join(str(aspect) for aspect in aspects)}"

    return reads(f"{size}, pixels 1", found)


def is_turned(orientation: str) -> Law:
    return reads(orientation, lambda outcome: " and ".join({orientation_of(rgb) for rgb in outcome.pictures()}))


def luma_of_bands(outcome: Outcome, num_bands: int) -> NDArray[np.float64]:
    """Y in the middle of each of the bands of the first picture, from left to right."""
    with av.open(io.BytesIO(bytes_of(outcome.clips[0])), "r") as container:
        luma = next(container.decode(video=0)).reformat(format="yuv420p").to_ndarray()
        width, height = container.streams.video[0].width, container.streams.video[0].height
    return np.array([luma[height // 2, width * (2 * k + 1) // (2 * num_bands)] for k in range(num_bands)], np.float64)


def has_luma(levels: Sequence[float], *, tolerance: float = 3) -> Law:
    """Bands of these levels of 8 bits, limited range."""

    def look(outcome: Outcome) -> tuple[bool, str]:
        found = luma_of_bands(outcome, len(levels))
        return bool(np.abs(found - levels).max() <= tolerance), f"Y {'/'.join(f'{level:.0f}' for level in found)}"

    return Law(f"Y {'/'.join(f'{level:.0f}' for level in levels)} +-{tolerance:g}", look)


def is_tagged(primaries: int, transfer: int, matrix: int) -> Law:
    """8 bits, limited range, and these numbers of ITU-T H.273."""

    def found(outcome: Outcome) -> str:
        with av.open(io.BytesIO(bytes_of(outcome.clips[0])), "r") as container:
            frame = next(container.decode(video=0))
        range_name = "full" if int(frame.color_range) == 2 else "limited"  # what it is where nothing is said
        tags = f"{frame.color_primaries}/{frame.color_trc}/{frame.colorspace}"
        return f"{frame.format.name} {range_name} range, colours {tags}"

    return reads(f"yuv420p limited range, colours {primaries}/{transfer}/{matrix}", found)


# Sound


def loudest(clip: Clip) -> float:
    with av.open(io.BytesIO(bytes_of(clip)), "r") as container:
        return max(float(np.abs(frame.to_ndarray()).max()) for frame in container.decode(audio=0))


def heard_in(clip: Clip) -> list[float]:
    """Clicks on the source's clock."""
    if loudest(clip) < LARGEST_SILENCE:
        return []
    return [clip.span[0] + time_s for time_s in click_times_s(bytes_of(clip))]


def flashes_in(clip: Clip) -> list[float]:
    """Flashes on the source's clock."""
    return [clip.span[0] + float(time_s) for time_s, rgb in frames_of(bytes_of(clip)) if flash_is_on(rgb)]


def track_difference_ms(clip: Clip) -> float:
    """How far apart picture and sound begin or end, by their tracks."""
    with av.open(io.BytesIO(bytes_of(clip)), "r") as container:
        tracks = [container.streams.video[0], container.streams.audio[0]]
        spans = [[Fraction(t or 0) * Fraction(s.time_base or 0) for t in (s.start_time, s.duration)] for s in tracks]
    return max(abs(float(a - b)) for a, b in zip(*spans, strict=True)) * 1000


def hears(at_s: Sequence[float], *, delay_s: float = 0.0, shorter_ms: float = 0.0) -> list[Law]:
    """Clicks at these seconds of the source and silence elsewhere, in tracks that begin and end with the pictures.

    Args:
        delay_s: of an encoder that the source's container does not tell of.
        shorter_ms: by which the source's sound is shorter than its pictures.
    """
    clicks = "clicks at " + ", ".join(f"{time_s:g}" for time_s in at_s) + " s"

    def look(outcome: Outcome) -> tuple[bool, str]:
        found = [time_s - delay_s for clip in outcome.clips for time_s in heard_in(clip)]
        if len(found) != len(at_s):
            return False, f"clicks at {', '.join(f'{time_s:.3f}' for time_s in found)} s"
        off_ms = max(abs(a - b) for a, b in zip(found, at_s, strict=True)) * 1000
        return off_ms <= MAX_SOUND_OFFSET_MS, f"those clicks, off by up to {off_ms:.1f} ms"

    return [Law(f"{clicks} to {MAX_SOUND_OFFSET_MS:g} ms", look), ends_together(shorter_ms)]


def ends_together(shorter_ms: float) -> Law:
    return at_most(
        "tracks begin and end apart by",
        MAX_TRACK_DIFFERENCE_MS + shorter_ms,
        "ms",
        lambda outcome: max(track_difference_ms(clip) for clip in outcome.clips),
    )


def in_sync(*, delay_s: float = 0.0) -> Law:
    """Of each clip the first and the last click beside the flash of their frame."""

    def found(outcome: Outcome) -> float:
        offsets = []
        for clip in outcome.clips:
            heard, seen = heard_in(clip), flashes_in(clip)
            assert len(heard) == len(seen), (heard, seen)
            offsets += [abs(heard[end] - delay_s - seen[end]) * 1000 for end in (0, -1) if seen]
        assert offsets
        return max(offsets)

    return at_most("|A-V|", MAX_SOUND_OFFSET_MS, "ms", found)


# What else is said


def fails(reason: FailureReason, words: str) -> Law:
    """A failure with this reason, whose message has these words: its clips are not written."""

    def look(outcome: Outcome) -> tuple[bool, str]:
        failure = outcome.videos[-1].failure
        if failure is None:
            return False, f"no failure, {len(outcome.clips)} clips"
        is_right = failure.reason == reason and words in failure.message
        return is_right, str(failure.reason) if is_right else f"{failure.reason}: {failure.message}"

    return Law(f"{reason}: ..{words}..", look)


def says(where: str, words: str, found: Callable[[Outcome], str | None]) -> Law:
    """A note or an error that must have these words."""

    def look(outcome: Outcome) -> tuple[bool, str]:
        text = found(outcome)
        return text is not None and words in text, f"{where}: {text}"

    return Law(f"{where}: ..{words}..", look)


def clip_error(key: str, words: str) -> Law:
    return says(f"clip error {key}", words, lambda outcome: outcome.clips[-1].errors.get(key))


def clip_note(key: str, words: str) -> Law:
    return says(f"clip note {key}", words, lambda outcome: outcome.clips[-1].notes.get(key))


def video_error(key: str, words: str) -> Law:
    return says(f"video error {key}", words, lambda outcome: outcome.videos[-1].errors.get(key))


def has_spans(spans: Sequence[tuple[int, int]]) -> Law:
    """Clips of these frames, half-open."""

    def words(found: Sequence[tuple[int, int]]) -> str:
        return "clips of frames " + ", ".join(f"{start}-{end - 1}" for start, end in found)

    return reads(words(spans), lambda outcome: words(spans_of(outcome)))


def spans_of(outcome: Outcome) -> list[tuple[int, int]]:
    spans = [clip.frame_span for clip in outcome.clips]
    return [(span.start, span.end) for span in spans if span is not None]


def is_recorded_as(video_id: str) -> Law:
    """Written out, the video has its record under its id, and every clip its file."""

    def found(outcome: Outcome) -> str:
        videos = deepcopy(outcome.videos)  # what is written lets go of its bytes
        with tempfile.TemporaryDirectory() as out:
            writer = ClipWriterStage(out)
            for video in videos:
                list(writer.process(VideoTask(video.id, "test", video)))
            record = Path(out, layout.record(video_id))
            names = json.loads(record.read_text(encoding="utf-8"))["video"] if record.is_file() else "nothing"
            is_whole = all(Path(out, layout.clip(clip.uuid)).is_file() for clip in outcome.clips)
        if names != str(outcome.videos[0].input_video):
            return f"a record of {names}"
        return f"recorded as {video_id!r}" if is_whole else "clips are missing"

    return reads(f"recorded as {video_id!r}", found)
