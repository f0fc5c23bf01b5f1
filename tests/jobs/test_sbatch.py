"""What Slurm is asked for follows the config, the same by both routes; the templates are whole."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs import exits, sbatch
from jobs.config import ConfigError, RunConfig
from jobs.ledger import ShardLog
from jobs.packing_plan import num_pack_tasks
from jobs.planning import plan_run
from jobs.rundir import RunDir
from jobs.script_submitter import render_scripts
from jobs.slurm_attempt import SlurmAttempt, plan_attempt
from jobs.submitit_arrays import CommandExecutor
from tests.local_runs import ROOT, config_of, make_videos

PYXIS = {"container_image": "registry#clipmill:1", "container_runtime": "pyxis"}
APPTAINER = {"container_image": "/images/clipmill.sif", "container_runtime": "apptainer"}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("raw"), 5, num_frames=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "it's a folder"


def planned(folder: Path, raw: Path, *, aggregate: Any = None, **slurm: Any) -> tuple[SlurmAttempt, RunConfig]:
    """Five shards in three arrays of which two tasks run at once: two lanes."""
    settings: dict[str, Any] = {"plan": {"num_shards": 5}, "slurm": {"gpus_per_task": 2, **slurm}}
    settings |= {"aggregate": aggregate, "output_dataset_path": str(folder / "dataset")} if aggregate else {}
    run: RunDir = plan_run(config_of(folder, raw, **settings)).run  # locally: there need not be a Slurm to ask
    config = config_of(folder, raw, cluster="slurm", **settings)
    num_tasks = num_pack_tasks(config)
    return plan_attempt(run, 1, range(5), max_tasks=2, parallelism=2, num_pack_tasks=num_tasks), config


def options_of(script: str) -> dict[str, str]:
    """The ``#SBATCH`` options of a batch script."""
    lines = re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", script, re.MULTILINE)
    return {name: "".join(shlex.split(value)) for name, value in lines}


def command_of(script: str) -> list[str]:
    """The words of a batch script's step."""
    found = re.search(r"^srun .*", script.replace("\\\n", ""), re.MULTILINE)
    assert found is not None
    return shlex.split(re.sub(r"\$\(\(first_\w+ \+ SLURM_ARRAY_TASK_ID\)\)", "SHARD", found[0]))


def test_both_routes_ask_slurm_for_the_same(folder: Path, raw: Path) -> None:
    more = {"additional_parameters": {"constraint": "a100", "exclusive": True, "hold_": "x"}, "time": "00:04:00"}
    attempt, config = planned(folder, raw, partition="gpu", account="lab", qos="high", mem_gb=1.5, **more)
    script = options_of(render_scripts(attempt, config)["worker.sbatch"])
    options = sbatch.worker_options(config) | {"job-name": script["job-name"]}
    executor = CommandExecutor(attempt.run.logs_path / "attempt-001", options, setup=[], srun_arguments=[])
    submitit = options_of(executor.text("true", num_tasks=2, throttle=1))
    assert submitit.pop("array") == "0-1%1"
    assert submitit == script
    expected = {"partition": "gpu", "account": "lab", "qos": "high", "mem": "1536M", "time": "4", "gpus-per-node": "2"}
    expected |= {"constraint": "a100", "exclusive": "", "signal": "USR2@60", "requeue": "", "cpus-per-task": "8"}
    assert expected.items() <= script.items()


def test_the_config_has_the_last_word_on_options(folder: Path, raw: Path) -> None:
    own = {"additional_parameters": {"mem": "0", "gpus-per-node": False, "gres": "gpu:a100:2"}, "requeue": False}
    _, config = planned(folder, raw, **own)
    options = sbatch.worker_options(config)
    assert (options["mem"], options["gres"]) == ("0", "gpu:a100:2")
    assert "gpus-per-node" not in options
    assert "no-requeue" in options
    assert "requeue" not in options


def test_bad_nodes_are_left_out(folder: Path, raw: Path) -> None:
    _, config = planned(folder, raw)
    assert sbatch.worker_options(config, excluded_nodes=["n1", "n7"])["exclude"] == "n1,n7"
    assert "exclude" not in sbatch.worker_options(config)


def test_a_job_without_a_container_runs_this_python_or_the_one_asked_for(folder: Path, raw: Path) -> None:
    attempt, config = planned(folder, raw)
    worker = ["-u", "-m", "jobs.worker", "--run", str(attempt.run.root), "--shard", "SHARD", "--attempt", "1"]
    command = command_of(render_scripts(attempt, config)["worker.sbatch"])
    assert command == ["srun", "--cpus-per-task=8", sys.executable, *worker]
    attempt, config = planned(folder, raw, python="/envs/my env/bin/python")
    command = command_of(render_scripts(attempt, config)["worker.sbatch"])
    assert command == ["srun", "--cpus-per-task=8", "/envs/my env/bin/python", *worker]


