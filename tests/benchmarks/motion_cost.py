"""CPU seconds that the measure of motion adds to a split, as a share of it: the goal is for clips that are encoded.

H.264, whose decoder tells motion, and HEVC, of which pictures are compared. Beside it clips that are copied: there the
measure needs frames that nothing else would decode. The detector's network is left out: what it said is replayed.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Literal

import av
from av.video.frame import PictureType

from curation.captioning.preparation import CaptionPreparationStage
from curation.clipping.fixed_stride import FixedStrideExtractorStage
from curation.clipping.reader import VideoReaderStage
from curation.clipping.transcoding import ClipTranscodingStage
from curation.clipping.transnetv2 import TransNetV2ClipExtractionStage
from curation.filtering.motion import MotionFilterStage
from curation.model import Video, VideoTask
from curation.pipeline import Pipeline, Stage
from curation.pipeline.allocator import give_back_large_blocks
from curation.preview.preview import PreviewStage
from tests.benchmarks.harness import interleaved_cpu_s, parse_size, verdict
from tests.benchmarks.montage import FRAMES_PER_S, MONTAGES, montage
from tests.benchmarks.replay import Replay, shot_probabilities

GOAL: Final = 0.03


def shots(footage: str) -> Stage:
    """The detector, as it found the shots of a montage."""
    splitter = TransNetV2ClipExtractionStage()
    splitter.model = Replay(shot_probabilities(footage))
    return splitter


def split(
    path: Path, splitter: Stage, *, measured: bool, clip_encoding: Literal["transcode", "smart-copy"] = "transcode"
) -> int:
    """Cut a video, with frames for captions and previews; gives the number of frames that were decoded.

    Raises:
        RuntimeError: it failed, or a clip was not measured.
    """
    pipeline = Pipeline("motion-cost").add_stage(VideoReaderStage()).add_stage(splitter)
    pipeline.add_stage(ClipTranscodingStage(encoder="libx264", clip_encoding=clip_encoding))
    if measured:
        pipeline.add_stage(MotionFilterStage(score_only=True))
    pipeline.add_stage(CaptionPreparationStage()).add_stage(PreviewStage())
    num_decoded = 0
    for task in pipeline.stream([VideoTask(path.name, "benchmark", Video(path, id=path.name))]):
        if task.data.failure is not None or any(clip.errors for clip in task.data.clips):
            raise RuntimeError(f"{path}: {task.data.failure}, {[clip.errors for clip in task.data.clips]}")
        num_decoded = task.data.decode_count.num_frames
    return num_decoded


def recoded(source: Path, folder: Path, codec: str, *, num_frames: int) -> Path:
    """The beginning of a video in another codec."""
    path = folder / f"{codec}.mkv"
    with av.open(str(source), "r") as read, av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FRAMES_PER_S)
        assert isinstance(stream, av.VideoStream)
        shown = read.streams.video[0]
        stream.width, stream.height, stream.pix_fmt = shown.width, shown.height, "yuv420p"
        for _, frame in zip(range(num_frames), read.decode(video=0), strict=False):
            frame.pict_type = PictureType.NONE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def added_share(name: str, run: Callable[..., int], *, duration_s: float, repetitions: int) -> float:
    """Print what the measure adds to a split; gives that as a share of it."""
    with_motion, without = partial(run, measured=True), partial(run, measured=False)
    pairs = [interleaved_cpu_s({"without": without, "with": with_motion}, repetitions=1) for _ in range(repetitions)]
    added_s = statistics.median(pair["with"] - pair["without"] for pair in pairs)  # neighbours are disturbed alike
    split_s, minutes = statistics.median(pair["without"] for pair in pairs), duration_s / 60
    print(
        f"{name:26} {split_s / minutes:6.2f} CPU s a minute of source, {added_s / minutes:+.2f} with motion, "
        f"{added_s / split_s:+.1%}; {without()} and {with_motion()} frames decoded",
        flush=True,
    )
    return added_s / split_s


def main() -> int:
    is_tiny = parse_size(__doc__) == "tiny"
    give_back_large_blocks(2**20)  # as decode children do: it decides what a decoder's vectors cost
    repetitions, num_frames = (1, 60) if is_tiny else (7, 600)
    shares = []
    for footage in ("tiny",) if is_tiny else ("720p", "1080p"):
        run = partial(split, montage(footage), shots(footage))
        duration_s = MONTAGES[footage].duration_s
        shares.append(added_share(f"{footage}, shots, encoded", run, duration_s=duration_s, repetitions=repetitions))
    name, stride = "tiny" if is_tiny else "720p", FixedStrideExtractorStage(10.0)
    copy = partial(split, montage(name), stride, clip_encoding="smart-copy")
    added_share(f"{name}, every 10 s, copied", copy, duration_s=MONTAGES[name].duration_s, repetitions=1)
    with tempfile.TemporaryDirectory() as folder:
        path = recoded(montage(name), Path(folder), "libx265", num_frames=num_frames)
        hevc = partial(split, path, stride)
        duration_s = num_frames / FRAMES_PER_S
        shares.append(added_share("HEVC, every 10 s, encoded", hevc, duration_s=duration_s, repetitions=repetitions))
    return verdict("motion_cost", max(0.0, *shares), GOAL, at_most=True)


if __name__ == "__main__":
    sys.exit(main())
