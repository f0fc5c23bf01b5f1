"""Does every GPU of this task compute? Started by a worker's checks: ``python -m jobs.gpu_check NUM MIN_FREE_SHARE``.

A process of its own, because a driver that is out of order may hang or end whoever asks it. It prints a line of JSON
when torch is loaded, and one with what it found.
"""

import importlib.util
import json
import sys
from collections.abc import Callable
from typing import Any

_SIZE = 512  # whole numbers up to 512 * 6 * 4 are exact in float32, TF32 products included


def gpu_problems(torch: Any, *, num_gpus: int, min_free_share: float) -> list[str]:
    """What is wrong with the GPUs that torch sees.

    Args:
        num_gpus: that the task was given.
        min_free_share: of each GPU's memory, 0..1, that nobody else may hold.
    """
    num_found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if num_found < num_gpus:
        return [f"torch sees {num_found} of the task's {num_gpus} GPUs: does nvidia-smi see them on this node?"]
    problems = []
    for index in range(num_found):
        name = f"GPU {index} ({torch.cuda.get_device_name(index)})"
        try:
            problem = wrong_product(torch, f"cuda:{index}")
            free, total = torch.cuda.mem_get_info(index)
        except RuntimeError as error:  # what torch raises for every error of CUDA
            problems.append(f"{name} does not compute: {str(error).splitlines()[0]}")
            continue
        if problem is not None:
            problems.append(f"{name} {problem}")
        elif free < min_free_share * total:
            held, wanted = (total - free) / 1e9, min_free_share * total / 1e9
            problems.append(f"{name}: {held:.1f} of {total / 1e9:.1f} GB are held by others, {wanted:.1f} are needed")
    return problems


def wrong_product(torch: Any, device: str, *, multiply: Callable[[Any, Any], Any] | None = None) -> str | None:
    """What is wrong with a product of two matrices; row i, column j of it is 512 (i mod 7) (j mod 5)."""
    rows = (torch.arange(_SIZE, device=device) % 7).to(torch.float32)
    columns = (torch.arange(_SIZE, device=device) % 5).to(torch.float32)
    left, right = rows[:, None].expand(_SIZE, _SIZE).contiguous(), columns[None, :].expand(_SIZE, _SIZE).contiguous()
    product = (multiply or torch.matmul)(left, right)
    num_wrong = int((product != _SIZE * rows[:, None] * columns[None, :]).sum())
    return f"computes wrongly: {num_wrong} of {_SIZE * _SIZE} values of a product" if num_wrong else None


def main() -> None:
    """Check and print."""
    if importlib.util.find_spec("torch") is None:
        _tell(skipped="torch is not installed")
        return
    import torch

    _tell(loaded=torch.__version__)
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        _tell(skipped=f"torch {torch.__version__} is built without support of GPUs")
        return
    _tell(problems=gpu_problems(torch, num_gpus=int(sys.argv[1]), min_free_share=float(sys.argv[2])))


def _tell(**values: object) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
