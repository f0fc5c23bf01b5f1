"""Runs the workers of an attempt on this machine, in slots with GPUs of their own, then what makes the dataset."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.exits import DONE, FAILED, INCOMPLETE
from jobs.ledger import is_here, read_events, whoami
from jobs.local_gpus import VISIBLE
from jobs.local_packing import LocalPackers
from jobs.local_state import LocalState, end_aggregations, end_process, is_running, kill_group, live_workers
from jobs.rundir import RunDir
from jobs.submission import StoppedError

logger = logging.getLogger(__name__)

STOP_GRACE_S = 25.0  # a worker ends within 20 s of its signal
_LOOK_EVERY_S = 0.1
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class _Worker:
    """A worker of this executor, or (``process`` None) one that a dead executor left."""

    shard: int
    slot: int
    identity: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None


class LocalExecutor:
    """One worker for each slot at once; a worker that something kills is started again.

    Args:
        slots: ``CUDA_VISIBLE_DEVICES`` of each slot; None leaves it as it is.
        max_attempts: how often in a row a worker may die without a video that ended, and be started again.
        timeout_s: after so long without a heartbeat a worker of another machine is dead.
        num_pack_tasks: processes that pack the dataset after the aggregation; 0: that does it itself.
    """

    def __init__(
        self,
        run: RunDir,
        attempt: int,
        slots: Sequence[str | None],
        *,
        max_attempts: int,
        timeout_s: float,
        num_pack_tasks: int = 0,
    ) -> None:
        self._run, self._attempt, self._slots = run, attempt, list(slots)
        self._max_attempts, self._timeout_s = max_attempts, timeout_s
        self._num_pack_tasks = num_pack_tasks
        self._logs = run.logs_path / f"attempt-{attempt:03d}"
        self._waiting: deque[int] = deque()
        self._running: list[_Worker] = []
        self._deaths: Counter[int] = Counter()
        self._num_ended: Counter[int] = Counter()
        self._num_signals = 0
        self._signals_sent = 0
        self._kill_at = float("inf")
        self._environment = _environment()
        self.state = LocalState(whoami(), self._slots)

    def work(self, shards: Sequence[int]) -> int:
        """Run all shards to their ends, then the aggregation and what packs its dataset; gives the run's exit code.

        Raises:
            StoppedError: a signal came; the workers have ended, and the run can be resumed.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        self._waiting.extend(shards)
        with _on_stop_signals(self._count_signal):
            end_aggregations(self._run)
            self._adopt()
            try:
                self._run_workers()
            except BaseException:
                self._signal_workers(signal.SIGTERM)
                raise
            code = self._make_dataset() if not self._num_signals else INCOMPLETE
        self.state.code, self.state.was_stopped = code, bool(self._num_signals)
        self._write_state()
        if self.state.was_stopped:
            raise stopped(self._run, self._attempt)
        return code

    def _adopt(self) -> None:
        """Workers that outlived their executor keep their slots until they end."""
        free = list(range(len(self._slots)))
        for shard, identity in sorted(live_workers(self._run, timeout_s=self._timeout_s).items()):
            known = identity.get("slot")
            slot = known if known in free else min(free, default=len(self._slots))
            free = [other for other in free if other != slot]
            logger.warning("event=worker_kept shard=%d pid=%s host=%s", shard, identity["pid"], identity.get("host"))
            self._running.append(_Worker(shard, slot, {**identity, "slot": slot}))
        self._write_state()

    def _run_workers(self) -> None:
        while self._waiting or self._running:
            self._pass_signals_on()
            self._reap()
            busy = {worker.slot for worker in self._running}
            for slot in range(len(self._slots)):
                if slot not in busy and self._waiting:
                    self._start(self._waiting.popleft(), slot)
            if self._running:
                time.sleep(_LOOK_EVERY_S)

    def _start(self, shard: int, slot: int) -> None:
        arguments = ["--run", str(self._run.root), "--shard", str(shard), "--attempt", str(self._attempt)]
        process = self._start_module("jobs.worker", arguments, self._logs / f"shard-{shard:05d}.log", slot)
        self._running.append(_Worker(shard, slot, {**whoami(process.pid), "slot": slot}, process))
        self._write_state()

    def _start_module(self, module: str, arguments: list[str], log: Path, slot: int | None) -> subprocess.Popen[bytes]:
        """A process of its own group: a Ctrl-C is for this process, and its children can be ended with it."""
        environment = dict(self._environment)
        gpus = self._slots[slot] if slot is not None else None
        if gpus is not None:
            environment[VISIBLE] = gpus
            environment.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # the numbers are nvidia-smi's, not CUDA's own
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )

    def _reap(self) -> None:
        """Take note of the workers that have ended, however they did, and of their children."""
        for worker in list(self._running):
            if worker.process is not None:
                code = _ended_code(worker.process)
                is_over = code is not None
            else:
                code = None
                is_over = not is_running(self._run, worker.shard, worker.identity, timeout_s=self._timeout_s)
            if is_over:
                self._running.remove(worker)
                self._after(worker, code)
                self._write_state()

    def _after(self, worker: _Worker, code: int | None) -> None:
        """Start a worker again that something killed; one that ended by itself, well or not, had its say."""
        log = self._logs / f"shard-{worker.shard:05d}.log"
        if code == FAILED:
            logger.warning("event=worker_failed shard=%d log=%s", worker.shard, log)
        if code is None or code in (DONE, FAILED, INCOMPLETE) or self._num_signals:
            return
        events = read_events(self._run.shard_state_path(worker.shard))
        num_ended = sum(event["event"] in {"done", "failed"} for event in events)
        if num_ended > self._num_ended[worker.shard]:
            self._num_ended[worker.shard], self._deaths[worker.shard] = num_ended, 0
        self._deaths[worker.shard] += 1
        is_again = self._deaths[worker.shard] <= self._max_attempts
        if is_again:
            self._waiting.appendleft(worker.shard)
        then = "started again" if is_again else "left to resume"
        logger.warning("event=worker_died shard=%d code=%d: %s; log=%s", worker.shard, code, then, log)

    def _make_dataset(self) -> int:
        packers = ["--pack-tasks", str(self._num_pack_tasks)] if self._num_pack_tasks else []
        code = self._run_alone("jobs.aggregation", packers, "aggregation.log")
        if not self._num_pack_tasks or self._num_signals:
            return code
        self._pack()
        return self._run_alone("jobs.packing", ["--finish"], "finishing.log") if not self._num_signals else INCOMPLETE

    def _pack(self) -> None:
        def start(task: int) -> subprocess.Popen[bytes]:
            arguments = ["--run", str(self._run.root), "--task", str(task)]
            return self._start_module("jobs.packing", arguments, self._logs / f"packing-{task:05d}.log", None)

        packers = LocalPackers(
            self._num_pack_tasks,
            num_at_once=len(self._slots),
            start=start,
            ended_code=_ended_code,
            max_attempts=self._max_attempts,
        )
        while not packers.is_over:
            if packers.step():
                self.state.packers = packers.identities
                self._write_state()
            if self._num_signals:
                packers.kill()
            time.sleep(_LOOK_EVERY_S)

    def _run_alone(self, module: str, arguments: list[str], log: str) -> int:
        """Run the aggregation, or what comes after the packers, to its end; gives its code."""
        process = self._start_module(module, ["--run", str(self._run.root), *arguments], self._logs / log, None)
        self.state.aggregation = whoami(process.pid)
        self._write_state()
        while (code := _ended_code(process)) is None:
            if self._num_signals:
                kill_group(process.pid)  # its files appear whole or not at all
            time.sleep(_LOOK_EVERY_S)
        return code if code >= 0 else FAILED

    def _count_signal(self, number: int, _frame: object) -> None:
        self._num_signals += 1

    def _pass_signals_on(self) -> None:
        """The first signal asks the workers to end; the second, or their time running out, ends them."""
        if not self._num_signals:
            return
        self._waiting.clear()
        if not self._signals_sent:
            self._kill_at = time.monotonic() + STOP_GRACE_S
            self._signal_workers(signal.SIGTERM)
            logger.warning("event=stopping workers=%d: they finish what is nearly done", len(self._running))
        elif self._num_signals > 1 or time.monotonic() > self._kill_at:
            self._signal_workers(signal.SIGKILL)
        self._signals_sent = self._num_signals
        # nobody waits for a worker of another machine, which can't be ended from here
        self._running = [worker for worker in self._running if is_here(worker.identity)]

    def _signal_workers(self, number: int) -> None:
        for worker in self._running:
            end_process(worker.identity, number)

    def _write_state(self) -> None:
        self.state.running = {worker.shard: worker.identity for worker in self._running}
        self.state.write(self._run, self._attempt)


def stopped(run: RunDir, attempt: int) -> StoppedError:
    """What is said of a run that a signal or `cancel` ended."""
    return StoppedError(f"attempt {attempt} was stopped; go on with: clipmill resume {run.root}")


def _ended_code(process: subprocess.Popen[bytes]) -> int | None:
    """How a child ended, None while it runs; what it has left of its own children ends with it."""
    if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        return None
    kill_group(process.pid)  # before its number is free for others
    return process.wait()


def _environment() -> Mapping[str, str]:
    """This machine may be a login node inside somebody's allocation: its job is not ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}


@contextmanager
def _on_stop_signals(call: Any) -> Iterator[None]:
    """Without this a signal would end this process alone. What is ignored (nohup) stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, call)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
