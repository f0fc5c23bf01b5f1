"""A dataset that tasks pack after the aggregation is the one that the aggregation packs by itself."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs import exits
from jobs.aggregation import aggregate
from jobs.config import to_yaml
from jobs.packing import run_packing
from jobs.packing_plan import PackingPlan, pack_lease
from jobs.rundir import RunDir
from jobs.status import run_status
from tests.local_runs import ROOT, clipmill_here, digests, make_videos, planned, run_here, work_here, write_config
from tests.patience import PATIENCE_S

ONE_CLIP_A_TAR = {"target_tar_size_mb": 0.001}
NUM_TASKS = 3


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("raw"), 4)


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> RunDir:
    """A run whose videos were all worked on, and nothing was aggregated."""
    folder = tmp_path_factory.mktemp("worked")
    run = planned(folder, raw, output_dataset_path=str(folder / "dataset"), dataset=ONE_CLIP_A_TAR)
    assert work_here(run)[0] == exits.DONE
    return run


@pytest.fixture
def run(worked: RunDir, tmp_path: Path) -> RunDir:
    """The same run with a dataset of its own."""
    config = worked.load_config().model_copy(update={"output_dataset_path": str(tmp_path / "dataset")})
    worked.write_settings(to_yaml(config))
    PackingPlan.remove(worked)
    worked.report_path.unlink(missing_ok=True)
    return worked


@pytest.fixture(scope="module")
def expected(worked: RunDir) -> dict[str, str]:
    """Digests of the dataset that the aggregation packs by itself."""
    config = worked.load_config()
    assert aggregate(worked) == exits.DONE
    found = digests(Path(config.output_dataset_path or ""))
    assert len([path for path in found if path.endswith(".tar")]) > 2 * NUM_TASKS
    return found


def dataset(run: RunDir) -> Path:
    return Path(run.load_config().output_dataset_path or "")


def report_of(run: RunDir) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run.report_path.read_text())
    return found


def test_tasks_pack_what_the_aggregation_packs_by_itself(expected: dict[str, str], run: RunDir) -> None:
    assert aggregate(run, num_pack_tasks=NUM_TASKS) == exits.DONE
    assert not run.report_path.exists()
    for task in (2, 0, 1):
        assert run_packing(str(run.root), task) == exits.DONE
    assert not (dataset(run) / "v0" / "catalogue.parquet").exists()
    assert run_packing(str(run.root), None) == exits.DONE
    assert digests(dataset(run)) == expected
    report, in_dataset = report_of(run), json.loads((dataset(run) / "v0" / "report.json").read_text())
    assert report["dataset"]["num_packed"] == in_dataset["num_packed"] > 0
    assert (report["exit_code"], report["num_done"]) == (exits.DONE, 4)


def test_what_a_task_has_not_packed_is_named_and_nothing_is_published_until_it_has(
    expected: dict[str, str], run: RunDir
) -> None:
    assert aggregate(run, num_pack_tasks=NUM_TASKS) == exits.DONE
    for task in (0, 2):
        assert run_packing(str(run.root), task) == exits.DONE
    assert run_packing(str(run.root), None) == exits.INCOMPLETE
    report = report_of(run)
    assert report["exit_code"] == exits.INCOMPLETE
    assert report["num_done"] == 4
    missing = set(report["dataset"]["missing_tars"])
    assert missing
    assert not any((dataset(run) / "v0" / path).exists() for path in missing)
    published = {"catalogue.parquet", "index.json", "wdinfo.json", "wdinfo_list.csv"}
    assert not [path for path in dataset(run).rglob("*") if path.name in published]
    assert run_packing(str(run.root), 1) == exits.DONE
    assert run_packing(str(run.root), None) == exits.DONE
    assert digests(dataset(run)) == expected
    assert "missing_tars" not in report_of(run)["dataset"]


def test_a_plan_made_again_packs_only_what_is_left(expected: dict[str, str], run: RunDir) -> None:
    assert aggregate(run, num_pack_tasks=NUM_TASKS) == exits.DONE
    first = PackingPlan.load(run)
    assert run_packing(str(run.root), 0) == exits.DONE
    packed = {path: path.stat().st_mtime_ns for path in dataset(run).rglob("*.tar")}
    assert packed
    assert aggregate(run, num_pack_tasks=NUM_TASKS) == exits.DONE
    second = PackingPlan.load(run)
    assert first is not None
    assert second is not None
    assert first.plan_id == second.plan_id
    for task in range(NUM_TASKS):
        assert run_packing(str(run.root), task) == exits.DONE
    assert {path: path.stat().st_mtime_ns for path in packed} == packed
    assert run_packing(str(run.root), None) == exits.DONE
    assert digests(dataset(run)) == expected


def test_an_aggregation_refuses_while_a_packer_is_at_work_and_leaves_it_its_plan(run: RunDir) -> None:
    assert aggregate(run, num_pack_tasks=NUM_TASKS) == exits.DONE
    plan = PackingPlan.load(run)
    lease = pack_lease(run, run.load_config(), 1)
    assert lease.acquire()
    assert aggregate(run, num_pack_tasks=NUM_TASKS) == exits.REFUSED
    assert "1 tasks are packing the dataset (1)" in report_of(run)["refused"]
    assert PackingPlan.load(run) == plan
    lease.release()
    assert aggregate(run) == exits.DONE
    assert PackingPlan.load(run) is None


def test_nothing_is_published_while_a_packer_is_at_work(run: RunDir) -> None:
    config = run.load_config()
    run.write_settings(
        to_yaml(config.model_copy(update={"worker": config.worker.model_copy(update={"lease_timeout_s": 2.0})}))
    )
    assert aggregate(run, num_pack_tasks=NUM_TASKS) == exits.DONE
    for task in range(NUM_TASKS):
        assert run_packing(str(run.root), task) == exits.DONE
    lease = pack_lease(run, run.load_config(), 1)
    assert lease.acquire()
    assert run_packing(str(run.root), None) == exits.INCOMPLETE
    assert run_packing(str(run.root), 1) == exits.DONE  # of two packers of a task one has nothing to do
    assert not (dataset(run) / "v0" / "catalogue.parquet").exists()
    lease.release()
    assert run_packing(str(run.root), None) == exits.DONE


def test_after_an_aggregation_that_came_to_no_plan_packers_have_nothing_to_do(run: RunDir) -> None:
    assert run_packing(str(run.root), 0) == exits.DONE
    assert run_packing(str(run.root), None) == exits.FAILED  # no word of the aggregation
    assert aggregate(run) == exits.DONE  # packed by itself
    before = digests(dataset(run))
    assert run_packing(str(run.root), 0) == exits.DONE
    assert run_packing(str(run.root), None) == exits.DONE
    assert digests(dataset(run)) == before


def test_a_finish_that_died_before_its_report_is_done_again(run: RunDir) -> None:
    assert aggregate(run, num_pack_tasks=NUM_TASKS) == exits.DONE
    plan = PackingPlan.load(run)
    assert plan is not None
    for task in range(NUM_TASKS):
        assert run_packing(str(run.root), task) == exits.DONE
    assert run_packing(str(run.root), None) == exits.DONE
    before, report = digests(dataset(run)), report_of(run)
    plan.save(run)
    run.report_path.unlink()
    assert run_packing(str(run.root), None) == exits.DONE
    assert digests(dataset(run)) == before
    assert report_of(run)["dataset"] == report["dataset"]


def test_videos_without_a_record_make_a_published_dataset_incomplete(tmp_path: Path, raw: Path) -> None:
    run = planned(tmp_path, raw, plan={"num_shards": 2}, output_dataset_path=str(tmp_path / "dataset"))
    assert work_here(run, shard=1)[0] == exits.DONE
    assert aggregate(run, num_pack_tasks=2) == exits.INCOMPLETE
    assert [run_packing(str(run.root), task) for task in (0, 1)] == [exits.DONE] * 2
    assert run_packing(str(run.root), None) == exits.INCOMPLETE
    assert report_of(run)["num_missing"] == 2
    assert report_of(run)["dataset"]["num_packed"] > 0


def test_status_tells_how_far_packing_is(run: RunDir) -> None:
    assert run_status(run).packing is None
    assert aggregate(run, num_pack_tasks=NUM_TASKS) == exits.DONE
    assert run_packing(str(run.root), 1) == exits.DONE
    lease = pack_lease(run, run.load_config(), 2)
    assert lease.acquire()
    assert run_status(run).packing == {"num_tasks": NUM_TASKS, "num_ended": 1, "num_running": 1}
    shown = clipmill_here("status", str(run.root))
    assert "packing the dataset: 1 of 3 tasks have ended, 1 are at work" in shown.stdout
    lease.release()


def test_a_run_in_one_process_packs_in_tasks_too(expected: dict[str, str], tmp_path: Path, raw: Path) -> None:
    config = write_config(
        tmp_path,
        raw,
        output_dataset_path=str(tmp_path / "dataset"),
        dataset=ONE_CLIP_A_TAR,
        aggregate={"num_tasks": NUM_TASKS},
    )
    done = run_here("submit", str(config))
    assert done.returncode == exits.DONE, done.stderr
    assert "windows packed, 0 left out" in done.stdout
    assert digests(tmp_path / "dataset") == expected


DIES_ONCE = """\
import os, sys
if sys.orig_argv[1:2] == ["-m"] and sys.orig_argv[2] == "jobs.packing" and sys.orig_argv[-2:] == ["--task", "1"]:
    with open(os.environ["STARTS"], "a") as file:
        file.write("x")
    if os.path.getsize(os.environ["STARTS"]) == 1:
        os.kill(os.getpid(), 9)
"""


def test_a_packer_that_is_killed_on_this_machine_is_started_again(
    expected: dict[str, str], tmp_path: Path, raw: Path
) -> None:
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(DIES_ONCE)
    config = write_config(
        tmp_path,
        raw,
        output_dataset_path=str(tmp_path / "dataset"),
        dataset=ONE_CLIP_A_TAR,
        aggregate={"num_tasks": NUM_TASKS},
        local={"parallel_shards": 2},
    )
    starts = tmp_path / "starts"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'hook'}:{ROOT}", "STARTS": str(starts)}
    command = [sys.executable, "-m", "jobs.cli", "run", str(config)]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == exits.DONE, done.stderr
    assert starts.read_text() == "xx"
    assert "event=packer_ended task=1 by=SIGKILL again=True" in done.stderr
    assert "windows packed, 0 left out" in done.stdout
    assert digests(tmp_path / "dataset") == expected
