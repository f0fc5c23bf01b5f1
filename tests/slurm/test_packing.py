"""Packing as a second array on a real cluster: what is killed, cancelled or queued by half changes no byte of it."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jobs import exits
from jobs.rundir import RunDir
from jobs.slurm import aggregation_name, finishing_name, job_prefix, packing_name, worker_name
from tests.local_runs import clipmill as clipmill_process
from tests.local_runs import clipmill_here as clipmill
from tests.local_runs import digests, make_videos, write_config
from tests.patience import PATIENCE_S

from .cluster import SlurmCluster
from .daemons import wait_until
from .test_run import active_jobs, wait_for_report
from .test_submitting import PYTHON, SBATCH_OF_A_DYING_LAUNCHER, Site, small_arrays, small_arrays_cluster

__all__ = ["small_arrays", "small_arrays_cluster"]  # fixtures

NUM_VIDEOS = 4
NUM_TASKS = 3
SLURM = {"time": "10", "gpus_per_task": 0, "cpus_per_task": 1, "mem_gb": 1.0, "aggregate_mem_gb": 0.5}

# a packer that waits while the gate is closed, with its lease held and its plan read; one more line for each that began
SLOW_PACKING = """\
import os, sys, time
if sys.orig_argv[1:4] == ["-u", "-m", "jobs.packing"] and "--task" in sys.orig_argv:
    import curation.dataset.pack as packing
    real = packing._Packing._pack_tar
    def slow(self, tar, samples):
        with open(os.environ["TARS_BEGUN"], "a") as file:
            file.write(f"{tar.task}\\n")
        while os.path.exists(os.environ["GATE"]):
            time.sleep(0.05)
        return real(self, tar, samples)
    packing._Packing._pack_tar = slow
