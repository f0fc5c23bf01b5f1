"""Inner products of many vectors with many: NumPy's BLAS on a CPU, torch on a GPU."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from curation.dedup.vectors import Vectors

Numbers = NDArray[np.int64]


class Products(Protocol):
    """What is asked of a device. Vectors are float32, shape (num_vectors, dimensions)."""

    device: str

    def product(self, rows: Vectors, others: Vectors) -> NDArray[np.float32]:
        """Each row by each other: shape (num_rows, num_others)."""

    def nearest(self, rows: Vectors, others: Vectors) -> tuple[Numbers, NDArray[np.float32]]:
        """Of each row: which of the others gives the largest product, the first of equals, and that product."""

    def pairs_at_least(self, rows: Vectors, others: Vectors, floor: float) -> tuple[Numbers, Numbers]:
        """The numbers of the rows and of the others whose product reaches ``floor``, pair by pair."""


class NumpyProducts:
    """See ``Products``."""

    device = "cpu"

    def __init__(self) -> None:
        self._room = np.empty(0, np.float32)  # fresh memory for each product costs more than small ones do

    def product(self, rows: Vectors, others: Vectors) -> NDArray[np.float32]:
        """See ``Products.product``."""
        return self._products(rows, others).copy()

    def nearest(self, rows: Vectors, others: Vectors) -> tuple[Numbers, NDArray[np.float32]]:
        """See ``Products.nearest``."""
        products = self._products(rows, others)
        labels = products.argmax(axis=1)
        return labels, products[np.arange(len(rows)), labels]

    def pairs_at_least(self, rows: Vectors, others: Vectors, floor: float) -> tuple[Numbers, Numbers]:
        """See ``Products.pairs_at_least``."""
        is_hit = self._products(rows, others) >= np.float32(floor)
        if not is_hit.any():  # by far the most: cheaper to ask than to list nothing
            return np.empty(0, np.int64), np.empty(0, np.int64)
        first, second = np.nonzero(is_hit)
        return first, second

    def _products(self, rows: Vectors, others: Vectors) -> NDArray[np.float32]:
        """Valid until the next call."""
        size = len(rows) * len(others)
        if size > len(self._room):
            self._room = np.empty(size, np.float32)
        return np.matmul(rows, others.T, out=self._room[:size].reshape(len(rows), len(others)))


class TorchProducts:
    """See ``Products``. Full float32: torch multiplies so unless it is told otherwise."""

    def __init__(self, device: str) -> None:
        import torch

        self.device = device
        self._torch: Any = torch

    def product(self, rows: Vectors, others: Vectors) -> NDArray[np.float32]:
        """See ``Products.product``."""
        found: NDArray[np.float32] = self._products(rows, others).cpu().numpy()
        return found

    def nearest(self, rows: Vectors, others: Vectors) -> tuple[Numbers, NDArray[np.float32]]:
        """See ``Products.nearest``."""
        values, labels = self._products(rows, others).max(dim=1)
        return labels.cpu().numpy(), values.cpu().numpy()

    def pairs_at_least(self, rows: Vectors, others: Vectors, floor: float) -> tuple[Numbers, Numbers]:
        """See ``Products.pairs_at_least``."""
        hits = (self._products(rows, others) >= floor).nonzero().cpu().numpy()
        return hits[:, 0], hits[:, 1]

    def _products(self, rows: Vectors, others: Vectors) -> Any:
        return self._put(rows) @ self._put(others).T

    def _put(self, rows: Vectors) -> Any:
        return self._torch.from_numpy(np.array(rows)).to(self.device)  # a copy: a mapped file may be read-only


def products_on(device: str) -> Products:
    """Where products are computed.

    Args:
        device: ``cpu``, a device of torch such as ``cuda``, or ``auto``: a GPU where torch finds one.

    Raises:
        ValueError: torch is not installed, or has no such device.
    """
    if device == "cpu":
        return NumpyProducts()
    try:
        import torch
    except ImportError as error:
        if device == "auto":
            return NumpyProducts()
        raise ValueError(f"torch is not installed: device {device!r} cannot be used") from error
    if device == "auto":
        return TorchProducts("cuda") if torch.cuda.is_available() else NumpyProducts()
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"torch cannot use the device {device!r}: {error}") from error
    return TorchProducts(device)
