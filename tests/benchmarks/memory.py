"""Resident memory of a worker with two decode children against the length of its videos, 1080p, no model.

Two cases: clips at regular times by smart copy with previews, all of up to ten hours; and shots, clips by transcoding
and previews from one decode (with a stand-in for the detector's network that finds no cut, so that the delay line is as
long as it gets), of two minutes and of the last two minutes of ten hours. The long videos are a short one, looped by
copying its packets. Each is measured in a worker of its own on two such videos at once; a process counts with its
highest resident set, whenever that was. VALUE is the memory at the longest video for that at the shortest one; nothing
may take more than 1.6 GB in all processes.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from curation.clipping.fixed_stride import FixedStrideExtractorStage
from curation.clipping.reader import VideoReaderStage
from curation.clipping.transcoding import ClipTranscodingStage
from curation.clipping.transnetv2 import TransNetV2ClipExtractionStage
from curation.model import Video, VideoTask
from curation.pipeline import Pipeline
from curation.pipeline.allocator import give_back_large_blocks
from curation.pipeline.sandbox import DecodeSandbox
from curation.preview.preview import PreviewStage
from curation.resident import ResidentModel
from curation.writing.clip_writer import ClipWriterStage
from tests.benchmarks.harness import verdict
from tests.footage import MEDIA

GOAL = 1.15
MAX_TOTAL_MB = 1600
MINUTE_S = 60.0
LENGTHS_S = {
    "tiny": {"smart-copy": [10.0, 30.0], "transcode": [10.0]},
    "full": {
        "smart-copy": [2 * MINUTE_S, 60 * MINUTE_S, 600 * MINUTE_S],
        "transcode": [2 * MINUTE_S, 600 * MINUTE_S],
    },
}
TRANSCODED_S = 2 * MINUTE_S  # at the end of the video


class NoCuts(ResidentModel):
    """In the place of the detector's network."""

    def setup(self) -> None:
        """There is nothing to load."""

    def __call__(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        return np.zeros(batch.shape[:2], np.float32)


@dataclass(frozen=True, slots=True)
class Peak:
    """Highest resident sets, MB (10^6 bytes)."""

    worker_mb: float
    children_mb: float

    @property
    def total_mb(self) -> float:
        return self.worker_mb + self.children_mb


def make_short(path: Path, *, height: int) -> Path:
    """Ten seconds of real footage at 30 frames a second, closed GOPs of a second."""
    with av.open(str(MEDIA / "big_buck_bunny_1.mp4")) as source, av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "crf": "35"})
        stream.options |= {"x264-params": "keyint=30:scenecut=0:bframes=2:open-gop=0"}
        stream.width, stream.height, stream.pix_fmt = height * 16 // 9, height, "yuv420p"
        for index, frame in enumerate(source.decode(video=0)):
            if index == 300:
                break
            large = frame.reformat(width=stream.width, height=height, format="yuv420p")
            large.pts, large.time_base = index, Fraction(1, 30)
            container.mux(stream.encode(large))
        container.mux(stream.encode(None))
    return path


def looped(short: Path, path: Path, *, length_s: float) -> Path:
    """The video again and again, its packets copied."""
    with av.open(str(short)) as source, av.open(str(path), "w") as container:
        stream = source.streams.video[0]
        copy = container.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        assert stream.duration is not None
        assert stream.time_base is not None
        for turn in range(round(length_s / float(stream.duration * stream.time_base))):
            for packet in packets:
                again = av.Packet(bytes(packet))
                assert packet.pts is not None
                assert packet.dts is not None
                again.pts, again.dts = packet.pts + turn * stream.duration, packet.dts + turn * stream.duration
                again.duration, again.time_base = packet.duration, packet.time_base
                again.is_keyframe, again.stream = packet.is_keyframe, copy
                container.mux(again)
    return path


def process(case: str, video: Path, output: Path, start_s: float) -> None:
    """What the measured worker does."""
    give_back_large_blocks(2**18)  # as jobs.worker
    pipeline = Pipeline("memory", sandbox=DecodeSandbox(num_children=2)).add_stage(VideoReaderStage())
    if case == "smart-copy":
        pipeline.add_stage(FixedStrideExtractorStage(10.0)).add_stage(ClipTranscodingStage(clip_encoding="smart-copy"))
    else:
        splitter = TransNetV2ClipExtractionStage()
        splitter.model = NoCuts()  # type: ignore[assignment]
        pipeline.add_stage(splitter).add_stage(ClipTranscodingStage())
    pipeline.add_stage(PreviewStage(compression_level=1)).add_stage(ClipWriterStage(str(output)))
    tasks = (VideoTask(name, "memory", Video(video, id=name, start_s=start_s)) for name in ("a", "b"))
    for task in pipeline.stream(tasks):
        assert task.data.failure is None, task.data.failure


def peak_of(case: str, video: Path, *, length_s: float) -> Peak:
    """Run a worker and look at the processes until it has ended."""
    start_s = max(0.0, length_s - TRANSCODED_S) if case == "transcode" else 0.0
    with tempfile.TemporaryDirectory(dir=video.parent) as output:
        command = [sys.executable, "-m", "tests.benchmarks.memory", "--case", case, "--video", str(video)]
        with subprocess.Popen([*command, "--output", output, "--start-s", str(start_s)]) as worker:
            highest: dict[int, float] = {}
            while worker.poll() is None:
                highest |= dict(resident_mb(worker.pid))
                time.sleep(0.1)
    assert worker.returncode == 0
    return Peak(highest.pop(worker.pid), sum(highest.values()))


def resident_mb(pid: int) -> Iterator[tuple[int, float]]:
    """The highest resident set so far of a process and of those that it started."""
    for each in [pid, *_children(pid)]:
        try:
            lines = Path(f"/proc/{each}/status").read_text().splitlines()
        except OSError:
            continue
        yield from ((each, int(line.split()[1]) * 1024 / 1e6) for line in lines if line.startswith("VmHWM"))


def _children(pid: int) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            yield from map(int, path.read_text().split())
        except OSError:
            continue


def measure(size: str) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        short = make_short(folder / "short.mp4", height=1080 if size == "full" else 360)
        ratios, totals = [], []
        for case, lengths_s in LENGTHS_S[size].items():
            peaks = []
            for length_s in lengths_s:
                video = looped(short, folder / "long.mp4", length_s=length_s)
                peaks.append(peak_of(case, video, length_s=length_s))
                shown = f"worker {peaks[-1].worker_mb:.0f} MB, two children {peaks[-1].children_mb:.0f} MB"
                print(f"{case}, {length_s / MINUTE_S:g} min: {shown}, together {peaks[-1].total_mb:.0f} MB", flush=True)
            totals += [peak.total_mb for peak in peaks]
            ratios.append(peaks[-1].total_mb / peaks[0].total_mb)
    print(f"longest for shortest: {', '.join(f'{r:.3f}' for r in ratios)}; most {max(totals):.0f} MB of {MAX_TOTAL_MB}")
    return verdict("memory", max(ratios), GOAL, at_most=True) or int(max(totals) > MAX_TOTAL_MB)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("tiny", "full"), default="full")
    parser.add_argument("--case", help="what to do, as the measured worker")
    parser.add_argument("--video", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--start-s", type=float, default=0.0)
    arguments = parser.parse_args()
    if arguments.case is None:
        return measure(arguments.size)
    process(arguments.case, arguments.video, arguments.output, arguments.start_s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
