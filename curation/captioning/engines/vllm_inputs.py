"""What vLLM is given: arguments to start with, and videos with the times of their frames. Needs no vLLM."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.captioning.engines.chat import VIDEO_PLACEHOLDERS
from curation.captioning.engines.qwen_inputs import CLOCK_HZ, PATCH_RULES
from curation.captioning.requests import CaptionRequest, EngineSettings, RequestRefusedError

_NEMOTRON_CLOCK_HZ = 1000  # vLLM rounds 1 / fps down to whole milliseconds for this one
_CACHE_GB = 4  # of processed frames, where they may be kept
_QWEN = frozenset(PATCH_RULES)

VideoInput = tuple[NDArray[np.uint8], dict[str, Any]]


def engine_arguments(settings: EngineSettings, *, model_limit: int | None = None) -> dict[str, Any]:
    """The arguments of vLLM's ``EngineArgs``; ``settings.extra`` wins.

    Args:
        settings: of the engine.
        model_limit: tokens that the model was made for; vLLM refuses more.
    """
    arguments: dict[str, Any] = {
        "model": settings.weights,
        "max_model_len": min(settings.max_model_len, model_limit or settings.max_model_len),
        "max_num_seqs": settings.max_in_engine,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "trust_remote_code": settings.trust_remote_code,
        "seed": 0,
        "disable_log_stats": True,
    }
    if settings.quantization is not None:
        arguments["quantization"] = settings.quantization
    if settings.family in VIDEO_PLACEHOLDERS:
        arguments["limit_mm_per_prompt"] = {"image": 0, "video": 1}
        arguments["mm_processor_cache_gb"] = 0 if settings.disable_mmcache else _CACHE_GB
    if settings.family in _QWEN and not settings.model_does_preprocess:
        arguments["mm_processor_kwargs"] = {"do_resize": False}
    return arguments | dict(settings.extra)


def own_max_model_len(weights: str) -> int | None:
    """Tokens that the model was made for, by its config.json; None where that does not say."""
    path = Path(weights) / "config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    for part in (config.get("text_config"), config.get("llm_config"), config):
        if part and part.get("max_position_embeddings"):
            return int(part["max_position_embeddings"])
    return None


def video_input(family: str, request: CaptionRequest) -> VideoInput | None:
    """The frames and what vLLM has to know of them; None without frames.

    Qwen2.5-VL hears how fast its frames follow each other, as one mean rate. The prompts of the others have each
    frame's time in words, which vLLM computes from its number and a rate: ticks of a fast clock in place of a video's
    frames give the true times, whatever their distances are.

    Raises:
        RequestRefusedError: the frames or their times are not what a request has to have.
    """
    frames, times_s = _checked(request)
    if frames is None or times_s is None:
        return None
    if family == "qwen2.5-vl":
        lasts_s = float(times_s[-1] - times_s[0])
        fps, indices = (len(times_s) - 1) / lasts_s if lasts_s else 1.0, list(range(len(frames)))
    else:
        clock_hz = CLOCK_HZ if family in _QWEN else _NEMOTRON_CLOCK_HZ
        fps, indices = float(clock_hz), [round(float(time_s) * clock_hz) for time_s in times_s]
    num_frames = indices[-1] + 1
    return np.ascontiguousarray(frames), {
        "fps": fps,
        "frames_indices": indices,
        "total_num_frames": num_frames,
        "duration": num_frames / fps,
        "video_backend": "clipmill",
        "do_sample_frames": False,
    }


def num_vision_tokens(settings: EngineSettings, request: CaptionRequest) -> int | None:
    """Tokens that a request's frames take in its prompt; None where the model's own processor decides that.

    Raises:
        RequestRefusedError: the model takes no frames of this size.
    """
    if request.frames is None:
        return 0
    if settings.family not in _QWEN or settings.model_does_preprocess:
        return None
    rules = PATCH_RULES[settings.family]
    grid = rules.grid(*request.frames.shape[:3])
    return grid.t * rules.num_tokens(grid)


def _checked(request: CaptionRequest) -> tuple[NDArray[np.uint8] | None, NDArray[np.float64] | None]:
    frames, times_s = request.frames, request.times_s
    if (frames is None) != (times_s is None):
        raise RequestRefusedError("frames and their times come together")
    if frames is None or times_s is None:
        return None, None
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise RequestRefusedError(f"frames are uint8 (num_frames, height, width, 3), got {frames.dtype} {frames.shape}")
    if times_s.shape != frames.shape[:1]:
        raise RequestRefusedError(f"{len(frames)} frames have {times_s.size} times")
    if not np.isfinite(times_s).all() or times_s[0] < 0 or (np.diff(times_s) <= 0).any():
        raise RequestRefusedError(f"the times of frames rise from 0 or later, got {times_s.tolist()}")
    return frames, times_s
