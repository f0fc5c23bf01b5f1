"""A checkpoint of a few thousand random weights that is used as the published Cosmos-Embed1 is.

It brings its own code, with the names, methods and habits of the published one that a loader has to cope with: written
for transformers 4 (names that version 5 moved or dropped, no ``post_init``, ``item()`` while it is built, the
configuration of bert-base-uncased by name), and position embeddings that a hook fits to the size while they are loaded.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

NUM_FRAMES, SIDE, DIMENSIONS, HIDDEN = 8, 28, 12, 16
REPOSITORY = "nvidia/Cosmos-Embed1-224p"
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "car", "cat", "dog", "red", "blue", "runs", "sleeps")
_MAX_WORDS = 16

_CONFIGURATION = """
from transformers import PretrainedConfig


class CosmosEmbed1Config(PretrainedConfig):
    model_type = "cosmos-embed1"

    def __init__(self, embed_dim=12, hidden=16, num_video_frames=8, resolution=28, vocab_size=13, **options):
        self.embed_dim, self.hidden, self.vocab_size = embed_dim, hidden, vocab_size
        self.num_video_frames, self.resolution = num_video_frames, resolution
        super().__init__(**options)
"""

_VIT = '''
import torch
from torch import nn


class EyeOfFrames(nn.Module):
    """Pictures of 14 x 14 pixels each as tokens, once mixed."""

    def __init__(self, hidden, side):
        super().__init__()
        self.side = side // 14
        self.rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]
        self.patch_embed = nn.Conv2d(3, hidden, 14, 14)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.side**2, hidden))
        self.norm = nn.LayerNorm(hidden)
        self.attention = nn.MultiheadAttention(hidden, 2, batch_first=True)
        self._register_load_state_dict_pre_hook(self._fit_positions)

    def _fit_positions(self, weights, prefix, *_):
        known = weights[prefix + "pos_embed"]
        old = round(known.shape[1] ** 0.5)
        square = known.reshape(1, old, old, -1).permute(0, 3, 1, 2)
        fitted = nn.functional.interpolate(square, size=(self.side, self.side), mode="bilinear")
        weights[prefix + "pos_embed"] = fitted.flatten(2).transpose(1, 2)

    def forward(self, pictures):
        tokens = self.patch_embed(pictures).flatten(2).transpose(1, 2) + self.pos_embed
        normed = self.norm(tokens)
        return tokens + self.attention(normed, normed, normed, need_weights=False)[0]
'''

_QFORMER = '''
import torch
from torch import nn
from transformers import BertConfig
from transformers.modeling_utils import (
    PreTrainedModel,
    apply_chunking_to_forward,
    find_pruneable_heads_and_indices,
    prune_linear_layer,
)


class Questions(PreTrainedModel):
    """Asks the frames' tokens, and reads text with the same weights."""

    config_class = BertConfig

    def __init__(self, config):
        super().__init__(config)
        hidden = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, hidden)
        self.query, self.key, self.value = (nn.Linear(hidden, hidden) for _ in range(3))
        self.output = nn.Linear(hidden, hidden)
        self.init_weights()

    def _init_weights(self, module):
        pass

    def forward(self, tokens, others, mask):
        assert self.get_head_mask(None, 1) == [None]
        bias = self.invert_attention_mask(mask)
        assert torch.equal(bias, self.get_extended_attention_mask(mask, mask.shape))
        scores = self.query(tokens) @ self.key(others).transpose(1, 2) / tokens.shape[-1] ** 0.5
        mixed = (scores + bias[:, 0]).softmax(-1) @ self.value(others)
        return tokens + apply_chunking_to_forward(self.put_out, 0, 1, mixed)

    def put_out(self, mixed):
        return self.output(mixed)


def questions(hidden, vocab_size):
    config = BertConfig.from_pretrained("bert-base-uncased")
    assert config.num_hidden_layers == 12
    config.hidden_size, config.vocab_size = hidden, vocab_size
    return Questions(config)
