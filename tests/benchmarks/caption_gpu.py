"""How busy captions keep a GPU, and output tokens a second: Qwen2.5-VL with the sizes of its 7B and random weights.

Windows of ten seconds of 720p at two frames a second go through the transformers engine and, where it is installed,
vLLM (with weights of its own making). Busy is the mean of what nvidia-smi samples as utilization.gpu: the share of time
in which some kernel ran. VALUE is that of the engine that a worker would take: vLLM where it is there. Without a GPU
nothing is measured: VALUE is 0 then, and ``--size tiny`` shows that a tiny model answers.
"""

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from curation.captioning.models import CAPTION_MODELS
from curation.captioning.requests import (
    CaptionEngine,
    CaptionReply,
    CaptionRequest,
    EngineDiedError,
    EngineSettings,
    EngineStartError,
)
from tests.benchmarks.harness import verdict

GOAL: Final = 0.9
_SAMPLE_S: Final = 0.2
_FIRST_SPECIAL: Final = 151_643  # ids of Qwen's special tokens begin here
_NEEDED: Final = ("torch", "transformers", "pytest")  # the last by what makes the tiny model
_VOCABULARY: Final = 152_064
_TEXT_7B: Final = {  # config.json of Qwen/Qwen2.5-VL-7B-Instruct
    "vocab_size": _VOCABULARY,
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "max_position_embeddings": 128_000,
    "max_window_layers": 28,
    "initializer_range": 0.02,
}
_VISION_7B: Final = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "initializer_range": 0.02,
}


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine is given."""

    num_windows: int
    num_frames: int
    width: int
    height: int
    output_tokens: int
    batch_size: int = 16


TINY: Final = Load(num_windows=4, num_frames=4, width=84, height=56, output_tokens=8, batch_size=2)
FULL: Final = Load(num_windows=48, num_frames=20, width=1280, height=720, output_tokens=256)


class GpuUse:
    """Asks nvidia-smi again and again, while it is open, how busy the GPU was just now."""

    def __init__(self) -> None:
        self.samples: list[float] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "GpuUse":
        if shutil.which("nvidia-smi"):
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def busy(self) -> float | None:
        """Share of the time; None without a sample."""
        return statistics.mean(self.samples) / 100 if self.samples else None

    def _sample(self) -> None:
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
        command = ["nvidia-smi", "-i", gpu, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self._is_over.wait(_SAMPLE_S):
            said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
            if said.isdigit():
                self.samples.append(float(said))


def has_gpu() -> bool:
    """Whether torch can use one."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def write_7b(folder: Path, device: str = "cuda") -> None:
    """A checkpoint of 16.6 GB in the folder: random weights, drawn on the device, and a tokenizer with Qwen's ids."""
    import torch
    import transformers

    write_tiny(folder)
    (folder / "model.safetensors").unlink()
    _with_ids_of_qwen(folder / "tokenizer.json")
    config = json.loads((folder / "config.json").read_text())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    names = {"image_token_id": "image_pad", "video_token_id": "video_pad"}
    names |= {"vision_start_token_id": "vision_start", "vision_end_token_id": "vision_end"}
    ids = {key: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for key, name in names.items()}
    text = config["text_config"] | _TEXT_7B | _rope_7b(config["text_config"])
    text |= {"bos_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "layer_types": None}
    vision = config["vision_config"] | _VISION_7B
    large = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **ids)
    large.dtype = torch.bfloat16
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = transformers.Qwen2_5_VLForConditionalGeneration(large)
    finally:
        torch.set_default_dtype(torch.float32)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    print(f"{sum(each.numel() for each in model.parameters()) / 1e9:.2f} billion parameters", flush=True)
    del model
    torch.cuda.empty_cache()


def write_tiny(folder: Path) -> None:
    """A checkpoint of a megabyte."""
    from tests.captioning.tiny_models import write_qwen25_vl

    write_qwen25_vl(folder)


def _rope_7b(text: dict[str, Any]) -> dict[str, Any]:
    """As the tiny model's, with the sections of a head of 128."""
    return {"rope_parameters": text["rope_parameters"] | {"mrope_section": [16, 24, 24]}}


def _with_ids_of_qwen(path: Path) -> None:
    """Fill the vocabulary with words that no text has, so that each id up to Qwen's special tokens has one."""
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    for number in range(len(vocabulary), _FIRST_SPECIAL):
        vocabulary[f"unused{number}"] = number
    for place, token in enumerate(sorted(tokenizer["added_tokens"], key=lambda token: int(token["id"]))):
        token["id"] = _FIRST_SPECIAL + place
    path.write_text(json.dumps(tokenizer))


