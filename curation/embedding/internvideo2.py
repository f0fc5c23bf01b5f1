"""InternVideo2 Stage2 1B: clips and texts in one space, by our own network and the published weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from curation.embedding.errors import EmbeddingStartError
from curation.embedding.frames import EmbeddingFrameRequest
from curation.embedding.models import embedding_model
from curation.embedding.stages import ClipEmbeddingStage, EmbeddingFrameCreationStage, LoadedModel
from curation.gpu import is_on_gpu
from curation.loading import loading_alone
from curation.weights import Checkpoint, find_weights_folder

_PUBLISHED: Final = embedding_model("internvideo2")
_MAX_TOKENS: Final = 40  # of a text (``max_txt_l`` of the authors); more are cut off


class InternVideo2FrameCreationStage(EmbeddingFrameCreationStage):
    """Puts ``intern_video_2_frames`` on each clip: 4 frames of 224x224."""

    name = "internvideo2_frames"
    measure = "intern_video_2_embedding"
    frames_field = "intern_video_2_frames"

    def __init__(self, model_dir: str = "InternVideo2", target_fps: float = 2.0, verbose: bool = False) -> None:
        """Settings as docs/rules.md, Embeddings.

        Args:
            model_dir: accepted for NeMo Curator's sake: number and size of the frames are those of the published
                weights, and the network scales their numbers.
            target_fps: frames a second among which the model's are chosen; twice as many until they are enough.
            verbose: log each clip.

        Raises:
            ValueError: ``target_fps`` is not positive and finite.
        """
        del model_dir
        request = EmbeddingFrameRequest(
            key="internvideo2",
            rate_hz=target_fps,
            height=_PUBLISHED.height,
            width=_PUBLISHED.width,
            num_frames=_PUBLISHED.num_frames,
        )
        super().__init__(request, verbose=verbose)


class InternVideo2EmbeddingStage(ClipEmbeddingStage):
    """Puts ``intern_video_2_embedding`` on each clip, and ``intern_video_2_text_match`` where there are texts."""

    name = "internvideo2_embedding"
    measure = "intern_video_2_embedding"
    frames_field = "intern_video_2_frames"
    vector_field = "intern_video_2_embedding"
    match_field = "intern_video_2_text_match"

    def __init__(
        self,
        model_dir: str = "InternVideo2",
        gpu_memory_gb: float = 10.0,
        num_gpus_per_worker: float = 1.0,
        texts_to_verify: Sequence[str] | None = None,
        verbose: bool = False,
    ) -> None:
        """Settings as docs/rules.md, Embeddings.

        Args:
            model_dir: has the weights and, for texts, the vocabulary of BERT-large, each as ``organization/name``, as
                ``name``, or itself.
            gpu_memory_gb: that weights and clips may take of a GPU; decides how many clips are embedded at once.
            num_gpus_per_worker: accepted for NeMo Curator's sake: a worker has one GPU, and shares it.
            texts_to_verify: compared with each clip.
            verbose: log each clip.

        Raises:
            ValueError: ``gpu_memory_gb`` is not positive, or a text is empty.
        """
        del num_gpus_per_worker
        super().__init__(gpu_memory_gb=gpu_memory_gb, texts_to_verify=texts_to_verify, verbose=verbose)
        self._model_dir = model_dir

    def load(self) -> LoadedModel:
        """The published weights: on a GPU in bfloat16, without one in float32."""
        return InternVideo2Model(self._model_dir)


class InternVideo2Model:
    """The network on its device."""

    frame_shape = (_PUBLISHED.num_frames, _PUBLISHED.height, _PUBLISHED.width, 3)

    def __init__(self, model_dir: str | Path) -> None:
        """Load the weights; the vocabulary waits for the first text.

        Raises:
            FileNotFoundError: they are missing.
            EmbeddingStartError: they are not those of this model, or there is no torch.
        """
        checkpoint = find_file(model_dir, _PUBLISHED.checkpoint)
        try:
            from curation.embedding.internvideo2_network import load_internvideo2
        except ImportError as error:
            raise EmbeddingStartError(f"torch is needed for {checkpoint}: {error}") from error
        self._model_dir = model_dir
        self._device = "cuda" if is_on_gpu() else "cpu"
        num_frames, image_size, _, _ = self.frame_shape
        try:
            self._network = load_internvideo2(checkpoint, self._device, image_size=image_size, num_frames=num_frames)
        except ValueError as error:
            raise EmbeddingStartError(str(error)) from error
        self._tokenizer: Any = None

    def video_vectors(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """A vector for each clip, float32, shape (num_clips, dimensions).

        Args:
            frames: uint8 RGB, shape (num_clips, num_frames, height, width, 3).
        """
        import torch

        with torch.inference_mode():
            rows = self._network.embed_clips(torch.from_numpy(frames).to(self._device))
        return np.asarray(rows.cpu().numpy(), dtype=np.float32)

    def text_vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A vector for each text, float32, shape (num_texts, dimensions).

        Raises:
            FileNotFoundError: the vocabulary is missing.
            EmbeddingStartError: it is not that of the weights, or there is no transformers.
        """
        import torch

        if self._tokenizer is None:
            self._tokenizer = _tokenizer(self._model_dir, self._network.sizes.vocabulary)
        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=_MAX_TOKENS, return_tensors="pt"
        ).to(self._device)
        with torch.inference_mode():
            rows = self._network.embed_texts(tokens["input_ids"], tokens["attention_mask"].bool())
        return np.asarray(rows.cpu().numpy(), dtype=np.float32)


def find_file(model_dir: str | Path, checkpoint: Checkpoint) -> Path:
    """The file that a checkpoint is known by.

    Raises:
        FileNotFoundError: with the command that mends it.
    """
    folder = find_weights_folder(model_dir, checkpoint.repository, revision=checkpoint.revision, file=checkpoint.file)
    return folder / checkpoint.file


def _tokenizer(model_dir: str | Path, num_known: int) -> Any:
    """What makes numbers of words."""
    assert _PUBLISHED.text_checkpoint is not None
    vocabulary = find_file(model_dir, _PUBLISHED.text_checkpoint)
    try:
        with loading_alone():
            from transformers import BertTokenizer
    except ImportError as error:
        raise EmbeddingStartError(f"transformers is needed for texts: {error}") from error
    tokenizer = BertTokenizer.from_pretrained(vocabulary.parent, local_files_only=True)
    if len(tokenizer) > num_known:
        raise EmbeddingStartError(f"{vocabulary} has {len(tokenizer)} tokens, and the weights know {num_known}")
    return tokenizer
