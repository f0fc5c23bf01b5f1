"""Signs of life from the loops that read, decode and encode, for whoever watches over this process."""

from collections.abc import Callable

_listener: Callable[[], None] | None = None


def listen(listener: Callable[[], None] | None) -> None:
    """Have ``listener`` called at every sign of life in this process; None ends it."""
    global _listener  # of the process, which has one watcher
    _listener = listener


def alive() -> None:
    """Say that work goes on. Cheap: called for every packet."""
    if _listener is not None:
        _listener()