"""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("raw"), NUM_VIDEOS)


def config_in(folder: Path, raw: Path, **settings: Any) -> Path:
    """A run whose dataset has a tar for each clip."""
    slurm = {**SLURM, **settings.pop("slurm", {})}
    return write_config(
        folder,
        raw,
        **{
            "cluster": "slurm",
            "output_dataset_path": str(folder / "dataset"),
            "dataset": {"target_tar_size_mb": 0.001},
            "aggregate": {"num_tasks": NUM_TASKS, "cpus_per_task": 1, "mem_gb": 0.5},
            "worker": {"lease_timeout_s": 4.0},
            "slurm": slurm,
            **settings,
        },
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> dict[str, str]:
    """Digests of the dataset of the same run on this machine, packed by the aggregation itself."""
    folder = tmp_path_factory.mktemp("local")
    done = clipmill("run", str(config_in(folder, raw, aggregate={"num_tasks": 1})))
    assert done.returncode == exits.DONE, done.stderr
    return digests(folder / "dataset")


def test_a_dataset_packed_by_an_array_has_the_bytes_of_one_packed_at_once(
    slurm_env: SlurmCluster, tmp_path: Path, raw: Path, expected: dict[str, str]
) -> None:
    run = RunDir(tmp_path / "run")
    submitted = clipmill("submit", str(config_in(tmp_path, raw)))
    assert submitted.returncode == exits.DONE, submitted.stderr
    for role in ("aggregation", "packing", "finishing"):
        assert f"the {role} as " in submitted.stdout
    report = wait_for_report(run)
    assert report["exit_code"] == exits.DONE
    assert digests(tmp_path / "dataset") == expected
    document = json.loads(run.jobs_path(1).read_text())
    assert sum(each["array"]["num_tasks"] for each in document["packing"]) == NUM_TASKS


def test_a_packer_that_is_killed_leaves_nothing_published_and_a_resume_packs_the_rest(
    slurm_env: SlurmCluster, tmp_path: Path, raw: Path, expected: dict[str, str]
) -> None:
    run, gate, begun = RunDir(tmp_path / "run"), tmp_path / "gate", tmp_path / "begun"
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(SLOW_PACKING)
    gate.touch()
    environment = {"PYTHONPATH": f"{hook}:{Path.cwd()}", "GATE": str(gate), "TARS_BEGUN": str(begun)}
    config = config_in(tmp_path, raw, slurm={"environment": environment, "array_parallelism": 1})
    assert clipmill("submit", str(config)).returncode == exits.DONE
    assert wait_until(begun.is_file, timeout_s=PATIENCE_S), [p.read_text() for p in run.logs_path.rglob("*.out")]
    shown = json.loads(clipmill("status", str(run.root), "--json").stdout)
    assert shown["packing"] == {"num_tasks": NUM_TASKS, "num_ended": 0, "num_running": 1}
    refused = clipmill("aggregate", str(run.root))
    assert refused.returncode == exits.REFUSED
    run.report_path.unlink()
    (lease,) = run.leases_path.glob("pack-*.json")
    os.kill(int(json.loads(lease.read_text())["pid"]), signal.SIGKILL)
    gate.unlink()

    report = wait_for_report(run)  # afterany: it comes although a packer died
    assert report["exit_code"] == exits.INCOMPLETE
    assert report["num_done"] == NUM_VIDEOS
    assert report["dataset"]["missing_tars"]
    assert not (tmp_path / "dataset/v0/catalogue.parquet").exists()
    packed = {path: path.stat().st_mtime_ns for path in (tmp_path / "dataset").rglob("*.tar")}
    assert packed  # the other packers'

    run.report_path.unlink()
    resumed = clipmill("resume", str(run.root))
    assert resumed.returncode == exits.DONE, resumed.stderr
    assert wait_for_report(run)["exit_code"] == exits.DONE
    assert digests(tmp_path / "dataset") == expected
    assert {path: path.stat().st_mtime_ns for path in packed} == packed


def test_cancel_ends_packing_too_and_a_resume_goes_on(
    slurm_env: SlurmCluster, tmp_path: Path, raw: Path, expected: dict[str, str]
) -> None:
    run, gate, begun = RunDir(tmp_path / "run"), tmp_path / "gate", tmp_path / "begun"
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(SLOW_PACKING)
    gate.touch()
    environment = {"PYTHONPATH": f"{hook}:{Path.cwd()}", "GATE": str(gate), "TARS_BEGUN": str(begun)}
    assert (
        clipmill("submit", str(config_in(tmp_path, raw, slurm={"environment": environment}))).returncode == exits.DONE
    )
    assert wait_until(begun.is_file, timeout_s=PATIENCE_S)
    assert clipmill("cancel", str(run.root)).returncode == exits.DONE
    assert wait_until(lambda: not active_jobs(slurm_env, run), timeout_s=PATIENCE_S)
    assert not run.report_path.exists()
    resumed = clipmill("resume", str(run.root), "--set", "cluster=local")
    assert resumed.returncode == exits.DONE, resumed.stderr
    assert digests(tmp_path / "dataset") == expected


def packing_site(folder: Path, raw: Path) -> Site:
    """A run of which nothing really runs: six shards, and three tasks that pack."""
    site = Site(folder, raw)
    settings = site.config.read_text()
    site.config.write_text(
        f"{settings}\noutput_dataset_path: {folder / 'dataset'}\naggregate: {{num_tasks: {NUM_TASKS}, mem_gb: 0.1}}\n"
    )
    note = '*" jobs.packing "*) note packing ;;\n*" jobs.aggregation "*)'
    site.program("python", PYTHON.format(notes=site.notes, gate=site.gate).replace('*" jobs.aggregation "*)', note))
    return site


def test_a_launcher_that_is_killed_at_each_step_queues_packing_once(
    small_arrays: SlurmCluster, tmp_path: Path, raw_of_six: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = packing_site(tmp_path, raw_of_six)
    site.gate.touch()
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True, check=True).stdout.strip()
    dying = SBATCH_OF_A_DYING_LAUNCHER.replace("1 | 5)", "1 | 5 | 7 | 10)").replace("2 | 3 | 6)", "2 | 3 | 6 | 8 | 11)")
    sbatch = site.program("sbatch", dying.format(calls=tmp_path / "calls", sbatch=real))
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    codes: list[int] = []
    commands = [["submit", str(site.config)], ["resume", str(site.run.root)]]
    while len(codes) < 15 and (not codes or codes[-1] == -signal.SIGKILL):
        codes.append(clipmill_process(*commands[len(codes) % 2]).returncode)
    assert codes == [-signal.SIGKILL] * 9 + [exits.DONE]

    prefix = job_prefix(str(site.run.root))
    expected = [worker_name(prefix, 1, first) for first in (0, 2, 4)] + [aggregation_name(prefix, 1)]
    expected += [packing_name(prefix, 1, first) for first in (0, 1)] + [finishing_name(prefix, 1)]
    assert sorted(site.queued(small_arrays).elements()) == sorted(expected)
    assert site.run.attempts() == [1]
    jobs = json.loads(site.run.jobs_path(1).read_text())["jobs"]
    assert [job["role"] for job in jobs] == ["worker"] * 6 + ["aggregation", "packing", "packing", "finishing"]
    site.gate.unlink()
    assert wait_until(lambda: site.starts()["packing"] == NUM_TASKS + 1, timeout_s=PATIENCE_S), site.starts()


@pytest.fixture(scope="module")
def raw_of_six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("six"), 6, num_frames=3)


def test_scripts_and_a_dry_run_show_packing(small_arrays: SlurmCluster, tmp_path: Path, raw_of_six: Path) -> None:
    site = packing_site(tmp_path, raw_of_six)
    shown = clipmill("submit", str(site.config), "--dry-run")
    assert shown.returncode == exits.DONE, shown.stderr
    prefix = job_prefix(str(site.run.root))
    for words in (f"{NUM_TASKS} tasks that pack", packing_name(prefix, 1, 1), finishing_name(prefix, 1), "--finish"):
        assert words in shown.stdout
    folder = tmp_path / "scripts"
    assert clipmill("submit", str(site.config), "--script", "--script-dir", str(folder)).returncode == exits.DONE
    site.gate.touch()
    for _ in range(2):
        subprocess.run(["bash", str(folder / "submit.sh")], check=True, capture_output=True, timeout=PATIENCE_S)
    assert site.queued(small_arrays).total() == 7
    site.gate.unlink()
    assert wait_until(lambda: site.starts()["packing"] == NUM_TASKS + 1, timeout_s=PATIENCE_S), site.starts()
