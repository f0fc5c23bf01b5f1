"""Leaves out clips that people would not like to look at, as far as a model of their taste knows."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

from curation.filtering.frame_batches import frames_of_clip, let_go, rows_of_clips
from curation.model import Clip, Rejection, Video, VideoTask
from curation.pipeline import BatchStage
from curation.video.frames import FrameRequest
from curation.weights import Checkpoint, find_weights_folder

if TYPE_CHECKING:
    from curation.filtering.aesthetic_network import AestheticScorer

logger = logging.getLogger(__name__)

CLIP: Final = Checkpoint("openai/clip-vit-large-patch14", "32bd64288804d66eefd0ccbe215aa642df71cc41", "clip", 1.7)
HEAD: Final = Checkpoint(
    "ttj/sac-logos-ava1-l14-linearMSE", "1e77fa05081323d99725fc40a9bf9f88180490e7", "", 0.004, "model.safetensors"
)
_SIDE: Final = 224
GPU_FRAMES, _CPU_FRAMES = 32, 1  # of a batch; on a CPU more of them are not faster


@dataclass(frozen=True, slots=True, kw_only=True)
class AestheticFrameRequest(FrameRequest):
    """Frames of each clip whose shorter side CLIP's processor would leave as it is."""

    pixel_format: Literal["rgb24", "yuv420p"] = "rgb24"
    height: int | None = _SIDE
    scope: Literal["window", "clip"] = "clip"

    def size(self, width: int, height: int, num_frames: int) -> tuple[int, int]:
        """The shorter side as CLIP wants it, the longer one in proportion, odd or even, rounded down.

        Source:
            ``CLIPImageProcessor`` of transformers: ``resize`` with ``shortest_edge`` 224.
        """
        del num_frames
        shorter = min(width, height)
        return _SIDE * width // shorter, _SIDE * height // shorter


class ClipAestheticFilterStage(BatchStage):
    """Scores frames of each clip and moves the clips with low scores to ``filtered_clips``.

    A clip that cannot be scored stays, with an error.
    """

    name = "aesthetic_filter"
    gpu_memory_gb = 3.0

    def __init__(
        self,
        model_dir: str | Path = "models/clip_aesthetic",
        score_threshold: float = 0.5,
        reduction: str = "min",
        target_fps: float = 1.0,
        num_gpus_per_worker: float = 0.25,
        verbose: bool = False,
        *,
        device: str = "auto",
    ) -> None:
        """Settings as docs/rules.md, Filters.

        Args:
            model_dir: has CLIP and the head in folders ``organisation/name``.
            score_threshold: a clip with a lower score is left out. Scores are about 1 to 10.
            reduction: ``min`` or ``mean`` of the frames' scores is the clip's.
            target_fps: frames a second that are scored, by timestamp.
            num_gpus_per_worker: accepted for NeMo Curator's sake; batches are small, whatever the GPU has.
            verbose: log each clip.
            device: ``auto`` takes CUDA if it works.

        Raises:
            ValueError: a setting is out of its range.
        """
        if reduction not in ("min", "mean"):
            raise ValueError(f"unknown reduction {reduction!r}; known: min, mean")
        if math.isnan(score_threshold) or not 0 < target_fps < math.inf:
            raise ValueError(f"need a score_threshold and a finite target_fps > 0, got {score_threshold}, {target_fps}")
        del num_gpus_per_worker
        self._model_dir, self._device, self._verbose = Path(model_dir), device, verbose
        self._threshold, self._reduction = score_threshold, reduction
        self._scorer: AestheticScorer | None = None
        self._request = AestheticFrameRequest(key=f"aesthetic-{target_fps:g}fps", rate_hz=target_fps)

    def frame_requests(self) -> list[FrameRequest]:
        """Frames at ``target_fps`` of the size in which CLIP crops them."""
        return [self._request]

    def setup(self) -> None:
        """Load the model.

        Raises:
            FileNotFoundError: weights are missing.
            ValueError: they are not those of the model.
        """
        import torch

        from curation.filtering.aesthetic_network import load_aesthetic_scorer

        if self._device == "auto":
            self._device = "cuda" if torch.cuda.is_available() else "cpu"
        clip = find_weights_folder(self._model_dir, CLIP.repository, revision=CLIP.revision, model_type=CLIP.model_type)
        head = find_weights_folder(self._model_dir, HEAD.repository, revision=HEAD.revision, file=HEAD.file)
        self._scorer = load_aesthetic_scorer(clip, head / HEAD.file, self._device)

    def process_batch(self, tasks: Sequence[VideoTask]) -> Sequence[VideoTask]:
        """Score the clips of all tasks, then judge them."""
        clips = [clip for task in tasks for clip in task.data.clips]
        is_on_gpu = self._device.startswith("cuda")
        results = rows_of_clips(
            self._scores,
            [self._pictures(clip) for clip in clips],
            max_frames=GPU_FRAMES if is_on_gpu else _CPU_FRAMES,
            is_mixed=is_on_gpu,
        )
        for clip, scores in zip(clips, results, strict=True):
            self._note(clip, scores)
        for task in tasks:
            self._judge(task.data)
        return tasks

    def _pictures(self, clip: Clip) -> NDArray[np.uint8] | str:
        frames = frames_of_clip(clip, self._request)
        return frames if isinstance(frames, str) else centre(frames)

    def _scores(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        assert self._scorer is not None
        return np.asarray(self._scorer(torch.from_numpy(frames)).numpy(), dtype=np.float32)

    def _note(self, clip: Clip, scores: NDArray[np.float32] | str) -> None:
        """Put on a clip its score, or why it has none."""
        let_go(clip, self._request)
        if isinstance(scores, str):
            clip.errors["aesthetic"] = scores
            logger.warning("event=aesthetic_failed clip=%s reason=%s", clip.uuid, scores)
            return
        clip.aesthetic_score = float(scores.min() if self._reduction == "min" else scores.mean())
        if self._verbose:
            logger.info("event=aesthetic clip=%s score=%.3f", clip.uuid, clip.aesthetic_score)

    def _judge(self, video: Video) -> None:
        kept = []
        for clip in video.clips:
            score = clip.aesthetic_score
            if score is None or score >= self._threshold:
                kept.append(clip)
            else:
                clip.rejection = Rejection("aesthetic", score, self._threshold)
                for window in clip.windows:  # no captioner will look at them
                    window.qwen_llm_input = None
                video.filtered_clips.append(clip)
        video.clips = kept


def centre(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The square of 224 x 224 in the middle of frames, uint8 (num_frames, height, width, 3); a view."""
    top, left = (frames.shape[1] - _SIDE) // 2, (frames.shape[2] - _SIDE) // 2
    return frames[:, top : top + _SIDE, left : left + _SIDE]
