"""The shot detector with a network that looks at the same window once only: many cases look at the same films."""

import hashlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from curation.clipping.shot_model import ShotModel
from curation.clipping.transnetv2 import TransNetV2ClipExtractionStage


class RememberingModel(ShotModel):
    """The real network, which remembers what it said of a window."""

    _seen: ClassVar[dict[bytes, NDArray[np.float32]]] = {}

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        key = hashlib.sha256(batch.tobytes()).digest()
        if key not in self._seen:
            self._seen[key] = super().__call__(batch)
        return self._seen[key]


class Detector(TransNetV2ClipExtractionStage):
    """The real detector with a model that remembers."""

    def __init__(self, model_dir: Path, **rules: Any) -> None:
        super().__init__(model_dir, **rules)
        self.model = RememberingModel(model_dir, "cpu")
