import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

from .cluster import SlurmCluster
from .conftest import require_slurm
from .daemons import ClusterError, wait_until


def submit(script: str, *options: str) -> str:
    """Submit with the environment as it is and return the job id."""
    command = ["sbatch", "--parsable", "--output=/dev/null", *options]
    done = subprocess.run(command, input=f"#!/bin/sh\n{script}\n", capture_output=True, text=True, check=True)
    return done.stdout.strip()


def wait_for_end(cluster: SlurmCluster, job_id: str) -> None:
    assert wait_until(lambda: not cluster.client("squeue", "-h", "-j", job_id), timeout_s=PATIENCE_S), cluster.client(
        "squeue"
    )


def states(cluster: SlurmCluster, job_id: str) -> dict[str, str]:
    lines = cluster.client("squeue", "-h", "-r", "-t", "all", "-j", job_id, "-o", "%i %T").splitlines()
    return dict(line.split(" ") for line in lines)


def processes_that_mention(text: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            variables = (folder / "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if text.encode() in command + b"\0" + variables:
            found.append(f"{folder.name} {command!r}")
    return found


def test_eight_tasks_that_run_at_once_hold_the_two_gpus_of_four_nodes(slurm_env: SlurmCluster, tmp_path: Path) -> None:
    wait_for_the_others = f"until [ $(ls {tmp_path} | wc -l) = 8 ]; do sleep 0.1; done"
    job_id = submit(
        f'touch "{tmp_path}/$SLURMD_NODENAME-$CUDA_VISIBLE_DEVICES"; {wait_for_the_others}',
        "--array=0-7",
        "--gres=gpu:1",
    )
    wait_for_end(slurm_env, job_id)
    assert {path.name for path in tmp_path.iterdir()} == {f"n{node}-{gpu}" for node in (1, 2, 3, 4) for gpu in (0, 1)}
    assert states(slurm_env, job_id) == {f"{job_id}_{task}": "COMPLETED" for task in range(8)}


def test_afterany_runs_once_every_task_of_a_partly_failing_array_has_ended(
    slurm_env: SlurmCluster, tmp_path: Path
) -> None:
    fail_the_third = f'touch "{tmp_path}/$SLURM_ARRAY_TASK_ID"; [ $SLURM_ARRAY_TASK_ID != 2 ]'
    array_id = submit(fail_the_third, "--array=0-3")
    dependent_id = submit(f'ls "{tmp_path}" > "{tmp_path}/seen"', f"--dependency=afterany:{array_id}")
    wait_for_end(slurm_env, dependent_id)
    assert (tmp_path / "seen").read_text().split() == ["0", "1", "2", "3", "seen"]
    assert states(slurm_env, array_id)[f"{array_id}_2"] == "FAILED"


def test_a_requeued_job_runs_again_soon(slurm_env: SlurmCluster, tmp_path: Path) -> None:
    job_id = submit(f'touch "{tmp_path}/run-${{SLURM_RESTART_COUNT:-0}}"; sleep 60', "--requeue")
    assert wait_until((tmp_path / "run-0").exists, timeout_s=PATIENCE_S)
    slurm_env.client("scontrol", "requeue", job_id)
    assert wait_until((tmp_path / "run-1").exists, timeout_s=PATIENCE_S)
    slurm_env.client("scancel", job_id)


def test_sacct_reports_how_each_task_ended(slurm_accounting_env: SlurmCluster) -> None:
    array_id = submit("[ $SLURM_ARRAY_TASK_ID != 2 ]", "--array=0-3")
    wait_for_end(slurm_accounting_env, array_id)
    expected = [f"{array_id}_0|COMPLETED", f"{array_id}_1|COMPLETED", f"{array_id}_2|FAILED", f"{array_id}_3|COMPLETED"]

    def accounted() -> list[str]:
        command = ("sacct", "-n", "-X", "-P", "-j", array_id, "-o", "JobID,State")
        return sorted(slurm_accounting_env.client(*command).split())

    wait_until(lambda: accounted() == expected, timeout_s=PATIENCE_S)
    assert accounted() == expected


def test_without_accounting_sacct_is_disabled(slurm_env: SlurmCluster) -> None:
    with pytest.raises(ClusterError, match="accounting storage is disabled"):
        slurm_env.client("sacct")


def test_two_clusters_stand_side_by_side(slurm_cluster: SlurmCluster) -> None:
    slurm_cluster.client("sbatch", "--hold", "--job-name=first", "--wrap=true")
    with SlurmCluster(nodes=1, gpus_per_node=0) as second:
        second.client("sbatch", "--hold", "--job-name=second", "--wrap=true")
        assert "first" in slurm_cluster.client("squeue", "-h", "-o", "%j").split()
        assert second.client("squeue", "-h", "-o", "%j").split() == ["second"]
    assert slurm_cluster.client("scontrol", "ping")


@pytest.mark.parametrize("accounting", [False, True])
def test_a_stopped_cluster_leaves_neither_process_nor_folder(accounting: bool) -> None:
    require_slurm(accounting=accounting)
    with SlurmCluster(nodes=1, accounting=accounting) as cluster:
        mention = str(cluster.folder)
        orphan = "setsid sleep 6000 & sleep 6000"
        job_id = cluster.client("sbatch", "--parsable", "--output=/dev/null", f"--wrap={orphan}").strip()
        assert wait_until(lambda: states(cluster, job_id) == {job_id: "RUNNING"}, timeout_s=PATIENCE_S)
        assert processes_that_mention(mention)
    wait_until(lambda: not processes_that_mention(mention), timeout_s=PATIENCE_S)
    assert processes_that_mention(mention) == []
    assert not cluster.folder.exists()


def test_the_daemons_of_a_killed_test_process_end() -> None:
    require_slurm(accounting=False)
    program = "from tests.slurm.cluster import SlurmCluster as C; C(nodes=1).start(); print('up', flush=True); input()"
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        with subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"TMPDIR": folder},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            process.kill()
        mention = f"{folder}/slurm-"
        wait_until(lambda: not processes_that_mention(mention), timeout_s=PATIENCE_S)
        assert processes_that_mention(mention) == []


def test_a_cluster_that_cannot_start_says_which_daemon_and_why() -> None:
    require_slurm(accounting=False)
    cluster = SlurmCluster(memory_mb=-1)
    with pytest.raises(ClusterError, match=r"(?s)slurmctld ended with 1:.*RealMemory value \(-1\)"):
        cluster.start()
    assert not cluster.folder.exists()
