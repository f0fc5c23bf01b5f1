"""Which engine runs a model here, on which GPUs, and with which share of their memory."""

import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from curation.captioning.requests import CaptionEngine, EngineSettings, EngineStartError

logger = logging.getLogger(__name__)

EngineName = Literal["auto", "vllm", "transformers"]

_ROOM_GB = 6.0  # beside the weights: activations, CUDA graphs and a useful KV cache


@dataclass(frozen=True, slots=True)
class GpuNeeds:
    """What decides how engines are laid on GPUs.

    Attributes:
        weights_gb: GB of the model's weights.
        reserved_gb: GB on each GPU that other models of the worker need.
        tensor_parallel_size: GPUs that share a copy of the model; 0: as few as hold it.
    """

    weights_gb: float
    reserved_gb: float = 0.0
    tensor_parallel_size: int = 0


def engine_starts(
    settings: EngineSettings, needs: GpuNeeds, *, engine: EngineName = "auto"
) -> list[Callable[[], CaptionEngine]]:
    """How to start the engines that use all GPUs of this task; one, without GPUs.

    Raises:
        EngineStartError: the model does not fit the GPUs.
    """
    name = engine if engine != "auto" else "vllm" if importlib.util.find_spec("vllm") else "transformers"
    start = _vllm if name == "vllm" else _transformers
    gpus_gb = _gpus_gb()
    if not gpus_gb or name == "transformers":
        return [lambda: start(settings)]
    share = engine_share(settings.gpu_memory_utilization, reserved_gb=needs.reserved_gb, gpu_gb=min(gpus_gb))
    num_each = needs.tensor_parallel_size or gpus_for(needs.weights_gb, share_gb=share * min(gpus_gb))
    if num_each > len(gpus_gb):
        raise EngineStartError(
            f"{settings.weights}: weights of {needs.weights_gb:g} GB need {num_each} GPUs of {min(gpus_gb):.0f} GB "
            f"with a share of {share:.2f}, this task has {len(gpus_gb)}: raise slurm.gpus_per_task, or take a "
            "smaller or quantized model"
        )
    groups = gpu_groups(_visible_gpus(len(gpus_gb)), num_each=num_each)
    logger.info("event=engines engine=%s number=%d gpus_each=%d share=%.2f", name, len(groups), num_each, share)
    placed = [
        replace(settings, gpu_memory_utilization=share, tensor_parallel_size=num_each, devices=group)
        for group in groups
    ]
    return [lambda each=each: start(each) for each in placed]  # type: ignore[misc]  # each lambda has its own


def engine_share(utilization: float, *, reserved_gb: float, gpu_gb: float) -> float:
    """The share of a GPU's memory that an engine may fill, less what the worker's other models need.

    Raises:
        EngineStartError: nothing is left.
    """
    share = utilization - reserved_gb / gpu_gb
    if share <= 0:
        raise EngineStartError(f"other models reserve {reserved_gb:g} GB of a GPU's {gpu_gb:.0f} GB: nothing is left")
    return share


def gpus_for(weights_gb: float, *, share_gb: float) -> int:
    """The least power of two of GPUs that hold a model's weights with room to work (attention heads split so)."""
    num_gpus = 1
    while weights_gb / num_gpus + _ROOM_GB > share_gb and num_gpus < 1024:
        num_gpus *= 2
    return num_gpus


def gpu_groups(gpus: Sequence[str], *, num_each: int) -> list[str]:
    """GPUs in groups for one engine each, as CUDA_VISIBLE_DEVICES has them; what makes no full group is left out."""
    whole = len(gpus) // num_each * num_each
    return [",".join(gpus[k : k + num_each]) for k in range(0, whole, num_each)]


def _gpus_gb() -> list[float]:
    """GB of each GPU that this task has."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_properties(k).total_memory / 1e9 for k in range(torch.cuda.device_count())]


def _visible_gpus(num_gpus: int) -> list[str]:
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return names.split(",") if names else [str(k) for k in range(num_gpus)]


def _vllm(settings: EngineSettings) -> CaptionEngine:
    from curation.captioning.engines.vllm_engine import VllmEngine

    return VllmEngine(settings)


def _transformers(settings: EngineSettings) -> CaptionEngine:
    from curation.captioning.engines.transformers_engine import TransformersEngine

    return TransformersEngine(settings)
