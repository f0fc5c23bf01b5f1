"""The GPU of this process: whether there is one, what a model takes of it, and whether it still works."""

import gc
import math
from collections.abc import Callable

from curation.errors import StopRunError

GB = 10**9


class GpuMemory:
    """What this process takes of its GPU from now on; what it had before does not count.

    It is what torch's allocator holds. What CUDA takes for itself (some 0.5 GB for each process) comes on top.
    """

    def __init__(self) -> None:
        self._before = 0
        if is_on_gpu():
            import torch

            _collect()
            self._before = torch.cuda.memory_reserved()

    def peak_bytes(self, run: Callable[[], object]) -> int | None:
        """Bytes at the fullest moment of a run; None where the GPU did not have them."""
        import torch

        _collect()
        torch.cuda.reset_peak_memory_stats()
        try:
            run()
            torch.cuda.synchronize()
        except torch.OutOfMemoryError:
            return None
        finally:
            peak = torch.cuda.max_memory_reserved() - self._before
            _collect()
        return peak


def is_on_gpu() -> bool:
    """Whether torch can use a GPU."""
    import torch

    return bool(torch.cuda.is_available())


def rounded_up_gb(num_bytes: int) -> float:
    """Gigabytes that hold it, with one decimal."""
    return math.ceil(10 * num_bytes / GB) / 10


def stop_if_deadly(error: Exception, *, work: str) -> None:
    """Raise StopRunError where the GPU's context is lost, after which every call fails; ``work`` says at what."""
    import torch

    if isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError):
        raise StopRunError(f"the GPU failed while {work}: {error}") from error


def free_unused() -> None:
    """Give back what torch keeps of the GPU for later."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _collect() -> None:
    gc.collect()
    free_unused()
