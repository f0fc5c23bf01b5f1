"""Captions by vLLM: its own loop of add and step, so that requests join and leave while others are worked on."""

import gc
import logging
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from curation.captioning.engines.chat import VIDEO_PLACEHOLDERS, ChatTemplate
from curation.captioning.engines.guard import Guard
from curation.captioning.engines.vllm_inputs import (
    engine_arguments,
    num_vision_tokens,
    own_max_model_len,
    video_input,
)
from curation.captioning.requests import (
    CaptionReply,
    CaptionRequest,
    EngineDiedError,
    EngineSettings,
    EngineStartError,
    RequestRefusedError,
)
from curation.loading import loading_alone
from curation.spared import processes_spared

logger = logging.getLogger(__name__)

_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",  # weights are a local folder
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a worker has threads and perhaps CUDA, which do not survive a fork
}
_CPU_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "4"}  # GiB; otherwise most of the machine's memory, taken at once
_VISION_TOKENS = {"qwen2.5-vl": "<|video_pad|>", "qwen3-vl": "<|video_pad|>", "nemotron-vl": "<image>"}
_END_S = 15.0  # that its processes get to end by themselves

_start_lock = threading.Lock()  # CUDA_VISIBLE_DEVICES is this process's


class VllmEngine:
    """One model in vLLM, in a process of its own: a crash of CUDA costs that one, not this.

    With VLLM_ENABLE_V1_MULTIPROCESSING=0 it runs in this process, for tests: several can, until one of them is closed.
    """

    def __init__(self, settings: EngineSettings) -> None:
        """Load the model.

        Raises:
            EngineStartError: it can never be started like this.
        """
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._settings = settings
        self._chat = ChatTemplate(settings)
        self._vision_token = _vision_token_id(settings, self._chat)
        self._num_vision_tokens: dict[str, int | None] = {}  # of each request under way
        self._death: str | None = None
        self._engine = _started(settings)
        self._processes = _processes_of(self._engine)
        self._guard: Guard | None = None
        if self._processes:
            self._guard = Guard([process.pid for process in self._processes])  # else they live on with their memory
            client = self._engine.engine_core
            threading.Thread(target=self._watch, args=(client,), name="engine-processes", daemon=True).start()

    def add(self, request: CaptionRequest) -> None:
        """See ``CaptionEngine.add``."""
        self._refuse_to_work_dead()
        prompt, expected = self._prompt(request)
        try:
            self._engine.add_request(request.id, prompt, self._sampling(request))
        except Exception as error:
            if self._death is not None or _is_dead(self._engine.engine_core):
                raise self._died(error) from error
            raise RequestRefusedError(f"vLLM refuses it: {_cause(error)}") from error
        self._num_vision_tokens[request.id] = expected

    def step(self) -> list[CaptionReply]:
        """See ``CaptionEngine.step``; nothing where there is nothing to do."""
        self._refuse_to_work_dead()
        if not self._num_vision_tokens:
            return []
        try:
            outputs = self._engine.step()
        except Exception as error:
            raise self._died(error) from error
        return [reply for output in outputs if (reply := self._reply(output)) is not None]

    def kill(self) -> None:
        """See ``CaptionEngine.kill``; an engine in this process ends with its step."""
        self._death = self._death or "it was killed"
        for process in self._processes:
            with suppress(_no_such_process()):
                process.kill()

    def close(self) -> None:
        """See ``CaptionEngine.close``; takes half a minute at most."""
        self._death = self._death or "it was closed"
        engine, self._engine = self._engine, None
        if engine is None:
            return
        ending = threading.Thread(target=_shut_down, args=(engine,), name="engine-end", daemon=True)
        ending.start()
        ending.join(_END_S)
        _end(self._processes)
        if self._guard is not None:
            self._guard.dismiss()
        del engine
        gc.collect()
        _give_back_gpu_memory()

    def _prompt(self, request: CaptionRequest) -> tuple[dict[str, Any], int | None]:
        """What vLLM is asked, and the vision tokens that the prompt will have.

        Raises:
            RequestRefusedError: as ``add``.
        """
        if request.id in self._num_vision_tokens:
            raise RequestRefusedError(f"a request with the id {request.id!r} is under way")
        video = video_input(self._settings.family or "", request)
        prompt: dict[str, Any] = {"prompt": self._chat.prompt(request.text, with_frames=video is not None)}
        if video is not None:
            prompt["multi_modal_data"] = {"video": video}
        return prompt, num_vision_tokens(self._settings, request)

    def _sampling(self, request: CaptionRequest) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        rules = self._settings.sampling
        vocabulary = self._chat.tokenizer.get_vocab()
        return SamplingParams(
            temperature=rules.temperature,
            top_p=rules.top_p,
            repetition_penalty=rules.repetition_penalty,
            stop=list(rules.stop),
            # a special token leaves no text in which a stop string could be found
            stop_token_ids=[vocabulary[word] for word in rules.stop if word in vocabulary],
            max_tokens=request.max_output_tokens,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _reply(self, output: Any) -> CaptionReply | None:
        if output.request_id not in self._num_vision_tokens:
            logger.warning("event=unknown_output id=%s: it belongs to no request and is dropped", output.request_id)
            return None
        if not output.finished:
            return None
        expected = self._num_vision_tokens.pop(output.request_id)
        answer = output.outputs[0]
        status, reason = _status(answer.finish_reason)
        found = list(output.prompt_token_ids).count(self._vision_token)
        if expected is not None and found != expected:
            status, reason = "error", f"its frames take {found} tokens in the prompt, not {expected}"
        return CaptionReply(
            id=output.request_id,
            text=answer.text.strip(),
            status=status,
            reason=reason,
            prompt_tokens=len(output.prompt_token_ids),
            output_tokens=len(answer.token_ids),
            token_ids=tuple(answer.token_ids),
        )

    def _refuse_to_work_dead(self) -> None:
        if self._death is not None:
            raise EngineDiedError(self._death)

    def _died(self, error: Exception) -> EngineDiedError:
        self._death = self._death or f"{type(error).__name__}: {error}"
        return EngineDiedError(self._death)

    def _watch(self, client: Any) -> None:
        """Wake up a step that waits for a process that is gone: vLLM's own client waits for ever."""
        from vllm.v1.engine.exceptions import EngineDeadError

        cores = client.resources.engine_manager.processes
        multiprocessing.connection.wait([core.sentinel for core in cores])
        codes = [core.exitcode for core in cores if core.exitcode is not None]
        self._death = self._death or f"its process ended with exit code {codes}"
        client.outputs_queue.put_nowait(EngineDeadError())


def _started(settings: EngineSettings) -> Any:
    """vLLM's engine.

    Raises:
        EngineStartError: its arguments are wrong.
    """
    try:
        with loading_alone():
            from vllm.engine.arg_utils import EngineArgs
            from vllm.platforms import current_platform
            from vllm.usage.usage_lib import UsageContext
            from vllm.v1.engine.llm_engine import LLMEngine
            from vllm.v1.executor import Executor
    except ImportError as error:
        raise EngineStartError(f"vLLM can't be loaded: {error}") from error

    arguments = engine_arguments(settings, model_limit=own_max_model_len(settings.weights))
    if current_platform.is_cpu():
        arguments = _for_cpu(arguments)
    with _visible(settings.devices), processes_spared(signal.SIGUSR2):
        try:
            # this use gets the batch sizes of work that nobody waits for
            config = EngineArgs(**arguments).create_engine_config(UsageContext.LLM_CLASS)
        except (TypeError, ValueError, OSError) as error:
            raise EngineStartError(f"{settings.weights}: vLLM can't run this: {error}") from error
        if settings.family in VIDEO_PLACEHOLDERS and not config.model_config.is_multimodal_model:
            raise EngineStartError(f"{settings.weights}: a model for text, not one of the family {settings.family}")
        engine = LLMEngine(
            config,
            Executor.get_class(config),
            log_stats=False,
            usage_context=UsageContext.LLM_CLASS,
            # vLLM reads the variable once: an engine in this process would decide for all later ones
            multiprocess_mode=os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING", "1") != "0",
        )
        engine.get_supported_tasks()  # it asks the other process once, and waits for ever if that has died
        return engine


def _for_cpu(arguments: dict[str, Any]) -> dict[str, Any]:
    """Without a GPU there is no share of one, and there are no kernels for 8 bits.

    Raises:
        EngineStartError: the model is to be quantized.
    """
    if arguments.get("quantization"):
        raise EngineStartError(f"quantization {arguments['quantization']!r} needs a GPU")
    for name, value in _CPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    return {name: value for name, value in arguments.items() if name != "gpu_memory_utilization"}


@contextmanager
def _visible(devices: str | None) -> Iterator[None]:
    """Let the processes that are started in here see these GPUs alone."""
    with _start_lock:
        before = os.environ.get("CUDA_VISIBLE_DEVICES")
        if devices is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = devices
        try:
            yield
        finally:
            if before is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = before
            elif devices is not None:
                os.environ.pop("CUDA_VISIBLE_DEVICES", None)


def _vision_token_id(settings: EngineSettings, chat: ChatTemplate) -> int | None:
    """The token that stands for each part of a frame in a prompt."""
    word = _VISION_TOKENS.get(settings.family or "")
    return chat.tokenizer.get_vocab().get(word) if word else None


def _status(finish_reason: str | None) -> tuple[Any, str]:
    known = {"stop": ("success", ""), "length": ("truncated", "")}
    return known.get(finish_reason or "", ("error", f"vLLM ended it: {finish_reason}"))


def _cause(error: BaseException) -> str:
    """What was wrong at first; errors of processors that were raised for it have all the pixels in their text."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"[:500]


def _is_dead(core: Any) -> bool:
    """Whether vLLM's client knows that its engine is gone."""
    return hasattr(core, "resources") and bool(core.resources.engine_dead)


def _processes_of(engine: Any) -> list[Any]:
    """The engine's processes and their children, which have the memory; none where it runs in this one."""
    if not hasattr(engine.engine_core, "resources"):
        return []
    import psutil

    cores = [psutil.Process(core.pid) for core in engine.engine_core.resources.engine_manager.processes]
    return [process for core in cores for process in (core, *core.children(recursive=True))]


def _no_such_process() -> type[Exception]:
    import psutil

    found: type[Exception] = psutil.NoSuchProcess
    return found


def _shut_down(engine: Any) -> None:
    engine.engine_core.shutdown()
    engine.renderer.shutdown()


def _end(processes: list[Any]) -> None:
    """Make sure that processes are gone: their memory is free then."""
    if not processes:
        return
    import psutil

    _, left = psutil.wait_procs(processes, timeout=_END_S / 3)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=_END_S / 3)


def _give_back_gpu_memory() -> None:
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
