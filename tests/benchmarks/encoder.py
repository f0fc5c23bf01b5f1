"""Cost against quality of libx264's presets at the options of our clips, on real footage.

The rule for the default: of the presets the one with the least product of CPU and bits at equal PSNR of luma (a percent
of either is worth the same, for clips are encoded once and then stored and read), and of crf 20, 23 and 26 the highest
at which its mean SSIM is 0.99 or more. The goal is a product below that of ``veryfast`` as users set it. Between crfs,
and beyond, log CPU and log bits are straight lines over PSNR.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from curation.video.encode import EncoderSettings, encoder_options
from tests.benchmarks.harness import parse_size, verdict
from tests.footage import MEDIA, footage

GOAL = 1.0
MIN_SSIM = 0.99
CRFS = (20, 23, 26)
OURS, ALTERNATIVE = "superfast (ours)", "veryfast as users set it"

Luma = NDArray[np.float32]


def ours(preset: str, crf: int) -> dict[str, str]:
    return encoder_options(EncoderSettings("libx264", preset, crf))


def ours_with(preset: str, more: str, *, without: str = "") -> Callable[[int], dict[str, str]]:
    """Our options with other private ones."""

    def options(crf: int) -> dict[str, str]:
        found = ours(preset, crf)
        assert without in found["x264-params"]
        return found | {"x264-params": found["x264-params"].replace(without, "") + more}

    return options


def as_users(preset: str) -> Callable[[int], dict[str, str]]:
    return lambda crf: {"preset": preset, "crf": str(crf)}


CASES: dict[str, Callable[[int], dict[str, str]]] = {
    "ultrafast": ours_with("ultrafast", ""),
    "ultrafast, CABAC, deblocking": ours_with("ultrafast", ":cabac=1:no-deblock=0"),
    OURS: ours_with("superfast", ""),
    "superfast, B-frames": ours_with("superfast", "", without="bframes=0:weightp=0:"),
    "veryfast, our options": ours_with("veryfast", ""),
    ALTERNATIVE: as_users("veryfast"),
    "faster as users set it": as_users("faster"),
}


@dataclass(frozen=True)
class Measured:
    """One source at one setting, or the mean of several."""

    cpu_s_a_minute: float
    kbit_s: float
    psnr_db: float
    ssim: float


def pictures(path: Path, num_frames: int) -> tuple[list[av.VideoFrame], Fraction]:
    """The first pictures of a video as our encoders get them, and their rate."""
    with av.open(path) as container:
        rate = Fraction(container.streams.video[0].average_rate or 25)
        frames = [frame for frame, _ in zip(container.decode(video=0), range(num_frames), strict=False)]
    return [frame.reformat(format="yuv420p") for frame in frames], rate


def measured(frames: Sequence[av.VideoFrame], rate: Fraction, options: dict[str, str]) -> Measured:
    """Encode on one thread, decode again, compare."""
    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
    encoder.time_base, encoder.framerate, encoder.thread_count = 1 / rate, rate, 1
    encoder.options = options
    packets = []
    before = time.process_time()
    for index, frame in enumerate(frames):
        frame.pts, frame.time_base, frame.pict_type = index, 1 / rate, av.video.frame.PictureType.NONE
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    spent_s = time.process_time() - before
    minutes = len(frames) / float(rate) / 60
    kbit_s = sum(packet.size for packet in packets) * 8 / 1000 / (minutes * 60)
    psnr_db, ssim = compared(frames, decoded(packets))
    return Measured(spent_s / minutes, kbit_s, psnr_db, ssim)


def decoded(packets: "Sequence[av.Packet[av.VideoStream]]") -> Iterator[av.VideoFrame]:
    decoder = av.CodecContext.create("h264", "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_count = 1
    for packet in [*packets, None]:
        yield from decoder.decode(packet)


def compared(frames: Sequence[av.VideoFrame], found: Iterator[av.VideoFrame]) -> tuple[float, float]:
    """PSNR over every second picture and their mean SSIM, both of luma."""
    errors, similar = [], []
    for one, other in list(zip(frames, found, strict=True))[::2]:
        a, b = luma_of(one), luma_of(other)
        errors.append(float(np.square(a - b).mean()))
        similar.append(ssim_of(a, b))
    return 10 * math.log10(255**2 / (sum(errors) / len(errors))), sum(similar) / len(similar)


def luma_of(frame: av.VideoFrame) -> Luma:
    return frame.to_ndarray()[: frame.height].astype(np.float32)


def ssim_of(a: Luma, b: Luma) -> float:
    """Over blocks of 8x8 that do not overlap. Source: Wang et al. 2004, K1 = 0.01, K2 = 0.03."""
    height, width = a.shape[0] // 8, a.shape[1] // 8
    blocks = [x[: 8 * height, : 8 * width].reshape(height, 8, width, 8) for x in (a, b)]
    (mean_a, mean_b), axes = (x.mean(axis=(1, 3)) for x in blocks), (1, 3)
    var_a, var_b = (x.var(axis=axes) for x in blocks)
    covariance = (blocks[0] * blocks[1]).mean(axis=axes) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    shape = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float((shape / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean())


def mean_of(found: Sequence[Measured]) -> Measured:
    """Geometric means of what is a factor, arithmetic ones of PSNR and SSIM."""
    return Measured(
        float(np.exp(np.mean([np.log(each.cpu_s_a_minute) for each in found]))),
        float(np.exp(np.mean([np.log(each.kbit_s) for each in found]))),
        float(np.mean([each.psnr_db for each in found])),
        float(np.mean([each.ssim for each in found])),
    )


def at_psnr(points: Sequence[Measured], psnr_db: float) -> tuple[float, float]:
    """CPU and bits of a case at a PSNR, by straight lines through the logarithms at its crfs."""
    shown = [each.psnr_db for each in points]
    lines = [
        np.polyfit(shown, np.log(values), 1)
        for values in ([each.cpu_s_a_minute for each in points], [each.kbit_s for each in points])
    ]
    cpu, bits = (float(np.exp(np.polyval(line, psnr_db))) for line in lines)
    return cpu, bits


def measure(paths: Sequence[Path], num_frames: int) -> dict[str, list[Measured]]:
    """Of each case its means at the crfs; cases in turns, so that a busy machine disturbs all alike."""
    found: dict[tuple[str, int], list[Measured]] = {}
    for path in paths:
        frames, rate = pictures(path, num_frames)
        for crf in CRFS:
            for name, options in CASES.items():
                found.setdefault((name, crf), []).append(measured(frames, rate, options(crf)))
    return {name: [mean_of(found[name, crf]) for crf in CRFS] for name in CASES}


def print_table(means: dict[str, list[Measured]]) -> None:
    print(f"{'libx264, one thread':30} crf  CPU s/min   kbit/s   PSNR dB    SSIM")
    for name, points in means.items():
        for crf, each in zip(CRFS, points, strict=True):
            shown = f"{each.cpu_s_a_minute:10.2f} {each.kbit_s:8.0f} {each.psnr_db:9.2f} {each.ssim:7.4f}"
            print(f"{name:30} {crf:3} {shown}")


def products(means: dict[str, list[Measured]], psnr_db: float) -> dict[str, float]:
    """CPU x bits of each case at a PSNR, the alternative's being 1; prints how they stand."""
    cpu_there, bits_there = at_psnr(means[ALTERNATIVE], psnr_db)
    print(f"at {psnr_db:.2f} dB, {ALTERNATIVE} = 1 ({cpu_there:.2f} CPU s/min, {bits_there:.0f} kbit/s):")
    found = {}
    for name, points in means.items():
        cpu, bits = at_psnr(points, psnr_db)
        found[name] = cpu / cpu_there * bits / bits_there
        print(f"{name:30} CPU {cpu / cpu_there:.3f}, bits {bits / bits_there:.3f}, CPU x bits {found[name]:.3f}")
    return found


def main() -> int:
    size = parse_size(__doc__)
    paths = [footage("bikes.mp4")]
    paths += [MEDIA / "big_buck_bunny_1.mp4", MEDIA / "big_buck_bunny_2.mp4"] if size == "full" else []
    means = measure(paths, 12 if size == "tiny" else 120)
    print_table(means)
    found = products(means, means[OURS][CRFS.index(23)].psnr_db)
    best = min(found, key=lambda name: found[name])
    good = [crf for crf, each in zip(CRFS, means[best], strict=True) if each.ssim >= MIN_SSIM]
    print(f"the rule takes {best}, crf {max(good, default=CRFS[0])}; our default is {OURS}, crf 23")
    return verdict("encoder", found[OURS], GOAL, at_most=True)


if __name__ == "__main__":
    sys.exit(main())
