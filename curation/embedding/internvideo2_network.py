"""InternVideo2 Stage2 with 1B parameters (Wang et al. 2024, arXiv:2403.15377): vectors of clips and texts, no more.

The attribute names are those of the published checkpoint. What it has for training alone (decoders that imitate a
teacher, the layers that score pairs of a video and a text, the places of single images) is not built and not loaded.

Source:
    The authors' evaluation code without its fused kernels: with these, GELU is approximated by tanh. Cosmos-Curate has
    the exact one too, in bfloat16.
"""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from curation.embedding.internvideo2_checkpoint import InternVideo2Sizes, check_shapes, sizes_of
from curation.embedding.internvideo2_text_network import TextEncoder

_NUM_HEADS = 16  # of the 1B, in all its layers
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet: red, green, blue


class InternVideo2(nn.Module):
    """The network, with random weights; :func:`load_internvideo2` gives the trained one."""

    def __init__(self, sizes: InternVideo2Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.vision_encoder = _VisionEncoder(sizes)
        text_encoder = TextEncoder(
            width=sizes.text_width,
            depth=sizes.text_depth,
            hidden=sizes.text_hidden,
            vocabulary=sizes.vocabulary,
            positions=sizes.positions,
        )
        self.text_encoder = nn.ModuleDict({"bert": text_encoder})
        self.vision_proj = nn.Linear(sizes.pooled, sizes.vector_size)
        self.text_proj = nn.Linear(sizes.text_width, sizes.vector_size)

    def embed_clips(self, frames: Tensor) -> Tensor:
        """Vectors of clips.

        Args:
            frames: uint8 RGB, shape (batch, num_frames, image_size, image_size, 3).

        Returns:
            float32 of unit length, shape (batch, vector_size).

        Raises:
            ValueError: another shape.
        """
        sizes = self.sizes
        expected = (sizes.num_frames, sizes.image_size, sizes.image_size, 3)
        if frames.shape[1:] != expected:
            raise ValueError(f"InternVideo2 takes clips of shape {expected}, got {tuple(frames.shape[1:])}")
        mean, std = torch.tensor([_MEAN, _STD], device=frames.device)
        pixels = (frames.float() / 255 - mean) / std
        pooled = self.vision_encoder(pixels.to(self.vision_proj.weight.dtype))
        return functional.normalize(self.vision_proj(pooled).float(), dim=-1)

    def embed_texts(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Vectors of texts.

        Args:
            tokens: int64, shape (batch, num_tokens), [CLS] first.
            mask: bool, shape (batch, num_tokens); False where a shorter text is padded.

        Returns:
            float32 of unit length, shape (batch, vector_size).
        """
        return functional.normalize(self.text_proj(self.text_encoder["bert"](tokens, mask)).float(), dim=-1)


class _VisionEncoder(nn.Module):
    def __init__(self, sizes: InternVideo2Sizes) -> None:
        super().__init__()
        width, patch = sizes.width, sizes.patch_size
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, width, kernel_size=(1, patch, patch))})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, sizes.num_tokens, width))
        self.blocks = nn.ModuleList(_Block(width, sizes.hidden) for _ in range(sizes.depth))
        self.clip_projector = _AttentionPooling(width, sizes.pooled)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (batch, num_frames, height, width, 3) to (batch, pooled)."""
        projection = self.patch_embed["proj"]
        assert isinstance(projection, nn.Conv3d)
        # Patches do not overlap, so the convolution is a matrix product.
        patches = _patches(pixels, projection.kernel_size[-1])
        states = functional.linear(patches, projection.weight.flatten(1), projection.bias)
        states = torch.cat([self.cls_token.expand(len(states), -1, -1), states], dim=1) + self.pos_embed
        for block in self.blocks:
            states = block(states)
        pooled: Tensor = self.clip_projector(states)
        return pooled


def _patches(pixels: Tensor, size: int) -> Tensor:
    """Cut frames into squares: (batch, patches of the first frame row by row, then of the next, 3 * size * size)."""
    clips, frames, height, width, colours = pixels.shape
    split = pixels.reshape(clips, frames, height // size, size, width // size, size, colours)
    return split.permute(0, 1, 2, 4, 6, 3, 5).reshape(clips, -1, colours * size * size)


class _Block(nn.Module):
    """Attention and perceptron, each scaled and added to what it saw normed."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(width, eps=1e-6)
        self.attn = _Attention(width)
        self.ls1 = _Scale(width)
        self.norm2 = nn.RMSNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})
        self.ls2 = _Scale(width)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.ls1(self.attn(self.norm1(states)))
        result: Tensor = states + self.ls2(self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(states)))))
        return result


class _Attention(nn.Module):
    """Queries and keys are normed over all heads together."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm = nn.RMSNorm(width, eps=1e-6)
        self.k_norm = nn.RMSNorm(width, eps=1e-6)
        self.proj = nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        query, key, value = self.qkv(states).chunk(3, dim=-1)
        result: Tensor = self.proj(_attended(self.q_norm(query), self.k_norm(key), value))
        return result


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, states: Tensor) -> Tensor:
        return states * self.gamma


class _AttentionPooling(nn.Module):
    """The mean of all vectors asks them for what matters."""

    def __init__(self, width: int, pooled: int) -> None:
        super().__init__()
        self.norm1_q = nn.LayerNorm(width)
        self.norm1_k = nn.LayerNorm(width)
        self.norm1_v = nn.LayerNorm(width)
        self.cross_attn = _CrossAttention(width, pooled)

    def forward(self, states: Tensor) -> Tensor:
        query = self.norm1_q(states.mean(dim=1, keepdim=True))
        result: Tensor = self.cross_attn(query, self.norm1_k(states), self.norm1_v(states))
        return result.squeeze(1)


class _CrossAttention(nn.Module):
    def __init__(self, width: int, pooled: int) -> None:
        super().__init__()
        self.q = nn.Linear(width, width, bias=False)  # their biases stand beside them in the checkpoint
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.k_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, pooled)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        attended = _attended(self.q(query) + self.q_bias, self.k(key) + self.k_bias, self.v(value) + self.v_bias)
        result: Tensor = self.proj(attended)
        return result


def _attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of all heads: (batch, tokens, width) each."""
    query, key, value = (each.view(*each.shape[:2], _NUM_HEADS, -1).transpose(1, 2) for each in (query, key, value))
    return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def load_internvideo2(checkpoint: Path, device: str, *, image_size: int = 224, num_frames: int = 4) -> InternVideo2:
    """Load the published checkpoint, ready for inference: bfloat16 on a GPU, float32 on a CPU.

    Raises:
        ValueError: it is not one of this model, for frames of this size and number.
    """
    state = _read(checkpoint)
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    try:
        sizes = sizes_of(shapes, image_size=image_size, num_frames=num_frames)
        with torch.device("meta"):  # random initial weights would cost time and draw from the process's generator
            network = InternVideo2(sizes)
        needed = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        check_shapes(shapes, needed, sizes)
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from error
    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    weights = {name: state[name].to(device=device, dtype=dtype, copy=True) for name in needed}
    network.load_state_dict(weights, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _read(checkpoint: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name; DeepSpeed puts them under ``module``, others under ``model``."""
    try:
        content: Any = torch.load(
            checkpoint, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(checkpoint)
        )
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(f"{checkpoint}: not a checkpoint that holds tensors alone ({error})") from error
    for key in ("model", "module"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(f"{checkpoint}: holds a {type(content).__name__} instead of tensors by name")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