def test_pyxis_gets_image_and_mounts_through_srun(folder: Path, raw: Path) -> None:
    attempt, config = planned(folder, raw, **PYXIS, container_mounts=["/data:/mnt:ro", "/scratch"])
    command = command_of(render_scripts(attempt, config)["worker.sbatch"])
    assert "--container-image=registry#clipmill:1" in command
    [mounts] = [word.partition("=")[2].split(",") for word in command if word.startswith("--container-mounts=")]
    folders = [str(attempt.run.root), str(folder / "out"), str(raw)]
    assert mounts == [*(f"{each}:{each}" for each in folders), "/data:/mnt:ro", "/scratch:/scratch"]
    assert command[command.index("-u") - 1] == "python3"  # the image's, not the login node's


def test_apptainer_gets_the_gpu_only_where_there_is_one(folder: Path, raw: Path) -> None:
    attempt, config = planned(folder, raw, **APPTAINER)
    scripts = render_scripts(attempt, config)
    worker, aggregation = command_of(scripts["worker.sbatch"]), command_of(scripts["aggregate.sbatch"])
    assert worker[2:5] == ["apptainer", "exec", "--nv"]
    assert "--nv" not in aggregation
    assert aggregation[2:4] == ["apptainer", "exec"]
    for command in (worker, aggregation):
        assert f"--bind={raw}" in command
        assert command[command.index("/images/clipmill.sif") + 1] == "python3"


def test_modules_setup_and_variables_come_before_the_command_in_both_routes(folder: Path, raw: Path) -> None:
    lines = {"modules": ["cuda/12.4", "ffmpeg"], "setup": ["conda activate x"], "environment": {"A": "b $c's"}}
    attempt, config = planned(folder, raw, **lines)
    setup = sbatch.setup_lines(config)
    assert setup[:2] == ["module load cuda/12.4 ffmpeg", "conda activate x"]
    assert shlex.split(setup[2]) == ["export", "A=b $c's"]
    executor = CommandExecutor(folder, {"job-name": "x"}, setup=setup, srun_arguments=[])
    for script in (render_scripts(attempt, config)["worker.sbatch"], executor.text("true")):
        head, _, _ = script.partition("\nsrun ")
        assert "\n".join(setup) in head


def test_the_name_of_a_variable_is_checked(folder: Path, raw: Path) -> None:
    with pytest.raises(ConfigError, match="environment"):
        config_of(folder, raw, slurm={"environment": {"A; rm": "x"}})


def test_submit_sh_queues_each_shard_once_lane_by_lane_and_then_the_aggregation(folder: Path, raw: Path) -> None:
    attempt, config = planned(folder, raw)
    text = render_scripts(attempt, config)["submit.sh"]
    queued = [line.split() for line in text.splitlines() if line.startswith("queue clipmill-")]
    *workers, last = queued
    shards = []
    for words in workers:
        tasks = re.search(r"--array=0-(\d+)%1 ", " ".join(words))
        assert tasks is not None
        shards += [int(words[-1]) + k for k in range(int(tasks[1]) + 1)]
    assert shards == list(range(5))
    dependencies = [[word for word in words if word.startswith("--dependency")] for words in queued]
    assert dependencies == [
        [],
        [],
        ['--dependency="afterany:$array_0"'],  # two lanes: the third array is behind the first
        ['--dependency="afterany:$array_0:$array_1:$array_2"'],
    ]
    assert last[-1] == "aggregate.sbatch"


