"""What the stages of all embedding models do alike: frames of each clip, then vectors of many clips at once."""

import logging
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from curation.embedding.errors import EmbeddingStartError
from curation.embedding.extraction import frames_extracted_before
from curation.embedding.frames import EmbeddingFrameRequest
from curation.embedding.gpu_batch import CPU_CLIPS, clips_that_fit
from curation.embedding.text_match import TextMatch, unit_vectors
from curation.errors import VideoError
from curation.gpu import GpuMemory, free_unused, is_on_gpu, stop_if_deadly
from curation.model import Clip, VideoTask
from curation.pipeline import BatchStage, Stage
from curation.video.frames import FrameRequest, sample_clip
from curation.video.progress import alive

logger = logging.getLogger(__name__)

_TEXTS_AT_ONCE = 8


class LoadedModel(Protocol):
    """A model on its device."""

    @property
    def frame_shape(self) -> tuple[int, int, int, int]:
        """Frames, height, width and 3, of a clip."""

    def video_vectors(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """A vector of any length for each clip, float32, shape (num_clips, dimensions); rows don't touch each other.

        Args:
            frames: uint8 RGB, shape (num_clips, num_frames, height, width, 3).
        """

    def text_vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As ``video_vectors``, for texts."""


class EmbeddingFrameCreationStage(Stage):
    """Puts the frames of each clip that a model takes on the clip: uint8 RGB, shape (num_frames, height, width, 3).

    They come from the decode that serves all stages, from what ``ClipFrameExtractionStage`` found at the same rate, or
    from the clip's own mp4. A clip with fewer frames than the model takes repeats its last one, with a note.

    They stay uint8 until the worker's process has them: as float32 four times as much would go through a pipe, and how
    they are scaled is known to the checkpoint, which a decode child does not load.
    """

    in_child = True
    measure: ClassVar[str]  # under which errors and notes stand on a clip
    frames_field: ClassVar[str]  # of Clip

    def __init__(self, request: EmbeddingFrameRequest, *, verbose: bool = False) -> None:
        """``verbose`` logs each clip."""
        self._request, self._verbose = request, verbose

    def frame_requests(self) -> list[FrameRequest]:
        """The frames of each clip in the model's number and size."""
        return [self._request]

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        """Put frames on every clip; one that has none gets an error instead."""
        for clip in task.data.clips:
            if clip.buffer is not None or self._request.key in clip.extracted_frames:
                alive()
                self._create(clip)
        yield task

    def _create(self, clip: Clip) -> None:
        reason = "none of its frames could be decoded"
        frames = None
        try:
            frames = self._found(clip)
        except VideoError as error:
            reason = f"{error.reason}: {error.message}"
        if frames is None or not len(frames):
            clip.errors[self.measure] = reason
            logger.warning("event=embedding_frames_failed clip=%s model=%s reason=%s", clip.uuid, self.measure, reason)
            return
        missing = self._request.num_frames - len(frames)
        if missing > 0:
            clip.notes[self.measure] = f"{len(frames)} of {self._request.num_frames} frames: the last is repeated"
            frames = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
        setattr(clip, self.frames_field, frames)
        if self._verbose:
            logger.info("event=embedding_frames clip=%s model=%s missing=%d", clip.uuid, self.measure, max(missing, 0))

    def _found(self, clip: Clip) -> NDArray[np.uint8] | None:
        """The frames in order; None where there are none."""
        key = self._request.key
        if key not in clip.extracted_frames:
            before = frames_extracted_before(clip, self._request)
            if before is not None and (len(before) == self._request.num_frames or clip.buffer is None):
                return before
            sample_clip(clip, [self._request])
        clip.extracted_frame_indices.pop(key, None)
        return clip.extracted_frames.pop(key, None)


class ClipEmbeddingStage(BatchStage):
    """Vectors of clips, of several tasks at once, and which of some texts fits each clip best.

    What can't be embedded together is tried in halves, down to a single clip; one that fails has the reason in
    ``errors`` and goes on without a vector. The frames are let go of.
    """

    batch_size = 32
    measure: ClassVar[str]  # under which errors stand on a clip
    frames_field: ClassVar[str]  # fields of Clip
    vector_field: ClassVar[str]
    match_field: ClassVar[str]

    def __init__(
        self, *, gpu_memory_gb: float, texts_to_verify: Sequence[str] | None = None, verbose: bool = False
    ) -> None:
        """Take the settings.

        Args:
            gpu_memory_gb: that the model and what it works on may take of a GPU; on a CPU it says nothing.
            texts_to_verify: compared with each clip.
            verbose: log each clip.

        Raises:
            ValueError: ``gpu_memory_gb`` is not positive, or a text is empty.
        """
        if not gpu_memory_gb > 0:
            raise ValueError(f"gpu_memory_gb must be positive, got {gpu_memory_gb}")
        if any(not text.strip() for text in texts_to_verify or ()):
            raise ValueError("texts_to_verify has an empty text")
        self.gpu_memory_gb = float(gpu_memory_gb)
        self._texts, self._verbose = list(texts_to_verify or ()), verbose
        self._model: LoadedModel | None = None
        self._match: TextMatch | None = None
        self._clips_at_once = CPU_CLIPS
        self._num_embedded = self._num_failed = 0
        self._model_s = 0.0

    @abstractmethod
    def load(self) -> LoadedModel:
        """The model.

        Raises:
            EmbeddingStartError: it can't be loaded.
            FileNotFoundError: the weights are missing.
        """

    def setup(self) -> None:
        """Load the model, try it with one clip, find out how many fit the GPU, and make the vectors of the texts.

        Raises:
            EmbeddingStartError: it can't be loaded, gives no numbers, or does not fit ``gpu_memory_gb``.
            FileNotFoundError: the weights are missing.
        """
        memory = GpuMemory()
        self._model = model = self.load()
        shape = model.frame_shape

        def run(num_clips: int) -> NDArray[np.float32]:
            return model.video_vectors(np.full((num_clips, *shape), 128, dtype=np.uint8))

        if is_on_gpu():
            self._clips_at_once = clips_that_fit(
                self.gpu_memory_gb, lambda number: memory.peak_bytes(lambda: run(number)), name=self.measure
            )
        if unit_vectors(run(1))[0] is None:
            raise EmbeddingStartError(
                f"{self.measure}: the model gives no numbers for a clip; some weights are missing"
            )
        if self._texts:
            self._match = self._text_match(model)
        logger.info("event=embedding_ready model=%s clips_at_once=%d", self.measure, self._clips_at_once)

    def _text_match(self, model: LoadedModel) -> TextMatch:
        parts = [self._texts[k : k + _TEXTS_AT_ONCE] for k in range(0, len(self._texts), _TEXTS_AT_ONCE)]
        try:
            return TextMatch(self._texts, np.concatenate([model.text_vectors(part) for part in parts]))
        except ValueError as error:
            raise EmbeddingStartError(f"{self.measure}: texts_to_verify: {error}") from error

    def close(self) -> None:
        """Let go of the model."""
        self._model = None

    def measures(self) -> dict[str, Any]:
        """Clips, and seconds of the model's work."""
        measured = {
            "clips": self._num_embedded,
            "clips_failed": self._num_failed,
            "clips_at_once": self._clips_at_once,
            "model_s": round(self._model_s, 3),
        }
        return {"embeddings": {self.measure: measured}}

    def process_batch(self, tasks: Sequence[VideoTask]) -> Sequence[VideoTask]:
        """Embed all clips of the tasks that have frames."""
        clips = [clip for task in tasks for clip in task.data.clips if self._is_ready(clip)]
        for start in range(0, len(clips), self._clips_at_once):
            self._embed(clips[start : start + self._clips_at_once])
        return tasks

    def _is_ready(self, clip: Clip) -> bool:
        """Whether there is something to embed; otherwise the clip's errors say why not."""
        assert self._model is not None, "setup() comes first"
        frames = getattr(clip, self.frames_field)
        if frames is None:
            if getattr(clip, self.vector_field) is None and self.measure not in clip.errors:
                self._fail(clip, "no frames were prepared for it (the stage that creates them comes before this one)")
            return False
        if frames.dtype != np.uint8 or frames.shape != self._model.frame_shape:
            expected = self._model.frame_shape
            self._fail(clip, f"the model takes uint8 frames of shape {expected}, got {frames.dtype} {frames.shape}")
            return False
        return True

    def _embed(self, clips: Sequence[Clip]) -> None:
        """Embed clips together; where that fails in halves."""
        try:
            vectors = self._vectors(clips)
        except (RuntimeError, ValueError) as error:
            stop_if_deadly(error, work="clips were embedded")
            reason = f"{type(error).__name__}: {error}"
        else:
            for clip, vector in zip(clips, unit_vectors(vectors), strict=True):
                self._note(clip, vector)
            return
        free_unused()  # out here, where the traceback does not hold what the clips took any more
        if len(clips) == 1:
            self._fail(clips[0], reason)
            return
        logger.warning("event=embedding_retried model=%s clips=%d reason=%s", self.measure, len(clips), reason)
        for half in _halves(clips):
            self._embed(half)

    def _vectors(self, clips: Sequence[Clip]) -> NDArray[np.float32]:
        assert self._model is not None, "setup() comes first"
        began_s = time.perf_counter()
        vectors = self._model.video_vectors(np.stack([getattr(clip, self.frames_field) for clip in clips]))
        self._model_s += time.perf_counter() - began_s
        if len(vectors) != len(clips):
            raise ValueError(f"the model gave {len(vectors)} vectors for {len(clips)} clips")
        return vectors

    def _note(self, clip: Clip, vector: NDArray[np.float32] | None) -> None:
        if vector is None:
            self._fail(clip, "the model gave no finite vector")
            return
        setattr(clip, self.vector_field, vector)
        setattr(clip, self.frames_field, None)
        if self._match is not None:
            setattr(clip, self.match_field, self._match.best(vector))
        self._num_embedded += 1
        if self._verbose:
            logger.info("event=embedded clip=%s model=%s", clip.uuid, self.measure)

    def _fail(self, clip: Clip, reason: str) -> None:
        clip.errors[self.measure] = reason
        setattr(clip, self.frames_field, None)
        self._num_failed += 1
        logger.warning("event=embedding_failed clip=%s model=%s reason=%s", clip.uuid, self.measure, reason)


def _halves(clips: Sequence[Clip]) -> Iterator[Sequence[Clip]]:
    middle = len(clips) // 2
    yield clips[:middle]
    yield clips[middle:]
