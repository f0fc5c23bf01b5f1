"""The continuous queue: replies find their requests, engines that die are replaced, and nobody waits for a batch."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from curation.captioning.queue import CaptionQueue, QueueClosedError, StartEngine
from curation.captioning.requests import CaptionReply, CaptionRequest, EngineDiedError, EngineStartError
from tests.captioning.engines import ScriptedEngine, scripted
from tests.patience import PATIENCE_S


@contextmanager
def opened(*starts: StartEngine, **settings: float) -> Iterator[CaptionQueue]:
    queue = CaptionQueue(starts, **settings)  # type: ignore[arg-type]
    try:
        yield queue
    finally:
        queue.close()


def asked(queue: CaptionQueue, **texts: str) -> dict[str, CaptionReply]:
    """The replies to texts by id, asked all at once."""
    futures = {name: queue.submit(CaptionRequest(name, text)) for name, text in texts.items()}
    return {name: future.result(timeout=PATIENCE_S) for name, future in futures.items()}


def test_each_request_gets_its_own_reply() -> None:
    with opened(scripted([])) as queue:
        replies = asked(queue, **{f"window{k}": f"text {k}" for k in range(200)})
    assert {name: reply.text for name, reply in replies.items()} == {f"window{k}": f"text {k}" for k in range(200)}


def test_a_request_that_kills_engines_fails_alone() -> None:
    log: list[str] = []
    with opened(scripted(log)) as queue:
        texts = {f"good{k}": "fine" for k in range(5)} | {"bad": "kills"} | {f"more{k}": "fine" for k in range(5)}
        replies = asked(queue, **texts)
        assert queue.use.num_restarts == 3
    assert {name for name, reply in replies.items() if reply.status == "error"} == {"bad"}
    assert "died 3 times" in replies["bad"].reason
    assert "segmentation fault" in replies["bad"].reason


def test_two_requests_that_kill_engines_fail_and_the_others_do_not() -> None:
    with opened(scripted([])) as queue:
        replies = asked(queue, a="fine", b="kills", c="fine", d="kills", e="fine")
    assert {name: reply.status for name, reply in replies.items()} == {
        "a": "success", "b": "error", "c": "success", "d": "error", "e": "success"
    }  # fmt: skip


def test_what_was_in_flight_when_an_engine_died_once_is_answered_by_the_next() -> None:
    log: list[str] = []
    died = threading.Event()

    class Dying(ScriptedEngine):
        def step(self) -> list[CaptionReply]:
            if not died.is_set():
                died.set()
                raise EngineDiedError("out of memory")
            return super().step()

    with opened(lambda: Dying(log)) as queue:
        replies = asked(queue, a="one", b="two", c="three")
        assert queue.use.num_restarts == 1
    assert [reply.text for reply in replies.values()] == ["one", "two", "three"]
    assert log.count("start") == 2


def test_engines_that_all_die_without_an_answer_end_the_run() -> None:
    with opened(scripted([])) as queue:
        futures = [queue.submit(CaptionRequest(f"{k}", "kills")) for k in range(40)]
        with pytest.raises(EngineStartError, match="6 times without one answer"):
            futures[-1].result(timeout=PATIENCE_S)
        with pytest.raises(EngineStartError):
            queue.submit(CaptionRequest("later", "fine"))


def test_an_engine_that_can_not_be_started_ends_the_run_after_three_tries() -> None:
    tries: list[int] = []

    def start() -> ScriptedEngine:
        tries.append(1)
        raise OSError("no such device")

    with opened(start) as queue:
        future = queue.submit(CaptionRequest("a", "fine"))
        with pytest.raises(EngineStartError, match="no such device"):
            future.result(timeout=PATIENCE_S)
    assert len(tries) == 3


def test_an_engine_that_hangs_is_ended_and_replaced() -> None:
    with opened(scripted([]), stall_timeout_s=0.5) as queue:
        replies = asked(queue, a="fine", b="hangs", c="fine")
    assert {name: reply.status for name, reply in replies.items()} == {"a": "success", "b": "error", "c": "success"}


def test_an_engine_that_was_suspended_with_its_worker_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    really, slept_s = time.monotonic, 0.0
    monkeypatch.setattr("curation.captioning.queue.time.monotonic", lambda: really() + slept_s)
    at_work, may_end = threading.Event(), threading.Event()

    class Working(ScriptedEngine):
        def step(self) -> list[CaptionReply]:
            at_work.set()
            may_end.wait(PATIENCE_S)
            return super().step()

        def kill(self) -> None:
            raise AssertionError("it did not hang")

    with opened(lambda: Working([])) as queue:
        reply = queue.submit(CaptionRequest("a", "fine"))
        assert at_work.wait(PATIENCE_S)
        slept_s = 3600.0
        time.sleep(3.0)  # the watch looks every second
        may_end.set()
        assert reply.result(timeout=PATIENCE_S).status == "success"
        assert queue.use.num_restarts == 0


def test_a_request_goes_in_while_others_are_under_way() -> None:
    """No barrier: with one slow request in the engine, quick ones that come later are answered before it."""
    may_end = threading.Event()

    class OneSlow(ScriptedEngine):
        def step(self) -> list[CaptionReply]:
            ready = [r for r in self._asked.values() if r.text != "slow" or may_end.is_set()]
            for request in ready:
                del self._asked[request.id]
            time.sleep(0.001)
            return [CaptionReply(r.id, r.text, "success") for r in ready]

    with opened(lambda: OneSlow([])) as queue:
        slow = queue.submit(CaptionRequest("slow", "slow"))
        quick = [queue.submit(CaptionRequest(f"{k}", "quick")).result(timeout=PATIENCE_S) for k in range(20)]
        assert not slow.done()
        may_end.set()
        assert slow.result(timeout=PATIENCE_S).text == "slow"
    assert all(reply.status == "success" for reply in quick)


def test_no_more_requests_are_in_an_engine_than_it_takes() -> None:
    log: list[str] = []
    with opened(scripted(log), max_in_engine=3) as queue:
        asked(queue, **{f"w{k}": "fine" for k in range(20)})
    assert max(len(line.split()) - 1 for line in log if line.startswith("step")) <= 3


def test_several_engines_share_one_queue() -> None:
    first: list[str] = []
    second: list[str] = []
    with opened(scripted(first), scripted(second), max_in_engine=2) as queue:
        replies = asked(queue, **{f"w{k}": f"text {k}" for k in range(100)})
    assert [reply.text for reply in replies.values()] == [f"text {k}" for k in range(100)]


def test_resting_engines_end_and_start_again_when_they_are_wanted() -> None:
    log: list[str] = []
    with opened(scripted(log)) as queue:
        asked(queue, a="fine")
        queue.rest()
        assert log[-1] == "close"
        waiting = queue.submit(CaptionRequest("b", "later"))
        time.sleep(0.2)
        assert not waiting.done()
        assert log.count("start") == 1
        queue.wake()
        assert waiting.result(timeout=PATIENCE_S).text == "later"
    assert log.count("start") == 2
    assert log[-1] == "close"


def test_a_reply_to_nobody_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    class Confused(ScriptedEngine):
        def step(self) -> list[CaptionReply]:
            return [CaptionReply("somebody else's", "wrong", "success"), *super().step()]

    with opened(lambda: Confused([])) as queue:
        assert asked(queue, a="right")["a"].text == "right"
    assert "unknown_reply" in caplog.text


def test_two_requests_with_one_id_are_not_taken() -> None:
    with opened(scripted([])) as queue:
        queue.rest()
        queue.submit(CaptionRequest("a", "fine"))
        with pytest.raises(ValueError, match="under way"):
            queue.submit(CaptionRequest("a", "fine"))


def test_closing_lets_nobody_wait() -> None:
    queue = CaptionQueue([scripted([])])
    queue.rest()
    future = queue.submit(CaptionRequest("a", "fine"))
    queue.close()
    with pytest.raises(QueueClosedError):
        future.result(timeout=PATIENCE_S)
    with pytest.raises(QueueClosedError):
        queue.submit(CaptionRequest("b", "fine"))


def test_many_threads_that_ask_at_once_get_their_own_replies() -> None:
    wrong: list[str] = []

    def ask_some(queue: CaptionQueue, thread: int) -> None:
        rng = random.Random(thread)
        for k in range(30):
            name = f"{thread}-{k}"
            reply = queue.submit(CaptionRequest(name, f"text of {name}")).result(timeout=PATIENCE_S)
            if reply.text != f"text of {name}":
                wrong.append(name)
            time.sleep(rng.random() * 0.001)

    with opened(scripted([]), scripted([])) as queue:
        threads = [threading.Thread(target=ask_some, args=(queue, k)) for k in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
