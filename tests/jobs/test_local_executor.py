"""Runs on this machine: slots, order, GPUs, and what is left when somebody ends or kills any of it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from jobs import exits
from jobs.config import load_config
from jobs.ledger import Lease, whoami
from jobs.local_state import end_aggregations, end_process, executor_lease_path, live_workers, read_state
from jobs.planning import plan_run
from jobs.rundir import RunDir
from tests.local_runs import ROOT, clipmill, digests, events, make_videos, wait_for, write_config
from tests.patience import PATIENCE_S

NUM_VIDEOS = 4

DIARY = """\
import atexit, json, os, sys, time

def note(what):
    line = json.dumps({"what": what, "time": time.time(), "pid": os.getpid(), "module": sys.orig_argv[2],
        "arguments": sys.orig_argv[3:], "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")})
    with open(os.environ["DIARY"], "a") as file:
        file.write(line + "\\n")

if sys.orig_argv[1:2] == ["-m"] and sys.orig_argv[2] in ("jobs.worker", "jobs.aggregation"):
    note("begin")
    if os.environ.get("DIES") and ["--shard", os.environ["DIES"]] == sys.orig_argv[5:7]:
        os.kill(os.getpid(), 9)
    atexit.register(note, "end")
"""


@dataclass
class Process:
    """A worker or an aggregation, as it saw itself."""

    module: str
    pid: int
    gpus: str | None
    shard: int | None
    begin: float
    end: float = float("inf")


@dataclass
class Machine:
    """Starts commands, whose workers keep a diary of when they ran and with which GPUs."""

    folder: Path
    config: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def run(self) -> RunDir:
        return RunDir(self.folder / "run")

    def environment(self, **more: str) -> dict[str, str]:
        path = f"{self.folder / 'diary'}:{ROOT}"
        return {**os.environ, "PYTHONPATH": path, "DIARY": str(self.folder / "diary.jsonl"), **more}

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "jobs.cli", *arguments]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment(**more),
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def processes(self, module: str = "jobs.worker") -> list[Process]:
        path = self.folder / "diary.jsonl"
        found: dict[int, Process] = {}
        for note in map(json.loads, path.read_text().splitlines() if path.exists() else []):
            if note["what"] == "end":
                found[note["pid"]].end = note["time"]
            else:
                shard = int(note["arguments"][3]) if note["module"] == "jobs.worker" else None
                found[note["pid"]] = Process(note["module"], note["pid"], note["gpus"], shard, note["time"])
        return [each for each in found.values() if each.module == module]

    def hold_first_worker(self) -> int:
        """Stop the worker of shard 0, with its lease held, so that it is alive as long as a test wants."""
        wait_for(self.run.lease_path(0).is_file)
        pid = int(json.loads(self.run.lease_path(0).read_text())["pid"])
        os.kill(pid, signal.SIGSTOP)
        return pid

    def clean_up(self) -> None:
        """End what a test that failed has left."""
        for process in self.started:
            process.kill()
            process.communicate()
        if self.run.config_path.exists():
            end_aggregations(self.run)
            for holder in live_workers(self.run, timeout_s=60.0).values():
                end_process(holder, signal.SIGKILL)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code of a command, and all that it said."""
    out, err = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in err, err
    return process.returncode, out + err


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("raw"), NUM_VIDEOS, num_frames=20)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> dict[str, str]:
    """Digests of what a run leaves that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = clipmill("run", str(write_config(folder, raw)))
    assert done.returncode == exits.DONE, done.stderr
    return digests(folder / "out")


@pytest.fixture
def machine(tmp_path: Path, raw: Path) -> Iterator[Machine]:
    """A run of two shards of two videos each, one worker at once."""
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "sitecustomize.py").write_text(DIARY)
    made = Machine(tmp_path, write_config(tmp_path, raw, plan={"num_shards": 2}, worker={"videos_at_once": 1}))
    yield made
    made.clean_up()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def is_pending(pid: int, number: int) -> bool:
    """Whether a stopped process will hear a signal when it goes on."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [mask] = [int(line.split()[1], 16) for line in lines if line.startswith("ShdPnd:")]
    return bool(mask >> (number - 1) & 1)


def starts_of(run: RunDir, shard: int) -> int:
    return [event["event"] for event in events(run, shard)].count("start")


