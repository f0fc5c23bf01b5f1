"""The queues between stages: bounded, so that memory grows neither with the length nor with the number of videos."""

import queue
import threading
import time

from curation.model import VideoTask

MAX_QUEUED_TASKS = 2
_POLL_S = 0.1  # how soon a waiting thread notices that the pipeline was stopped


class ByteBoundedQueue:
    """A first-in, first-out queue of few tasks and few bytes; one task may be larger by itself.

    Bytes bound the memory, tasks bound how many videos are begun and unfinished when a worker dies.
    """

    def __init__(self, max_bytes: int, stop: threading.Event, *, max_tasks: int = MAX_QUEUED_TASKS) -> None:
        self._tasks: queue.SimpleQueue[tuple[VideoTask | None, int]] = queue.SimpleQueue()
        self._room = threading.Condition()
        self._max_bytes, self._max_tasks = max_bytes, max_tasks
        self._held_bytes = 0
        self._held_tasks = 0
        self._stop = stop

    def put(self, task: VideoTask | None) -> bool:
        """Wait for room and add a task (None: the end); False when the pipeline was stopped meanwhile."""
        num_bytes = task.data.get_major_size() if task is not None else 0
        with self._room:
            while not self._has_room(num_bytes):
                if self._stop.is_set():
                    return False
                self._room.wait(_POLL_S)
            self._held_bytes += num_bytes
            self._held_tasks += 1
        self._tasks.put((task, num_bytes))
        return not self._stop.is_set()

    @property
    def num_tasks(self) -> int:
        """Tasks in it now, the end among them."""
        return self._held_tasks

    def _has_room(self, num_bytes: int) -> bool:
        fits = self._held_tasks < self._max_tasks and self._held_bytes + num_bytes <= self._max_bytes
        return fits or self._held_tasks == 0

    def get(self, *, timeout_s: float | None = None) -> VideoTask | None:
        """Wait for the next task; None at the end, or when the pipeline was stopped.

        Raises:
            TimeoutError: nothing came for so long.
        """
        began = time.monotonic()
        while not self._stop.is_set():
            try:
                return self._taken(*self._tasks.get(timeout=_POLL_S))
            except queue.Empty:
                if timeout_s is not None and time.monotonic() - began > timeout_s:
                    raise TimeoutError from None
        return None

    def get_present(self, max_tasks: int) -> list[VideoTask]:
        """At most so many of the tasks that are there now; waits for none."""
        present: list[VideoTask] = []
        while len(present) < max_tasks:
            try:
                task, num_bytes = self._tasks.get_nowait()
            except queue.Empty:
                break
            if self._taken(task, num_bytes) is None:
                self.put(None)  # the end is seen again by who waits
                break
            assert task is not None
            present.append(task)
        return present

    def _taken(self, task: VideoTask | None, num_bytes: int) -> VideoTask | None:
        with self._room:
            self._held_bytes -= num_bytes
            self._held_tasks -= 1
            self._room.notify_all()
        return task
