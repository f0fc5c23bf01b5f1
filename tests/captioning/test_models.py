import re
from dataclasses import astuple

import pytest

from curation.captioning.models import CAPTION_MODELS, TEXT_MODELS, CaptionModel, caption_model, text_model

EACH = [pytest.param(model, id=name) for name, model in {**CAPTION_MODELS, **TEXT_MODELS}.items()]


@pytest.mark.parametrize("model", EACH)
def test_every_revision_is_a_commit_that_can_never_mean_other_weights(model: CaptionModel) -> None:
    assert re.fullmatch(r"[0-9a-f]{40}", model.revision)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", model.repository)


@pytest.mark.parametrize("model", EACH)
def test_a_repository_is_pinned_to_one_revision(model: CaptionModel) -> None:
    each = [*CAPTION_MODELS.values(), *TEXT_MODELS.values()]
    assert {other.revision for other in each if other.repository == model.repository} == {model.revision}


def test_a_model_that_sees_has_picture_sizes_and_a_text_model_has_none() -> None:
    assert all(model.sizes is not None for model in CAPTION_MODELS.values())
    assert all(model.sizes is None for model in TEXT_MODELS.values())


def test_captions_stand_under_the_keys_of_nemo_curator_whatever_the_variant() -> None:
    keys = {name: model.caption_key for name, model in CAPTION_MODELS.items()}
    assert keys["qwen"] == "qwen"
    assert {key for name, key in keys.items() if name.startswith("nemotron")} == {"nemotron"}
    assert TEXT_MODELS["qwen_lm"].caption_key == "qwen_lm"


def test_only_variants_of_one_model_write_under_one_key() -> None:
    for key in {model.caption_key for model in CAPTION_MODELS.values()}:
        names = [model.repository for model in CAPTION_MODELS.values() if model.caption_key == key]
        assert len({re.sub(r"-(BF16|FP8|NVFP4-QAD)$", "", name) for name in names}) == 1


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("qwen", "Qwen/Qwen2.5-VL-7B-Instruct"),
        ("nemotron", "nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-BF16"),
        ("nemotron-bf16", "nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-BF16"),
        ("nemotron-fp8", "nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-FP8"),
        ("nemotron-nvfp4", "nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-NVFP4-QAD"),
    ],
)
def test_the_variants_of_nemo_curator_are_its_repositories(name: str, repository: str) -> None:
    assert caption_model(name).repository == repository


def test_tokens_are_drawn_as_nemo_curator_draws_them() -> None:
    qwen, nemotron = caption_model("qwen").sampling, caption_model("nemotron").sampling
    assert astuple(qwen) == (0.1, 0.001, 1.05, ())
    assert (nemotron.temperature, nemotron.top_p, nemotron.repetition_penalty) == (0.6, 0.95, 1.0)
    assert set(nemotron.stop) == {"</s>", "<|endoftext|>", "<SPECIAL_12>", "</think>"}
    assert text_model("qwen_lm").sampling == qwen


def test_a_frame_of_nemotron_is_one_tile_of_256_tokens() -> None:
    sizes = caption_model("nemotron").sizes
    assert sizes is not None
    assert sizes.size(1920, 1080, 16) == sizes.size(300, 900, 16) == (512, 512)
    assert sizes.num_tokens(1920, 1080, 16) == 16 * 256


@pytest.mark.parametrize(("name", "factor"), [("qwen", 28), ("qwen3-vl", 32), ("qwen3-vl-2b", 32)])
def test_a_frame_of_qwen_has_128_to_768_tokens(name: str, factor: int) -> None:
    sizes = caption_model(name).sizes
    assert sizes is not None
    assert (sizes.factor, sizes.min_pixels, sizes.max_pixels) == (factor, 128 * factor**2, 768 * factor**2)


@pytest.mark.parametrize("name", ["qwen", "nemotron", "qwen3-vl"])
def test_fp8_quantizes_bf16_weights_while_they_are_loaded(name: str) -> None:
    assert caption_model(name).quantization(fp8=True) == "fp8"
    assert caption_model(name).quantization(fp8=False) is None


@pytest.mark.parametrize("name", ["nemotron-fp8", "nemotron-nvfp4"])
def test_weights_that_are_quantized_are_not_quantized_again(name: str) -> None:
    assert caption_model(name).quantization(fp8=False) is None
    with pytest.raises(ValueError, match="is quantized already"):
        caption_model(name).quantization(fp8=True)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'gpt'; known: qwen, nemotron, .*qwen3-vl-2b"):
        caption_model("gpt")
    with pytest.raises(ValueError, match="'qwen'; known: qwen_lm"):
        text_model("qwen")
