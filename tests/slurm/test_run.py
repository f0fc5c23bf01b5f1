"""The whole job on a real Slurm cluster gives, byte for byte, what it gives on one machine."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import exits
from jobs.rundir import RunDir
from jobs.slurm import job_prefix
from tests.footage import MEDIA, footage
from tests.patience import PATIENCE_S
from tests.slurm.cluster import SlurmCluster
from tests.slurm.daemons import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real footage in sub-folders, and two files that are no videos."""
    folder = tmp_path_factory.mktemp("raw")
    sources = {"a/big_buck_bunny_1.mp4": MEDIA / "big_buck_bunny_1.mp4", "a/bikes.mp4": footage("bikes.mp4")}
    sources |= {"b/bikes.mp4": footage("bikes.mp4"), "b/city CC0.mpg": footage("cityCC0.mpg")}
    for name, source in sources.items():
        (folder / name).parent.mkdir(exist_ok=True)
        os.link(source, folder / name) if source.stat().st_dev == folder.stat().st_dev else (
            (folder / name).write_bytes(source.read_bytes())
        )
    (folder / "b" / "notes.mp4").write_text("this is no video")
    (folder / "b" / "empty.mov").touch()
    return folder


def make_config(folder: Path, raw: Path, **settings: Any) -> Path:
    """A run of four shards: two workers at once on the cluster."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "run_dir": str(folder / "run"),
        "input_video_path": str(raw),
        "output_clip_path": str(folder / "processed" / "v0"),
        "output_dataset_path": str(folder / "webdataset"),
        "cluster": "slurm",
        "split": {"splitting_algorithm": "fixed-stride", "fixed_stride_split_duration": 4.0},
        "plan": {"num_shards": 4},
        "worker": {"lease_timeout_s": 8.0},
        "slurm": {
            "partition": "main",
            "time": "10",
            "gpus_per_task": 1,
            "cpus_per_task": 1,
            "mem_gb": 1.0,
            "array_parallelism": 2,
            "aggregate_mem_gb": 0.5,
            "aggregate_time": "5",
        },
        **settings,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def clipmill(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=PATIENCE_S, check=False)


def wait_for_report(run: RunDir, *, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
    """The report that the aggregation writes last; fails with the jobs' logs when it does not come."""
    if not wait_until(run.report_path.is_file, timeout_s=timeout_s):
        logs = "\n".join(p.read_text()[-2000:] for p in sorted(run.logs_path.rglob("*.out")))
        pytest.fail(f"no report after {timeout_s} s; logs:\n{logs}")
    report: dict[str, Any] = json.loads(run.report_path.read_text())
    return report


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file of a run's outputs; the one measured value among them, the run's wall time, is left out."""
    found = {}
    for root in ("processed", "webdataset"):
        for path in sorted((folder / root).rglob("*")):
            if path.is_file():
                content = path.read_bytes()
                if path.name == "summary.json":
                    document = json.loads(content)
                    assert document.pop("pipeline_run_time") >= 0
                    content = json.dumps(document).encode()
                found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> dict[str, str]:
    """Digests of the outputs of the same run in one go on this machine."""
    folder = tmp_path_factory.mktemp("local")
    done = clipmill("run", str(make_config(folder, raw)))
    assert done.returncode == exits.DONE, done.stderr
    return digests(folder)


def running_workers(run: RunDir) -> list[dict[str, Any]]:
    """Who holds the leases now."""
    return [json.loads(path.read_text()) for path in run.leases_path.glob("shard-*.json")]


def kill_a_worker(run: RunDir, *, is_far_enough: Callable[[], bool]) -> str:
    """kill -9 a worker that is in the middle of its shard; gives its job."""
    victims: list[dict[str, Any]] = []

    def caught() -> bool:
        victims[:] = running_workers(run)
        return bool(victims) and is_far_enough()

    assert wait_until(caught, timeout_s=PATIENCE_S)
    os.kill(int(victims[0]["pid"]), signal.SIGKILL)
    return f"{victims[0]['job']}_{victims[0]['task']}"


def test_a_run_on_slurm_equals_the_local_run_byte_for_byte(
    slurm_accounting_env: SlurmCluster, tmp_path: Path, raw: Path, undisturbed: dict[str, str]
) -> None:
    run = RunDir(tmp_path / "run")
    submitted = clipmill("submit", str(make_config(tmp_path, raw)))
    assert submitted.returncode == exits.DONE, submitted.stderr
    report = wait_for_report(run)
    assert report["exit_code"] == exits.DONE
    assert (report["num_done"], report["num_failed"], report["num_missing"]) == (4, 2, 0)
    assert report["failures_by_reason"] == {"empty_file": 1, "unreadable": 1}
    assert digests(tmp_path) == undisturbed


def test_a_killed_task_is_resumed_to_the_same_bytes(
    slurm_env: SlurmCluster, tmp_path: Path, raw: Path, undisturbed: dict[str, str]
) -> None:
    run = RunDir(tmp_path / "run")
    config = make_config(tmp_path, raw)
    assert clipmill("submit", str(config)).returncode == exits.DONE
    kill_a_worker(run, is_far_enough=lambda: (tmp_path / "processed/v0/clips").is_dir())

    report = wait_for_report(run)  # afterany: it comes although a task died
    assert report["exit_code"] == exits.INCOMPLETE
    assert report["num_missing"] >= 1
    assert report["num_done"] + report["num_failed"] + report["num_missing"] == 6

    run.report_path.unlink()
    resumed = clipmill("resume", str(run.root))
    assert resumed.returncode == exits.DONE, resumed.stderr
    report = wait_for_report(run)
    assert (report["exit_code"], report["num_missing"]) == (exits.DONE, 0)
    assert digests(tmp_path) == undisturbed


def test_status_tells_where_a_run_on_slurm_stands_and_cancel_leaves_it_resumable(
    slurm_env: SlurmCluster, tmp_path: Path, raw: Path
) -> None:
    run = RunDir(tmp_path / "run")
    settings: dict[str, Any] = {"slurm": {"partition": "main", "time": "10", "cpus_per_task": 1, "mem_gb": 1.0}}
    settings["slurm"] |= {"array_parallelism": 1, "aggregate_mem_gb": 0.5}
    assert clipmill("submit", str(make_config(tmp_path, raw, **settings))).returncode == exits.DONE

    seen: list[dict[str, Any]] = []

    def is_in_the_middle() -> bool:
        shown = clipmill("status", str(run.root), "--json")
        assert shown.returncode == exits.DONE, shown.stderr
        seen.append(json.loads(shown.stdout))
        return bool(seen[-1]["num_shards_running"] == 1 and seen[-1]["jobs"].get("RUNNING"))

    assert wait_until(is_in_the_middle, timeout_s=PATIENCE_S), seen
    for each in seen:
        assert each["num_videos"] == 6
        assert sum(each[k] for k in ("num_done", "num_failed", "num_running", "num_waiting")) == 6
    assert seen[-1]["jobs"]["PENDING"] >= 1  # the aggregation waits for the workers

    assert clipmill("cancel", str(run.root)).returncode == exits.DONE
    assert wait_until(lambda: not active_jobs(slurm_env, run), timeout_s=PATIENCE_S)
    assert not run.report_path.exists()  # the aggregation was cancelled too
    resumed = clipmill("resume", str(run.root), "--set", "cluster=local")
    assert resumed.returncode == exits.DONE, resumed.stderr
    assert json.loads(run.report_path.read_text())["num_missing"] == 0


def active_jobs(cluster: SlurmCluster, run: RunDir) -> list[str]:
    """Names of what is queued or running of a run; other tests use the same cluster."""
    names = cluster.client("squeue", "--noheader", "--format=%j").split()
    return [name for name in names if name.startswith(job_prefix(str(run.root)))]


def test_more_shards_than_an_array_may_have_go_out_as_several_arrays(tmp_path: Path, raw: Path) -> None:
    from tests.slurm.conftest import require_slurm

    require_slurm(accounting=False)
    with SlurmCluster(nodes=1, max_array_size=3) as cluster, pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        run = RunDir(tmp_path / "run")
        assert clipmill("submit", str(make_config(tmp_path, raw))).returncode == exits.DONE
        jobs = json.loads(run.jobs_path(1).read_text())["jobs"]
        arrays = {job["job_id"].partition("_")[0] for job in jobs if job["shard"] is not None}
        assert len(arrays) == 2  # 4 shards, at most 3 indices in an array
        assert [job["shard"] for job in jobs] == [0, 1, 2, 3, None]
        assert wait_for_report(run)["exit_code"] == exits.DONE


def test_a_refused_submission_leaves_nothing_queued(slurm_env: SlurmCluster, tmp_path: Path, raw: Path) -> None:
    settings = {"slurm": {"partition": "no-such-partition", "time": "10"}}
    refused = clipmill("submit", str(make_config(tmp_path, raw, **settings)))
    assert refused.returncode == exits.USAGE
    assert "partition" in refused.stderr
    time.sleep(1)
    assert not active_jobs(slurm_env, RunDir(tmp_path / "run"))
