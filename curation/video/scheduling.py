"""Keeping what an encoder does to the scheduling of its process from starving everything else on the machine."""

import contextlib
import os
import sys
from pathlib import Path

import av


def open_encoder(context: av.CodecContext) -> None:
    """Open an encoder, and put all threads of the process back to the caller's scheduling policy if that changed it.

    SVT-AV1, run as root (in most containers), gives its threads and the one that opens it SCHED_FIFO at the highest
    priority, which later threads and processes inherit: one of them at work keeps a core from everybody for ever.

    Raises:
        av.error.FFmpegError: it refuses its settings.
    """
    if sys.platform != "linux":
        context.open()
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        context.open()
    finally:
        if os.sched_getscheduler(0) != policy:
            for thread in Path("/proc/self/task").iterdir():
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.sched_setscheduler(int(thread.name), policy, parameters)
