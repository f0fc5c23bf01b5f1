"""Engines that do what an engine does, without a model: they read what is written in the pictures."""

import random
import threading
import time
from collections.abc import Callable

from curation.captioning.requests import CaptionReply, CaptionRequest, EngineDiedError, RequestRefusedError
from tests.synthetic import read_number


class ReadingEngine:
    """Answers with the numbers in the first and last picture: in any order, late, now and then with an error."""

    def __init__(self, *, seed: int = 0, error_rate: float = 0.0, refuse_rate: float = 0.0, death_rate: float = 0.0):
        self._random = random.Random(seed)
        self._error_rate, self._refuse_rate, self._death_rate = error_rate, refuse_rate, death_rate
        self._asked: list[CaptionRequest] = []
        self.most_at_once = 0

    def add(self, request: CaptionRequest) -> None:
        if self._random.random() < self._refuse_rate:
            raise RequestRefusedError("refused by chance")
        self._asked.append(request)
        self.most_at_once = max(self.most_at_once, len(self._asked))

    def step(self) -> list[CaptionReply]:
        time.sleep(self._random.random() * 0.003)
        if self._random.random() < self._death_rate:
            raise EngineDiedError("it died by chance")
        self._random.shuffle(self._asked)
        num_done = self._random.randint(0, len(self._asked))
        done, self._asked = self._asked[:num_done], self._asked[num_done:]
        return [self._reply(request) for request in done]

    def _reply(self, request: CaptionRequest) -> CaptionReply:
        if self._random.random() < self._error_rate:
            return CaptionReply.refused(request.id, "failed by chance")
        return CaptionReply(request.id, caption_of(request), "success", prompt_tokens=100, output_tokens=7)

    def kill(self) -> None:
        pass

    def close(self) -> None:
        self._asked = []


def caption_of(request: CaptionRequest) -> str:
    """What a ReadingEngine says of a request."""
    if request.frames is None:
        return f"more of: {request.text}"
    return f"{read_number(request.frames[0])} to {read_number(request.frames[-1])}: {request.text}"


class ScriptedEngine:
    """Answers each request with its own text; does to a request what it is told by the request's text.

    ``kills``: the engine dies when it is at work on it. ``hangs``: it hangs until it is killed.
    """

    def __init__(self, log: list[str]) -> None:
        self.log = log  # of all engines of a test, in order
        self._asked: dict[str, CaptionRequest] = {}
        self._killed = threading.Event()
        log.append("start")

    def add(self, request: CaptionRequest) -> None:
        self._asked[request.id] = request

    def step(self) -> list[CaptionReply]:
        self.log.append("step " + " ".join(self._asked))
        if any(request.text == "kills" for request in self._asked.values()):
            raise EngineDiedError("segmentation fault")
        if any(request.text == "hangs" for request in self._asked.values()):
            self._killed.wait(30)
            raise EngineDiedError("it was ended")
        done, self._asked = list(self._asked.values()), {}
        return [CaptionReply(request.id, request.text, "success", "", 10, 5) for request in done]

    def kill(self) -> None:
        self._killed.set()

    def close(self) -> None:
        self.log.append("close")


def scripted(log: list[str]) -> Callable[[], ScriptedEngine]:
    """How to start engines that write one log."""
    return lambda: ScriptedEngine(log)
