"""Captions of windows, by a vision-language model."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from curation.captioning.engines.options import EngineOptions
from curation.captioning.models import caption_model
from curation.captioning.outcomes import outcome_of
from curation.captioning.prompts import stage2_prompt
from curation.captioning.queue import CaptionQueue, QueueClosedError
from curation.captioning.requests import CaptionReply, CaptionRequest
from curation.model import CaptionOutcome, Clip, VideoTask, Window
from curation.pipeline import Stage

logger = logging.getLogger(__name__)

_NOT_PREPARED = "no frames were prepared for it (CaptionPreparationStage comes before CaptionGenerationStage)"


class CaptionGenerationStage(Stage):
    """Writes ``window.caption[...]`` from ``window.qwen_llm_input``, whichever family the model is of.

    Windows of all videos go into one queue as they come, and no video waits for another. Each window ends with an entry
    in ``caption_outcomes``.
    """

    name = "captioning"

    def __init__(
        self,
        model_dir: str = "models/qwen",
        model_variant: str = "qwen",
        caption_batch_size: int = 16,
        fp8: bool = False,
        max_output_tokens: int = 512,
        model_does_preprocess: bool = False,
        disable_mmcache: bool = False,
        generate_stage2_caption: bool = False,
        stage2_prompt_text: str | None = None,
        verbose: bool = False,
        *,
        options: EngineOptions | None = None,
        max_held_bytes: int = 4 * 2**30,
    ) -> None:
        """Settings as docs/rules.md, Captions.

        Args:
            model_dir: the folder with the checkpoint, or one that has it as ``organization/name``.
            model_variant: a name in ``curation.captioning.models.CAPTION_MODELS``.
            caption_batch_size: windows that transformers takes at once; vLLM takes ``options.max_in_engine``, and a new
                one whenever one is done.
            fp8: quantize the weights to FP8 while they are loaded.
            max_output_tokens: where a caption is cut off (status ``truncated``).
            model_does_preprocess: as for the preparation: the model's own processor resizes the frames.
            disable_mmcache: no cache of processed frames; windows hardly ever come twice.
            generate_stage2_caption: ask a second time, with the frames and the first caption.
            stage2_prompt_text: what is then asked; None takes the built-in text.
            verbose: log each window.
            options: the engine.
            max_held_bytes: of tasks whose windows are under way.

        Raises:
            ValueError: unknown variant, or a size that is not positive.
        """
        if min(caption_batch_size, max_output_tokens, max_held_bytes) < 1:
            raise ValueError("caption_batch_size, max_output_tokens and max_held_bytes must be positive")
        self._model = caption_model(model_variant)
        self._model.quantization(fp8=fp8)
        self._model_dir, self._fp8, self._verbose = model_dir, fp8, verbose
        self._max_output_tokens = max_output_tokens
        self._has_stage2, self._stage2_text = generate_stage2_caption, stage2_prompt_text
        self._options = options or EngineOptions()
        self._engine_settings: dict[str, Any] = {
            "batch_size": caption_batch_size,
            "model_does_preprocess": model_does_preprocess,
            "disable_mmcache": disable_mmcache,
        }
        # a task has a window or more: with a thread for each window of a full engine, and one that waits, it stays full
        self.num_workers = 2 * self._options.max_in_engine
        self.max_held_bytes = max_held_bytes
        self._queue: CaptionQueue | None = None

    @property
    def queue(self) -> CaptionQueue:
        """The queue, opened when it is first needed."""
        if self._queue is None:
            self._queue = self._options.open_queue(self._model, self._model_dir, fp8=self._fp8, **self._engine_settings)
        return self._queue

    def setup(self) -> None:
        """Start the engines, and do not wait: videos are read meanwhile.

        Raises:
            FileNotFoundError: the weights are missing.
            EngineStartError: they do not fit the GPUs.
        """
        self.queue.start()

    def close(self) -> None:
        """End the engines."""
        if self._queue is not None:
            self._queue.close()
            self.busy_s = self._queue.use.engine_s

    def measures(self) -> dict[str, Any]:
        """Seconds of the engines' work, and tokens."""
        return {"captions": {self._model.caption_key: asdict(self._queue.use)}} if self._queue is not None else {}

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        """Caption all windows of a task's clips; one that fails says so in its outcome."""
        places = [_Place(clip, window) for clip in task.data.clips for window in clip.windows]
        try:
            asked = [place for place in places if self._is_prepared(place)]
            replies = self._answers([self._request(place) for place in asked])
            flags: list[tuple[str, ...]] = [()] * len(asked)
            if self._has_stage2:
                replies, flags = self._second_stage(asked, replies)
        except QueueClosedError:  # the run ends: nobody waits for this task
            return
        for place, reply, more_flags in zip(asked, replies, flags, strict=True):
            self._note(place, reply, more_flags)
        for place in places:
            place.window.qwen_llm_input = None
        yield task

    def _is_prepared(self, place: "_Place") -> bool:
        """Whether there is something to ask; otherwise the window's outcome says why not."""
        if place.window.qwen_llm_input is None:
            place.window.caption_outcomes.setdefault(self._model.caption_key, CaptionOutcome("error", _NOT_PREPARED))
            return False
        return True

    def _request(self, place: "_Place") -> CaptionRequest:
        given = place.window.qwen_llm_input
        assert given is not None
        return CaptionRequest(
            place.id,
            given["prompt"],
            given["multi_modal_data"]["video"],
            given["times_s"],
            self._max_output_tokens,
        )

    def _answers(self, requests: Sequence[CaptionRequest]) -> list[CaptionReply]:
        """The reply to each request, which came in any order.

        Raises:
            RuntimeError: a reply bears another id than its request.
        """
        futures = [self.queue.submit(request) for request in requests]
        replies = [future.result() for future in futures]
        for request, reply in zip(requests, replies, strict=True):
            if reply.id != request.id:
                raise RuntimeError(f"the reply to {request.id} says it is for {reply.id}")
        return replies

    def _second_stage(
        self, places: Sequence["_Place"], first: Sequence[CaptionReply]
    ) -> tuple[list[CaptionReply], list[tuple[str, ...]]]:
        """Ask again with frames and first caption; where that gives nothing the first caption stays, with a flag."""
        again = [k for k, reply in enumerate(first) if reply.status != "error" and reply.text.strip()]
        second = self._answers(
            [
                replace(
                    self._request(places[k]),
                    id=f"{places[k].id}/2",
                    text=stage2_prompt(self._stage2_text, first[k].text),
                )
                for k in again
            ]
        )
        replies = list(first)
        flags: list[tuple[str, ...]] = [()] * len(first)
        for k, reply in zip(again, second, strict=True):
            is_better = reply.status != "error" and bool(reply.text.strip())
            flags[k] = () if is_better else ("stage2_failed",)
            replies[k] = replace(
                reply if is_better else first[k],
                prompt_tokens=first[k].prompt_tokens + reply.prompt_tokens,
                output_tokens=first[k].output_tokens + reply.output_tokens,
            )
        return replies, flags

    def _note(self, place: "_Place", reply: CaptionReply, more_flags: tuple[str, ...]) -> None:
        """Put a reply on its window."""
        key, outcome = self._model.caption_key, outcome_of(reply)
        place.window.caption_outcomes[key] = replace(outcome, flags=outcome.flags + more_flags)
        if outcome.status == "error":
            logger.warning("event=caption_failed window=%s reason=%s", place.id, outcome.reason)
        elif reply.text.strip():
            place.window.caption[key] = reply.text.strip()
        if self._verbose:
            logger.info("event=caption window=%s status=%s tokens=%d", place.id, outcome.status, outcome.output_tokens)


@dataclass(frozen=True, slots=True)
class _Place:
    """A window, and the clip that it is of."""

    clip: Clip
    window: Window

    @property
    def id(self) -> str:
        return f"{self.clip.uuid}_{self.window.start_frame}_{self.window.end_frame}"