def test_slots_gpus_and_the_aggregation_after_everything(machine: Machine) -> None:
    settings = ("plan.num_shards=4", "local.parallel_shards=2", "local.gpus=[4,5,6,7]", "slurm.gpus_per_task=2")
    options = [f"--set={setting}" for setting in settings]
    code, said = ended(machine.start("run", str(machine.config), *options))
    assert code == exits.DONE, said
    workers = machine.processes()
    assert sorted(worker.shard or 0 for worker in workers) == [0, 1, 2, 3]
    assert {worker.gpus for worker in workers} == {"4,5", "6,7"}
    for gpus in ("4,5", "6,7"):
        turns = sorted((worker.begin, worker.end) for worker in workers if worker.gpus == gpus)
        assert all(first[1] <= second[0] for first, second in pairwise(turns))
    [aggregation] = machine.processes("jobs.aggregation")
    assert aggregation.begin >= max(worker.end for worker in workers)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_run_that_is_interrupted_ends_its_workers_and_says_how_to_go_on(
    machine: Machine, undisturbed: dict[str, str], number: signal.Signals
) -> None:
    process = machine.start("run", str(machine.config))
    wait_for(machine.run.lease_path(0).is_file)
    process.send_signal(number)
    code, said = ended(process)
    assert code == exits.INCOMPLETE
    assert f"clipmill resume {machine.run.root}" in said
    assert [each.shard for each in machine.processes()] == [0]  # no further one was started
    assert not any(is_alive(each.pid) for each in machine.processes())
    assert machine.processes("jobs.aggregation") == []
    if number == signal.SIGINT:
        code, said = ended(machine.start("resume", str(machine.run.root)))
        assert code == exits.DONE, said
        assert digests(machine.folder / "out") == undisturbed


def test_a_second_interrupt_does_not_wait(machine: Machine) -> None:
    process = machine.start("run", str(machine.config))
    worker = machine.hold_first_worker()  # it can't hear the first
    process.send_signal(signal.SIGINT)
    assert "event=stopping" in (process.stderr.readline() if process.stderr else "")
    assert is_alive(worker)
    process.send_signal(signal.SIGINT)
    assert ended(process)[0] == exits.INCOMPLETE
    assert not is_alive(worker)


@pytest.mark.parametrize("executor", ["alive", "dead"])
def test_cancel_ends_executor_and_workers_and_the_run_can_be_resumed(
    machine: Machine, undisturbed: dict[str, str], executor: str
) -> None:
    process = machine.start("run", str(machine.config))
    worker = machine.hold_first_worker()
    if executor == "dead":
        process.kill()
        process.wait()
    cancel = machine.start("cancel", str(machine.run.root))
    wait_for(lambda: is_pending(worker, signal.SIGTERM))
    os.kill(worker, signal.SIGCONT)
    code, said = ended(cancel)
    assert code == exits.DONE
    assert f"clipmill resume {machine.run.root}" in said
    assert f"cancelled {2 if executor == 'alive' else 1} jobs" in said
    assert not is_alive(worker)
    if executor == "alive":
        assert ended(process)[0] == exits.INCOMPLETE
    assert live_workers(machine.run, timeout_s=60.0) == {}
    if executor == "dead":  # alive, it leaves what an interrupted one does
        code, said = ended(machine.start("resume", str(machine.run.root)))
        assert code == exits.DONE, said
        assert digests(machine.folder / "out") == undisturbed


def test_a_worker_that_outlives_its_executor_is_waited_for_and_not_doubled(
    machine: Machine, undisturbed: dict[str, str]
) -> None:
    process = machine.start("run", str(machine.config))
    worker = machine.hold_first_worker()
    process.kill()
    process.wait()
    again = machine.start("run", str(machine.config))
    wait_for(lambda: read_state(machine.run, 2) is not None if len(machine.run.attempts()) > 1 else False)
    state = read_state(machine.run, 2)
    assert state is not None
    assert {shard: each["pid"] for shard, each in state.running.items()} == {0: worker}  # it keeps the only slot
    os.kill(worker, signal.SIGCONT)
    code, said = ended(again)
    assert code == exits.DONE, said
    assert starts_of(machine.run, 0) == 1
    first, *rest = machine.processes()
    assert [each.shard for each in rest] == [2, 3]  # what the first was not at, in shards of their own
    assert first.end <= min(each.begin for each in rest)
    assert digests(machine.folder / "out") == undisturbed


def test_a_run_that_is_at_work_is_followed_to_its_end(machine: Machine) -> None:
    first = machine.start("run", str(machine.config))
    worker = machine.hold_first_worker()
    jobs = json.loads(machine.run.jobs_path(1).read_text())["jobs"]  # written before the first worker starts
    names = [(job["job_id"], job["shard"]) for job in jobs]
    assert names == [("local-1-0", 0), ("local-1-1", 1), ("local-1-aggregation", None)]
    others = [machine.start("run", str(machine.config)), machine.start("resume", str(machine.run.root))]
    for other in others:
        assert f"event=following pid={first.pid} " in (other.stderr.readline() if other.stderr else "")
    os.kill(worker, signal.SIGCONT)
    for process in (first, *others):
        code, said = ended(process)
        assert code == exits.DONE
        assert "4 videos done, 0 failed, 0 missing" in said
    assert machine.run.attempts() == [1]
    assert [each.shard for each in machine.processes()] == [0, 1]


