"""What every route asks Slurm for: sbatch's options, the lines before a job's command, and the command."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.config import RunConfig
from jobs.rundir import RunDir
from jobs.slurm import signal_delay_s, time_minutes

Options = dict[str, str | int | bool]
"""sbatch's options by long name; True is an option without a value."""


def worker_options(config: RunConfig, *, excluded_nodes: Sequence[str] = ()) -> Options:
    """Options of the arrays of workers, but for their names and sizes."""
    slurm = config.slurm
    minutes = time_minutes(slurm.time)
    options: Options = {
        "cpus-per-task": slurm.cpus_per_task,
        "mem": _megabytes(slurm.mem_gb),
        "time": minutes,
        # to the job's steps, not to the shell of the batch script
        "signal": f"USR2@{signal_delay_s(slurm.signal_delay_s, time_min=minutes)}",
        "requeue" if slurm.requeue else "no-requeue": True,
    }
    if slurm.gpus_per_task:
        options["gpus-per-node"] = slurm.gpus_per_task
    if excluded_nodes:
        options["exclude"] = ",".join(excluded_nodes)
    return _with_additional(config, options)


def aggregation_options(config: RunConfig) -> Options:
    """Options of the aggregation, and of the job after packers, but for its name and dependency."""
    slurm = config.slurm
    options: Options = {
        "cpus-per-task": 1,
        "mem": _megabytes(slurm.aggregate_mem_gb),
        "time": time_minutes(slurm.aggregate_time),
    }
    return _with_additional(config, options)


def packing_options(config: RunConfig, *, excluded_nodes: Sequence[str] = ()) -> Options:
    """Options of the arrays of packers, but for their names, sizes and dependency."""
    aggregate = config.aggregate
    options: Options = {
        "cpus-per-task": aggregate.cpus_per_task,
        "mem": _megabytes(aggregate.mem_gb),
        "time": time_minutes(aggregate.time),
        "requeue" if config.slurm.requeue else "no-requeue": True,  # what is packed stays
    }
    if excluded_nodes:
        options["exclude"] = ",".join(excluded_nodes)
    return _with_additional(config, options)


def _with_additional(config: RunConfig, options: Options) -> Options:
    """With what all jobs have; what the config adds wins, and ``false`` takes an option away."""
    slurm = config.slurm
    named: Options = {"nodes": 1, "ntasks": 1, "open-mode": "append", **options}
    named |= {"partition": slurm.partition or False, "account": slurm.account or False, "qos": slurm.qos or False}
    named |= {name.replace("_", "-"): value for name, value in slurm.additional_parameters.items()}
    return {name: value for name, value in named.items() if value is not False}


def _megabytes(gib: float) -> str:
    return f"{round(gib * 1024)}M"


def dependency_options(job_ids: Sequence[str]) -> Options:
    """Options of a job that starts when others ended, in whatever way: afterok would never start after one failure."""
    return {"dependency": f"afterany:{':'.join(job_ids)}", "kill-on-invalid-dep": "no"} if job_ids else {}


def setup_lines(config: RunConfig) -> list[str]:
    """Shell lines before the command."""
    slurm = config.slurm
    modules = [f"module load {shlex.join(slurm.modules)}"] if slurm.modules else []
    exports = [f"export {name}={shlex.quote(value)}" for name, value in slurm.environment.items()]
    return [*modules, *slurm.setup, *exports]


def srun_arguments(config: RunConfig, *, cpus: int) -> list[str]:
    """Arguments of srun in a job of so many CPUs."""
    # since Slurm 22.05 a step does not take the job's --cpus-per-task over: it would have one core
    arguments = [f"--cpus-per-task={cpus}"]
    if config.slurm.container_image and config.slurm.container_runtime == "pyxis":
        mounts = ",".join(_mount(each) for each in container_mounts(config))
        arguments += [f"--container-image={config.slurm.container_image}", f"--container-mounts={mounts}"]
    return [*arguments, *config.slurm.srun_arguments]


def _mount(mount: str) -> str:
    """A bind of apptainer, SOURCE[:TARGET[:OPTIONS]], as pyxis wants it: with a target."""
    return mount if ":" in mount else f"{mount}:{mount}"


def python_command(config: RunConfig, *arguments: str, gpus: int) -> list[str]:
    """The command of a job's step: ``python -m`` with arguments, in the container if there is one."""
    slurm = config.slurm
    python = slurm.python or ("python3" if slurm.container_image else sys.executable)
    command = [python, "-u", "-m", *arguments]
    if slurm.container_image and slurm.container_runtime == "apptainer":
        binds = [f"--bind={each}" for each in container_mounts(config)]
        command = ["apptainer", "exec", *(["--nv"] if gpus else []), *binds, slurm.container_image, *command]
    return command


def worker_command(run: RunDir, config: RunConfig, attempt: int, first_shard: str) -> str:
    """Shell text of a worker; ``first_shard`` is the number or shell variable that a task's index is added to."""
    arguments = ["jobs.worker", "--run", str(run.root)]
    command = shlex.join(python_command(config, *arguments, gpus=config.slurm.gpus_per_task))
    return f"{command} --shard $(({first_shard} + SLURM_ARRAY_TASK_ID)) --attempt {attempt}"


def aggregation_command(run: RunDir, config: RunConfig, *, num_pack_tasks: int = 0) -> str:
    """Shell text of the aggregation; so many tasks of packing follow it."""
    packers = ["--pack-tasks", str(num_pack_tasks)] if num_pack_tasks else []
    return shlex.join(python_command(config, "jobs.aggregation", "--run", str(run.root), *packers, gpus=0))


def packing_command(run: RunDir, config: RunConfig, first_task: str) -> str:
    """Shell text of a packer; ``first_task`` is the number or shell variable that a task's index is added to."""
    command = shlex.join(python_command(config, "jobs.packing", "--run", str(run.root), gpus=0))
    return f"{command} --task $(({first_task} + SLURM_ARRAY_TASK_ID))"


def finishing_command(run: RunDir, config: RunConfig) -> str:
    """Shell text of the job after the packers."""
    return shlex.join(python_command(config, "jobs.packing", "--run", str(run.root), "--finish", gpus=0))


def container_mounts(config: RunConfig) -> list[str]:
    """What a container sees of the host, as ``SOURCE[:TARGET]``: the folders of the run, and what the config adds.

    Files that a manifest lists outside of ``input_video_path`` need mounts of their own.
    """
    weights = [config.models.model_dir, config.split.transnetv2_model_dir]
    folders = [config.run_dir, config.output_clip_path, config.output_dataset_path, config.input_video_path]
    folders.append(config.dataset.duplicates)
    known = [folder for folder in (*folders, *weights) if folder and "://" not in folder]
    present = [folder for folder in known if folder not in weights or Path(folder).is_dir()]
    return list(dict.fromkeys([*present, *config.slurm.container_mounts]))


def make_mounted_folders(config: RunConfig) -> None:
    """Make the folders that the jobs will write to: what is not there can't be mounted."""
    if config.slurm.container_image:
        for folder in (config.run_dir, config.output_clip_path, config.output_dataset_path):
            if folder and "://" not in folder:
                Path(folder).mkdir(parents=True, exist_ok=True)
