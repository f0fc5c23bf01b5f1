"""What a worker takes of its task's cores and GPUs."""

import logging
import os
import resource
import statistics
from collections.abc import Mapping
from typing import Any

from jobs.config import RunConfig
from jobs.local_gpus import VISIBLE, named_gpus

logger = logging.getLogger(__name__)


def own_cores(config: RunConfig) -> int:
    """Cores that this worker's task has; of a machine without Slurm an even share for each of its workers."""
    allotted = os.environ.get("SLURM_CPUS_PER_TASK")
    return int(allotted) if allotted else max(1, len(os.sched_getaffinity(0)) // config.local.parallel_shards)


def cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


class Usage:
    """CPU seconds of a worker since now, and how busy its GPUs are."""

    def __init__(self, config: RunConfig) -> None:
        self._config, self._cpu_s = config, cpu_s()
        self._gpus = GpuMeter(os.environ)

    def sample(self) -> None:
        """Look at the GPUs; called now and then."""
        self._gpus.sample()

    def measures(self) -> dict[str, Any]:
        """For the worker's last event.

        ``cpu_s``: of the worker and its ended children. ``num_cpus``: that its task has. ``gpu_busy``: 0..1, the mean
        of all looks at all its GPUs; None where there is none, or nothing tells.
        """
        return {
            "cpu_s": round(cpu_s() - self._cpu_s, 3),
            "num_cpus": own_cores(self._config),
            "gpu_busy": self._gpus.mean,
        }


class GpuMeter:
    """The utilisation of a process's GPUs, as NVML tells it: the share of the time in which any kernel ran.

    Needs the package ``nvidia-ml-py``, and measures nothing where that, the driver or a GPU is missing. MIG devices
    have no utilisation of their own.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        visible = environment.get(VISIBLE)
        self._names = None if visible is None else named_gpus(visible)
        self._looks: list[float] = []
        self._gpus: list[Any] | None = None
        self._nvml: Any = None

    def sample(self) -> None:
        """Look once at each GPU; what does not answer is not counted."""
        if self._gpus is None:  # at the first look, not before: a driver that starts up takes seconds
            self._gpus = self._found()
        for gpu in self._gpus:
            try:
                self._looks.append(self._nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100)
            except self._nvml.NVMLError as error:
                logger.debug("event=gpu_not_measured: %s", error)

    def _found(self) -> list[Any]:
        if self._names == []:
            return []
        try:
            import pynvml as nvml
        except ImportError:
            logger.debug("event=no_gpu_meter: nvidia-ml-py is not installed")
            return []
        self._nvml = nvml
        try:
            nvml.nvmlInit()
            names = self._names or [str(index) for index in range(nvml.nvmlDeviceGetCount())]
            return [_device(nvml, name) for name in names]
        except nvml.NVMLError as error:
            logger.debug("event=no_gpu_meter: %s", error)
            return []

    @property
    def mean(self) -> float | None:
        """0..1; None before the first look, and where none is possible."""
        return round(statistics.fmean(self._looks), 4) if self._looks else None


def _device(nvml: Any, name: str) -> Any:
    """By what CUDA calls it: its number, or its UUID."""
    return nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)
