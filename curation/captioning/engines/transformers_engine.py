"""The engine where vLLM is not installed: plain transformers, a batch after the other."""

import functools
import gc
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from curation.captioning.engines.chat import ChatTemplate
from curation.captioning.engines.qwen_inputs import PATCH_RULES, repair_positions
from curation.captioning.engines.row_ends import RepetitionPenalty, RowEnds
from curation.captioning.engines.transformers_inputs import InputMaker, Prompt
from curation.captioning.requests import (
    CaptionReply,
    CaptionRequest,
    EngineDiedError,
    EngineSettings,
    EngineStartError,
)
from curation.loading import loading_alone

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_SIGN_S: Final = 0.5  # step() comes back so often while tokens are made, so that a batch that takes long is no hang
_PIXEL_TYPES: Final = ("float32", "float16", "bfloat16")
_TEXT_FAMILIES: Final = (None, "qwen-lm")


class TransformersEngine:
    """A model of transformers that answers up to ``batch_size`` requests together.

    It makes the pixel values itself, so neither torchvision nor a processor is needed. ``gpu_memory_utilization`` does
    not limit it: a batch that finds no memory is tried again one by one.

    Attributes:
        model: of transformers; None when it is closed.
    """

    def __init__(self, settings: EngineSettings) -> None:
        """Load the model: on the GPU in bfloat16, without one in the type of its weights.

        ``extra`` may have ``dtype``, torch's name of another type.

        Raises:
            EngineStartError: the model needs vLLM, or can't be loaded.
        """
        _refuse_what_needs_vllm(settings)
        _say_once()
        self._settings = settings
        self.model = _loaded(settings)
        self._chat = ChatTemplate(settings)
        self._end_ids = _end_ids(self.model, self._chat.tokenizer, settings.sampling.stop)
        self._inputs = InputMaker(settings, self._chat)
        self.model.generation_config = _generation_config(settings, sorted(self._end_ids), self._inputs.pad_id)
        self._waiting: list[Prompt] = []
        self._running: Future[list[CaptionReply]] | None = None
        self._num_steps = 0
        self._killed = threading.Event()

    def add(self, request: CaptionRequest) -> None:
        """Take a request. Frames have the size that the model takes, unless ``model_does_preprocess``.

        Raises:
            RequestRefusedError: it is too long, its frames have no size that the model takes, or it is for no video.
        """
        self._waiting.append(self._inputs.prompt(request))

    def step(self) -> list[CaptionReply]:
        """Begin a batch, or wait for the one that runs; nothing is given while it still makes tokens.

        Raises:
            EngineDiedError: CUDA failed, or ``kill`` was called.
        """
        if self._running is None:
            if not self._waiting:
                return []
            self._running = _in_thread(functools.partial(self._replies, self._next_batch()))
        while not self._killed.is_set():
            num_steps = self._num_steps
            if wait([self._running], timeout=_SIGN_S).done:
                running, self._running = self._running, None
                return running.result()
            if self._num_steps > num_steps:
                return []
        raise EngineDiedError("it was ended from outside")

    def kill(self) -> None:
        """End what runs at its next token; ``step`` does not wait for that."""
        self._killed.set()

    def close(self) -> None:
        """Give the memory back; what runs ends at its next token."""
        import torch

        self._killed.set()
        if self._running is not None:
            wait([self._running], timeout=10 * _SIGN_S)
        self._waiting.clear()
        self._running = self.model = None
        gc.collect()  # models refer to themselves
        if torch.cuda.is_available():
            with suppress(RuntimeError):  # of a GPU that failed
                torch.cuda.empty_cache()

    def _next_batch(self) -> list[Prompt]:
        """The request that waits longest, and those nearest to it in length: little is padded, none waits for ever."""
        first = self._waiting[0]
        others = sorted(self._waiting[1:], key=lambda other: abs(len(other.token_ids) - len(first.token_ids)))
        batch = [first, *others[: self._settings.batch_size - 1]]
        chosen = {id(prompt) for prompt in batch}
        self._waiting = [prompt for prompt in self._waiting if id(prompt) not in chosen]
        return batch

    def _replies(self, batch: Sequence[Prompt]) -> list[CaptionReply]:
        """Answer the batch; if that fails, one request after the other, so that only the one at fault is lost."""
        import torch

        try:
            return self._generated(batch)
        except (RuntimeError, ValueError) as error:
            if _is_deadly(error):
                raise EngineDiedError(str(error)) from error
            reason = f"{type(error).__name__}: {error}"
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # out here, where the traceback does not hold what the batch took any more
        if len(batch) == 1:
            prompt = batch[0]
            return [CaptionReply(prompt.id, "", "error", reason, prompt_tokens=len(prompt.token_ids))]
        logger.warning("event=caption_batch_failed requests=%d error=%s: they are tried one by one", len(batch), reason)
        return [reply for prompt in batch for reply in self._replies([prompt])]

    def _generated(self, batch: Sequence[Prompt]) -> list[CaptionReply]:
        """Run the model over the batch."""
        import torch

        sampling = self._settings.sampling
        with torch.inference_mode():
            inputs = self._inputs.batch(batch, device=self.model.device, dtype=self.model.dtype)
            ends = RowEnds(
                self._chat.tokenizer,
                prompt_length=inputs["input_ids"].shape[1],
                limits=[prompt.limit for prompt in batch],
                end_ids=self._end_ids,
                stop=sampling.stop,
                on_step=self._step_done,
            )
            penalty = RepetitionPenalty(sampling.repetition_penalty, inputs["attention_mask"])
            output = self.model.generate(
                **inputs,
                max_new_tokens=max(prompt.limit for prompt in batch),
                stopping_criteria=[ends],
                logits_processor=[penalty] if sampling.repetition_penalty != 1 else [],
            )
        found = ends.answers(output)
        return [
            CaptionReply(
                prompt.id,
                answer.text,
                answer.status,
                prompt_tokens=len(prompt.token_ids),
                output_tokens=len(answer.token_ids),
                token_ids=answer.token_ids,
            )
            for prompt, answer in zip(batch, found, strict=True)
        ]

    def _step_done(self) -> None:
        """A token was made for each row of the batch."""
        self._num_steps += 1
        if self._killed.is_set():
            raise EngineDiedError("it was ended from outside")


