"""Calls of several threads made into batches: with real threads, and plain functions in the model's place."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from curation.resident import CombinedCalls


def doubled(batch: NDArray[np.int64]) -> NDArray[np.float32]:
    return (2 * batch).astype(np.float32)


class Gate:
    """Doubles rows, but keeps its first call until it is opened; remembers the batches that came."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.is_entered, self.is_open = threading.Event(), threading.Event()

    def __call__(self, batch: NDArray[np.int64]) -> NDArray[np.float32]:
        self.batches.append(batch[:, 0].tolist())
        self.is_entered.set()
        assert self.is_open.wait(10)
        if 13 in batch:
            raise ValueError("13 is refused")
        return doubled(batch)


def rows(*numbers: int, width: int = 1) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)[:, None].repeat(width, axis=1)


def while_the_first_runs(
    gate: Gate, calls: Sequence[NDArray[np.int64]], *, max_batch: int
) -> list[Future[NDArray[np.float32]]]:
    """Make the first call, the others in order while it runs, and then let it end."""
    combined = CombinedCalls(gate, max_batch=max_batch)
    with ThreadPoolExecutor(len(calls)) as threads:
        futures = [threads.submit(combined, calls[0])]
        assert gate.is_entered.wait(10)
        for num_waiting, call in enumerate(calls[1:], start=1):
            futures.append(threads.submit(combined, call))
            while len(combined._waiting) < num_waiting:
                time.sleep(0.001)
        gate.is_open.set()
    return futures


def test_every_caller_gets_its_own_rows() -> None:
    combined = CombinedCalls(doubled, max_batch=4)
    calls = [rows(*range(start, start + 1 + start % 3)) for start in range(400)]
    with ThreadPoolExecutor(16) as threads:
        results = list(threads.map(combined, calls))
    for call, result in zip(calls, results, strict=True):
        np.testing.assert_array_equal(result, 2 * call)


def test_calls_that_wait_become_batches_in_order_and_not_above_the_maximum() -> None:
    gate = Gate()
    futures = while_the_first_runs(gate, [rows(number) for number in range(8)], max_batch=3)
    assert gate.batches == [[0], [1, 2, 3], [4, 5, 6], [7]]
    assert [future.result().tolist() for future in futures] == [[[2.0 * number]] for number in range(8)]


def test_a_call_larger_than_the_maximum_runs_alone() -> None:
    gate = Gate()
    while_the_first_runs(gate, [rows(0), rows(1), rows(2, 3, 4), rows(5)], max_batch=2)
    assert gate.batches == [[0], [1], [2, 3, 4], [5]]


def test_rows_of_unequal_shape_are_not_in_one_batch() -> None:
    gate = Gate()
    calls = [rows(0), rows(1), rows(2, width=2), rows(3, width=2), rows(4)]
    futures = while_the_first_runs(gate, calls, max_batch=8)
    assert gate.batches == [[0], [1], [2, 3], [4]]
    assert [future.result().shape for future in futures] == [(1, 1), (1, 1), (1, 2), (1, 2), (1, 1)]


def test_a_call_that_fails_fails_alone() -> None:
    gate = Gate()
    futures = while_the_first_runs(gate, [rows(0), rows(12), rows(13), rows(14), rows(15)], max_batch=8)
    assert [type(future.exception()) for future in futures] == [type(None), type(None), ValueError, *[type(None)] * 2]
    assert [future.result().tolist() for future in futures if future.exception() is None] == [
        [[0]],
        [[24]],
        [[28]],
        [[30]],
    ]


def test_after_a_failure_the_next_call_is_answered() -> None:
    gate = Gate()
    gate.is_open.set()
    combined = CombinedCalls(gate, max_batch=2)
    with pytest.raises(ValueError, match="13 is refused"):
        combined(rows(13))
    assert combined(rows(4)).tolist() == [[8.0]]


def test_the_function_is_never_called_twice_at_once() -> None:
    at_work = threading.Lock()

    def alone(batch: NDArray[np.int64]) -> NDArray[np.float32]:
        assert at_work.acquire(blocking=False)
        try:
            return doubled(batch)
        finally:
            at_work.release()

    combined = CombinedCalls(alone, max_batch=4)
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(combined, [rows(number) for number in range(500)]))
    assert [result[0, 0] for result in results] == [2.0 * number for number in range(500)]


def test_a_maximum_of_no_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="max_batch must be at least 1, got 0"):
        CombinedCalls(doubled, max_batch=0)
