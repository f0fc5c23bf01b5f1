"""Several requests on their way at once, where one after the other would be waiting mostly."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Protocol, TypeVar

from curation.storage.options import MIB

_WRITERS = 16
_MAX_WAITING = 64
_MAX_WAITING_BYTES = 128 * MIB

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


class Writes(Protocol):
    """Where whole objects are put: a storage, or ``WritesAtOnce`` to it."""

    def write(self, path: str, content: bytes) -> None:
        """Put an object whole or not at all, replacing what is there."""


class WritesAtOnce:
    """Puts objects into a storage with several threads; what was put is there when ``wait`` returns.

    Of what is not there yet, no more is held than 128 MiB, or one object. After an error nothing is under way any more.
    """

    def __init__(self, storage: Writes) -> None:
        self._storage = storage
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: dict[Future[None], int] = {}

    def write(self, path: str, content: bytes) -> None:
        """See ``Storage.write``; raises, too, what an earlier write raised."""
        while self._waiting and (
            len(self._waiting) >= _MAX_WAITING
            or sum(self._waiting.values()) + len(content) > max(_MAX_WAITING_BYTES, len(content))
        ):
            self._take(wait(self._waiting, return_when=FIRST_COMPLETED).done)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="write")
        self._waiting[self._pool.submit(self._storage.write, path, content)] = len(content)

    def wait(self) -> None:
        """Until everything is there, or can't be: raises what a write raised, when no write goes on any more."""
        self._take(wait(self._waiting).done)

    def _take(self, done: Iterable[Future[None]]) -> None:
        error = next((error for each in done if (error := each.exception()) is not None), None)
        if error is not None:
            for each in self._waiting:
                each.cancel()
            wait(self._waiting)
            self._waiting = {}
            raise error
        for each in done:
            del self._waiting[each]


def read_ahead(
    read: Callable[[_Item], _Found],
    items: Iterable[_Item],
    *,
    num_threads: int,
    at_most: int,
    weight: Callable[[_Item], int] = lambda _: 1,
) -> Generator[_Found, None, None]:
    """What ``read`` gives for each item, in the order of the items, which are taken only as room allows.

    Args:
        at_most: the sum of weights of what is being read, or was and is not taken yet; a single item may exceed it.
    """
    held = 0
    under_way: deque[tuple[Future[_Found], int]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="read") as pool:
        try:
            for item in items:
                size = weight(item)
                while under_way and held + size > at_most:
                    future, taken = under_way.popleft()
                    yield future.result()
                    held -= taken
                under_way.append((pool.submit(read, item), size))
                held += size
            while under_way:
                yield under_way.popleft()[0].result()
        finally:
            for future, _ in under_way:
                future.cancel()