def test_who_follows_a_run_that_is_stopped_ends_with_its_code(machine: Machine) -> None:
    first = machine.start("run", str(machine.config))
    worker = machine.hold_first_worker()
    other = machine.start("run", str(machine.config))
    assert "event=following" in (other.stderr.readline() if other.stderr else "")
    os.kill(worker, signal.SIGCONT)
    first.terminate()
    assert ended(first)[0] == exits.INCOMPLETE
    code, said = ended(other)
    assert code == exits.INCOMPLETE
    assert f"clipmill resume {machine.run.root}" in said


def test_who_follows_a_run_whose_executor_is_killed_goes_on_with_it(
    machine: Machine, undisturbed: dict[str, str]
) -> None:
    first = machine.start("run", str(machine.config))
    worker = machine.hold_first_worker()
    other = machine.start("run", str(machine.config))
    assert "event=following" in (other.stderr.readline() if other.stderr else "")
    first.kill()
    first.wait()
    os.kill(worker, signal.SIGCONT)
    code, said = ended(other)
    assert code == exits.DONE, said
    assert starts_of(machine.run, 0) == 1
    assert digests(machine.folder / "out") == undisturbed


def test_an_aggregation_that_outlives_its_executor_is_not_doubled(
    machine: Machine, undisturbed: dict[str, str]
) -> None:
    process = machine.start("run", str(machine.config))

    def aggregation() -> int | None:
        state = read_state(machine.run, 1)
        return state.aggregation["pid"] if state is not None and state.aggregation is not None else None

    wait_for(lambda: aggregation() is not None)
    pid = aggregation()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    process.kill()
    process.wait()
    code, said = ended(machine.start("run", str(machine.config)))
    assert code == exits.DONE, said
    assert not is_alive(pid)
    assert digests(machine.folder / "out") == undisturbed


def test_a_worker_that_wants_more_gpus_than_there_are_is_refused_with_the_way_out(machine: Machine) -> None:
    gpus = ("--set", "local.gpus=[3]")
    code, said = ended(machine.start("run", str(machine.config), *gpus, "--set", "slurm.gpus_per_task=2"))
    assert code == exits.FAILED
    assert "--set slurm.gpus_per_task=1" in said
    fewer = ("--set=slurm.gpus_per_task=1", "--set=plan.num_shards=1")
    assert ended(machine.start("run", str(machine.config), *gpus, *fewer))[0] == exits.DONE
    assert {worker.gpus for worker in machine.processes()} == {"3"}


def test_a_worker_that_is_killed_is_started_again(machine: Machine, undisturbed: dict[str, str]) -> None:
    process = machine.start("run", str(machine.config))
    wait_for(machine.run.lease_path(0).is_file)
    os.kill(json.loads(machine.run.lease_path(0).read_text())["pid"], signal.SIGKILL)
    code, said = ended(process)
    assert code == exits.DONE, said
    assert "event=worker_died shard=0 code=-9: started again" in said
    assert machine.run.attempts() == [1]
    assert [each.shard for each in machine.processes()] == [0, 0, 1]
    assert digests(machine.folder / "out") == undisturbed


def test_a_worker_that_always_dies_is_left_to_resume_and_the_rest_is_done(machine: Machine) -> None:
    command = ["run", str(machine.config), "--set=worker.max_attempts=2"]
    code, said = ended(machine.start(*command, DIES="0"))
    assert code == exits.INCOMPLETE
    assert "2 videos done, 0 failed, 2 missing" in said
    assert [each.shard for each in machine.processes()] == [0, 0, 0, 1]  # once, and twice more
    assert len(machine.processes("jobs.aggregation")) == 1


def test_a_run_in_the_background_has_a_log_and_is_followed_and_cancelled_as_any_other(machine: Machine) -> None:
    code, said = ended(machine.start("run", str(machine.config), "--detach"))
    assert code == exits.DONE
    holder = json.loads(executor_lease_path(machine.run).read_text())
    assert f"process {holder['pid']}" in said
    assert holder["pid"] != os.getpid()
    code, said = ended(machine.start("run", str(machine.config)))
    assert code == exits.DONE
    assert "4 videos done, 0 failed, 0 missing" in said
    assert machine.run.attempts() == [1]
    wait_for(lambda: not is_alive(holder["pid"]))
    assert "4 videos done, 0 failed, 0 missing" in (machine.run.logs_path / "local.log").read_text()


def test_cancel_names_the_machine_where_a_run_is_at_work(machine: Machine) -> None:
    plan_run(load_config(machine.config))
    lease = Lease(executor_lease_path(machine.run), 60.0)
    assert lease.acquire()
    elsewhere = {**json.loads(lease.path.read_text()), **whoami(), "boot": "another", "host": "node7", "pid": 4242}
    lease.path.write_text(json.dumps(elsewhere))
    code, said = ended(machine.start("cancel", str(machine.run.root)))
    lease.path.write_text(json.dumps({**elsewhere, "token": lease.token}))
    lease.release()
    assert code == exits.FAILED
    assert "node7 (process 4242): cancel it there" in said
