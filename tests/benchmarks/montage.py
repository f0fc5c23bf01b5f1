"""Footage for the benchmarks: a montage of real films with many cuts and light grain, made once and kept.

Its frames are those of the films, one for one, shown at 30 a second.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Final

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from tests.footage import cache_folder, footage

FRAMES_PER_S: Final = 30
_GRAIN_SIGMA: Final = 1.5  # of 255, in luma
_NUM_GRAINS: Final = 16


@dataclass(frozen=True, slots=True)
class Part:
    """Frames of one film."""

    film: str
    first_frame: int
    num_frames: int


@dataclass(frozen=True, slots=True)
class Montage:
    """What is shown, and how it is encoded: x264 fast with closed GOPs, key frames also at scene cuts."""

    parts: tuple[Part, ...]
    width: int
    height: int
    gop_size: int
    crf: int = 22

    @property
    def num_frames(self) -> int:
        """Of all parts."""
        return sum(part.num_frames for part in self.parts)

    @property
    def duration_s(self) -> float:
        """Of the whole."""
        return self.num_frames / FRAMES_PER_S


_LONG: Final = (  # long takes and short ones: half of the shots of 2 s and more have less than 4 s
    Part("bbb.mp4", 285, 1061),
    Part("cityCC0.mpg", 0, 190),
    Part("bbb.mp4", 2394, 1119),
    Part("bikes.mp4", 30, 157),
    Part("trailer_bbb.mp4", 593, 456),
    Part("bbb.mp4", 3578, 317),
)
_SHORT: Final = (
    Part("bbb.mp4", 285, 268),
    Part("cityCC0.mpg", 0, 190),
    Part("bbb.mp4", 2394, 437),
    Part("bikes.mp4", 76, 34),
    Part("trailer_bbb.mp4", 593, 271),
)
MONTAGES: Final = {
    "720p": Montage(_LONG, 1280, 720, gop_size=250),
    "1080p": Montage(_SHORT, 1920, 1080, gop_size=250, crf=23),
    "1080p-gop30": Montage(_SHORT, 1920, 1080, gop_size=30, crf=23),
    "tiny": Montage((Part("cityCC0.mpg", 20, 150),), 640, 360, gop_size=250),
}


def montage(name: str) -> Path:
    """The file, encoded at the first call; another recipe is another file.

    Raises:
        FootageError: a film cannot be fetched.
    """
    recipe = MONTAGES[name]
    key = hashlib.sha256(f"{recipe!r} {_GRAIN_SIGMA} {_NUM_GRAINS}".encode()).hexdigest()[:12]
    target = cache_folder() / f"montage-{name}-{key}.mp4"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".encoding-", dir=target.parent) as aside:
            _encode(recipe, Path(aside) / "montage.mp4").replace(target)
    return target


def _encode(recipe: Montage, path: Path) -> Path:
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_S)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = recipe.width, recipe.height, "yuv420p"
        stream.codec_context.thread_count = 2  # x264's output depends on how many there are
        stream.codec_context.options = {
            "preset": "fast",
            "crf": str(recipe.crf),
            "g": str(recipe.gop_size),
            "x264-params": "mbtree=0:open-gop=0",
        }
        for index, frame in enumerate(_pictures(recipe)):
            frame.pts, frame.time_base = index, Fraction(1, FRAMES_PER_S)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _pictures(recipe: Montage) -> Iterator[av.VideoFrame]:
    chance = np.random.default_rng(20)
    grains = [_grain(chance, recipe) for _ in range(_NUM_GRAINS)]
    reformatter = VideoReformatter()
    for part in recipe.parts:
        for index, frame in enumerate(_frames_of(part)):
            scaled = reformatter.reformat(
                frame,
                width=recipe.width,
                height=recipe.height,
                format="yuv420p",
                interpolation=Interpolation.BICUBIC,
                threads=1,
            )
            yield _grained(scaled, grains[(7 * index) % _NUM_GRAINS])


def _frames_of(part: Part) -> Iterator[av.VideoFrame]:
    with av.open(str(footage(part.film))) as container:
        container.streams.video[0].codec_context.thread_count = 1
        yield from islice(container.decode(video=0), part.first_frame, part.first_frame + part.num_frames)


def _grain(chance: np.random.Generator, recipe: Montage) -> NDArray[np.int16]:
    return np.rint(chance.normal(0.0, _GRAIN_SIGMA, (recipe.height, recipe.width))).astype(np.int16)


def _grained(frame: av.VideoFrame, grain: NDArray[np.int16]) -> av.VideoFrame:
    picture = frame.to_ndarray()
    height = frame.height
    picture[:height] = np.clip(picture[:height] + grain, 16, 235)
    return av.VideoFrame.from_ndarray(picture, format="yuv420p")


def content_key(path: Path) -> str:
    """What a file holds, for the names of what is derived from it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def keep_array(path: Path, array: NDArray[np.float32]) -> None:
    """Write an array so that it is whole whenever it is there."""
    aside = path.with_name(f".{os.getpid()}-{path.name}")
    np.save(aside, array)
    aside.replace(path)
