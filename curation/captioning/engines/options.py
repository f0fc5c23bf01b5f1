"""How a stage wants its engine, beside the settings that NeMo Curator's stages have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curation.captioning.engines.start import EngineName, GpuNeeds, engine_starts
from curation.captioning.models import CaptionModel
from curation.captioning.queue import CaptionQueue
from curation.captioning.requests import CaptionEngine, EngineSettings
from curation.weights import copy_node_locally, find_weights_folder


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The engine of a stage.

    Attributes:
        engine: ``auto`` takes vLLM where it is installed, else transformers.
        max_in_engine: windows that one engine works on at once.
        max_model_len: tokens of a prompt and its answer.
        gpu_memory_utilization: share of each GPU for the engine and for what is reserved.
        reserved_gpu_gb: GB on each GPU that other models of this worker need.
        tensor_parallel_size: GPUs that share a copy of the model; 0: as few as hold it, and a copy for each such group.
        copy_weights_to: a folder on the node's own disk that weights are copied to once; None reads them in place.
        stall_timeout_s: an engine that gives no sign for so long is ended and replaced.
        preprocess_dtype: of pixel values that are made outside vLLM.
        engine_arguments: further arguments of the engine, by its own names.
        start: takes the place of all the above: how to start an engine.
    """

    engine: EngineName = "auto"
    max_in_engine: int = 64
    max_model_len: int = 32_768
    gpu_memory_utilization: float = 0.85
    reserved_gpu_gb: float = 0.0
    tensor_parallel_size: int = 0
    copy_weights_to: str | None = None
    stall_timeout_s: float = 600.0
    preprocess_dtype: str = "float32"
    engine_arguments: Mapping[str, Any] = field(default_factory=dict)
    start: Callable[[], CaptionEngine] | None = None

    def open_queue(self, model: CaptionModel, model_dir: str, *, fp8: bool, **settings: Any) -> CaptionQueue:
        """A queue into engines for this model, which are not started yet.

        Args:
            settings: further fields of ``EngineSettings``.

        Raises:
            FileNotFoundError: the weights are missing; says how to get them.
            EngineStartError: they do not fit the GPUs.
        """
        starts = [self.start] if self.start else self._starts(model, model_dir, fp8=fp8, **settings)
        return CaptionQueue(starts, max_in_engine=self.max_in_engine, stall_timeout_s=self.stall_timeout_s)

    def _starts(
        self, model: CaptionModel, model_dir: str, *, fp8: bool, **settings: Any
    ) -> list[Callable[[], CaptionEngine]]:
        weights = find_weights_folder(model_dir, model.repository, revision=model.revision, model_type=model.model_type)
        if self.copy_weights_to is not None:
            weights = copy_node_locally(weights, Path(self.copy_weights_to))
        needs = GpuNeeds(model.weights_gb, self.reserved_gpu_gb, self.tensor_parallel_size)
        settings.setdefault("system_text", model.system_text)
        engine_settings = EngineSettings(
            weights=str(weights),
            family=model.family,
            sampling=model.sampling,
            max_in_engine=self.max_in_engine,
            max_model_len=self.max_model_len,
            gpu_memory_utilization=self.gpu_memory_utilization,
            quantization=model.quantization(fp8=fp8),
            preprocess_dtype=self.preprocess_dtype,
            trust_remote_code=model.trust_remote_code,
            extra=tuple(self.engine_arguments.items()),
            **settings,
        )
        return engine_starts(engine_settings, needs, engine=self.engine)
