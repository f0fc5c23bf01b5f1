import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.captioning.engines import transformers_engine
from curation.captioning.engines.transformers_engine import TransformersEngine
from curation.captioning.models import CAPTION_MODELS
from curation.captioning.requests import (
    CaptionReply,
    CaptionRequest,
    EngineDiedError,
    EngineSettings,
    EngineStartError,
    RequestRefusedError,
    SamplingRules,
)

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("needs_transformers")

_GREEDY = SamplingRules(temperature=0, top_p=1)
_FAMILIES = {"qwen2.5-vl": "tiny_qwen_vl", "qwen3-vl": "tiny_qwen3_vl", "qwen-lm": "tiny_qwen_lm"}

Start = Callable[..., TransformersEngine]


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts engines, in float32 so that the order of sums does not change what they say."""
    engines: list[TransformersEngine] = []

    def begin(family: str = "qwen2.5-vl", **fields: Any) -> TransformersEngine:
        weights = request.getfixturevalue(_FAMILIES[family])
        usual: dict[str, Any] = {"sampling": _GREEDY, "max_model_len": 2048, "extra": (("dtype", "float32"),)}
        engines.append(TransformersEngine(EngineSettings(str(weights), family, **usual | fields)))
        return engines[-1]

    yield begin
    for engine in engines:
        engine.close()


def _ask(number: int, family: str = "qwen2.5-vl", **fields: Any) -> CaptionRequest:
    """A request that is another one for each number, in its pictures, its words and its length."""
    side = {"qwen2.5-vl": 28, "qwen3-vl": 32}.get(family)
    usual: dict[str, Any] = {"text": f"Say {'more ' * number} of number {number}.", "max_output_tokens": 16}
    if side is not None:
        num_frames = 4 + 2 * number
        shape = (num_frames, 2 * side, 3 * side, 3)
        usual["frames"] = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
        usual["times_s"] = np.arange(num_frames) / 2
    return CaptionRequest(str(number), **usual | fields)


def _answers(engine: TransformersEngine, requests: list[CaptionRequest]) -> dict[str, CaptionReply]:
    for request in requests:
        engine.add(request)
    found: dict[str, CaptionReply] = {}
    while len(found) < len(requests):
        found |= {reply.id: reply for reply in engine.step()}
    assert engine.step() == []
    return found


def _replace_generate(engine: TransformersEngine, replace: Callable[..., Any]) -> None:
    """Let ``replace`` answer in the place of the model; it is given the model's own ``generate`` first."""
    generate = engine.model.generate
    engine.model.generate = lambda **inputs: replace(generate, **inputs)


@pytest.mark.parametrize("family", _FAMILIES)
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_a_request_is_answered_the_same_alone_and_in_a_batch(family: str, penalty: float, start: Start) -> None:
    sampling = SamplingRules(temperature=0, top_p=1, repetition_penalty=penalty)
    requests = [_ask(number, family) for number in range(4)]
    together = _answers(start(family, sampling=sampling, batch_size=4), requests)
    alone = _answers(start(family, sampling=sampling, batch_size=1), requests)
    assert together == alone
    assert len({reply.token_ids for reply in alone.values()}) == len(requests)


def test_pictures_change_the_answer(start: Start) -> None:
    engine, asked = start(), _ask(2)
    assert asked.frames is not None
    other = CaptionRequest("other", asked.text, 255 - asked.frames, asked.times_s, 16)
    replies = _answers(engine, [asked, other])
    assert replies["2"].token_ids != replies["other"].token_ids


def test_texts_without_a_video_go_with_videos(start: Start) -> None:
    asked = [_ask(1), CaptionRequest("text", "And without?", max_output_tokens=16)]
    assert _answers(start(batch_size=2), asked) == _answers(start(batch_size=1), asked)


def test_each_request_has_its_own_limit(start: Start) -> None:
    limits = [3, 9, 5]
    asked = [_ask(number, max_output_tokens=limit) for number, limit in enumerate(limits)]
    free = _answers(start(batch_size=3), [_ask(number, max_output_tokens=20) for number in range(3)])
    for number, limit in enumerate(limits):
        reply = _answers(start(batch_size=3), asked)[str(number)]
        assert reply.token_ids == free[str(number)].token_ids[:limit]
        assert reply.output_tokens == len(reply.token_ids)
        assert (reply.status == "truncated") == (free[str(number)].output_tokens > limit)


