"""The CPU part of clipmill as its users run it, but the detector's network.

``python -m tests.benchmarks.whole_pipeline`` reads a job as JSON from the standard input and prints what it did.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curation.clipping.fixed_stride import FixedStrideExtractorStage
from curation.clipping.reader import VideoReaderStage
from curation.clipping.transcoding import ClipTranscodingStage
from curation.clipping.transnetv2 import TransNetV2ClipExtractionStage
from curation.model import Clip, Video, VideoTask
from curation.pipeline import Pipeline, Stage
from curation.preview.preview import PreviewStage
from curation.video.frames import FrameRequest
from tests.benchmarks.cost_cases import CAPTION_FPS, EMBEDDING_FRAMES, EMBEDDING_SIDE, Case, caption_size
from tests.benchmarks.replay import Replay

STRIDE_S = 10.0
_MOTION_HEIGHT = 256


@dataclass
class Done:
    """What was done, by count."""

    num_source_frames: int = 0
    num_decoded_frames: int = 0
    num_encoded_frames: int = 0
    num_clip_frames: int = 0
    num_windows: int = 0
    num_caption_frames: int = 0
    num_motion_frames: int = 0
    clip_bytes: int = 0
    preview_bytes: int = 0


class FrameUser(Stage):
    """Stands for the stages that caption, embed and measure motion: takes their frames and lets them go."""

    name = "frame_user"

    def __init__(self, width: int, height: int, done: Done) -> None:
        self._done = done
        caption_width, caption_height = caption_size(width, height)
        self._caption = FrameRequest("caption", CAPTION_FPS, caption_height, "rgb24", width=caption_width)
        self._embedding = FrameRequest(
            "embedding", CAPTION_FPS, EMBEDDING_SIDE, "rgb24", width=EMBEDDING_SIDE, scope="clip"
        )
        self._motion = FrameRequest("motion", CAPTION_FPS, _MOTION_HEIGHT, "yuv420p", scope="clip")

    def frame_requests(self) -> list[FrameRequest]:
        """Of every model."""
        return [self._caption, self._embedding, self._motion]

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        """Do with the frames what comes before a model."""
        for clip in task.data.clips:
            self._use(clip)
        yield task

    def _use(self, clip: Clip) -> None:
        indices = clip.extracted_frame_indices["caption"]
        for window in clip.windows:
            inside = slice(*np.searchsorted(indices, [window.start_frame, window.end_frame + 1]).tolist())
            self._done.num_caption_frames += len(clip.extracted_frames["caption"][inside])
        embedding = clip.extracted_frames["embedding"]
        chosen = np.linspace(0, len(embedding) - 1, EMBEDDING_FRAMES).round().astype(int)
        assert embedding[chosen].shape == (EMBEDDING_FRAMES, EMBEDDING_SIDE, EMBEDDING_SIDE, 3)
        times_s = clip.frame_times_s
        assert times_s is not None
        half = int(np.searchsorted(times_s[clip.extracted_frame_indices["motion"]], times_s[0] + clip.duration / 2))
        self._done.num_motion_frames += len(clip.extracted_frames["motion"][:half])
        for request in self.frame_requests():
            del clip.extracted_frames[request.key], clip.extracted_frame_indices[request.key]


def splitter_of(case: Case, probabilities: Path | None) -> Stage:
    """The stage that cuts as the case says."""
    if case.cuts == "stride-10s":
        return FixedStrideExtractorStage(STRIDE_S)
    assert probabilities is not None
    rules: dict[str, Any] = {"crop_s": case.crop_s, "min_length_s": case.min_length_s}
    if case.snaps:
        rules["snap_to_idr"] = True
    splitter = TransNetV2ClipExtractionStage(**rules)
    splitter.model = Replay(np.load(probabilities))
    return splitter


def run(case: Case, path: Path, size: tuple[int, int], probabilities: Path | None) -> tuple[Done, list[Clip]]:
    """Run the pipeline over one video.

    Raises:
        RuntimeError: the video or a clip failed.
    """
    done = Done()
    pipeline = Pipeline("cpu-cost").add_stage(VideoReaderStage()).add_stage(splitter_of(case, probabilities))
    pipeline.add_stage(ClipTranscodingStage(encoder="libx264", clip_encoding=case.clip_encoding))
    pipeline.add_stage(FrameUser(*size, done)).add_stage(PreviewStage())
    video = Video(path, id=path.name)
    clips: list[Clip] = []
    for task in pipeline.stream([VideoTask(video.id, "benchmark", video)]):
        if task.data.failure is not None or any(clip.errors for clip in task.data.clips):
            raise RuntimeError(f"{path}: {task.data.failure}, {[clip.errors for clip in task.data.clips]}")
        clips += task.data.clips
        done.num_source_frames = task.data.metadata.num_frames or 0
        done.num_decoded_frames = task.data.decode_count.num_frames
    for clip in clips:
        _count(clip, done)
    return done, clips


def _count(clip: Clip, done: Done) -> None:
    assert clip.frame_span is not None
    encoded = clip.notes.get("frames_encoded")
    done.num_encoded_frames += int(encoded.split()[0]) if encoded else len(clip.frame_span)
    done.num_clip_frames += len(clip.frame_span)
    done.num_windows += len(clip.windows)
    done.clip_bytes += len(clip.buffer or b"")
    done.preview_bytes += sum(len(window.webp_bytes or b"") for window in clip.windows)


def main() -> int:
    job = json.load(sys.stdin)
    probabilities = Path(job["probabilities"]) if job["probabilities"] else None
    done, clips = run(Case(**job["case"]), Path(job["path"]), tuple(job["size"]), probabilities)
    spans = [(clip.frame_span.start, clip.frame_span.end) for clip in clips if clip.frame_span is not None]
    print(json.dumps(asdict(done) | {"spans": spans}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
