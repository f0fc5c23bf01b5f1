"""Signals that are for the worker and reach all processes of its Slurm job."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def processes_spared(number: signal.Signals) -> Iterator[None]:
    """Block a signal in this thread: the processes that it starts in here, and theirs, never get it.

    Slurm warns of the wall time's end by a signal to every process of a job's steps, and what has no handler for
    SIGUSR2 is ended by it: an engine would die with all that it could still finish.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
