import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.captioning.engines.vllm_inputs import (
    engine_arguments,
    num_vision_tokens,
    own_max_model_len,
    video_input,
)
from curation.captioning.models import CAPTION_MODELS
from curation.captioning.requests import CaptionRequest, EngineSettings, RequestRefusedError, SamplingRules

GREEDY = SamplingRules(temperature=0, top_p=1)


def settings(family: str | None, **fields: Any) -> EngineSettings:
    return EngineSettings(weights="/models/x", family=family, sampling=GREEDY, **fields)


def video(times_s: list[float], height: int = 56, width: int = 84) -> CaptionRequest:
    frames = np.zeros((len(times_s), height, width, 3), np.uint8)
    return CaptionRequest("a", "what is this?", frames, np.array(times_s))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(
            settings("qwen2.5-vl", max_in_engine=32),
            {
                "max_model_len": 32768,
                "max_num_seqs": 32,
                "gpu_memory_utilization": 0.85,
                "limit_mm_per_prompt": {"image": 0, "video": 1},
                "mm_processor_cache_gb": 4,
                "mm_processor_kwargs": {"do_resize": False},
                "trust_remote_code": False,
            },
            id="Qwen2.5-VL",
        ),
        pytest.param(
            settings("qwen3-vl", quantization="fp8", disable_mmcache=True),
            {"quantization": "fp8", "mm_processor_cache_gb": 0, "mm_processor_kwargs": {"do_resize": False}},
            id="Qwen3-VL in fp8, no cache of frames",
        ),
        pytest.param(
            settings("nemotron-vl", trust_remote_code=True, tensor_parallel_size=2),
            {
                "limit_mm_per_prompt": {"image": 0, "video": 1},
                "mm_processor_cache_gb": 4,
                "trust_remote_code": True,
                "tensor_parallel_size": 2,
            },
            id="Nemotron, whose checkpoints in fp8 and nvfp4 say so themselves",
        ),
        pytest.param(settings("nemotron-vl", quantization="fp8"), {"quantization": "fp8"}, id="Nemotron made fp8"),
        pytest.param(settings("qwen-lm", max_in_engine=128), {"max_num_seqs": 128}, id="text"),
    ],
)
def test_an_engine_is_started_with_the_settings_in_vllms_words(given: EngineSettings, expected: dict[str, Any]) -> None:
    assert engine_arguments(given).items() >= expected.items()


@pytest.mark.parametrize(
    ("name", "fp8"),
    [
        (name, fp8)
        for name, model in CAPTION_MODELS.items()
        for fp8 in (False, True)
        if not (fp8 and model.is_quantized)
    ],
)
def test_each_known_model_gets_one_video_and_is_quantized_where_it_is_not_already(name: str, *, fp8: bool) -> None:
    model = CAPTION_MODELS[name]
    quantization = model.quantization(fp8=fp8)
    arguments = engine_arguments(settings(model.family, quantization=quantization, max_model_len=32_768))
    assert arguments["limit_mm_per_prompt"] == {"image": 0, "video": 1}
    assert arguments.get("quantization") == ("fp8" if fp8 else None)
    assert ("mm_processor_kwargs" in arguments) == (model.family != "nemotron-vl")


@pytest.mark.parametrize(
    ("given", "absent"),
    [
        pytest.param(settings("qwen-lm"), "limit_mm_per_prompt", id="no videos for a text model"),
        pytest.param(settings(None), "mm_processor_cache_gb", id="no cache of frames for a text model"),
        pytest.param(settings("qwen2.5-vl", model_does_preprocess=True), "mm_processor_kwargs", id="resizes itself"),
        pytest.param(settings("nemotron-vl"), "mm_processor_kwargs", id="Nemotron always makes its tiles"),
        pytest.param(settings("qwen2.5-vl"), "quantization", id="what the checkpoint says"),
    ],
)
def test_what_does_not_concern_a_model_is_left_to_vllm(given: EngineSettings, absent: str) -> None:
    assert absent not in engine_arguments(given)


