"""What a model is shown of each window: sampled while the clip is made, long before the model has time for it."""

import logging
import math
from collections.abc import Iterable
from typing import Any

from curation.captioning.frames import CaptionFrameRequest
from curation.captioning.models import CAPTION_MODELS
from curation.captioning.prompts import caption_prompt
from curation.errors import VideoError
from curation.model import CaptionOutcome, Clip, VideoTask, Window
from curation.pipeline import Stage
from curation.timeline import caption_windows
from curation.video.frames import FrameRequest, sample_clip
from curation.video.progress import alive

logger = logging.getLogger(__name__)

PREPROCESS_DTYPES = ("float32", "float16", "bfloat16", "uint8")


class CaptionPreparationStage(Stage):
    """Puts on each window what a captioner needs: the prompt, the frames in the model's size, and their times."""

    name = "caption_preparation"
    in_child = True

    def __init__(
        self,
        model_variant: str = "qwen",
        prompt_variant: str = "default",
        prompt_text: str | None = None,
        sampling_fps: float = 2.0,
        window_size: int = 256,
        remainder_threshold: int = 128,
        model_does_preprocess: bool = False,
        preprocess_dtype: str = "float32",
        generate_previews: bool = True,
        verbose: bool = False,
    ) -> None:
        """Settings as docs/rules.md, Captions.

        Args:
            model_variant: one of ``CAPTION_MODELS``; decides the size of the frames and how many there may be.
            prompt_variant: what the model is asked; a built-in text.
            prompt_text: takes the place of that.
            sampling_fps: frames a second, by timestamp.
            window_size: frames of a window, where this stage makes them: clips that were cut in the same pipeline have
                theirs already.
            remainder_threshold: frames that the last window has at least; fewer join the one before.
            model_does_preprocess: frames keep the picture's size, and the model's own processor resizes them.
            preprocess_dtype: of the pixel values that an engine makes outside the model. Frames travel as uint8,
                whatever it is; where vLLM makes the values it alone decides.
            generate_previews: accepted for NeMo Curator's sake; previews need no mp4 of the window.
            verbose: log each clip.

        Raises:
            ValueError: a setting is unknown or out of its range.
        """
        if model_variant not in CAPTION_MODELS:
            raise ValueError(f"unknown model_variant {model_variant!r}; known: {', '.join(CAPTION_MODELS)}")
        if not 0 < sampling_fps < math.inf:
            raise ValueError(f"need a finite sampling_fps > 0, got {sampling_fps}")
        if preprocess_dtype not in PREPROCESS_DTYPES:
            raise ValueError(f"unknown preprocess_dtype {preprocess_dtype!r}; known: {', '.join(PREPROCESS_DTYPES)}")
        caption_windows(0, size=window_size, remainder_threshold=remainder_threshold)  # raises for both
        del generate_previews
        model = CAPTION_MODELS[model_variant]
        assert model.sizes is not None  # every captioner sees
        self._caption_key = model.caption_key
        self._prompt = caption_prompt(prompt_variant, prompt_text)
        self._window_size, self._remainder_threshold = window_size, remainder_threshold
        self._verbose = verbose
        self._request = CaptionFrameRequest(
            key=f"caption-{model.caption_key}",
            rate_hz=sampling_fps,
            height=None,
            pixel_format="rgb24",
            sizes=model.sizes,
            is_resized=not model_does_preprocess,
        )

    def frame_requests(self) -> list[FrameRequest]:
        """The frames of each window in the model's size."""
        return [self._request]

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        """Put ``qwen_llm_input`` on every window; one that has no frames gets an error for its outcome instead."""
        for clip in task.data.clips:
            if clip.buffer is not None:
                alive()
                self._prepare(clip)
        yield task

    def _prepare(self, clip: Clip) -> None:
        reason = "none of its frames could be decoded"
        try:
            if not any(self._request.place(window.span) in clip.extracted_frames for window in clip.windows):
                self._sample_alone(clip)
        except VideoError as error:
            reason = f"{error.reason}: {error.message}"
            clip.errors["caption_preparation"] = reason
        for window in clip.windows:
            window.qwen_llm_input = self._model_input(clip, window)
            if window.qwen_llm_input is None:
                clip.errors.setdefault(f"caption_preparation_{window.start_frame}_{window.end_frame}", reason)
                window.caption_outcomes[self._caption_key] = CaptionOutcome("error", reason)
        if self._verbose:
            logger.info("event=captions_prepared clip=%s windows=%d", clip.uuid, len(clip.windows))

    def _sample_alone(self, clip: Clip) -> None:
        """Used outside a pipeline that samples: decode the clip here."""
        if not clip.windows:
            num_frames = (clip.extract_metadata() or {}).get("num_frames", 0)
            spans = caption_windows(num_frames, size=self._window_size, remainder_threshold=self._remainder_threshold)
            clip.windows = [Window(span.start, span.end - 1) for span in spans]
        if clip.windows:
            sample_clip(clip, [self._request])

    def _model_input(self, clip: Clip, window: Window) -> dict[str, Any] | None:
        """What the engine is given, and the clip lets go of; None where no two frames could be decoded."""
        key = self._request.place(window.span)
        frames, indices = clip.extracted_frames.pop(key, None), clip.extracted_frame_indices.pop(key, None)
        if frames is None or indices is None or len(indices) < 2:
            return None
        if len(indices) % 2:  # one of them could not be decoded, and models take pairs
            frames, indices = frames[:-1], indices[:-1]
        assert clip.frame_times_s is not None
        times_s = clip.frame_times_s[indices] - clip.frame_times_s[window.start_frame]
        return {"prompt": self._prompt, "multi_modal_data": {"video": frames}, "times_s": times_s}
