"""Which GPUs a worker process of this machine sees."""

import re
import subprocess
from collections.abc import Mapping, Sequence

from jobs.submission import SubmissionError

VISIBLE = "CUDA_VISIBLE_DEVICES"
_TIMEOUT_S = 30.0  # a driver that starts up takes some seconds


def gpus_here(environment: Mapping[str, str]) -> list[str]:
    """Names of the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` has them; none where nothing tells."""
    if (visible := environment.get(VISIBLE)) is not None:
        return named_gpus(visible)
    try:
        shown = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listed_gpus(shown.stdout) if shown.returncode == 0 else []


def named_gpus(visible: str) -> list[str]:
    """The names in a ``CUDA_VISIBLE_DEVICES``; like CUDA, takes nothing from the first -1 on."""
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return names[: names.index("-1")] if "-1" in names else names


def listed_gpus(text: str) -> list[str]:
    """The GPUs that ``nvidia-smi -L`` lists: numbers, and in place of a divided GPU its MIG devices by UUID."""
    names: list[str] = []
    for line in text.splitlines():
        if gpu := re.match(r"GPU (\d+):", line):
            names.append(gpu[1])
        elif (mig := re.match(r"\s+MIG .*\(UUID: (\S+)\)", line)) and names:
            if names[-1].isdigit():
                names.pop()
            names.append(mig[1])
    return names


def gpus_of_slots(num_slots: int, gpus: Sequence[str], per_task: int) -> list[str | None]:
    """``CUDA_VISIBLE_DEVICES`` of each slot; None leaves it as it is, where no GPU is known of.

    Each slot has ``per_task`` GPUs of its own as long as there are enough; further slots share them in turn.

    Raises:
        SubmissionError: there are GPUs, but fewer than one worker wants.
    """
    if per_task == 0:
        return [""] * num_slots
    if not gpus:
        return [None] * num_slots
    if len(gpus) < per_task:
        raise SubmissionError(
            f"slurm.gpus_per_task is {per_task}, and this machine has {len(gpus)} ({', '.join(gpus)}): "
            f"--set slurm.gpus_per_task={len(gpus)}"
        )
    groups = [",".join(gpus[i : i + per_task]) for i in range(0, len(gpus) - per_task + 1, per_task)]
    return [groups[slot % len(groups)] for slot in range(num_slots)]
