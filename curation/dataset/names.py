"""Numbers for names, so that a column of names is one of numbers."""

from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)


class Names(Generic[Name]):
    """Each name once, in the order in which it was first asked for."""

    def __init__(self, names: Iterable[Name] = ()) -> None:
        self._numbers = {name: number for number, name in enumerate(names)}

    def number(self, name: Name) -> int:
        """The number of a name, from 0."""
        return self._numbers.setdefault(name, len(self._numbers))

    def __iter__(self) -> Iterator[Name]:
        return iter(self._numbers)
