"""Models are loaded by one thread at a time, and so is what they need imported: stages set up at the same time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.RLock()


@contextmanager
def loading_alone() -> Iterator[None]:
    """Hold around what imports transformers, or what builds on it, and around what loads a model with it.

    transformers puts another object in its own place at the end of its import. A thread that imports a name of it
    meanwhile waits, and then looks for that name in the old object: ``from`` keeps what it found before it waited.
    While it makes a model it takes functions of torch and of its own away for the whole process; a model that another
    thread makes meanwhile lacks what they do, such as weights that two layers share.
    """
    with _LOCK:
        yield
