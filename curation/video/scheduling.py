"""Keeping what an encoder does to the scheduling of its process from starving everything else on the machine."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def kept_scheduling() -> Iterator[None]:
    """Put all threads of the process back to the caller's scheduling policy, where code within changed that.

    SVT-AV1, run as root (in most containers), gives its threads and the one that opens it SCHED_FIFO at the highest
    priority, which later threads and processes inherit: one of them at work keeps a core from everybody for ever.
    """
    if sys.platform != "linux":
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            for thread in Path("/proc/self/task").iterdir():
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.sched_setscheduler(int(thread.name), policy, parameters)