def test_packers_come_after_the_aggregation_and_the_job_that_publishes_after_all_of_them(
    folder: Path, raw: Path
) -> None:
    attempt, config = planned(folder, raw, aggregate={"num_tasks": 5})
    text = render_scripts(attempt, config)["submit.sh"]
    queued = [line.split() for line in text.splitlines() if line.startswith("queue clipmill-")][4:]
    dependencies = [[word for word in words if word.startswith("--dependency")] for words in queued]
    assert dependencies == [
        ['--dependency="afterany:$aggregation"'],
        ['--dependency="afterany:$aggregation"'],
        ['--dependency="afterany:$packing_0"'],  # two lanes, as for the workers
        ['--dependency="afterany:$packing_0:$packing_1:$packing_2"'],
    ]
    *packers, last = queued
    tasks = []
    for words in packers:
        last_index = re.search(r"--array=0-(\d+)%1 ", " ".join(words))
        assert last_index is not None
        tasks += [int(words[-1]) + k for k in range(int(last_index[1]) + 1)]
    assert tasks == list(range(5))
    assert [words[-2] for words in packers] == ["packing.sbatch"] * 3
    assert last[-1] == "finishing.sbatch"
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_both_routes_ask_for_packers_what_the_group_aggregate_says(folder: Path, raw: Path) -> None:
    attempt, config = planned(
        folder, raw, partition="cpu", aggregate={"num_tasks": 2, "cpus_per_task": 3, "mem_gb": 1.5, "time": "00:30:00"}
    )
    scripts = render_scripts(attempt, config)
    script = options_of(scripts["packing.sbatch"])
    executor = CommandExecutor(
        attempt.run.logs_path / "attempt-001",
        sbatch.packing_options(config) | {"job-name": script["job-name"]},
        setup=[],
        srun_arguments=[],
    )
    submitit = options_of(executor.text("true", num_tasks=2, throttle=2))
    del submitit["array"], submitit["signal"]
    del script["output"], submitit["output"]
    assert submitit == script
    assert {"partition": "cpu", "cpus-per-task": "3", "mem": "1536M", "time": "30"}.items() <= script.items()
    assert "gpus-per-node" not in script
    run = ["-u", "-m", "jobs.packing", "--run", str(attempt.run.root)]
    assert command_of(scripts["packing.sbatch"]) == [
        "srun",
        "--cpus-per-task=3",
        sys.executable,
        *run,
        "--task",
        "SHARD",
    ]
    assert command_of(scripts["finishing.sbatch"])[-2:] == [str(attempt.run.root), "--finish"]
    assert command_of(scripts["aggregate.sbatch"])[-2:] == ["--pack-tasks", "2"]
    assert not [name for name, text in scripts.items() if "{{" in text]


def test_the_aggregation_packs_where_one_task_is_enough(folder: Path, raw: Path) -> None:
    attempt, config = planned(folder, raw, aggregate={"num_tasks": 1})
    scripts = render_scripts(attempt, config)
    assert "packing.sbatch" not in scripts
    assert "--pack-tasks" not in scripts["aggregate.sbatch"]
    assert "packing" not in scripts["submit.sh"]


def test_jobs_of_packing_that_a_dead_launcher_queued_are_found_by_name(folder: Path, raw: Path) -> None:
    attempt, _ = planned(folder, raw, aggregate={"num_tasks": 5})
    attempt.save()
    attempt.adopt({attempt.name(attempt.packing[1]): "7", attempt.finishing_name: "8", attempt.aggregation_name: "6"})
    loaded = SlurmAttempt.load(attempt.run, 1)
    assert loaded is not None
    assert [each.job_id for each in loaded.packing] == [None, "7", None]
    assert (loaded.finishing, loaded.num_pack_tasks) == ("8", 5)
    assert [(job.job_id, job.role) for job in loaded.jobs] == [
        ("6", "aggregation"),
        ("7", "packing"),
        ("8", "finishing"),
    ]
    assert loaded.before(loaded.packing[0]) == ["6"]
    assert loaded.before(loaded.packing[2]) == []  # the one before it in its lane is not queued yet


def test_no_template_keeps_an_empty_place(folder: Path, raw: Path) -> None:
    attempt, config = planned(folder, raw)
    scripts = render_scripts(attempt, config)
    assert set(scripts) == {"worker.sbatch", "aggregate.sbatch", "preflight.sbatch", "submit.sh"}
    assert not [name for name, text in scripts.items() if "{{" in text]


def test_a_job_that_slurm_forgot_is_known_by_the_word_of_its_worker(folder: Path, raw: Path) -> None:
    attempt, _ = planned(folder, raw)
    attempt.save()
    [first, *later] = attempt.arrays
    last_shard = first.array.first_shard + first.array.num_tasks - 1
    for number, job in ((2, "88"), (1, "77")):  # one is of another attempt
        log = ShardLog(attempt.run.shard_state_path(last_shard))
        log.append("start", attempt=number, job=job)
        log.close()
    attempt.adopt({"somebody else's": "5", attempt.name(later[0]): "99"})
    loaded = SlurmAttempt.load(attempt.run, 1)
    assert loaded is not None
    assert [each.job_id for each in loaded.arrays] == ["77", "99", None]


def test_the_preflight_job_ends_with_what_it_found(folder: Path) -> None:
    videos = make_videos(folder / "videos", 1, num_frames=3)
    run = plan_run(config_of(folder, videos, slurm={"gpus_per_task": 0})).run
    command = [sys.executable, "-m", "jobs.preflight", "--run", str(run.root)]
    good = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert good.returncode == exits.DONE, good.stderr
    videos.rename(folder / "moved")
    bad = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert bad.returncode == exits.FAILED
    assert "input_video_path" in bad.stderr
