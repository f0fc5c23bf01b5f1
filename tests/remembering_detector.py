"""The shot detector with a network that looks at the same window once only: many cases look at the same films."""

import hashlib
import os
import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from curation.clipping.shot_model import ShotModel
from curation.clipping.transnetv2 import TransNetV2ClipExtractionStage


class RememberingModel(ShotModel):
    """The real network, which remembers what it said of a window.

    Attributes:
        shared: where the processes of one run of tests tell each other; None where there is one alone.
    """

    shared: ClassVar[Path | None] = None
    _seen: ClassVar[dict[str, NDArray[np.float32]]] = {}

    def setup(self) -> None:
        """Nothing: torch is loaded by who has to look, not by who remembers."""

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        key = hashlib.sha256(batch.tobytes()).hexdigest()
        if key not in self._seen:
            self._seen[key] = self._told(key, batch)
        return self._seen[key]

    def _told(self, key: str, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What another process found, or the network says now."""
        path = self.shared / f"{key}.npy" if self.shared is not None else None
        if path is not None and path.exists():
            found: NDArray[np.float32] = np.load(path)
            return found
        super().setup()
        said = super().__call__(batch)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f"{key}.{os.getpid()}-{threading.get_ident()}.npy")
            np.save(aside, said)
            aside.replace(path)
        return said


class Detector(TransNetV2ClipExtractionStage):
    """The real detector with a model that remembers."""

    def __init__(self, model_dir: Path, **rules: Any) -> None:
        super().__init__(model_dir, **rules)
        self.model = RememberingModel(model_dir, "cpu")
