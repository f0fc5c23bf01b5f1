"""What a plan tells of Slurm before anything is queued, asked of real daemons; nothing of it may hang."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.config import ConfigError, RunConfig
from jobs.planning import Plan, plan_run
from jobs.slurm_check import ask_slurm
from tests.local_runs import config_of, make_videos
from tests.patience import PATIENCE_S

from .cluster import SlurmCluster
from .conftest import require_slurm, use

MORE = """
PartitionName=short Nodes=ALL MaxTime=30
PartitionName=closed Nodes=ALL State=DOWN
AccountingStorageEnforce=associations,limits,qos
"""


@pytest.fixture(scope="module")
def strict_cluster() -> Iterator[SlurmCluster]:
    """A cluster that lets only known accounts in."""
    require_slurm(accounting=True)
    with SlurmCluster(nodes=2, accounting=True, more_configuration=MORE) as cluster:
        cluster.client("sacctmgr", "-i", "add", "account", "lab")
        cluster.client("sacctmgr", "-i", "add", "user", "root", "account=lab")
        yield cluster


@pytest.fixture
def cluster(strict_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    return use(strict_cluster, monkeypatch)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("raw"), 3, num_frames=3)


def config_for(folder: Path, raw: Path, **slurm: object) -> RunConfig:
    small = {
        "gpus_per_task": 0,
        "cpus_per_task": 1,
        "mem_gb": 0.2,
        "aggregate_mem_gb": 0.2,
        "time": 20,
        "aggregate_time": 10,
    }
    return config_of(folder, raw, cluster="slurm", slurm={**small, "account": "lab", **slurm})


def problems_of(config: RunConfig) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        plan_run(config, write=False)
    assert not Path(config.run_dir).exists()
    return caught.value.problems


def test_jobs_that_slurm_takes_have_a_plan(cluster: SlurmCluster, tmp_path: Path, raw: Path) -> None:
    plan = plan_run(config_for(tmp_path, raw), write=False)
    assert isinstance(plan, Plan)
    assert plan.warnings == []
    assert cluster.client("squeue", "-h").strip() == ""


def test_partition_account_and_qos_are_all_refused_at_once(cluster: SlurmCluster, tmp_path: Path, raw: Path) -> None:
    problems = problems_of(config_for(tmp_path, raw, partition="nope", account="nobody", qos="none"))
    assert len(problems) == 3
    for name, value in (("partition", "nope"), ("account", "nobody"), ("qos", "none")):
        assert len([each for each in problems if f"({name}: {value})" in each]) == 1, problems


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"cpus_per_task": 999}, id="CPUs"),
        pytest.param({"mem_gb": 9999.0}, id="memory"),
        pytest.param({"gpus_per_task": 99}, id="GPUs"),
        pytest.param({"additional_parameters": {"constraint": "h999"}}, id="a feature"),
        pytest.param({"additional_parameters": {"frobnicate": 1}}, id="an option that sbatch does not know"),
    ],
)
def test_what_no_node_has_is_refused(
    cluster: SlurmCluster, tmp_path: Path, raw: Path, settings: dict[str, object]
) -> None:
    problems = problems_of(config_for(tmp_path, raw, **settings))
    assert len(problems) == 1
    assert problems[0].startswith("slurm: sbatch refuses the workers: ")


def test_more_time_than_the_partition_has_is_a_problem_that_sbatch_does_not_tell(
    cluster: SlurmCluster, tmp_path: Path, raw: Path
) -> None:
    [problem] = problems_of(config_for(tmp_path, raw, partition="short", time=31))
    assert problem == "slurm.time: 31 minutes are more than partition short allows (00:30:00)"
    assert plan_run(config_for(tmp_path, raw, partition="short", time=30), write=False).num_videos == 3


def test_a_partition_that_starts_no_jobs_is_a_warning(cluster: SlurmCluster, tmp_path: Path, raw: Path) -> None:
    [warning] = plan_run(config_for(tmp_path, raw, partition="closed"), write=False).warnings
    assert "partition closed is DOWN" in warning


def test_the_number_of_jobs_that_the_site_holds_is_known(cluster: SlurmCluster, tmp_path: Path, raw: Path) -> None:
    assert ask_slurm(config_for(tmp_path, raw)).max_jobs == 20000


def test_what_slurm_refuses_is_told_among_all_other_problems(cluster: SlurmCluster, tmp_path: Path, raw: Path) -> None:
    manifest = tmp_path / "videos.txt"
    manifest.write_text("v0.mp4\n\n")
    config = config_for(tmp_path, raw, partition="nope").model_copy(update={"manifest": str(manifest)})
    first, second = sorted(problems_of(config))
    assert first == f"{manifest}:2: empty line"
    assert "nope" in second


# -- Slurm that is not there


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_a_cluster_without_sbatch_is_a_problem_and_says_what_to_do(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    [problem] = problems_of(config_for(tmp_path, raw))
    assert "sbatch is not on PATH" in problem
    assert "cluster: local" in problem


def test_commands_that_hang_are_cut_off_and_told_as_warnings(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sbatch", "scontrol"):
        program(tmp_path / "bin", name, "exec sleep 1000")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    begun = time.monotonic()
    warnings = plan_run(config_for(tmp_path, raw), write=False).warnings
    assert time.monotonic() - begun < PATIENCE_S
    assert [warning for warning in warnings if "sbatch did not answer" in warning]
    assert [warning for warning in warnings if "scontrol did not answer" in warning]


def test_a_controller_that_does_not_answer_now_is_a_warning(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"
    program(tmp_path / "bin", "sbatch", f"echo '{said}' >&2; exit 1")
    program(tmp_path / "bin", "scontrol", "exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    [warning] = plan_run(config_for(tmp_path, raw), write=False).warnings
    assert "Unable to contact slurm controller" in warning


def test_a_plan_for_this_machine_asks_no_slurm(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", "sbatch", f"touch {tmp_path}/asked")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    plan_run(config_of(tmp_path, raw, cluster="local"), write=False)
    assert not (tmp_path / "asked").exists()
    subprocess.run(["sbatch"], check=True)
    assert (tmp_path / "asked").exists()
