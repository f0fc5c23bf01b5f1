"""What live workers tell of themselves: where the seconds of their stages go, and what they take."""

import itertools
import logging
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from curation.model import Video, VideoTask
from curation.pipeline import Pipeline, Stage, StageLook
from jobs.ledger import live_leases, whoami
from jobs.live_work import SOURCE, live_work
from jobs.progress import ProgressTeller, ShardProgress, StageSeconds, Work, interval_s, progress_path, read_progress
from jobs.rundir import RunDir
from jobs.status import run_status
from jobs.usage import GpuMeter, Usage, own_cores
from tests.footage import MEDIA
from tests.local_runs import config_of, planned, start_worker, wait_for
from tests.patience import PATIENCE_S


class Sleeping(Stage):
    """Takes its time for each task."""

    def __init__(self, name: str, task_s: float) -> None:
        self.name = name  # type: ignore[misc]
        self._task_s = task_s

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        time.sleep(self._task_s)
        yield task


def tasks(count: int) -> Iterator[VideoTask]:
    for number in range(count):
        yield VideoTask(f"{number}.mp4", "test", Video(Path(f"{number}.mp4"), id=f"{number}.mp4"))


@pytest.fixture(scope="module")
def looks() -> list[tuple[float, list[StageLook]]]:
    """Looks at a pipeline at work whose second stage is the slow one: the moment, and each stage."""
    pipeline = Pipeline("p").add_stage(Sleeping("early", 0.001))
    pipeline.add_stage(Sleeping("slow", 0.05)).add_stage(Sleeping("late", 0.001))
    began, found = time.monotonic(), []
    for number, _ in enumerate(pipeline.stream(tasks(24))):
        if number in (8, 16):  # of 24: the first stage is still there
            found.append((time.monotonic() - began, pipeline.looks()))
    last = [StageLook(name, times, 0) for name, times in pipeline.times.items()]
    return [*found, (time.monotonic() - began, last)]


def test_every_second_of_a_thread_is_busy_starved_or_blocked_also_while_it_waits(
    looks: list[tuple[float, list[StageLook]]],
) -> None:
    for passed_s, stages in looks[:2]:
        assert [stage.name for stage in stages] == ["early", "slow", "late"]
        for stage in stages:
            times = stage.times
            assert times.busy_s + times.starved_s + times.blocked_s == pytest.approx(passed_s, abs=0.1)
    for (_, before), (_, after) in itertools.pairwise(looks):
        for one, next_one in zip(before, after, strict=True):
            assert next_one.times.busy_s >= one.times.busy_s
            assert next_one.times.starved_s >= one.times.starved_s
            assert next_one.times.blocked_s >= one.times.blocked_s


def test_a_slow_stage_blocks_the_one_before_it_and_starves_the_one_after_it(
    looks: list[tuple[float, list[StageLook]]],
) -> None:
    early, slow, late = looks[0][1]
    assert slow.times.busy_s > 8 * 0.05
    assert early.times.blocked_s > early.times.busy_s
    assert late.times.starved_s > late.times.busy_s
    assert slow.num_queued == 2  # as many as its queue takes


def told(**stages: tuple[float, float, float]) -> ShardProgress:
    seconds = {name: StageSeconds(*spent) for name, spent in stages.items()}
    work = Work(10.0, 3, 2, 500, seconds)
    return ShardProgress(0.0, {}, 1, 3, work, work)


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        pytest.param({"a": (9, 1, 0), "b": (1, 9, 0), "c": (2, 8, 0)}, [None, "a", "a"], id="starved by the first"),
        pytest.param({"a": (1, 0, 9), "b": (2, 0, 8), "c": (9, 1, 0)}, ["c", "c", None], id="blocked by the last"),
        pytest.param({"a": (1, 9, 0), "b": (1, 9, 0)}, [SOURCE, SOURCE], id="no videos"),
        pytest.param({"a": (1, 0, 9), "b": (9, 1, 0), "c": (1, 9, 0)}, ["b", None, "b"], id="the middle one"),
    ],
)
def test_a_stage_waits_for_the_nearest_one_that_does_not_wait_itself(
    stages: dict[str, tuple[float, float, float]], expected: list[str | None]
) -> None:
    live = live_work([told(**stages)])
    assert [stage.waits_for for stage in live.stages.values()] == expected
    assert all(each.busy + each.starved + each.blocked == pytest.approx(1) for each in live.stages.values())


def test_what_decode_children_do_most_is_named_and_workers_are_added_up() -> None:
    one, other = told(children=(10, 0, 0), writer=(1, 9, 0)), told(children=(10, 0, 0), writer=(3, 7, 0))
    for each in (one, other):
        each.lately.stages["children"].inside = {"one_pass": 7.0, "reader": 1.0}
    live = live_work([one, other])
    assert live.stages["writer"].waits_for == "one_pass"
    assert live.stages["writer"].starved == pytest.approx(0.8)
    assert live.stages["children"].inside == {"one_pass": pytest.approx(7 / 8), "reader": pytest.approx(1 / 8)}
    assert (live.num_workers, live.num_clips, live.num_windows) == (2, 6, 4)
    assert live.output_tokens_per_s == pytest.approx(2 * 500 / 10)


@pytest.mark.parametrize("num_workers", [1, 250, 1000, 4000])
def test_all_workers_together_write_25_files_a_second_at_most(num_workers: int) -> None:
    assert interval_s(num_workers) >= 10.0
    assert num_workers / interval_s(num_workers) <= 25.0