def test_further_arguments_win() -> None:
    given = settings("qwen2.5-vl", extra=(("dtype", "float32"), ("max_num_seqs", 3)))
    assert engine_arguments(given).items() >= {"dtype": "float32", "max_num_seqs": 3}.items()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param({"max_position_embeddings": 4096}, 4096, id="less than asked for"),
        pytest.param({"text_config": {"max_position_embeddings": 8192}}, 8192, id="of the text part"),
        pytest.param({"llm_config": {"max_position_embeddings": 131_072}}, 32_768, id="more than asked for"),
        pytest.param({}, 32_768, id="not said"),
    ],
)
def test_no_more_tokens_than_a_model_was_made_for(tmp_path: Path, config: dict[str, Any], expected: int) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    arguments = engine_arguments(settings("qwen2.5-vl"), model_limit=own_max_model_len(str(tmp_path)))
    assert arguments["max_model_len"] == expected


times = st.lists(st.integers(0, 600_000), min_size=2, max_size=40, unique=True).map(
    lambda numbers: [number / 1000 for number in sorted(numbers)]
)


@given(times)
def test_the_prompt_can_say_each_frames_true_time(times_s: list[float]) -> None:
    for family in ("qwen3-vl", "nemotron-vl"):
        found = video_input(family, video(times_s))
        assert found is not None
        indices, fps = found[1]["frames_indices"], found[1]["fps"]
        # what vLLM computes
        computed = [k / fps if family == "qwen3-vl" else k * int(1000 / fps) / 1000 for k in indices]
        assert computed == pytest.approx(times_s, abs=0.0005)
        assert indices[-1] < found[1]["total_num_frames"]


@given(times)
def test_qwen25_hears_the_mean_rate_of_the_frames(times_s: list[float]) -> None:
    found = video_input("qwen2.5-vl", video(times_s))
    assert found is not None
    metadata = found[1]
    # transformers: the rate of the sampled frames is this, and a step in time is two frames
    sampled_fps = len(metadata["frames_indices"]) / metadata["total_num_frames"] * metadata["fps"]
    assert 1 / sampled_fps == pytest.approx(np.diff(times_s).mean())
    assert metadata["duration"] == pytest.approx(metadata["total_num_frames"] / metadata["fps"])


def test_frames_are_handed_over_as_they_are() -> None:
    turned = np.arange(2 * 28 * 28 * 3, dtype=np.uint8).reshape(2, 28, 28, 3)[:, :, ::-1]
    found = video_input("qwen2.5-vl", CaptionRequest("a", "", turned, np.array([0.0, 1.0])))
    assert found is not None
    np.testing.assert_array_equal(found[0], turned)
    assert found[0].flags.c_contiguous


frames = np.zeros((2, 28, 28, 3), np.uint8)


@pytest.mark.parametrize(
    ("frames", "times_s"),
    [
        pytest.param(frames, None, id="no times"),
        pytest.param(None, [0.0], id="times of nothing"),
        pytest.param(frames[:0], [], id="no frame"),
        pytest.param(frames.astype(np.float32), [0.0, 1.0], id="not bytes"),
        pytest.param(frames[..., :1], [0.0, 1.0], id="grey"),
        pytest.param(frames, [0.0], id="a time is missing"),
        pytest.param(frames, [1.0, 1.0], id="twice at the same time"),
        pytest.param(frames, [-1.0, 1.0], id="before the window"),
        pytest.param(frames, [0.0, float("nan")], id="no number"),
    ],
)
def test_frames_that_are_none_are_refused(frames: Any, times_s: list[float] | None) -> None:
    request = CaptionRequest("a", "", frames, None if times_s is None else np.array(times_s))
    with pytest.raises(RequestRefusedError):
        video_input("qwen3-vl", request)


def test_two_frames_and_a_square_of_the_models_size_are_one_token() -> None:
    times_s = [0.0, 0.5, 1.0]
    assert num_vision_tokens(settings("qwen2.5-vl"), video(times_s, 56, 84)) == 2 * (2 * 3)
    assert num_vision_tokens(settings("qwen3-vl"), video(times_s, 64, 96)) == 2 * (2 * 3)
    assert num_vision_tokens(settings("qwen2.5-vl", model_does_preprocess=True), video(times_s, 50, 50)) is None
    assert num_vision_tokens(settings("qwen-lm"), CaptionRequest("a", "text")) == 0
