"""Cosmos-Embed1: clips and texts in one space, by a checkpoint that brings its own code."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curation.embedding.frames import EmbeddingFrameRequest
from curation.embedding.models import EmbeddingModel, embedding_model
from curation.embedding.remote_code import load_remote_model, load_remote_processor
from curation.embedding.stages import ClipEmbeddingStage, EmbeddingFrameCreationStage, LoadedModel
from curation.gpu import is_on_gpu
from curation.weights import find_weights_folder

Variant = Literal["224p", "336p", "448p"]


class CosmosEmbed1FrameCreationStage(EmbeddingFrameCreationStage):
    """Puts ``cosmos_embed1_frames`` on each clip: the number and size of the checkpoint's processor."""

    name = "cosmos_embed1_frames"
    measure = "cosmos_embed1_embedding"
    frames_field = "cosmos_embed1_frames"

    def __init__(
        self,
        model_dir: str = "models/cosmos_embed1",
        variant: Variant = "336p",
        target_fps: float = 2.0,
        num_cpus: int = 3,
        verbose: bool = False,
    ) -> None:
        """Settings as docs/rules.md, Embeddings.

        Args:
            model_dir: the folder with the checkpoint, or one that has it as ``organization/name``. What its processor
                says of frames holds; where the checkpoint is not there yet, what the published one says.
            variant: the size of the frames.
            target_fps: frames a second among which the model's are chosen; twice as many until they are enough.
            num_cpus: accepted for NeMo Curator's sake: one decode serves all stages.
            verbose: log each clip.

        Raises:
            ValueError: unknown variant, or ``target_fps`` is not positive and finite.
        """
        del num_cpus
        num_frames, height, width = frames_of_checkpoint(model_dir, _model(variant))
        request = EmbeddingFrameRequest(
            key=f"cosmos-embed1-{variant}",
            rate_hz=target_fps,
            height=height,
            width=width,
            num_frames=num_frames,
        )
        super().__init__(request, verbose=verbose)


class CosmosEmbed1EmbeddingStage(ClipEmbeddingStage):
    """Puts ``cosmos_embed1_embedding`` on each clip, and ``cosmos_embed1_text_match`` where there are texts."""

    name = "cosmos_embed1_embedding"
    measure = "cosmos_embed1_embedding"
    frames_field = "cosmos_embed1_frames"
    vector_field = "cosmos_embed1_embedding"
    match_field = "cosmos_embed1_text_match"

    def __init__(
        self,
        model_dir: str = "models/cosmos_embed1",
        variant: Variant = "336p",
        gpu_memory_gb: float = 20,
        texts_to_verify: Sequence[str] | None = None,
        verbose: bool = False,
    ) -> None:
        """Settings as docs/rules.md, Embeddings.

        Args:
            model_dir: as for the frames.
            variant: as for the frames.
            gpu_memory_gb: that weights and clips may take of a GPU; decides how many clips are embedded at once.
            texts_to_verify: compared with each clip.
            verbose: log each clip.

        Raises:
            ValueError: unknown variant, ``gpu_memory_gb`` is not positive, or a text is empty.
        """
        super().__init__(gpu_memory_gb=gpu_memory_gb, texts_to_verify=texts_to_verify, verbose=verbose)
        self._published, self._model_dir = _model(variant), model_dir

    def load(self) -> LoadedModel:
        """The checkpoint: on a GPU in bfloat16, without one in float32."""
        return CosmosEmbed1Model(_folder(self._model_dir, self._published), self._published)


class CosmosEmbed1Model:
    """A checkpoint of Cosmos-Embed1 on its device.

    Its code takes ``videos`` as its processor makes them of uint8 frames, shape (num_clips, num_frames, 3, height,
    width), and gives ``visual_proj`` and ``text_proj``, shape (num_rows, dimensions).
    """

    def __init__(self, folder: Path, published: EmbeddingModel) -> None:
        """Load it.

        Raises:
            EmbeddingStartError: it can't be loaded.
        """
        self._device, self._dtype = ("cuda", "bfloat16") if is_on_gpu() else ("cpu", "float32")
        self._processor = load_remote_processor(folder)
        self._model = load_remote_model(folder, device=self._device, dtype=self._dtype)
        self.frame_shape = (*_frames_said(folder, published), 3)

    def video_vectors(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """A vector for each clip, float32, shape (num_clips, dimensions).

        Args:
            frames: uint8 RGB, shape (num_clips, num_frames, height, width, 3).
        """
        channels_first = np.ascontiguousarray(frames.transpose(0, 1, 4, 2, 3))
        return self._projected("get_video_embeddings", "visual_proj", videos=channels_first)

    def text_vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A vector for each text, float32, shape (num_texts, dimensions)."""
        return self._projected("get_text_embeddings", "text_proj", text=list(texts))

    def _projected(self, method: str, output: str, **given: Any) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            inputs = {name: self._on_device(value) for name, value in self._processor(**given).items()}
            rows = getattr(getattr(self._model, method)(**inputs), output)
            return np.asarray(rows.float().cpu().numpy(), dtype=np.float32)

    def _on_device(self, value: Any) -> Any:
        """Numbers in the model's type; ids as they are."""
        import torch

        return value.to(self._device, getattr(torch, self._dtype) if value.is_floating_point() else value.dtype)


def frames_of_checkpoint(model_dir: str, published: EmbeddingModel) -> tuple[int, int, int]:
    """How many frames the processor in a folder takes, their height and width; the published ones without a folder."""
    try:
        return _frames_said(_folder(model_dir, published), published)
    except FileNotFoundError:
        return published.num_frames, published.height, published.width


def _frames_said(folder: Path, published: EmbeddingModel) -> tuple[int, int, int]:
    said: dict[str, Any] = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            said |= json.loads((folder / name).read_text())
    size = said.get("resolution", (published.height, published.width))
    height, width = (size, size) if isinstance(size, int) else size
    return int(said.get("num_video_frames", published.num_frames)), int(height), int(width)


def _folder(model_dir: str, published: EmbeddingModel) -> Path:
    checkpoint = published.checkpoint
    return find_weights_folder(
        model_dir, checkpoint.repository, revision=checkpoint.revision, model_type=checkpoint.model_type
    )


def _model(variant: str) -> EmbeddingModel:
    return embedding_model(f"cosmos-embed1-{variant}")