def test_an_answer_that_ends_by_itself_is_a_success(start: Start) -> None:
    engine = start("qwen-lm")
    end = engine.model.generation_config.eos_token_id[0]

    def say_and_end(generate: Callable[..., Any], **inputs: Any) -> Any:
        inputs["logits_processor"] = [*inputs["logits_processor"], _EndsAt(inputs["input_ids"].shape[1] + 4, end)]
        return generate(**inputs)

    _replace_generate(engine, say_and_end)
    reply = _answers(engine, [_ask(1, "qwen-lm")])["1"]
    assert (reply.status, reply.output_tokens, reply.token_ids[-1]) == ("success", 5, end)
    assert "<|" not in reply.text


class _EndsAt:
    """A logits processor after which a text of so many tokens ends."""

    def __init__(self, length: int, end: int) -> None:
        self._length, self._end = length, end

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if input_ids.shape[1] == self._length:
            scores[:, self._end] = scores.max() + 1
        return scores


def test_a_stop_string_ends_an_answer_and_is_no_part_of_it(start: Start) -> None:
    free = _answers(start("qwen-lm"), [_ask(number, "qwen-lm") for number in range(3)])
    word = free["1"].text[4:6]
    sampling = SamplingRules(temperature=0, top_p=1, stop=(word,))
    stopped = _answers(start("qwen-lm", sampling=sampling), [_ask(number, "qwen-lm") for number in range(3)])
    assert stopped["1"].text == free["1"].text[: free["1"].text.index(word)].strip()
    assert stopped["1"].status == "success"
    assert stopped["1"].output_tokens < free["1"].output_tokens
    for number in "02":
        assert stopped[number] == free[number] or word in free[number].text


def test_the_most_likely_token_alone_may_be_drawn(start: Start) -> None:
    narrow = SamplingRules(temperature=0.1, top_p=0.001)
    asked = [_ask(number) for number in range(3)]
    assert _answers(start(sampling=narrow), asked) == _answers(start(), asked)


def test_a_high_temperature_draws_other_tokens(start: Start) -> None:
    asked = [_ask(number) for number in range(3)]
    warm = _answers(start(sampling=SamplingRules(temperature=2.0, top_p=1)), asked)
    assert warm != _answers(start(), asked)


def test_the_request_that_waits_longest_is_always_in_the_next_batch(start: Start) -> None:
    engine = start("qwen-lm", batch_size=2)
    order: list[str] = []
    for number in (7, 1, 2, 0, 3):
        engine.add(_ask(number, "qwen-lm", max_output_tokens=1))
    waiting = ["7", "1", "2", "0", "3"]
    while waiting:
        done = [reply.id for reply in engine.step()]
        if done:
            assert waiting[0] in done
            order += done
            waiting = [name for name in waiting if name not in done]
    assert sorted(order) == ["0", "1", "2", "3", "7"]


def test_frames_are_resized_here_where_the_model_has_to(start: Start) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (4, 180, 320, 3), np.uint8)
    request = CaptionRequest("a", "Hm", frames, np.arange(4) / 2, 4)
    sizes = CAPTION_MODELS["qwen"].sizes
    assert sizes is not None
    small = CaptionRequest("a", "Hm", frames[:, :56, :56], np.arange(4) / 2, 4)  # 8 tokens
    words = _answers(start(), [small])["a"].prompt_tokens - 8
    reply = _answers(start(model_does_preprocess=True), [request])["a"]
    assert reply.status != "error"
    assert reply.prompt_tokens - words == sizes.num_tokens(320, 180, 4)


def test_a_batch_without_enough_memory_is_answered_one_by_one(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    asked, engine = [_ask(number) for number in range(3)], start(batch_size=3)

    def one_at_a_time(generate: Callable[..., Any], **inputs: Any) -> Any:
        if len(inputs["input_ids"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return generate(**inputs)

    _replace_generate(engine, one_at_a_time)
    assert _answers(engine, asked) == _answers(start(batch_size=3), asked)
    assert "event=caption_batch_failed requests=3" in caplog.text


def test_a_request_that_fails_alone_is_an_error_and_the_others_are_answered(start: Start) -> None:
    asked, engine = [_ask(number) for number in range(3)], start(batch_size=3)

    def not_the_longest(generate: Callable[..., Any], **inputs: Any) -> Any:
        if inputs["video_grid_thw"][:, 0].max() == 4:
            raise RuntimeError("too much for me")
        return generate(**inputs)

    _replace_generate(engine, not_the_longest)
    replies = _answers(engine, asked)
    assert (replies["2"].status, replies["2"].text) == ("error", "")
    assert "too much for me" in replies["2"].reason
    good = _answers(start(batch_size=3), asked)
    assert {name: replies[name] for name in "01"} == {name: good[name] for name in "01"}


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(torch.AcceleratorError("CUDA error: device-side assert triggered"), id="of CUDA"),
        pytest.param(RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), id="of cuBLAS"),
    ],
)
def test_a_gpu_that_fails_ends_the_engine(error: RuntimeError, start: Start) -> None:
    engine = start()

    def fail(generate: Callable[..., Any], **inputs: Any) -> Any:
        raise error

    _replace_generate(engine, fail)
    engine.add(_ask(1))
    with pytest.raises(EngineDiedError, match="CUDA error"):
        engine.step()
    engine.close()


