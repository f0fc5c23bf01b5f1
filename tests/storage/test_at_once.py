"""Several requests at once: order, bounds, and what becomes of an error."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.errors import StorageError
from curation.storage import WritesAtOnce, read_ahead
from curation.storage.at_once import _MAX_WAITING_BYTES
from curation.storage.local import LocalStorage
from curation.storage.options import MIB
from tests.patience import PATIENCE_S


class Gate:
    """A storage whose writes wait until it is open; writes of ``bad`` fail then."""

    def __init__(self, bad: str = "") -> None:
        self.bad, self.opened, self.lock = bad, threading.Event(), threading.Lock()
        self.written: list[str] = []

    def write(self, path: str, content: bytes) -> None:
        assert self.opened.wait(PATIENCE_S)
        if path == self.bad:
            raise StorageError("full")
        with self.lock:
            self.written.append(path)


def test_what_was_written_is_there_after_waiting(tmp_path: Path) -> None:
    writes = WritesAtOnce(LocalStorage(str(tmp_path)))
    for index in range(200):
        writes.write(f"{index % 7}/{index}", str(index).encode())
    writes.wait()
    assert {p.name: p.read_text() for p in tmp_path.rglob("*") if p.is_file()} == {str(i): str(i) for i in range(200)}


def test_writes_go_on_at_the_same_time() -> None:
    gate = Gate()
    writes = WritesAtOnce(gate)
    for index in range(10):
        writes.write(str(index), b"")  # one after the other, the second would never return
    gate.opened.set()
    writes.wait()
    assert sorted(gate.written) == sorted(map(str, range(10)))


def test_no_more_bytes_wait_than_the_bound() -> None:
    gate = Gate()
    writes = WritesAtOnce(gate)
    content = bytes(_MAX_WAITING_BYTES // 2)
    returned = threading.Event()

    def write_three() -> None:
        for index in range(3):
            writes.write(str(index), content)
            if index == 2:
                returned.set()

    thread = threading.Thread(target=write_three)
    thread.start()
    assert not returned.wait(0.3)  # the third has to wait for one of the others
    gate.opened.set()
    thread.join()
    assert returned.is_set()
    writes.wait()


def test_an_object_larger_than_the_bound_goes_alone() -> None:
    gate = Gate()
    gate.opened.set()
    writes = WritesAtOnce(gate)
    writes.write("small", b"x")
    writes.write("large", bytes(_MAX_WAITING_BYTES + MIB))
    writes.wait()
    assert sorted(gate.written) == ["large", "small"]


def test_an_error_is_raised_once_and_then_nothing_is_under_way() -> None:
    gate = Gate(bad="3")
    writes = WritesAtOnce(gate)
    for index in range(40):
        writes.write(str(index), b"")
    gate.opened.set()
    with pytest.raises(StorageError, match="full"):
        writes.wait()
    num_written = len(gate.written)
    writes.wait()
    assert len(gate.written) == num_written


@given(st.lists(st.integers(1, 10), max_size=60), st.integers(1, 25), st.integers(1, 8))
def test_what_is_read_ahead_comes_in_order_and_never_more_than_the_bound(
    weights: list[int], at_most: int, num_threads: int
) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for index in range(len(weights)):
            taken.append(index)
            yield index

    found = []
    numbers = read_ahead(lambda i: i, items(), num_threads=num_threads, at_most=at_most, weight=lambda i: weights[i])
    for num_given, index in enumerate(numbers):
        found.append(index)
        held = [weights[i] for i in taken[num_given : taken[-1]]]  # the last one taken may not have begun yet
        assert sum(held) <= at_most or len(held) <= 1
    assert found == list(range(len(weights)))


def test_what_fails_is_raised_in_its_turn_and_the_rest_is_given_up() -> None:
    def read(index: int) -> int:
        if index == 5:
            raise FileNotFoundError(index)
        return index

    numbers = read_ahead(read, range(1000), num_threads=4, at_most=8)
    assert [next(numbers) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(FileNotFoundError):
        next(numbers)
