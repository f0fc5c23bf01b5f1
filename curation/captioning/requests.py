"""What an engine is asked and what it answers, and what an engine is."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from curation.errors import StopRunError


@dataclass(frozen=True, slots=True)
class CaptionRequest:
    """A text, and frames it is about.

    Attributes:
        id: no other request that is under way has it.
        text: what the user says, before the model's chat template.
        frames: uint8 RGB, shape (num_frames, height, width, 3), of the size that the model takes; None for text alone.
        times_s: float64 seconds, shape (num_frames,), rising: when each frame is shown; None without frames.
        max_output_tokens: where the answer is cut off.
    """

    id: str
    text: str
    frames: NDArray[np.uint8] | None = None
    times_s: NDArray[np.float64] | None = None
    max_output_tokens: int = 512


@dataclass(frozen=True, slots=True)
class CaptionReply:
    """What came of a request.

    Attributes:
        id: the request's.
        text: without special tokens; empty where there is none.
        status: ``truncated`` when ``max_output_tokens`` cut it off.
        reason: why it is an error.
        prompt_tokens: of the whole prompt, frames included; 0 where the request was refused before they were counted.
        output_tokens: generated, the one that ends the text included.
        token_ids: those tokens.
    """

    id: str
    text: str
    status: Literal["success", "truncated", "error"]
    reason: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    token_ids: tuple[int, ...] = ()

    @classmethod
    def refused(cls, request_id: str, reason: str) -> "CaptionReply":
        """The request can't be answered, and would not be if it were tried again."""
        return cls(request_id, "", "error", reason)


class RequestRefusedError(Exception):
    """An engine can't answer this request; it goes on with the others."""


class EngineDiedError(Exception):
    """An engine is of no more use; what it was at may be tried again in another."""


class EngineStartError(StopRunError):
    """No engine can be started, for which no video is to blame."""


class CaptionEngine(Protocol):
    """A loaded model that works on several requests at once. Only one thread uses it."""

    def add(self, request: CaptionRequest) -> None:
        """Take a request.

        Raises:
            RequestRefusedError: it is too long, for example.
            EngineDiedError: the engine is of no more use.
        """

    def step(self) -> list[CaptionReply]:
        """Work a little on what was added, and give what is finished, in any order.

        Raises:
            EngineDiedError: as ``add``.
        """

    def kill(self) -> None:
        """End it from another thread because it hangs: ``step`` then raises EngineDiedError, where that is possible."""

    def close(self) -> None:
        """End it and give its memory back, whatever state it is in."""


@dataclass(frozen=True, slots=True)
class SamplingRules:
    """How tokens are drawn, and what ends a text beside the model's own end."""

    temperature: float
    top_p: float
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How an engine is started.

    Attributes:
        weights: the folder with the checkpoint.
        family: decides how frames become model inputs; None for a text model.
        sampling: how tokens are drawn.
        system_text: a system message; empty for the chat template's own default.
        max_in_engine: requests that it works on at once.
        batch_size: requests that it takes at once where it can't take another before these are done (transformers).
        max_model_len: tokens of a prompt and its answer.
        gpu_memory_utilization: share of each GPU that it may fill.
        tensor_parallel_size: GPUs that hold one copy of the model together.
        devices: what CUDA_VISIBLE_DEVICES is to be for it; None leaves that alone.
        quantization: vLLM's name of it, or None for the checkpoint's own.
        disable_mmcache: no cache of processed frames.
        model_does_preprocess: the model's own processor resizes the frames; otherwise they have their final size.
        preprocess_dtype: of the pixel values that are made of the frames outside the model.
        trust_remote_code: whether code of the checkpoint may run.
        extra: further arguments of the engine, as it names them.
    """

    weights: str
    family: str | None
    sampling: SamplingRules
    system_text: str = ""
    max_in_engine: int = 64
    batch_size: int = 16
    max_model_len: int = 32_768
    gpu_memory_utilization: float = 0.85
    tensor_parallel_size: int = 1
    devices: str | None = None
    quantization: str | None = None
    disable_mmcache: bool = False
    model_does_preprocess: bool = False
    preprocess_dtype: str = "float32"
    trust_remote_code: bool = False
    extra: tuple[tuple[str, Any], ...] = ()