'''

_MODELING = """
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_embed1 import CosmosEmbed1Config
from .modeling_qformer import questions
from .modeling_vit import EyeOfFrames


@dataclass
class TextEmbedderOutput(ModelOutput):
    text_proj: torch.FloatTensor = None


@dataclass
class VideoEmbedderOutput(ModelOutput):
    visual_proj: torch.FloatTensor = None


class CosmosEmbed1(PreTrainedModel):
    config_class = CosmosEmbed1Config

    def __init__(self, config):
        super().__init__(config)
        hidden = config.hidden
        self.visual_encoder = EyeOfFrames(hidden, config.resolution)
        self.temporal_encoding = nn.Parameter(torch.zeros(config.num_video_frames, 1, hidden))
        self.query_tokens = nn.Parameter(torch.zeros(1, 4, hidden))
        self.qformer = questions(hidden, config.vocab_size)
        self.visual_proj = nn.Linear(hidden, config.embed_dim)
        self.text_proj = nn.Linear(hidden, config.embed_dim)
        self.captioner = nn.Linear(hidden, 3)
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def get_video_embeddings(self, videos):
        clips, _, frames = videos.shape[:3]
        tokens = self.visual_encoder(videos.transpose(1, 2).flatten(0, 1))
        tokens = (tokens.unflatten(0, (clips, frames)) + self.temporal_encoding).flatten(1, 2)
        everywhere = torch.ones(clips, tokens.shape[1], device=videos.device)
        answers = self.qformer(self.query_tokens.expand(clips, -1, -1), tokens, everywhere)
        return VideoEmbedderOutput(visual_proj=functional.normalize(self.visual_proj(answers.mean(1)), dim=-1))

    def get_text_embeddings(self, input_ids, attention_mask):
        words = self.qformer.word_embeddings(input_ids)
        read = self.qformer(words[:, :1], words, attention_mask)
        return TextEmbedderOutput(text_proj=functional.normalize(self.text_proj(read[:, 0]), dim=-1))
"""

_PREPROCESSING = """
import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin


class CosmosEmbed1Processor(ProcessorMixin):
    attributes = ["tokenizer"]
    tokenizer_class = "BertTokenizer"
    valid_kwargs = ["num_video_frames", "resolution", "max_txt_len"]

    def __init__(self, tokenizer=None, num_video_frames=8, resolution=28, max_txt_len=16, **options):
        self.num_video_frames, self.resolution, self.max_txt_len = num_video_frames, resolution, max_txt_len
        super().__init__(tokenizer)

    def __call__(self, videos=None, text=None, return_tensors="pt", **options):
        made = {}
        if videos is not None:
            videos = torch.from_numpy(videos) if isinstance(videos, np.ndarray) else videos
            if videos.dtype != torch.uint8 or videos.shape[1:3] != (self.num_video_frames, 3):
                raise ValueError(f"need uint8 BTCHW, got {videos.dtype} {tuple(videos.shape)}")
            made["videos"] = videos.transpose(1, 2).float() / 255
        if text is not None:
            made |= self.tokenizer(
                text,
                padding="max_length",
                truncation=True,
                max_length=self.max_txt_len,
                return_token_type_ids=False,
                return_tensors=return_tensors,
                **options,
            )
        return BatchFeature(made)
"""


def require_transformers() -> None:
    """Skip where torch or transformers is not installed."""
    missing = [name for name in ("torch", "transformers", "safetensors") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)} (pip install 'clipmill[transformers]')")


def write_cosmos_embed1(folder: Path, *, seed: int = 0, positions_side: int = 1, from_hub: bool = False) -> Path:
    """A folder as the hub gives it.

    Args:
        positions_side: of the square of position embeddings that the file has; the model needs 2.
        from_hub: the configuration says that the code is to come from the hub, as a saved copy's does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    codes = {
        "configuration_embed1": _CONFIGURATION,
        "modeling_vit": _VIT,
        "modeling_qformer": _QFORMER,
        "modeling_embed1": _MODELING,
        "preprocessing_embed1": _PREPROCESSING,
    }
    for name, code in codes.items():
        (folder / f"{name}.py").write_text(code.lstrip())
    _write_settings(folder, f"{REPOSITORY}--" if from_hub else "")
    _write_weights(folder, seed, positions_side)
    return folder


def _write_settings(folder: Path, where: str) -> None:
    configuration = {
        "architectures": ["CosmosEmbed1"],
        "auto_map": {
            "AutoConfig": f"{where}configuration_embed1.CosmosEmbed1Config",
            "AutoModel": f"{where}modeling_embed1.CosmosEmbed1",
        },
        "model_type": "cosmos-embed1",
        "embed_dim": DIMENSIONS,
        "hidden": HIDDEN,
        "num_video_frames": NUM_FRAMES,
        "resolution": SIDE,
        "vocab_size": len(WORDS),
    }
    processor = {
        "auto_map": {"AutoProcessor": f"{where}preprocessing_embed1.CosmosEmbed1Processor"},
        "processor_class": "CosmosEmbed1Processor",
        "num_video_frames": NUM_FRAMES,
        "resolution": SIDE,
        "max_txt_len": _MAX_WORDS,
    }
    _write_json(folder / "config.json", configuration)
    _write_json(folder / "processor_config.json", processor)
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")


def _write_weights(folder: Path, seed: int, positions_side: int) -> None:
    """All but those of the captioner, which no vector depends on."""
    import torch
    from safetensors.torch import save_file

    wide, square = HIDDEN, (HIDDEN, HIDDEN)
    shapes: dict[str, tuple[int, ...]] = {
        "logit_scale": (),
        "query_tokens": (1, 4, wide),
        "temporal_encoding": (NUM_FRAMES, 1, wide),
        "visual_encoder.patch_embed.weight": (wide, 3, 14, 14),
        "visual_encoder.patch_embed.bias": (wide,),
        "visual_encoder.pos_embed": (1, positions_side**2, wide),
        "visual_encoder.norm.weight": (wide,),
        "visual_encoder.norm.bias": (wide,),
        "visual_encoder.attention.in_proj_weight": (3 * wide, wide),
        "visual_encoder.attention.in_proj_bias": (3 * wide,),
        "visual_encoder.attention.out_proj.weight": square,
        "visual_encoder.attention.out_proj.bias": (wide,),
        "qformer.word_embeddings.weight": (len(WORDS), wide),
        "visual_proj.weight": (DIMENSIONS, wide),
        "visual_proj.bias": (DIMENSIONS,),
        "text_proj.weight": (DIMENSIONS, wide),
        "text_proj.bias": (DIMENSIONS,),
    }
    for name in ("query", "key", "value", "output"):
        shapes |= {f"qformer.{name}.weight": square, f"qformer.{name}.bias": (wide,)}
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    names = sorted(weights)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, part in halves.items() for name in part}
    _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1))