def test_an_engine_that_hangs_can_be_ended(start: Start) -> None:
    engine, goes_on = start(), threading.Event()
    _replace_generate(engine, lambda generate, **inputs: goes_on.wait(60))
    engine.add(_ask(1))
    threading.Timer(0.2, engine.kill).start()
    with pytest.raises(EngineDiedError):
        engine.step()
    goes_on.set()


def test_a_step_comes_back_while_tokens_are_made(start: Start) -> None:
    engine = start()

    class Slow:
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            time.sleep(0.2)
            return scores

    def slowly(generate: Callable[..., Any], **inputs: Any) -> Any:
        return generate(**inputs | {"logits_processor": [Slow()]})

    _replace_generate(engine, slowly)
    engine.add(_ask(1, max_output_tokens=8))
    signs = [engine.step(), engine.step()]
    assert signs == [[], []]
    while not (replies := engine.step()):
        pass
    assert [reply.id for reply in replies] == ["1"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        pytest.param({"text": "word " * 3000}, "the model takes 2048", id="a long text"),
        pytest.param({"frames": np.zeros((4, 60, 84, 3), np.uint8)}, "multiples of 28", id="an odd size"),
        pytest.param({"frames": np.zeros((4, 56, 84, 4), np.uint8)}, "uint8", id="four channels"),
        pytest.param({"frames": np.zeros((4, 56, 84, 3), np.float32)}, "uint8", id="not of 8 bits"),
        pytest.param({"times_s": np.arange(3.0)}, "as many times", id="a time too few"),
        pytest.param({"times_s": None}, "as many times", id="no times"),
    ],
)
def test_a_request_that_can_not_be_answered_is_refused(fields: dict[str, Any], reason: str, start: Start) -> None:
    good = {"text": "Hm", "frames": np.zeros((4, 56, 84, 3), np.uint8), "times_s": np.arange(4.0)}
    with pytest.raises(RequestRefusedError, match=reason):
        start().add(CaptionRequest("a", **good | fields))


def test_a_model_for_text_refuses_frames(start: Start) -> None:
    with pytest.raises(RequestRefusedError):
        start("qwen-lm").add(_ask(1))


def test_an_answer_fits_the_model_together_with_its_prompt(start: Start) -> None:
    engine = start("qwen-lm", max_model_len=60)
    reply = _answers(engine, [_ask(1, "qwen-lm", max_output_tokens=500)])["1"]
    assert reply.status == "truncated"
    assert reply.prompt_tokens + reply.output_tokens == 60


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"family": "nemotron-vl"}, id="Nemotron"),
        pytest.param({"tensor_parallel_size": 2}, id="two GPUs"),
        pytest.param({"quantization": "fp8"}, id="fp8"),
    ],
)
def test_what_needs_vllm_says_so_when_it_starts(fields: dict[str, Any], tiny_qwen_vl: Path) -> None:
    with pytest.raises(EngineStartError, match="vLLM"):
        TransformersEngine(
            EngineSettings(**{"weights": str(tiny_qwen_vl), "family": "qwen2.5-vl"} | {"sampling": _GREEDY} | fields)
        )


def test_pixels_of_an_unknown_type_are_an_error_at_the_start(start: Start) -> None:
    with pytest.raises(EngineStartError, match="float32"):
        start(preprocess_dtype="uint8")


def test_a_folder_without_a_model_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(EngineStartError, match=str(tmp_path)):
        TransformersEngine(EngineSettings(str(tmp_path), "qwen2.5-vl", _GREEDY))


def test_it_is_said_once_that_vllm_is_faster(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    transformers_engine._say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        start("qwen-lm")
        start("qwen-lm")
    assert caplog.text.count("event=transformers_engine") == 1


def test_a_closed_engine_gives_its_memory_back(start: Start) -> None:
    engine = start()
    _answers(engine, [_ask(1)])
    model = weakref.ref(engine.model)
    engine.close()
    engine.close()
    gc.collect()
    assert model() is None


def test_without_more_words_the_weights_keep_their_type(start: Start) -> None:
    engine = start(extra=())
    assert engine.model.dtype == torch.bfloat16
    assert _answers(engine, [_ask(1)])["1"].status != "error"
