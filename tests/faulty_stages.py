"""Stages that go wrong in C, or seem to, as decoders do: each at the video whose id says what is to happen."""

import ctypes
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from curation.model import Clip, Video, VideoTask
from curation.pipeline import Stage
from curation.resident import ResidentModel
from curation.video.progress import alive

MIB: Final = 2**20


def spin() -> None:
    """In C, with the interpreter locked: no thread of the process can say anything any more."""
    re.match(r"(a+)+$", "a" * 64 + "b")


def hang() -> None:
    """Sleeps in C for ever, interpreter unlocked."""
    while True:
        ctypes.CDLL(None).pause()


def segfault() -> None:
    ctypes.string_at(0)


def leak() -> None:
    """Takes more and more, and seems to be alive and well."""
    held = []
    while True:
        held.append(bytearray(16 * MIB))
        alive()


def crawl() -> None:
    """Says that it goes on, for ever."""
    while True:
        alive()
        time.sleep(0.02)


def leave() -> None:
    os._exit(7)


def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS: Final[dict[str, Callable[[], None]]] = {
    fault.__name__: fault for fault in (spin, hang, segfault, leak, crawl, leave, is_killed)
}


class Faulty(Stage):
    """A video whose id is the name of a fault, whatever its suffix, meets it; others pass."""

    name = "faulty"
    in_child = True

    def process(self, task: VideoTask) -> Iterator[VideoTask]:
        FAULTS.get(Path(task.data.id).stem, lambda: None)()
        yield task


class Chunks(Stage):
    """Gives three chunks of a video; ``dies_once`` and ``dies_always`` die after the second."""

    name = "chunks"
    in_child = True

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def process(self, task: VideoTask) -> Iterator[VideoTask]:
        for index in range(3):
            if index == 2 and (task.data.id == "dies_always" or self._dies_now(task.data.id)):
                is_killed()
            video = Video(task.data.input_video, bytes(200_000), id=task.data.id, clip_chunk_index=index)
            video.num_clip_chunks = 3 if index == 2 else 0
            yield VideoTask(task.task_id, "test", video)

    def _dies_now(self, video_id: str) -> bool:
        if video_id != "dies_once" or self._marker.exists():
            return False
        self._marker.touch()
        return True


class LeavesBehind(Stage):
    """Holds on to 100 MiB of each video: what one alone may take, two together may not."""

    name = "leaves_behind"
    in_child = True
    held: Final[list[bytearray]] = []

    def process(self, task: VideoTask) -> Iterator[VideoTask]:
        self.held.append(bytearray(100 * MIB))
        yield task


class Adding(ResidentModel):
    """Adds what it was set up with; knows in which process it is."""

    def __init__(self) -> None:
        self.number = 0
        self.pids: set[int] = set()

    def setup(self) -> None:
        self.number = 5

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        self.pids.add(os.getpid())
        if batch.max() > 1e6:
            raise ValueError("numbers too large")
        return batch + np.float32(self.number)


class Asking(Stage):
    """Asks the model for the sum of the number in the video's id and 5, for a small and a large batch."""

    name = "asking"
    in_child = True

    def __init__(self, model: Adding) -> None:
        self._model = model

    def setup(self) -> None:
        self._model.setup()

    def process(self, task: VideoTask) -> Iterator[VideoTask]:
        number = float(task.data.id)
        small = self._model(np.array([number], np.float32))
        large = self._model(np.full((300, 1000), number, np.float32))
        task.data.errors["sum"] = f"{small[0]:g} {large.shape} {large.min():g} {large.max():g} {os.getpid()}"
        yield task


class Carrying(Stage):
    """Puts bytes and arrays of all sizes on a clip."""

    name = "carrying"
    in_child = True

    def process(self, task: VideoTask) -> Iterator[VideoTask]:
        clip = task.data.clips[0]
        carried: Clip = clip
        carried.buffer = bytes(range(256)) * 4000
        carried.extracted_frames["large"] = np.arange(60_000 * 3, dtype=np.uint8).reshape(300, 200, 3)
        carried.extracted_frames["turned"] = np.arange(90_000, dtype=np.uint8).reshape(300, 300).T
        carried.extracted_frames["small"] = np.zeros((2, 3), np.uint8)
        carried.extracted_frames["none"] = np.zeros((0, 3), np.uint8)
        yield task
