"""How many requests this process sent to S3, by kind."""

import os
import threading
from collections import Counter
from collections.abc import Mapping

_counts: Counter[str] = Counter()
_lock = threading.Lock()


def add_request_counts(counts: Mapping[str, int]) -> None:
    """Add to the counts of this process, such as those of a child that has ended."""
    with _lock:
        _counts.update(counts)


def request_counts() -> dict[str, int]:
    """What was sent since the process began.

    Each name of an S3 operation (PutObject, GetObject, ...) counts the requests of its kind, repeated ones too. Of them
    ``retries`` were repeated, for ``throttled`` answers (SlowDown, 503, 429), for ``dropped`` connections or for
    another failure of the server; ``resumed`` bodies broke off and were read on from there.
    """
    with _lock:
        return dict(_counts)


def _forget() -> None:
    """A forked child counts its own; the lock may be held by a thread that the child does not have."""
    global _lock
    _lock = threading.Lock()
    _counts.clear()


os.register_at_fork(after_in_child=_forget)
