"""What a worker checks before it begins, and whose fault it is."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.gpu_check import wrong_product
from jobs.preflight import Problem, login_problems, task_problems
from jobs.rundir import RunDir
from tests.local_runs import ROOT, config_of, make_videos, planned, wait_for
from tests.patience import PATIENCE_S


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_videos(tmp_path / "raw", 2)


def problems(run: RunDir) -> list[Problem]:
    return task_problems(run, run.load_config())


def test_where_all_is_well_nothing_is_found_and_nothing_is_left_behind(tmp_path: Path, raw: Path) -> None:
    run = planned(tmp_path, raw)
    (tmp_path / "out").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert problems(run) == []
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before] == [run.state_path]


def test_every_problem_is_told_at_once_and_whose_it_is(tmp_path: Path, raw: Path) -> None:
    worker = {"scratch_dir": str(tmp_path / "not mounted" / "scratch")}
    run = planned(tmp_path, raw, worker=worker)
    (tmp_path / "out").touch()  # a file in its place: so it is for every node
    raw.rename(tmp_path / "elsewhere")
    found = {problem.check: problem for problem in problems(run)}
    assert {name: problem.is_of_node for name, problem in found.items()} == {
        "scratch": True,
        "input": True,
        "output": False,
    }
    assert str(tmp_path / "not mounted") in found["scratch"].message
    assert not (tmp_path / "not mounted").exists()  # a folder made below a missing mount would fill another disk


def test_scratch_must_have_the_room_that_is_asked_for(tmp_path: Path, raw: Path) -> None:
    run = planned(tmp_path, raw, worker={"scratch_dir": str(tmp_path / "scratch"), "scratch_min_gb": 1e9})
    (problem,) = problems(run)
    assert problem.check == "scratch"
    assert "worker.scratch_min_gb asks for 1e+09" in problem.message


@pytest.mark.parametrize("gone", [["a", "b"], ["a"]], ids=["all folders gone", "one of two folders gone"])
def test_a_manifests_input_is_not_mounted_when_none_of_its_folders_is_there(tmp_path: Path, gone: list[str]) -> None:
    for name in ("a", "b"):
        make_videos(tmp_path / name, 1)
    manifest = tmp_path / "videos.txt"
    manifest.write_text(f"{tmp_path}/a/v0.mp4\n{tmp_path}/b/v0.mp4\n")
    run = planned(tmp_path, tmp_path, manifest=str(manifest), input_video_path=None)
    for name in gone:
        (tmp_path / name).rename(tmp_path / f"{name} elsewhere")
    found = problems(run)
    assert [(each.check, each.is_of_node) for each in found] == ([("input", True)] if len(gone) == 2 else [])


def test_an_encoder_that_does_not_work_is_the_nodes_and_is_not_asked_of_a_login_node_without_gpus(
    tmp_path: Path, raw: Path
) -> None:
    run = planned(tmp_path, raw)
    config = config_of(tmp_path, raw, cluster="slurm", clips={"encoder": "h264_nvenc"})
    assert login_problems(config) == []
    found = [problem for problem in task_problems(run, config) if problem.check == "encoder"]
    has_nvenc = not login_problems(config.model_copy(update={"cluster": "local"}))
    assert [problem.is_of_node for problem in found] == ([] if has_nvenc else [True])


def corrupted(left: Any, right: Any) -> Any:
    product = left @ right
    product[3, 4] += 1
    return product


def test_one_wrong_value_of_a_product_is_noticed() -> None:
    torch = pytest.importorskip("torch")
    assert wrong_product(torch, "cpu") is None
    assert wrong_product(torch, "cpu", multiply=corrupted) == "computes wrongly: 1 of 262144 values of a product"


FAKE_TORCH = """
import os, time
__version__ = "fake"
class version: cuda = os.environ.get("FAKE_CUDA") or None
class cuda:
    def is_available(): return True
    def device_count(): return int(os.environ["FAKE_GPUS"])
    def get_device_name(index): return "Fake"
def arange(size, device):
    if os.environ.get("FAKE_HANGS"):
        open(os.environ["FAKE_HANGS"], "w").close()
        time.sleep(600)
    raise RuntimeError("CUDA error: uncorrectable ECC error encountered\\nmore lines")
"""


def gpu_check(folder: Path, *, num_gpus: int, **environment: str) -> dict[str, Any]:
    """What the check says where torch sees the GPUs that the environment tells."""
    (folder / "torch.py").write_text(FAKE_TORCH)
    variables = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", **environment}
    command = [sys.executable, "-m", "jobs.gpu_check", str(num_gpus), "0.0"]
    printed = subprocess.check_output(command, env=variables, text=True, timeout=PATIENCE_S)
    told: dict[str, Any] = {}
    for line in printed.splitlines():
        told |= json.loads(line)
    return told


def test_every_gpu_of_the_task_must_be_there_and_compute(tmp_path: Path) -> None:
    few = gpu_check(tmp_path, num_gpus=2, FAKE_CUDA="12.8", FAKE_GPUS="1")
    assert few["problems"] == ["torch sees 1 of the task's 2 GPUs: does nvidia-smi see them on this node?"]
    broken = gpu_check(tmp_path, num_gpus=2, FAKE_CUDA="12.8", FAKE_GPUS="2")
    assert broken["problems"] == [
        f"GPU {index} (Fake) does not compute: CUDA error: uncorrectable ECC error encountered" for index in (0, 1)
    ]
    assert "skipped" in gpu_check(tmp_path, num_gpus=2, FAKE_GPUS="0")  # torch for CPUs is the environment's matter


def test_a_gpu_that_hangs_is_given_up(tmp_path: Path) -> None:
    from jobs.preflight import _gpu  # the seconds it may take are not a setting

    (tmp_path / "torch.py").write_text(FAKE_TORCH)
    asked = tmp_path / "asked"
    fake = {"FAKE_CUDA": "12.8", "FAKE_GPUS": "1", "FAKE_HANGS": str(asked)}
    variables = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", **fake}
    command = [sys.executable, "-m", "jobs.gpu_check", "1", "0.0"]
    check = subprocess.Popen(command, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(asked.exists)
    (problem,) = _gpu(check, timeout_s=0.5)
    assert (problem.check, problem.is_of_node) == ("gpu", True)
    assert "no answer after 0.5 s" in problem.message
    assert check.wait(timeout=PATIENCE_S) != 0