def test_telling_takes_less_than_a_thousandth_of_a_worker(tmp_path: Path) -> None:
    pipeline = Pipeline("p")
    for number in range(12):
        pipeline.add_stage(Sleeping(f"stage-{number}", 0.0))
    assert len(pipeline.run(tasks(3))) == 3
    teller = ProgressTeller(RunDir(tmp_path), 0, num_workers=1)
    spent = []
    for _ in range(20):
        before = time.thread_time()
        teller._tell(pipeline)
        spent.append(time.thread_time() - before)
    assert sorted(spent)[10] < interval_s(1) / 1000


def test_a_folder_that_can_not_be_written_to_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "progress").write_text("no folder")
    teller = ProgressTeller(RunDir(tmp_path), 0, num_workers=1)
    with caplog.at_level(logging.WARNING):
        teller._tell(Pipeline("p"))
        teller.close()
    [record] = caplog.records
    assert "progress_not_written" in record.getMessage()


def test_the_file_of_another_process_says_nothing_of_this_one(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    teller = ProgressTeller(run, 4, num_workers=1)
    teller._tell(Pipeline("p"))
    holder = whoami()
    assert list(read_progress(run, {4: holder, 5: holder})) == [4]
    assert read_progress(run, {4: {**holder, "started": "before"}}) == {}
    progress_path(run, 4).write_text("{}")
    assert read_progress(run, {4: holder}) == {}
    teller.close()
    assert list((tmp_path / "progress").iterdir()) == []


def test_status_tells_what_a_live_worker_waits_for_and_forgets_a_dead_one(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "v.mp4").write_bytes((MEDIA / "big_buck_bunny_1.mp4").read_bytes())
    run = planned(tmp_path, raw, clips={"preset": "placebo", "crf": 1})  # takes minutes
    worker = start_worker(run)
    wait_for(progress_path(run, 0).exists)
    status = run_status(run)
    [told_by] = read_progress(run, live_leases(run, timeout_s=60.0)).values()
    worker.kill()
    worker.communicate(timeout=PATIENCE_S)
    assert status.live is not None
    assert list(status.live.stages) == ["decode_children", "clip_writer"]
    assert status.live.stages["clip_writer"].starved > 0.9
    assert (told_by.num_begun, told_by.holder["pid"]) == (1, worker.pid)
    assert status.to_json()["live"]["stages"]["clip_writer"]["waits_for"] == status.live.stages["clip_writer"].waits_for
    assert progress_path(run, 0).exists()
    assert run_status(run).live is None


def fake_nvml(utilisation: dict[str, list[int]], *, is_broken: bool = False) -> ModuleType:
    """A module as nvidia-ml-py has it, for GPUs with these names in the order of their numbers."""

    class NVMLError(Exception):
        pass

    def init() -> None:
        if is_broken:
            raise NVMLError("Driver Not Loaded")

    def by_name(name: str) -> str:
        if name not in utilisation:
            raise NVMLError("Not Found")
        return name

    module = ModuleType("pynvml")
    looks = {name: iter(values) for name, values in utilisation.items()}
    functions = {
        "NVMLError": NVMLError,
        "nvmlInit": init,
        "nvmlDeviceGetCount": lambda: len(utilisation),
        "nvmlDeviceGetHandleByIndex": lambda index: list(utilisation)[index],
        "nvmlDeviceGetHandleByUUID": by_name,
        "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=next(looks[gpu]), memory=99),
    }
    vars(module).update(functions)
    return module


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        pytest.param(None, (0.10 + 0.20 + 0.90 + 0.50) / 4, id="all"),
        pytest.param("1", (0.90 + 0.50) / 2, id="by number"),
        pytest.param("GPU-a", (0.10 + 0.20) / 2, id="by UUID"),
        pytest.param("", None, id="none"),
        pytest.param("GPU-x", None, id="unknown"),
    ],
)
def test_gpus_are_as_busy_as_the_mean_of_all_looks(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: float | None
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml({"GPU-a": [10, 20], "GPU-b": [90, 50]}))
    meter = GpuMeter({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert meter.mean is None
    meter.sample()
    meter.sample()
    assert meter.mean == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("module", [None, fake_nvml({}, is_broken=True)], ids=["no package", "no driver"])
def test_without_nvml_nothing_is_measured(monkeypatch: pytest.MonkeyPatch, module: ModuleType | None) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    meter = GpuMeter({})
    meter.sample()
    assert meter.mean is None


def test_cpu_seconds_are_those_of_the_worker_and_of_its_ended_children(tmp_path: Path) -> None:
    usage = Usage(config_of(tmp_path, tmp_path))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = os.posix_spawn(sys.executable, [sys.executable, "-c", "for _ in range(5_000_000): pass"], os.environ)
    os.waitpid(child, 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    of_child = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    assert of_child > 0.05
    assert usage.measures()["cpu_s"] >= of_child - 0.001


@pytest.mark.parametrize(("allotted", "workers", "share"), [("7", 1, None), (None, 1, 1), (None, 10**6, 10**6)])
def test_a_task_has_the_cores_that_slurm_gave_it_or_its_share_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allotted: str | None, workers: int, share: int | None
) -> None:
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    if allotted is not None:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", allotted)
    config = config_of(tmp_path, tmp_path, local={"parallel_shards": workers})
    expected = 7 if share is None else max(1, len(os.sched_getaffinity(0)) // share)
    assert own_cores(config) == expected