def windows(load: Load, *, seed: int) -> list[CaptionRequest]:
    """Noise that moves, in the size that the model takes: what is seen does not change the work."""
    sizes = CAPTION_MODELS["qwen"].sizes
    assert sizes is not None
    width, height = load.width, load.height
    if load is not TINY:
        width, height = sizes.size(width, height, load.num_frames)
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    frames = np.stack([np.roll(picture, 3 * k, axis=1) for k in range(load.num_frames)])
    times_s = np.arange(load.num_frames) / 2
    return [
        CaptionRequest(f"{seed}-{k}", f"Describe video {k}.", np.roll(frames, k, axis=2), times_s, load.output_tokens)
        for k in range(load.num_windows)
    ]


def answers(engine: CaptionEngine, requests: list[CaptionRequest]) -> list[CaptionReply]:
    """Give the engine all of them and wait."""
    for request in requests:
        engine.add(request)
    replies: list[CaptionReply] = []
    while len(replies) < len(requests):
        replies += engine.step()
    return replies


def measure(name: str, start: Callable[[], CaptionEngine], load: Load) -> float | None:
    """Print what the engine did, and give the GPU's busy share; None where it can't be told."""
    began = time.monotonic()
    try:
        engine = start()
        try:
            print(f"{name}: started in {time.monotonic() - began:.1f} s", flush=True)
            answers(engine, windows(replace(load, num_windows=min(2, load.num_windows)), seed=1))  # loads all kernels
            asked = windows(load, seed=2)
            began = time.monotonic()
            with GpuUse() as use:
                replies = answers(engine, asked)
            spent_s = time.monotonic() - began
        finally:
            engine.close()
    except (EngineStartError, EngineDiedError, ImportError, OSError, RuntimeError) as error:
        print(f"{name}: failed: {type(error).__name__}: {error}", flush=True)
        return None
    _print_result(name, replies, spent_s, use)
    bad = [reply.reason for reply in replies if reply.status == "error"]
    return None if bad else use.busy


def _print_result(name: str, replies: list[CaptionReply], spent_s: float, use: GpuUse) -> None:
    num_errors = sum(reply.status == "error" for reply in replies)
    given, made = (sum(getattr(reply, key) for reply in replies) for key in ("prompt_tokens", "output_tokens"))
    busy = f"{use.busy:.3f} ({len(use.samples)} samples)" if use.busy is not None else "not known"
    print(
        f"{name}: {len(replies)} windows in {spent_s:.1f} s, {num_errors} errors; {given / len(replies):.0f}", end=" "
    )
    print(f"prompt tokens each; {made / spent_s:.1f} output tokens/s; GPU busy (nvidia-smi): {busy}", flush=True)
    for reason in {reply.reason for reply in replies if reply.reason}:
        print(f"{name}: an error: {reason}")


def engine_starts(folder: Path, load: Load, *, on_gpu: bool) -> dict[str, Callable[[], CaptionEngine]]:
    """The engines that can be measured here, in the order in which they are."""
    from curation.captioning.engines.transformers_engine import TransformersEngine
    from curation.captioning.engines.vllm_engine import VllmEngine

    model = CAPTION_MODELS["qwen"]
    settings = EngineSettings(str(folder), model.family, model.sampling, batch_size=load.batch_size)
    starts: dict[str, Callable[[], CaptionEngine]] = {"transformers": lambda: TransformersEngine(settings)}
    if on_gpu and importlib.util.find_spec("vllm") is not None:
        without_weights = replace(settings, extra=(("load_format", "dummy"),), disable_mmcache=True)
        starts["vllm"] = lambda: VllmEngine(without_weights)
    return starts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("tiny", "full"), default="full")
    parser.add_argument(
        "--folder", type=Path, help="where 17 GB of weights are put while it runs; default: the system's"
    )
    arguments = parser.parse_args()
    is_tiny, on_gpu = arguments.size == "tiny", has_gpu()
    busy: dict[str, float | None] = {}
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}: nothing is measured")
    elif on_gpu or is_tiny:
        load = TINY if is_tiny else FULL
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            began = time.monotonic()
            (write_tiny if is_tiny else write_7b)(Path(folder))
            print(f"weights were made in {time.monotonic() - began:.1f} s", flush=True)
            starts = engine_starts(Path(folder), load, on_gpu=on_gpu and not is_tiny)
            busy = {name: measure(name, start, load) for name, start in starts.items()}
    if not on_gpu:
        print("there is no GPU here: how busy captions keep one is not measured")
    known = [share for share in busy.values() if share is not None]
    return verdict("caption_gpu", known[-1] if known else 0.0, GOAL, at_most=False)


if __name__ == "__main__":
    sys.exit(main())
