"""T5 vectors of captions: what a training loop that knows text as T5 vectors gets beside each window."""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from curation.errors import StopRunError
from curation.gpu import GB, GpuMemory, free_unused, is_on_gpu, rounded_up_gb, stop_if_deadly
from curation.loading import loading_alone
from curation.model import Clip, VideoTask, Window
from curation.pipeline import BatchStage
from curation.text.batches import TextBatch, padded_batches, single_batches
from curation.text.models import T5_11B, text_encoder
from curation.training_caption import caption_of_window
from curation.weights import find_weights_folder

logger = logging.getLogger(__name__)

DIMENSIONS: Final = 1024
"""Of a token's vector, in every output."""

_FAULTS: Final = (RuntimeError, ValueError, TypeError, OverflowError)  # of a tokenizer or a model


class T5StartError(StopRunError):
    """The model can't be loaded or does not fit the GPU, for which no video is to blame."""


class TextNetwork(Protocol):
    """A model on its device, with its tokenizer."""

    @property
    def dimensions(self) -> int:
        """Of a token's vector."""

    @property
    def takes_batches(self) -> bool:
        """Whether several texts at once are faster."""

    def token_ids(self, texts: Sequence[str], *, max_tokens: int) -> list[tuple[list[int], bool]]:
        """The tokens of each text, and whether it had more than ``max_tokens``."""

    def vectors(self, rows: Sequence[Sequence[int]], *, num_rows: int, num_tokens: int) -> list[NDArray[np.float16]]:
        """Vectors of each row's tokens, float16, shape (tokens, dimensions), by a padded batch of the size told."""


@dataclass(eq=False, slots=True)
class _Caption:
    """What is encoded: the caption of one window of one clip."""

    clip: Clip
    window: Window
    token_ids: list[int]
    is_truncated: bool


@dataclass(frozen=True, slots=True)
class _Failure:
    """A window whose caption could not be encoded."""

    clip: Clip
    window: Window
    reason: str


