"""How much people like a picture: a head of linear layers on CLIP's embedding of the picture."""

from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from curation.loading import loading_alone

_EMBEDDING_SIZE: Final = 768
_PIXEL_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, of pixels in 0..1
_PIXEL_SCALE: Final = (0.26862954, 0.26130258, 0.27577711)


class AestheticHead(nn.Module):
    """The head, with random weights; its layers stand at the places that they have in the published checkpoint.

    Dropout, which is only for training, leaves its places empty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(_EMBEDDING_SIZE, 1024),
            nn.Identity(),
            nn.Linear(1024, 128),
            nn.Identity(),
            nn.Linear(128, 64),
            nn.Identity(),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """Map float32 (batch, 768), each of length 1, to a score each."""
        scores: Tensor = self.layers(embeddings)
        return scores.squeeze(1)


class AestheticScorer:
    """CLIP's picture side and the head."""

    def __init__(self, clip: Any, head: AestheticHead, device: str) -> None:
        """Take both, ready for inference.

        Args:
            clip: transformers' ``CLIPVisionModelWithProjection``.
        """
        self._clip, self._head, self._device = clip.to(device), head.to(device), device
        self._mean = torch.tensor(_PIXEL_MEAN, device=device)
        self._scale = torch.tensor(_PIXEL_SCALE, device=device)

    @torch.inference_mode()
    def __call__(self, frames: Tensor) -> Tensor:
        """Score pictures.

        Args:
            frames: uint8 RGB, shape (batch, 224, 224, 3).

        Returns:
            float32, shape (batch,): about 1 (bad) to 10 (good).
        """
        pixels = ((frames.to(self._device).float() / 255 - self._mean) / self._scale).permute(0, 3, 1, 2)
        embeddings = self._clip(pixel_values=pixels.contiguous()).image_embeds
        scores: Tensor = self._head(functional.normalize(embeddings, dim=1))
        return scores.cpu()


def load_aesthetic_scorer(clip_folder: Path, head_file: Path, device: str) -> AestheticScorer:
    """Load the published checkpoints.

    Raises:
        ValueError: one of them is not what it should be.
    """
    return AestheticScorer(_load_clip(clip_folder), _load_head(head_file), device)


def _load_clip(folder: Path) -> Any:
    """CLIP without its text side, which the checkpoint has as well."""
    with loading_alone():
        from transformers import CLIPVisionModelWithProjection

    class PictureSide(CLIPVisionModelWithProjection):  # type: ignore[misc]  # transformers has no types
        _keys_to_ignore_on_load_unexpected = (r"^text_", r"^logit_scale$")

    with loading_alone():
        clip, found = PictureSide.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    if found["missing_keys"]:  # they would be random numbers
        raise ValueError(f"{folder}: not the weights of CLIP: there is no {min(found['missing_keys'])}")
    if clip.config.projection_dim != _EMBEDDING_SIZE:
        found_size = clip.config.projection_dim
        raise ValueError(f"{folder}: embeds in {found_size} numbers, the head takes {_EMBEDDING_SIZE}")
    return clip.eval().requires_grad_(False)


def _load_head(file: Path) -> AestheticHead:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with torch.device("meta"):  # random initial weights would draw from the process's generator
        head = AestheticHead()
    try:
        head.load_state_dict(load_file(file), strict=True, assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{file}: not the weights of the aesthetic head: {error}") from error
    return head.eval().requires_grad_(False)
