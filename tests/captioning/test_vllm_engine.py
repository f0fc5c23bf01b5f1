import gc
import importlib
import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from curation.captioning.engines.transformers_engine import TransformersEngine
from curation.captioning.engines.vllm_engine import VllmEngine
from curation.captioning.requests import (
    CaptionEngine,
    CaptionReply,
    CaptionRequest,
    EngineDiedError,
    EngineSettings,
    EngineStartError,
    RequestRefusedError,
    SamplingRules,
)
from tests.footage import footage, small_footage
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.usefixtures("needs_vllm", "vllm_environment")

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process, which starts three times as fast
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "HF_HUB_OFFLINE": "1",
}
_ARGUMENTS = (("dtype", "float32"), ("enforce_eager", True), ("max_num_batched_tokens", 8192))
_ONE_PROCESS = ("distributed_executor_backend", "vllm.v1.executor.uniproc_executor.UniProcExecutor")
_GREEDY = SamplingRules(temperature=0, top_p=1)


class _PromptKeepingEngine(VllmEngine):
    """Keeps the prompts as the model saw them."""

    def __init__(self, settings: EngineSettings) -> None:
        self.prompts: dict[str, list[int]] = {}
        super().__init__(settings)

    def _reply(self, output: Any) -> CaptionReply | None:
        self.prompts[output.request_id] = list(output.prompt_token_ids)
        return super()._reply(output)


@pytest.fixture(scope="module")
def vllm_environment() -> Iterator[None]:
    """For this module's engines alone."""
    torch = pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _ENVIRONMENT.items():
            patch.setenv(name, value)
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)  # threads that wait for each other cost more than they bring here
        for name in ("vllm.engine.arg_utils", "vllm.v1.engine.llm_engine", "vllm.v1.worker.cpu_worker"):
            importlib.import_module(name)
        gc.freeze()  # see needs_transformers
        patch.setattr(gc, "unfreeze", lambda: None)  # an engine that is closed would undo it
        yield
        torch.set_num_threads(num_threads)


Start = Callable[[EngineSettings], _PromptKeepingEngine]


@pytest.fixture(scope="module")
def start(vllm_environment: None, needs_vllm: None) -> Iterator[Start]:
    """Starts engines in this process, which end together: they share what vLLM has once in a process."""
    started: list[_PromptKeepingEngine] = []

    def one_more(settings: EngineSettings) -> _PromptKeepingEngine:
        started.append(_PromptKeepingEngine(settings))
        return started[-1]

    yield one_more
    for engine in started:
        engine.close()


@pytest.fixture(scope="module")
def engine(start: Start, tiny_qwen_vl: Path) -> _PromptKeepingEngine:
    """A tiny Qwen2.5-VL."""
    return start(_settings(tiny_qwen_vl, "qwen2.5-vl"))


@pytest.fixture
def own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")


def _settings(weights: Path, family: str | None, **fields: Any) -> EngineSettings:
    usual: dict[str, Any] = {"sampling": _GREEDY, "max_model_len": 2048, "max_in_engine": 8, "extra": _ARGUMENTS}
    return EngineSettings(weights=str(weights), family=family, **usual | fields)


def _clip(seed: int, num_frames: int = 8, height: int = 56, width: int = 84) -> NDArray[np.uint8]:
    """A noise that moves to the right."""
    first = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return np.stack([np.roll(first, 3 * k, axis=1) for k in range(num_frames)])


def _times_s(num_frames: int, step_s: float) -> NDArray[np.float64]:
    return np.array([k * step_s for k in range(num_frames)])


def _request(name: str, seed: int, max_output_tokens: int = 12, **clip: int) -> CaptionRequest:
    frames = _clip(seed, **clip)
    return CaptionRequest(name, "What is seen?", frames, _times_s(len(frames), 0.5), max_output_tokens)


def _answers(engine: VllmEngine, requests: list[CaptionRequest]) -> dict[str, CaptionReply]:
    for request in requests:
        engine.add(request)
    return _finish(engine, len(requests))


def _finish(engine: CaptionEngine, num_replies: int) -> dict[str, CaptionReply]:
    found: dict[str, CaptionReply] = {}
    deadline = time.monotonic() + PATIENCE_S
    while len(found) < num_replies and time.monotonic() < deadline:
        found |= {reply.id: reply for reply in engine.step()}
    return found


def test_a_request_joins_while_others_are_worked_on(engine: VllmEngine) -> None:
    engine.add(_request("long", 1, max_output_tokens=60))
    assert engine.step() == []
    engine.add(_request("short", 2, max_output_tokens=2))
    early: list[CaptionReply] = []
    while not early:
        early = engine.step()
    assert [reply.id for reply in early] == ["short"]
    assert _finish(engine, 1).keys() == {"long"}


