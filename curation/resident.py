"""Models that a worker's process holds once, whoever uses them."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ResidentModel(ABC):
    """Stays in the worker's process. What is sent to a decode child only refers to it, and calls it over a pipe."""

    @abstractmethod
    def setup(self) -> None:
        """Load it; again does nothing."""

    @abstractmethod
    def __call__(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Results for a batch, one row each; may be called by several threads at once."""