@functools.cache
def _say_once() -> None:
    logger.warning("event=transformers_engine: captions come from transformers, vLLM is faster")


def _in_thread(work: Callable[[], list[CaptionReply]]) -> Future[list[CaptionReply]]:
    """Begin it in a thread that nobody has to wait for: what hangs in CUDA can't be ended."""
    future: Future[list[CaptionReply]] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised again by step()
            future.set_exception(error)

    threading.Thread(target=run, name="captions", daemon=True).start()
    return future


def _refuse_what_needs_vllm(settings: EngineSettings) -> None:
    if settings.family not in PATCH_RULES and settings.family not in _TEXT_FAMILIES:
        known = ", ".join(PATCH_RULES)
        raise EngineStartError(f"models of the family {settings.family} need vLLM; transformers runs {known} and text")
    if settings.tensor_parallel_size > 1:
        raise EngineStartError(
            f"tensor_parallel_size {settings.tensor_parallel_size} needs vLLM: with transformers a model is on one GPU"
        )
    if settings.quantization is not None:
        raise EngineStartError(f"quantization {settings.quantization} needs vLLM")
    if settings.preprocess_dtype not in _PIXEL_TYPES:
        known = ", ".join(_PIXEL_TYPES)
        raise EngineStartError(
            f"transformers takes no pixel values of type {settings.preprocess_dtype}; known: {known}"
        )


def _loaded(settings: EngineSettings) -> Any:
    """The model on its device, ready to answer."""
    try:
        with loading_alone():
            import torch
            from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
            from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise EngineStartError(f"neither vLLM nor torch and transformers are installed: {error}") from error
    disable_progress_bar()
    device = _device(settings.devices)
    dtype = dict(settings.extra).get("dtype", "bfloat16" if device.type == "cuda" else "auto")
    of_kind = AutoModelForImageTextToText if settings.family in PATCH_RULES else AutoModelForCausalLM
    try:
        with loading_alone():
            model = of_kind.from_pretrained(
                settings.weights,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                local_files_only=True,
                trust_remote_code=settings.trust_remote_code,
            )
        model = model.to(device).eval()
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise EngineStartError(f"{settings.weights}: the model can't be loaded: {error}") from error
    if settings.family == "qwen2.5-vl":
        repair_positions(model)
    return model


def _device(devices: str | None) -> "torch.device":
    """The GPU named as CUDA_VISIBLE_DEVICES does, else the first; the CPU where there is none."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if devices is None:
        return torch.device("cuda", 0)
    return torch.device("cuda", visible.index(devices) if devices in visible else int(devices))


def _end_ids(model: Any, tokenizer: Any, stop: Sequence[str]) -> frozenset[int]:
    """The tokens that end an answer, as the checkpoint, its tokenizer and the caller say."""
    said, vocabulary = model.generation_config.eos_token_id, tokenizer.get_vocab()
    ends = {*(said if isinstance(said, list) else [said]), tokenizer.eos_token_id} - {None}
    ends |= {vocabulary[word] for word in stop if word in vocabulary}  # a special token leaves no text to look at
    return frozenset(ends)


def _generation_config(settings: EngineSettings, end_ids: list[int], pad_id: int) -> Any:
    """How tokens are drawn: nothing of it is left to what the checkpoint suggests."""
    from transformers import GenerationConfig

    ends = {"eos_token_id": end_ids, "pad_token_id": pad_id}
    sampling = settings.sampling
    if sampling.temperature == 0:
        return GenerationConfig(do_sample=False, **ends)
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    return GenerationConfig(do_sample=True, **drawn, **ends)


def _is_deadly(error: Exception) -> bool:
    """Whether the GPU's context is lost, after which every call fails; too little memory is not."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)
