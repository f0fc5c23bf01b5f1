"""vLLM and transformers say the same of the same pictures, token for token, with the same weights in float32."""

import gc
import itertools
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
    EngineSettings,
    SamplingRules,
)
from tests.footage import MEDIA, footage

pytestmark = pytest.mark.usefixtures("needs_vllm", "vllm_environment")

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
}
_VLLM = (("dtype", "float32"), ("enforce_eager", True), ("max_num_batched_tokens", 8192))
_FPS = 2.0
_NUM_TOKENS = 24
_WINDOWS = [  # of which film, from which second on, how many frames
    ("bikes.mp4", 0.0, 20),
    ("bikes.mp4", 0.33, 19),
    ("bikes.mp4", 0.67, 18),
    ("bikes.mp4", 1.0, 17),
    ("bikes.mp4", 1.37, 16),
    ("big_buck_bunny_1.mp4", 0.0, 20),
    ("big_buck_bunny_1.mp4", 0.7, 21),
    ("big_buck_bunny_1.mp4", 1.4, 22),
    ("big_buck_bunny_1.mp4", 2.1, 23),
    ("big_buck_bunny_1.mp4", 2.8, 24),
]


@pytest.fixture(scope="module")
def vllm_environment() -> Iterator[None]:
    """vLLM in this process, on one core, as in its own tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


def _film(name: str, width: int, height: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """All frames of the film, small, and their times in seconds."""
    path = MEDIA / name if (MEDIA / name).exists() else footage(name)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    times_s = np.array([frame.time for frame in frames], dtype=np.float64)
    small = [frame.reformat(width=width, height=height, format="rgb24").to_ndarray() for frame in frames]
    return np.stack(small), times_s - times_s[0]


def _windows(width: int, height: int) -> list[CaptionRequest]:
    """Frames twice a second, each the last one that is shown by then, with their true times."""
    films = {name: _film(name, width, height) for name in {name for name, _, _ in _WINDOWS}}
    requests = []
    for number, (name, start_s, num_frames) in enumerate(_WINDOWS):
        frames, times_s = films[name]
        shown = np.searchsorted(times_s, start_s + np.arange(num_frames) / _FPS + 1e-6) - 1
        text = f"Describe what is seen in part {number}."
        of_window = times_s[shown] - times_s[shown[0]]
        requests.append(CaptionRequest(str(number), text, frames[shown], of_window, _NUM_TOKENS))
    return requests


def _texts() -> list[CaptionRequest]:
    caption = "A person walks a dog past a red car, and the camera follows."
    return [
        CaptionRequest(str(number), f"Improve this: {caption * number} And {number}.", max_output_tokens=_NUM_TOKENS)
        for number in range(10)
    ]


def _answers(
    start: Callable[[EngineSettings], CaptionEngine], settings: EngineSettings, requests: Sequence[CaptionRequest]
) -> list[CaptionReply]:
    engine = start(settings)
    try:
        for request in requests:
            engine.add(request)
        replies: list[CaptionReply] = []
        while len(replies) < len(requests):
            replies += engine.step()
    finally:
        engine.close()
        gc.collect()
    return sorted(replies, key=lambda reply: int(reply.id))


@pytest.mark.parametrize(
    ("family", "fixture", "size"),
    [
        pytest.param("qwen2.5-vl", "tiny_qwen_vl", (140, 84), id="Qwen2.5-VL"),
        pytest.param("qwen3-vl", "tiny_qwen3_vl", (160, 96), id="Qwen3-VL"),
        pytest.param("qwen-lm", "tiny_qwen_lm", None, id="text"),
    ],
)
def test_both_engines_say_the_same(
    family: str, fixture: str, size: tuple[int, int] | None, request: pytest.FixtureRequest
) -> None:
    weights: Path = request.getfixturevalue(fixture)
    requests = _windows(*size) if size is not None else _texts()
    assert all(asked.frames is None or 16 <= len(asked.frames) <= 24 for asked in requests)
    sampling = SamplingRules(temperature=0, top_p=1, repetition_penalty=1.05)
    common: dict[str, Any] = {"weights": str(weights), "family": family, "sampling": sampling, "max_model_len": 2048}
    by_vllm = _answers(VllmEngine, EngineSettings(**common, extra=_VLLM, disable_mmcache=True), requests)
    by_transformers = _answers(
        TransformersEngine, EngineSettings(**common, extra=(("dtype", "float32"),), batch_size=4), requests
    )
    assert by_transformers == by_vllm
    assert all(a.token_ids != b.token_ids for a, b in itertools.combinations(by_vllm, 2))