class T5EncodingStage(BatchStage):
    """Puts ``t5_xxl_embedding`` on each window that has a caption, of several videos at once.

    It encodes the caption that is trained on: the enhanced one where there is one. One that can't be encoded costs its
    window the vectors, and the reason stands in the clip's ``errors``. It needs captions alone: no clip, no frames.
    """

    name = "t5"
    batch_size = 32
    measure: Final = "t5_xxl"

    def __init__(
        self,
        model_dir: str = "models/t5",
        model: str = T5_11B,
        max_tokens: int = 512,
        tokens_per_batch: int = 1024,
        gpu_memory_gb: float = 14.0,
        verbose: bool = False,
    ) -> None:
        """Settings as docs/rules.md, Text vectors.

        Args:
            model_dir: the folder with the checkpoint, or one that has it as ``organization/name``.
            model: a name in ``curation.text.models.TEXT_ENCODERS``.
            max_tokens: of a caption, the one that ends it among them; what is longer is cut off.
            tokens_per_batch: that go through the model together on a GPU, padding among them; on a CPU captions go
                through it one by one.
            gpu_memory_gb: that weights and batches may take of a GPU; on a CPU it says nothing.
            verbose: log each window.

        Raises:
            ValueError: unknown model, or a number that is not positive.
        """
        if max_tokens < 2 or tokens_per_batch < 1 or not gpu_memory_gb > 0:
            raise ValueError("max_tokens must be at least 2, tokens_per_batch and gpu_memory_gb positive")
        self._checkpoint, self._model_dir = text_encoder(model), model_dir
        self._max_tokens, self._tokens_per_batch = max_tokens, tokens_per_batch
        self.gpu_memory_gb = float(gpu_memory_gb)
        self._verbose = verbose
        self._network: TextNetwork | None = None
        self._num_encoded = self._num_failed = self._num_truncated = self._num_tokens = 0
        self._model_s = 0.0

    def setup(self) -> None:
        """Load the model, and try the largest batch.

        Raises:
            FileNotFoundError: the weights are missing.
            T5StartError: they are not those of a T5 that fits, or gives no numbers.
        """
        memory = GpuMemory()
        self._network = network = self.load()
        if network.dimensions != DIMENSIONS:
            raise T5StartError(
                f"{self._checkpoint.repository}: its vectors have {network.dimensions} numbers, a dataset holds "
                f"{DIMENSIONS}"
            )
        (batch,) = self._batches([self._max_tokens])
        row = [1] * self._max_tokens
        if is_on_gpu():
            self._check_memory(
                memory.peak_bytes(lambda: network.vectors([row], num_rows=batch.num_rows, num_tokens=batch.num_tokens))
            )
        if not np.isfinite(network.vectors([row[:2]], num_rows=1, num_tokens=2)[0]).all():
            raise T5StartError(f"{self._checkpoint.repository}: the model gives no numbers for a text")
        logger.info("event=t5_ready model=%s on_gpu=%s", self._checkpoint.repository, is_on_gpu())

    def load(self) -> TextNetwork:
        """The model.

        Raises:
            FileNotFoundError: the weights are missing.
            T5StartError: they can't be loaded.
        """
        checkpoint = self._checkpoint
        folder = find_weights_folder(
            self._model_dir, checkpoint.repository, revision=checkpoint.revision, model_type=checkpoint.model_type
        )
        try:
            with loading_alone():
                from curation.text.t5_network import T5Network

                return T5Network(folder)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            raise T5StartError(f"{folder}: can't be loaded: {error}") from error

    def _check_memory(self, peak: int | None) -> None:
        if peak is None:
            raise T5StartError("t5: the GPU has too little free memory; t5.gpu_memory_gb is no help")
        if peak > self.gpu_memory_gb * GB:
            raise T5StartError(
                f"t5: the model and a batch take {peak / GB:.2f} GB of the GPU, gpu_memory_gb is "
                f"{self.gpu_memory_gb:g}; {rounded_up_gb(peak):g} would do"
            )

    def close(self) -> None:
        """Let go of the model."""
        self._network = None

    def measures(self) -> dict[str, dict[str, Any]]:
        """Windows, tokens, and seconds of the model's work."""
        measured = {
            "windows": self._num_encoded,
            "windows_failed": self._num_failed,
            "windows_truncated": self._num_truncated,
            "tokens": self._num_tokens,
            "model_s": round(self._model_s, 3),
        }
        return {"text_vectors": {self.measure: measured}}

    def process_batch(self, tasks: Sequence[VideoTask]) -> Sequence[VideoTask]:
        """Encode the captions of all windows of the tasks."""
        failures: list[_Failure] = []
        captions = self._captions((clip for task in tasks for clip in task.data.clips), failures)
        for batch in self._batches([len(caption.token_ids) for caption in captions]):
            self._encode([captions[place] for place in batch.places], batch, failures)
        self._tell(failures)
        return tasks

    def _captions(self, clips: Iterable[Clip], failures: list[_Failure]) -> list[_Caption]:
        """Of each window that has a caption, with its tokens; one that has none is no fault of this stage."""
        found = [
            (clip, window, text) for clip in clips for window in clip.windows if (text := caption_of_window(window))
        ]
        try:
            tokens: list[tuple[list[int], bool] | None] = list(self._tokens([text for _, _, text in found]))
        except _FAULTS:
            tokens = [self._tokens_of_one(*each, failures) for each in found]
        return [
            _Caption(clip, window, *each)
            for (clip, window, _), each in zip(found, tokens, strict=True)
            if each is not None
        ]

    def _tokens(self, texts: Sequence[str]) -> list[tuple[list[int], bool]]:
        assert self._network is not None, "setup() comes first"
        return self._network.token_ids(texts, max_tokens=self._max_tokens) if texts else []

    def _tokens_of_one(
        self, clip: Clip, window: Window, text: str, failures: list[_Failure]
    ) -> tuple[list[int], bool] | None:
        try:
            return self._tokens([text])[0]
        except _FAULTS as error:
            failures.append(_Failure(clip, window, f"{type(error).__name__}: {error}"))
            return None

    def _batches(self, lengths: Sequence[int]) -> list[TextBatch]:
        assert self._network is not None, "setup() comes first"
        if self._network.takes_batches:
            return list(padded_batches(lengths, tokens_per_batch=self._tokens_per_batch))
        return list(single_batches(lengths))

    def _encode(self, captions: Sequence[_Caption], batch: TextBatch, failures: list[_Failure]) -> None:
        """Encode captions together; where that fails one by one."""
        try:
            vectors = self._vectors(captions, batch)
        except _FAULTS as error:
            stop_if_deadly(error, work="captions were encoded")
            reason = f"{type(error).__name__}: {error}"
        else:
            for caption, rows in zip(captions, vectors, strict=True):
                self._note(caption, rows, failures)
            return
        free_unused()  # out here, where the traceback does not hold what the batch took any more
        if len(captions) == 1:
            failures.append(_Failure(captions[0].clip, captions[0].window, reason))
            return
        logger.warning("event=t5_retried captions=%d reason=%s", len(captions), reason)
        for caption in captions:
            self._encode([caption], TextBatch((0,), 1, batch.num_tokens), failures)

    def _vectors(self, captions: Sequence[_Caption], batch: TextBatch) -> list[NDArray[np.float16]]:
        assert self._network is not None, "setup() comes first"
        began_s = time.perf_counter()
        rows = [caption.token_ids for caption in captions]
        vectors = self._network.vectors(rows, num_rows=batch.num_rows, num_tokens=batch.num_tokens)
        self._model_s += time.perf_counter() - began_s
        found, expected = [each.shape for each in vectors], [(len(row), DIMENSIONS) for row in rows]
        if found != expected:
            raise ValueError(f"the model gave vectors of the shapes {found} instead of {expected}")
        return vectors

    def _note(self, caption: _Caption, vectors: NDArray[np.float16], failures: list[_Failure]) -> None:
        if not np.isfinite(vectors).all():
            failures.append(_Failure(caption.clip, caption.window, "its vectors are no finite numbers of 16 bits"))
            return
        window = caption.window
        window.t5_xxl_embedding, window.t5_xxl_truncated = vectors, caption.is_truncated
        self._num_encoded += 1
        self._num_truncated += caption.is_truncated
        self._num_tokens += len(vectors)
        if self._verbose:
            name = f"{caption.clip.uuid}_{window.start_frame}_{window.end_frame}"
            logger.info("event=t5 window=%s tokens=%d truncated=%s", name, len(vectors), caption.is_truncated)

    def _tell(self, failures: Sequence[_Failure]) -> None:
        """Say on each clip what failed of it, in the order of its windows."""
        reasons: dict[int, list[str]] = {}
        for failure in sorted(failures, key=lambda each: each.window.start_frame):
            clip, window = failure.clip, failure.window
            said = f"window {window.start_frame}_{window.end_frame}: {failure.reason}"
            logger.warning("event=t5_failed clip=%s %s", clip.uuid, said)
            reasons.setdefault(id(clip), []).append(said)
            clip.errors[self.measure] = "; ".join(reasons[id(clip)])
        self._num_failed += len(failures)
