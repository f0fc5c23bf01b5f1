"""The models that caption: a new one is one entry here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from curation.captioning.frames import FrameSizes
from curation.captioning.requests import SamplingRules


@dataclass(frozen=True, slots=True)
class CaptionModel:
    """A published checkpoint and how it is used.

    Attributes:
        caption_key: under which its captions stand on a window; variants of one model share it.
        repository, revision: on the model hub; the revision is a commit, so that it never changes.
        model_type: what the checkpoint's config.json calls itself.
        family: how frames become model inputs.
        sizes: the picture sizes that it takes; None for a text model.
        sampling: how tokens are drawn.
        weights_gb: GB of its weights, all files together.
        system_text: a system message; empty for the chat template's own default.
        trust_remote_code: whether the checkpoint brings code of its own.
        is_quantized: whether its weights have fewer than 16 bits; the engine reads how from the checkpoint.
    """

    caption_key: str
    repository: str
    revision: str
    model_type: str
    family: str
    sizes: FrameSizes | None
    sampling: SamplingRules
    weights_gb: float
    system_text: str = ""
    trust_remote_code: bool = False
    is_quantized: bool = False

    def quantization(self, *, fp8: bool) -> str | None:
        """What the engine is to do to the weights while it loads them; None: leave them as they are.

        Raises:
            ValueError: the checkpoint is quantized already.
        """
        if fp8 and self.is_quantized:
            raise ValueError(f"{self.repository} is quantized already: leave fp8 away, or take the checkpoint in bf16")
        return "fp8" if fp8 else None


_MIN_TOKENS, _MAX_TOKENS = 128, 768  # of a frame (VIDEO_MIN_TOKEN_NUM and VIDEO_MAX_TOKEN_NUM of qwen-vl-utils 0.0.14)
_QWEN2_5_SIZES = FrameSizes(factor=28, min_pixels=_MIN_TOKENS * 28**2, max_pixels=_MAX_TOKENS * 28**2)
_QWEN3_SIZES = FrameSizes(factor=32, min_pixels=_MIN_TOKENS * 32**2, max_pixels=_MAX_TOKENS * 32**2)
# one tile of 512x512 for each frame, whatever its aspect: 256 tokens of 32x32 pixels
_NEMOTRON_SIZES = FrameSizes(factor=32, min_pixels=512**2, max_pixels=512**2, temporal_patch=1, keeps_aspect=False)

_QWEN_SAMPLING = SamplingRules(temperature=0.1, top_p=0.001, repetition_penalty=1.05)
_NEMOTRON_SAMPLING = SamplingRules(
    temperature=0.6, top_p=0.95, stop=("</s>", "<|endoftext|>", "<SPECIAL_12>", "</think>")
)

_QWEN = CaptionModel(
    caption_key="qwen",
    repository="Qwen/Qwen2.5-VL-7B-Instruct",
    revision="cc594898137f460bfe9f0759e9844b3ce807cfb5",
    model_type="qwen2_5_vl",
    family="qwen2.5-vl",
    sizes=_QWEN2_5_SIZES,
    sampling=_QWEN_SAMPLING,
    weights_gb=16.6,
)
_QWEN3_VL = CaptionModel(
    caption_key="qwen3_vl",
    repository="Qwen/Qwen3-VL-8B-Instruct",
    revision="0c351dd01ed87e9c1b53cbc748cba10e6187ff3b",
    model_type="qwen3_vl",
    family="qwen3-vl",
    sizes=_QWEN3_SIZES,
    sampling=_QWEN_SAMPLING,
    weights_gb=17.5,
)
_NEMOTRON = CaptionModel(
    caption_key="nemotron",
    repository="nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-BF16",
    revision="5d250e2e111dc5e1434131bdf3d590c27a878ade",
    model_type="NemotronH_Nano_VL_V2",
    family="nemotron-vl",
    sizes=_NEMOTRON_SIZES,
    sampling=_NEMOTRON_SAMPLING,
    weights_gb=26.4,
    system_text="/no_think",  # it can't reason about videos
    trust_remote_code=True,
)

CAPTION_MODELS: Mapping[str, CaptionModel] = MappingProxyType(
    {
        "qwen": _QWEN,
        "nemotron": _NEMOTRON,
        "nemotron-bf16": _NEMOTRON,
        "nemotron-fp8": replace(
            _NEMOTRON,
            repository="nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-FP8",
            revision="7394488badb786e1decc0e00e308de1cab9560e6",
            weights_gb=15.0,
            is_quantized=True,
        ),
        "nemotron-nvfp4": replace(
            _NEMOTRON,
            repository="nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-NVFP4-QAD",
            revision="b8d3c170d9ee3a078917ef9bfd508eff988d6de7",
            weights_gb=11.0,
            is_quantized=True,
        ),
        "qwen3-vl": _QWEN3_VL,
        "qwen3-vl-2b": replace(  # small enough for the CPU of a laptop
            _QWEN3_VL,
            caption_key="qwen3_vl_2b",
            repository="Qwen/Qwen3-VL-2B-Instruct",
            revision="89644892e4d85e24eaac8bacfd4f463576704203",
            weights_gb=4.3,
        ),
    }
)
"""By the name that a config gives them."""

TEXT_MODELS: Mapping[str, CaptionModel] = MappingProxyType(
    {
        "qwen_lm": CaptionModel(
            caption_key="qwen_lm",
            repository="Qwen/Qwen2.5-14B-Instruct",
            revision="cf98f3b3bbb457ad9e2bb7baf9a0125b6b88caa8",
            model_type="qwen2",
            family="qwen-lm",
            sizes=None,
            sampling=_QWEN_SAMPLING,
            weights_gb=29.5,
        )
    }
)
"""Those that rewrite captions, by the name that a config gives them."""


def caption_model(name: str) -> CaptionModel:
    """A model that sees.

    Raises:
        ValueError: there is none of that name.
    """
    return _known(name, CAPTION_MODELS, "model that captions")


def text_model(name: str) -> CaptionModel:
    """A model that rewrites captions.

    Raises:
        ValueError: there is none of that name.
    """
    return _known(name, TEXT_MODELS, "model that rewrites captions")


def _known(name: str, models: Mapping[str, CaptionModel], kind: str) -> CaptionModel:
    if name not in models:
        raise ValueError(f"unknown {kind}: {name!r}; known: {', '.join(models)}")
    return models[name]
