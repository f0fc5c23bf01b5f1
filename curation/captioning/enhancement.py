"""Captions told anew, in more detail, by a language model."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from typing import Any

from curation.captioning.engines.options import EngineOptions
from curation.captioning.generation import CaptionGenerationStage
from curation.captioning.models import text_model
from curation.captioning.outcomes import outcome_of
from curation.captioning.prompts import enhancement_prompt
from curation.captioning.queue import CaptionQueue, QueueClosedError
from curation.captioning.requests import CaptionReply, CaptionRequest
from curation.model import CaptionOutcome, VideoTask, Window
from curation.pipeline import Stage

logger = logging.getLogger(__name__)

_Asked = tuple[Window, "Future[CaptionReply]"]


class CaptionEnhancementStage(Stage):
    """Writes ``window.enhanced_caption["qwen_lm"]`` from the window's caption, whichever model wrote that.

    It has GPU memory of its own, or (``after``) it holds tasks back until the captioner can rest, takes its place for a
    round, and gives it back. What waits should then hold little: a ``ClipFilesStage`` before it writes clips early.
    """

    name = "enhancement"
    max_idle_s = 120.0  # the worker may be waiting for what is held here

    def __init__(
        self,
        model_dir: str = "models/qwen",
        model_variant: str = "qwen",
        prompt_variant: str = "default",
        prompt_text: str | None = None,
        model_batch_size: int = 128,
        fp8: bool = False,
        max_output_tokens: int = 512,
        verbose: bool = False,
        *,
        options: EngineOptions | None = None,
        after: CaptionGenerationStage | None = None,
        round_windows: int = 4096,
    ) -> None:
        """Settings as docs/rules.md, Captions.

        Args:
            model_dir: the folder with the checkpoint, or one that has it as ``organization/name``.
            model_variant: a name in ``curation.captioning.models.TEXT_MODELS``; ``qwen`` is ``qwen_lm``.
            prompt_variant: what the model is told; a built-in text.
            prompt_text: takes the place of that.
            model_batch_size: captions that the engine works on at once.
            fp8: quantize the weights to FP8 while they are loaded.
            max_output_tokens: where a text is cut off.
            verbose: log each window.
            options: the engine; its ``max_in_engine`` is not used.
            after: the captioner whose place it takes; None: it has its own.
            round_windows: that wait for a round, with ``after``; the last round has what is left.

        Raises:
            ValueError: unknown variant, or a size that is not positive.
        """
        if min(model_batch_size, max_output_tokens, round_windows) < 1:
            raise ValueError("model_batch_size, max_output_tokens and round_windows must be positive")
        self._model = text_model("qwen_lm" if model_variant == "qwen" else model_variant)
        self._model.quantization(fp8=fp8)
        self._model_dir, self._fp8, self._verbose = model_dir, fp8, verbose
        self._prompt = enhancement_prompt(prompt_variant, prompt_text)
        self._batch_size, self._max_output_tokens = model_batch_size, max_output_tokens
        self._options = replace(options or EngineOptions(), max_in_engine=model_batch_size)
        self._after, self._round_windows = after, round_windows
        self._held: list[VideoTask] = []
        self._num_held_windows = 0
        self.num_workers = 1 if after is not None else model_batch_size
        self._queue: CaptionQueue | None = None

    def setup(self) -> None:
        """Start the engine, unless it has to wait for its round.

        Raises:
            FileNotFoundError: the weights are missing.
            EngineStartError: they do not fit the GPUs.
        """
        self._queue = self._options.open_queue(
            self._model, self._model_dir, fp8=self._fp8, system_text=self._prompt, batch_size=self._batch_size
        )
        if self._after is None:
            self._queue.start()

    def close(self) -> None:
        """End the engine."""
        if self._queue is not None:
            self._queue.close()
            self.busy_s = self._queue.use.engine_s

    def measures(self) -> dict[str, dict[str, Any]]:
        """Seconds of the engine's work, and tokens."""
        return {"captions": {self._model.caption_key: asdict(self._queue.use)}} if self._queue is not None else {}

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        """Enhance all captions of a task's clips, now or in the next round; one that fails says so in its outcome."""
        if self._after is None:
            yield from self._enhanced([task])
            return
        self._held.append(task)
        self._num_held_windows += len(_windows_of(task))
        if self._num_held_windows >= self._round_windows:
            yield from self._round(self._after)

    def drained(self) -> Iterable[VideoTask]:
        """A round of what is there."""
        if self._after is not None and self._held:
            yield from self._round(self._after)

    def _round(self, captioner: CaptionGenerationStage) -> Iterator[VideoTask]:
        """Take the captioner's place, enhance what waits, and give the place back."""
        tasks, self._held, self._num_held_windows = self._held, [], 0
        logger.info("event=enhancement_round tasks=%d", len(tasks))
        try:
            captioner.queue.rest()
            self.queue.wake()
            yield from self._enhanced(tasks)
            self.queue.rest()
            captioner.queue.wake()
        except QueueClosedError:  # the run ends: nobody waits for these tasks
            return

    @property
    def queue(self) -> CaptionQueue:
        """The queue into its engine."""
        if self._queue is None:
            self.setup()
        assert self._queue is not None
        return self._queue

    def _enhanced(self, tasks: Sequence[VideoTask]) -> Iterator[VideoTask]:
        try:
            asked = [(task, self._ask(task)) for task in tasks]
            for task, windows in asked:
                for window, reply in windows:
                    self._note(window, reply.result())
                yield task
        except QueueClosedError:
            return

    def _ask(self, task: VideoTask) -> list[_Asked]:
        asked: list[_Asked] = []
        for request_id, window in _windows_of(task):
            caption = next(iter(window.caption.values()), "")
            if caption:
                request = CaptionRequest(request_id, caption, max_output_tokens=self._max_output_tokens)
                asked.append((window, self.queue.submit(request)))
            else:
                outcome = CaptionOutcome("error", "it has no caption to enhance")
                window.caption_outcomes[self._model.caption_key] = outcome
        return asked

    def _note(self, window: Window, reply: CaptionReply) -> None:
        key, outcome = self._model.caption_key, outcome_of(reply)
        window.caption_outcomes[key] = outcome
        if outcome.status == "error":
            logger.warning("event=enhancement_failed window=%s reason=%s", reply.id, outcome.reason)
        elif reply.text.strip():
            window.enhanced_caption[key] = reply.text.strip()
        if self._verbose:
            logger.info("event=enhanced window=%s status=%s tokens=%d", reply.id, outcome.status, outcome.output_tokens)


def _windows_of(task: VideoTask) -> list[tuple[str, Window]]:
    return [(f"{clip.uuid}_{w.start_frame}_{w.end_frame}", w) for clip in task.data.clips for w in clip.windows]