def test_an_answer_is_truncated_when_its_tokens_are_used_up_and_else_a_success(engine: VllmEngine) -> None:
    replies = _answers(engine, [_request(str(k), k, max_output_tokens=80) for k in range(16)])
    assert {reply.status for reply in replies.values()} == {"truncated", "success"}
    for reply in replies.values():
        assert reply.output_tokens == len(reply.token_ids)
        assert reply.status == ("truncated" if reply.output_tokens == 80 else "success")
    ends = set(engine._chat.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))
    assert all((reply.token_ids[-1] in ends) == (reply.status == "success") for reply in replies.values())
    cut = next(reply for reply in replies.values() if reply.output_tokens > 1)
    shorter = _answers(engine, [_request(cut.id, int(cut.id), max_output_tokens=cut.output_tokens - 1)])[cut.id]
    assert shorter.status == "truncated"
    assert shorter.token_ids == cut.token_ids[:-1]


def test_a_bad_request_is_refused_alone(engine: VllmEngine) -> None:
    engine.add(_request("good", 3))
    with pytest.raises(RequestRefusedError, match="2048"):
        engine.add(CaptionRequest("long", "word " * 3000))
    with pytest.raises(RequestRefusedError, match="multiples of 28"):
        engine.add(_request("odd size", 3, height=50))
    with pytest.raises(RequestRefusedError, match="under way"):
        engine.add(_request("good", 4))
    assert _finish(engine, 1)["good"].status == "truncated"
    assert engine.step() == []


def test_an_answer_depends_on_its_frames_and_not_on_its_company(engine: VllmEngine) -> None:
    alone = {k: _answers(engine, [_request(f"alone {k}", k)])[f"alone {k}"].token_ids for k in range(20, 26)}
    assert len(set(alone.values())) == 6
    order = [*alone, *alone]
    random.Random(0).shuffle(order)
    replies = _answers(engine, [_request(f"{place} {k}", k) for place, k in enumerate(order)])
    assert [replies[f"{place} {k}"].token_ids for place, k in enumerate(order)] == [alone[k] for k in order]


def test_an_answer_depends_on_when_frames_are_shown(engine: VllmEngine) -> None:
    frames = _clip(30)
    times = [_times_s(8, 0.5), _times_s(8, 2.0)]
    replies = _answers(engine, [CaptionRequest(str(k), "What?", frames, times[k], 12) for k in range(2)])
    assert replies["0"].token_ids != replies["1"].token_ids


@pytest.mark.parametrize(("num_frames", "height", "width"), [(8, 56, 84), (7, 112, 56), (1, 28, 28), (2, 84, 84)])
def test_the_prompt_is_what_the_models_own_processor_makes(
    engine: _PromptKeepingEngine, tiny_qwen_vl: Path, num_frames: int, height: int, width: int
) -> None:
    request = _request("a", 40, num_frames=num_frames, height=height, width=width)
    _answers(engine, [request])
    assert engine.prompts["a"] == _processors_prompt(tiny_qwen_vl, request, fps=2.0, numbers=list(range(num_frames)))


