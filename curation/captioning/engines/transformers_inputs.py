"""What a model of transformers is given for a batch of requests, without a processor: tokens and pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from curation.captioning.engines.chat import ChatTemplate
from curation.captioning.engines.qwen_inputs import (
    PATCH_RULES,
    VIDEO_TOKEN,
    Grid,
    PatchRules,
    grid_seconds,
    patches,
    resized,
    video_words,
)
from curation.captioning.engines.vllm_inputs import own_max_model_len
from curation.captioning.frames import FrameSizes
from curation.captioning.models import CAPTION_MODELS
from curation.captioning.requests import CaptionRequest, EngineSettings, RequestRefusedError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Video:
    """The frames of a request.

    Attributes:
        frames: uint8 RGB, shape (num_frames, height, width, 3).
        times_s: float64 seconds, shape (num_frames,).
        size: width and height in pixels in which the model sees them.
        rules: how they are cut into patches.
        grid: of those.
    """

    frames: NDArray[np.uint8]
    times_s: NDArray[np.float64]
    size: tuple[int, int]
    rules: PatchRules
    grid: Grid

    def pixels(self, device: "torch.device", dtype: "torch.dtype") -> "torch.Tensor":
        """The patches, computed in ``dtype``."""
        import torch

        frames = torch.from_numpy(np.ascontiguousarray(self.frames)).to(device)
        if frames.shape[2:0:-1] != self.size:
            frames = resized(frames, *self.size)
        return patches(frames, self.rules, dtype)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request, as far as it is prepared without a look at the pictures.

    Attributes:
        id: of the request.
        token_ids: of the whole prompt.
        video: None for text alone.
        limit: tokens of the answer at most.
    """

    id: str
    token_ids: list[int]
    video: Video | None
    limit: int


class InputMaker:
    """Makes prompts, and the inputs of a batch of them.

    Attributes:
        pad_id: the token that prompts are padded with.
    """

    def __init__(self, settings: EngineSettings, chat: ChatTemplate) -> None:
        self._chat = chat
        self._rules = PATCH_RULES.get(settings.family or "")
        self._sizes = _picture_sizes(settings)
        self._pixel_type = settings.preprocess_dtype
        self._max_model_len = min(settings.max_model_len, own_max_model_len(settings.weights) or settings.max_model_len)
        padding = chat.tokenizer.pad_token_id
        self.pad_id: int = chat.tokenizer.eos_token_id if padding is None else padding
        self._video_id = chat.tokenizer.convert_tokens_to_ids(VIDEO_TOKEN)

    def prompt(self, request: CaptionRequest) -> Prompt:
        """The tokens of a request.

        Raises:
            RequestRefusedError: they are too many, or the frames are none that the model takes.
        """
        text, video = self._chat.prompt(request.text, with_frames=request.frames is not None), self._video(request)
        if video is not None:
            text = text.replace(VIDEO_TOKEN, video_words(video.grid, video.times_s, video.rules))
        token_ids = self._chat.tokenizer(text, add_special_tokens=False)["input_ids"]
        room = self._max_model_len - len(token_ids)
        if room < 1:
            raise RequestRefusedError(f"the prompt has {len(token_ids)} tokens, the model takes {self._max_model_len}")
        return Prompt(request.id, token_ids, video, min(request.max_output_tokens, room))

    def batch(self, prompts: Sequence[Prompt], *, device: "torch.device", dtype: "torch.dtype") -> dict[str, Any]:
        """What ``generate`` is given; prompts are padded on the left, because answers go on at their right.

        Args:
            prompts: of this maker.
            device: where it is put.
            dtype: the model's, which pixel values are given in.
        """
        import torch

        length = max(len(prompt.token_ids) for prompt in prompts)
        paddings = [length - len(prompt.token_ids) for prompt in prompts]
        rows = [[self.pad_id] * padding + prompt.token_ids for padding, prompt in zip(paddings, prompts, strict=True)]
        mask = [[0] * padding + [1] * (length - padding) for padding in paddings]
        inputs: dict[str, Any] = {
            "input_ids": torch.tensor(rows, device=device),
            "attention_mask": torch.tensor(mask, device=device),
        }
        videos = [prompt.video for prompt in prompts if prompt.video is not None]
        if videos:
            inputs["mm_token_type_ids"] = (inputs["input_ids"] == self._video_id).int() * 2
            inputs["video_grid_thw"] = torch.tensor([video.grid for video in videos], device=device)
            pixel_type = getattr(torch, self._pixel_type)
            inputs["pixel_values_videos"] = torch.cat([video.pixels(device, pixel_type).to(dtype) for video in videos])
        if videos and not videos[0].rules.writes_times:
            seconds = [grid_seconds(video.times_s, video.rules) for video in videos]
            inputs["second_per_grid_ts"] = torch.tensor(seconds, dtype=torch.float64)  # positions are rounded down
        return inputs

    def _video(self, request: CaptionRequest) -> Video | None:
        """The frames of the request, if it has any.

        Raises:
            RequestRefusedError: they are none that the model takes.
        """
        frames, times_s = request.frames, request.times_s
        if frames is None or self._rules is None:
            return None
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
            raise RequestRefusedError(f"frames are uint8 (number, height, width, 3), got {frames.dtype} {frames.shape}")
        if times_s is None or times_s.shape != frames.shape[:1]:
            raise RequestRefusedError(f"{len(frames)} frames need as many times")
        num_frames, height, width, _ = frames.shape
        size = self._sizes.size(width, height, num_frames) if self._sizes is not None else (width, height)
        return Video(frames, times_s, size, self._rules, self._rules.grid(num_frames, size[1], size[0]))


def _picture_sizes(settings: EngineSettings) -> FrameSizes | None:
    """Which sizes frames are brought to here; None where they come with the right one."""
    if not settings.model_does_preprocess:
        return None
    return next((model.sizes for model in CAPTION_MODELS.values() if model.family == settings.family), None)
