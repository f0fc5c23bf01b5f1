"""Caption windows prepared in a CPU second, against the path of Hugging Face's processor from the clip's mp4.

Theirs: transformers' ``load_video`` (PyAV) decodes the clip to RGB of its full size, Qwen2VLVideoProcessor resizes,
normalises and makes patches. Ours: what CaptionPreparationStage adds to a run that cuts and encodes the same clips
anyway (frames in the same size, out of the one decode of the source), and the patches that vLLM then makes of them on
the CPU, with the same processor: it leaves them uint8 and normalises on the GPU. Both take the same frames.

Our stage alone from the clip's mp4, with patches in floating point on both sides, is printed beside it.

Where transformers is not installed, theirs is the same steps in PyAV and torch, and the output says so.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray

from curation.captioning.frames import caption_frame_indices
from curation.captioning.models import CAPTION_MODELS
from curation.captioning.preparation import CaptionPreparationStage
from curation.model import Clip, Video, VideoTask
from curation.pipeline import Pipeline, Stage
from tests.benchmarks.harness import interleaved_cpu_s, parse_size, verdict
from tests.footage import footage
from tests.splitting import splitting, task_of

GOAL = 3.0
_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)  # of CLIP, as the processor has them
_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)

Frames = NDArray[np.uint8]


def clips_of(source: Path, stages: list[Stage]) -> list[Clip]:
    """A run over the source: read, cut every 10 s, encode, and the stages."""
    pipeline = splitting(clip_len_s=10.0)
    for stage in stages:
        pipeline.add_stage(stage)
    return [clip for task in pipeline.run([task_of(source)]) for clip in task.data.clips]


def prepared_alone(clips: list[Clip]) -> None:
    """Our stage on clips that have only their mp4."""
    bare = [Clip(clip.uuid, clip.source_video, clip.span, buffer=clip.buffer) for clip in clips]
    Pipeline("p").add_stage(CaptionPreparationStage()).run([VideoTask("v", "b", Video(Path("v"), clips=bare))])


def frames_of(clips: list[Clip]) -> list[Frames]:
    """What was prepared."""
    inputs = [window.qwen_llm_input for clip in clips for window in clip.windows]
    return [given["multi_modal_data"]["video"] for given in inputs if given is not None]


def sampled(num_frames: int, rate: float) -> list[int]:
    """The frames that we take of a clip with one window, for the others to take as well."""
    indices: list[int] = caption_frame_indices(np.arange(num_frames) / rate, 2.0).tolist()
    return indices


class HuggingFace:
    """The path of transformers."""

    name = "transformers' load_video and Qwen2VLVideoProcessor"

    def __init__(self) -> None:
        from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
        from transformers.video_utils import load_video

        self._load = load_video
        self._process = Qwen2VLVideoProcessor(cap_pixels_per_frame=True, max_video_tokens=24_576 / 0.9)

    def read(self, path: Path) -> Frames:
        """The sampled frames of a clip in RGB, of its full size."""
        frames: Frames
        frames, _ = self._load(
            str(path),
            backend="pyav",
            sample_indices_fn=lambda metadata: sampled(metadata.total_num_frames, metadata.fps),
        )
        return frames

    def patches(self, frames: Frames, *, resizes: bool, normalises: bool = True) -> torch.Tensor:
        """Pixel values, shape (num_patches, 1176): float32, or uint8 as they are."""
        made = self._process(
            videos=[frames],
            do_resize=resizes,
            do_rescale=normalises,
            do_normalize=normalises,
            do_sample_frames=False,
            return_tensors="pt",
        )
        values: torch.Tensor = made["pixel_values_videos"]
        return values


class SameSteps:
    """The steps of that path, where transformers is not there."""

    name = "the same steps in PyAV and torch (transformers is not installed)"

    def read(self, path: Path) -> Frames:
        """As HuggingFace."""
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.average_rate is not None
            wanted = set(sampled(stream.frames, float(stream.average_rate)))
            frames = [frame for index, frame in enumerate(container.decode(stream)) if index in wanted]
            return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])

    def patches(self, frames: Frames, *, resizes: bool, normalises: bool = True) -> torch.Tensor:
        """As HuggingFace."""
        video = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()
        if resizes:
            sizes = CAPTION_MODELS["qwen"].sizes
            assert sizes is not None
            width, height = sizes.size(frames.shape[2], frames.shape[1], len(frames))
            video = torch.nn.functional.interpolate(video, (height, width), mode="bicubic", antialias=True)
        values = (video / 255 - _MEAN) / _STD if normalises else video
        num_frames, _, height, width = values.shape
        blocks = values.view(num_frames // 2, 2, 3, height // 28, 2, 14, width // 28, 2, 14)
        return blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, 3 * 2 * 14 * 14)


def cases(source: Path, folder: Path, path: HuggingFace | SameSteps) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    clips = clips_of(source, [CaptionPreparationStage()])
    ours = frames_of(clips)
    files = [folder / f"{number}.mp4" for number in range(len(clips))]
    for clip, file in zip(clips, files, strict=True):
        assert clip.buffer is not None
        assert len(clip.windows) == 1
        file.write_bytes(clip.buffer)
    for frames, file in zip(ours, files, strict=True):  # the same work on both sides
        theirs = path.patches(path.read(file), resizes=True)
        assert theirs.shape == path.patches(frames, resizes=False).shape
    return {
        "cutting": lambda: clips_of(source, []),
        "cutting and preparing": lambda: clips_of(source, [CaptionPreparationStage()]),
        "alone": lambda: prepared_alone(clips),
        "raw patches": lambda: [path.patches(frames, resizes=False, normalises=False) for frames in ours],
        "patches": lambda: [path.patches(frames, resizes=False) for frames in ours],
        "theirs": lambda: [path.patches(path.read(file), resizes=True) for file in files],
    }


def main() -> int:
    size = parse_size(__doc__)
    torch.set_num_threads(1)
    path = HuggingFace() if importlib.util.find_spec("transformers") else SameSteps()
    source = footage("bikes.mp4" if size == "tiny" else "trailer_bbb.mp4")
    with tempfile.TemporaryDirectory() as folder:
        spent = interleaved_cpu_s(cases(source, Path(folder), path), repetitions=1 if size == "tiny" else 3)
        num_windows = len(list(Path(folder).iterdir()))
    added = max(spent["cutting and preparing"] - spent["cutting"], 1e-3)
    raw, patches, alone, theirs = (spent[name] for name in ("raw patches", "patches", "alone", "theirs"))
    print(f"{num_windows} windows of 10 s of {source.name}, CPU seconds of all; theirs: {path.name}")
    print(f"theirs from the mp4: {theirs:.2f}, {patches:.2f} of it for normalising and patches")
    print(
        f"ours, added to a run that cuts and encodes in {spent['cutting']:.2f}: {added:.2f}, and {raw:.2f} for patches"
    )
    print(f"ours alone from the mp4, normalised and in patches as well: {theirs / (alone + patches):.2f} times as fast")
    return verdict("caption_prepare", theirs / (added + raw), GOAL, at_most=False)


if __name__ == "__main__":
    sys.exit(main())