def _processors_prompt(weights: Path, request: CaptionRequest, *, fps: float, numbers: list[int]) -> list[int]:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(weights)
    content = [{"type": "video"}, {"type": "text", "text": request.text}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    metadata = {"total_num_frames": numbers[-1] + 1, "fps": fps, "frames_indices": numbers}
    made = processor(
        text=[text],
        videos=[request.frames],
        video_metadata=[metadata],
        do_sample_frames=False,
        do_resize=False,
        return_tensors="pt",
    )
    return [int(token) for token in made["input_ids"][0]]


def test_qwen3_reads_the_true_times_and_a_size_that_was_changed_behind_us_is_an_error(
    start: Start, tiny_qwen3_vl: Path
) -> None:
    resizing = (*_ARGUMENTS, ("mm_processor_kwargs", {"do_resize": True}))
    engine = start(_settings(tiny_qwen3_vl, "qwen3-vl", extra=resizing))
    times_s = np.array([0, 0.52, 1.04, 1.9, 3.333, 61.25, 70.01])
    request = CaptionRequest("times", "What?", _clip(50, 7, 96, 128), times_s, 4)
    small = _request("small", 51, num_frames=2, height=32, width=32)  # less than its processor takes
    replies = _answers(engine, [request, small])

    numbers = [0, 520, 1040, 1900, 3333, 61250, 70010]
    assert engine.prompts["times"] == _processors_prompt(tiny_qwen3_vl, request, fps=1000, numbers=numbers)
    said = engine._chat.tokenizer.decode(engine.prompts["times"])
    # two frames share a token: their mean, and the last frame is repeated
    assert [word.split("<")[-1] for word in said.split(" seconds>")[:-1]] == ["0.3", "1.5", "32.3", "70.0"]
    assert replies["times"].status == "truncated"
    # 4096 pixels are the least of its processor: two frames of 64x64
    assert (replies["small"].status, replies["small"].reason) == (
        "error",
        "its frames take 4 tokens in the prompt, not 1",
    )


def test_nemotron_reads_the_true_times(tiny_qwen_lm: Path) -> None:
    from transformers import AutoTokenizer
    from vllm.transformers_utils.processors.nano_nemotron_vl import NanoNemotronVLProcessor

    from curation.captioning.engines.vllm_inputs import video_input

    tokenizer = AutoTokenizer.from_pretrained(tiny_qwen_lm)
    times_s = np.array([0, 0.52, 1.04, 61.257])
    made = video_input("nemotron-vl", CaptionRequest("a", "", _clip(1, 4), times_s))
    assert made is not None
    words = NanoNemotronVLProcessor.get_video_repl(
        tokens_per_frame=[1] * 4,
        frames_indices=made[1]["frames_indices"],
        frame_duration_ms=int(1000 / made[1]["fps"]),
        tokenizer=tokenizer,
        img_start_token_ids=tokenizer.encode("("),
        img_end_token_ids=tokenizer.encode(")"),
        img_context_token_ids=tokenizer.encode("x"),
    )
    assert tokenizer.decode(words.full) == (
        "Frame 1 sampled at 0.00 seconds: (x)\nFrame 2 sampled at 0.52 seconds: (x)\n"
        "Frame 3 sampled at 1.04 seconds: (x)\nFrame 4 sampled at 61.26 seconds: (x)"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"quantization": "fp8"}, "needs a GPU", id="8 bits on a CPU"),
        pytest.param({"extra": (("nonsense", 1),)}, "nonsense", id="an argument that there is not"),
        pytest.param({"family": "qwen2.5-vl"}, "model for text", id="a video for a text model"),
    ],
)
def test_what_can_never_start_says_so(tiny_qwen_lm: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineStartError, match=message):
        VllmEngine(_settings(tiny_qwen_lm, **{"family": "qwen-lm"} | fields))


def test_a_stop_word_ends_the_answer_also_when_it_is_a_special_token(
    start: Start, engine: _PromptKeepingEngine, tiny_qwen_vl: Path
) -> None:
    tokenizer = engine._chat.tokenizer
    special = set(tokenizer.convert_tokens_to_ids(["<|vision_pad|>", "<|image_pad|>", "<|box_start|>", "<|quad_end|>"]))
    wholes = _answers(engine, [_request(str(k), k, max_output_tokens=60) for k in range(60, 68)])
    token = next(token for reply in wholes.values() for token in reply.token_ids if token in special)
    rules = SamplingRules(0, 1, stop=(tokenizer.decode([token]), "the"))
    stopping = start(_settings(tiny_qwen_vl, "qwen2.5-vl", sampling=rules))
    stopped = _answers(stopping, [_request(str(k), k, max_output_tokens=60) for k in range(60, 68)])
    for name, whole in wholes.items():
        starts = (whole.token_ids[:k] for k in range(1, len(whole.token_ids) + 1))
        cut = next((start for start in starts if token in start or "the" in tokenizer.decode(start)), None)
        assert stopped[name].token_ids == (cut or whole.token_ids)
        assert stopped[name].status == ("success" if cut else whole.status)
        assert "the" not in stopped[name].text


# vLLM and transformers say the same of the same pictures, token for token, with the same weights in float32

_FPS = 2.0
_NUM_TOKENS = 24
_WINDOWS = [  # of which film, from which second on, how many frames
    ("bikes", 0.0, 20),
    ("bikes", 0.33, 19),
    ("bikes", 0.67, 18),
    ("bikes", 1.0, 17),
    ("bikes", 1.37, 16),
    ("bunny", 0.0, 20),
    ("bunny", 0.7, 21),
    ("bunny", 1.4, 22),
    ("bunny", 2.1, 23),
    ("bunny", 2.8, 24),
]
_FILM_SIZE = 160, 96

Film = tuple[NDArray[np.uint8], NDArray[np.float64]]


