"""Checkpoints of a megabyte with random weights and the true architectures, with the files of published ones.

The tokenizers are real byte-level BPEs, trained on a few sentences: any text survives them. Weights are drawn widely
enough that each picture and each word changes the answer; what the answers say is noise.
"""

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)  # Qwen's, in the order of their ids
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)  # Qwen's
_SENTENCES = (
    "Describe the video in detail. The camera pans left over a street at night.",
    "You are a helpful assistant. A person walks a dog past a red car and a tree.",
    "Elaborate on what is seen in the video and on how it is told.",
    "Improve the following description of a video and keep what it means.",
)
_CHAT_TEMPLATE = """
{%- for message in messages %}
{%- if loop.first and message.role != 'system' %}{{ DEFAULT_SYSTEM }}{% endif %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string %}{{ message.content }}{% else %}
{%- for part in message.content %}
{%- if part.type == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif part.type == 'video' %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- else %}{{ part.text }}{% endif %}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
_DEFAULT_SYSTEM = "'<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n'"  # Qwen2.5 has one, Qwen3 none
_HIDDEN, _HEADS, _HEAD_DIM, _LAYERS = 128, 4, 32, 2


def write_qwen25_vl(folder: Path) -> Path:
    """A Qwen2.5-VL of 0.7 million parameters."""
    import transformers

    ids = _write_tokenizer(folder, default_system=_DEFAULT_SYSTEM)
    vision = {"fullatt_block_indexes": [1], "window_size": 112, "patch_size": 14, "tokens_per_second": 2}
    config = transformers.Qwen2_5_VLConfig(
        text_config=_text_config(ids, {"mrope_section": [4, 6, 6]}),
        vision_config=_vision_config() | vision,
        **_vision_ids(ids),
    )
    _write_weights(folder, transformers.Qwen2_5_VLForConditionalGeneration, config, ids)
    means = {
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    sizes = {"min_pixels": 3136, "max_pixels": 12_845_056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    classes = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"}
    _write_json(folder / "preprocessor_config.json", means | sizes | classes)
    return folder


def write_qwen3_vl(folder: Path) -> Path:
    """A Qwen3-VL: its prompts say in words when each picture is shown."""
    import transformers

    ids = _write_tokenizer(folder, default_system="''")
    vision = {"patch_size": 16, "num_position_embeddings": 2304, "deepstack_visual_indexes": [0]}
    config = transformers.Qwen3VLConfig(
        text_config=_text_config(ids, {"mrope_section": [6, 5, 5], "mrope_interleaved": True}),
        vision_config=_vision_config() | vision,
        **_vision_ids(ids),
    )
    _write_weights(folder, transformers.Qwen3VLForConditionalGeneration, config, ids)
    common = {
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Qwen3VLProcessor",
    }
    images = {
        "size": {"longest_edge": 16_777_216, "shortest_edge": 65_536},
        "image_processor_type": "Qwen2VLImageProcessorFast",
    }
    videos = {
        "size": {"longest_edge": 25_165_824, "shortest_edge": 4096},
        "video_processor_type": "Qwen3VLVideoProcessor",
    }
    _write_json(folder / "preprocessor_config.json", common | images)
    _write_json(folder / "video_preprocessor_config.json", common | videos)
    return folder


def write_qwen25_lm(folder: Path) -> Path:
    """A Qwen2.5 for text alone."""
    import transformers

    ids = _write_tokenizer(folder, default_system=_DEFAULT_SYSTEM)
    config = transformers.Qwen2Config(**_text_config(ids, {}))
    _write_weights(folder, transformers.Qwen2ForCausalLM, config, ids)
    return folder


def write_models(folder: Path) -> Path:
    """A folder of models as ``clipmill models pull`` lays it out: a captioner and a language model."""
    for name, write in (("Qwen2.5-VL-7B-Instruct", write_qwen25_vl), ("Qwen2.5-14B-Instruct", write_qwen25_lm)):
        (folder / "Qwen" / name).mkdir(parents=True)
        write(folder / "Qwen" / name)
    return folder


def require_vllm() -> None:
    """Skip the test where vLLM is not installed; fail it where it must be: in CI or by CLIPMILL_REQUIRE_VLLM=1."""
    _require("vllm", "vLLM is not installed: tests/vllm/install.sh")


def require_transformers() -> None:
    """As ``require_vllm``."""
    _require("transformers", "transformers is not installed: tests/vllm/install.sh, or pip install -e '.[models,dev]'")


def _require(package: str, reason: str) -> None:
    if importlib.util.find_spec(package) is not None:
        return
    if os.environ.get("CLIPMILL_REQUIRE_VLLM") == "1" or os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _write_tokenizer(folder: Path, *, default_system: str) -> Mapping[str, int]:
    """Write it and give the ids of the special tokens, and the number of all as ``""``."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    tokenizer.train_from_iterator(_SENTENCES * 4, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=131_072
    )
    fast.chat_template = _CHAT_TEMPLATE.strip().replace("DEFAULT_SYSTEM", default_system)
    fast.save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    _write_json(folder / "tokenizer_config.json", config | {"tokenizer_class": "Qwen2Tokenizer"})
    return {token: fast.convert_tokens_to_ids(token) for token in _SPECIAL} | {"": len(fast)}


def _text_config(ids: Mapping[str, int], rope: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": -(-ids[""] // 64) * 64,
        "hidden_size": _HIDDEN,
        "intermediate_size": 2 * _HIDDEN,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS // 2,
        "head_dim": _HEAD_DIM,
        "max_position_embeddings": 32_768,
        "max_window_layers": _LAYERS,
        "rms_norm_eps": 1e-6,
        "initializer_range": 0.2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, **rope},
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "tie_word_embeddings": False,
    }


def _vision_config() -> dict[str, Any]:
    return {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 2,
        "out_hidden_size": _HIDDEN,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "initializer_range": 0.2,
    }


def _vision_ids(ids: Mapping[str, int]) -> dict[str, Any]:
    names = {"image_token_id": "image_pad", "video_token_id": "video_pad"}
    names |= {"vision_start_token_id": "vision_start", "vision_end_token_id": "vision_end"}
    return {key: ids[f"<|{name}|>"] for key, name in names.items()} | {"tie_word_embeddings": False}


def _write_weights(folder: Path, kind: Any, config: Any, ids: Mapping[str, int]) -> None:
    import torch

    config.dtype = "bfloat16"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config).to(torch.bfloat16)
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    model.save_pretrained(folder)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2))
