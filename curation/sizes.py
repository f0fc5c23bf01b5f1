"""How much memory what flows through the pipeline takes."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def bytes_held(*values: Any) -> int:
    """Bytes of media and arrays in nested containers; numbers and objects without a size count nothing."""
    total = 0
    for value in values:
        if isinstance(value, bytes | bytearray):
            total += len(value)
        elif isinstance(value, str):
            total += len(value.encode())
        elif isinstance(value, np.ndarray):
            total += value.nbytes
        elif isinstance(value, Mapping):
            total += bytes_held(*value.values())
        elif isinstance(value, list | tuple):
            total += bytes_held(*value)
        elif hasattr(value, "element_size") and hasattr(value, "nelement"):  # a torch tensor, without importing torch
            total += int(value.element_size() * value.nelement())
    return total