@pytest.fixture(scope="module")
def films() -> dict[str, Film]:
    """All frames of two films, small, and their times in seconds."""
    paths = {"bikes": footage("bikes.mp4"), "bunny": small_footage("big_buck_bunny_1.mp4")}
    return {name: _film(path) for name, path in paths.items()}


def _film(path: Path) -> Film:
    width, height = _FILM_SIZE
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    times_s = np.array([frame.time for frame in frames], dtype=np.float64)
    return np.stack([frame.to_ndarray(format="rgb24", width=width, height=height) for frame in frames]), times_s


def _windows(films: dict[str, Film], width: int, height: int) -> list[CaptionRequest]:
    """Frames twice a second, each the last one that is shown by then, with their true times."""
    requests = []
    for number, (name, start_s, num_frames) in enumerate(_WINDOWS):
        frames, times_s = films[name]
        shown = np.searchsorted(times_s, times_s[0] + start_s + np.arange(num_frames) / _FPS + 1e-6) - 1
        text = f"Describe what is seen in part {number}."
        of_window = times_s[shown] - times_s[shown[0]]
        requests.append(CaptionRequest(str(number), text, frames[shown, :height, :width], of_window, _NUM_TOKENS))
    return requests


def _texts() -> list[CaptionRequest]:
    caption = "A person walks a dog past a red car, and the camera follows."
    return [
        CaptionRequest(str(number), f"Improve this: {caption * number} And {number}.", max_output_tokens=_NUM_TOKENS)
        for number in range(10)
    ]


def _all_answers(engine: CaptionEngine, requests: Sequence[CaptionRequest]) -> list[CaptionReply]:
    for request in requests:
        engine.add(request)
    return sorted(_finish(engine, len(requests)).values(), key=lambda reply: int(reply.id))


@pytest.mark.parametrize(
    ("family", "fixture", "size"),
    [
        pytest.param("qwen2.5-vl", "tiny_qwen_vl", (140, 84), id="Qwen2.5-VL"),
        pytest.param("qwen3-vl", "tiny_qwen3_vl", (160, 96), id="Qwen3-VL"),
        pytest.param("qwen-lm", "tiny_qwen_lm", None, id="text"),
    ],
)
def test_transformers_says_the_same(
    family: str,
    fixture: str,
    size: tuple[int, int] | None,
    start: Start,
    films: dict[str, Film],
    request: pytest.FixtureRequest,
) -> None:
    weights: Path = request.getfixturevalue(fixture)
    requests = _windows(films, *size) if size is not None else _texts()
    assert all(asked.frames is None or 16 <= len(asked.frames) <= 24 for asked in requests)
    sampling = SamplingRules(temperature=0, top_p=1, repetition_penalty=1.05)
    by_vllm = _all_answers(start(_settings(weights, family, sampling=sampling, disable_mmcache=True)), requests)
    in_float32 = (("dtype", "float32"),)
    transformers = TransformersEngine(_settings(weights, family, sampling=sampling, extra=in_float32, batch_size=4))
    assert _all_answers(transformers, requests) == by_vllm
    assert all(a.token_ids != b.token_ids for a, b in itertools.combinations(by_vllm, 2))
    transformers.close()


@pytest.mark.usefixtures("own_process")
def test_an_engine_that_is_killed_costs_its_requests_and_the_next_one_works(tiny_qwen_lm: Path) -> None:
    settings = _settings(tiny_qwen_lm, "qwen-lm")
    killed = VllmEngine(settings)
    _die_at_work(killed, lambda: os.kill(killed._processes[0].pid, signal.SIGKILL), "exit code")
    with pytest.raises(EngineDiedError):
        killed.add(CaptionRequest("late", "hello"))
    _close(killed)

    # as on one GPU: without a third process for the model, which vLLM's CPU engine has by default
    following = VllmEngine(_settings(tiny_qwen_lm, "qwen-lm", extra=(*_ARGUMENTS, _ONE_PROCESS)))
    assert _answers(following, [CaptionRequest("a", "hello", max_output_tokens=3)])["a"].output_tokens == 3
    _die_at_work(following, following.kill, "it was killed")
    _close(following)


def _die_at_work(engine: VllmEngine, end: Callable[[], None], reason: str) -> None:
    """It is ended from another thread while it works."""
    for k in range(4):
        engine.add(CaptionRequest(f"dying {k}", f"hello {k}", max_output_tokens=2000))
    killer = threading.Timer(0.3, end)
    killer.start()
    with pytest.raises(EngineDiedError, match=reason):
        _finish(engine, 5)
    killer.join()


def _close(engine: VllmEngine) -> None:
    engine.close()
    engine.close()
    assert [process for process in engine._processes if process.is_running()] == []
