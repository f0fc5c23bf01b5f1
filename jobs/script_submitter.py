"""An attempt as batch scripts that a person reads and submits: the templates of ``sbatch_templates``, filled in."""

import re
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from curation.storage.files import replace_file
from jobs import sbatch
from jobs.bad_nodes import excluded_nodes
from jobs.config import RunConfig
from jobs.packing_plan import num_pack_tasks
from jobs.rundir import RunDir
from jobs.slurm import job_prefix
from jobs.slurm_attempt import SCRIPT_JOBS, QueuedArray, SlurmAttempt, plan_attempt
from jobs.slurm_client import ask_max_array_size
from jobs.submission import SubmittedJob

SUBMIT_SCRIPT = "submit.sh"


class ScriptSubmitter:
    """Renders ``worker.sbatch``, ``aggregate.sbatch``, ``preflight.sbatch`` and a ``submit.sh``; queues nothing.

    Where tasks of their own pack the dataset, ``packing.sbatch`` and ``finishing.sbatch``, too.

    Args:
        folder: where they go; None: the attempt's folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def submit(self, run: RunDir, config: RunConfig, attempt: int, shards: Sequence[int]) -> list[SubmittedJob]:
        """Render the scripts of an attempt; ``submit.sh`` then writes the ids of its jobs into the attempt's folder."""
        planned = plan_attempt(
            run,
            attempt,
            shards,
            max_tasks=ask_max_array_size(),
            parallelism=config.slurm.array_parallelism,
            num_pack_tasks=num_pack_tasks(config),
        )
        planned.route = "script"
        self.folder = (self.folder or run.attempt_path(attempt)).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        (run.logs_path / f"attempt-{attempt:03d}").mkdir(parents=True, exist_ok=True)  # Slurm makes no folders
        sbatch.make_mounted_folders(config)
        for name, text in render_scripts(planned, config).items():
            path = self.folder / name
            replace_file(path, text.encode())
            path.chmod(0o755 if name == SUBMIT_SCRIPT else 0o644)
        planned.save()
        return []

    def wait(self) -> None:
        """A person submits it."""
        return


def render_scripts(planned: SlurmAttempt, config: RunConfig) -> dict[str, str]:
    """Text of each file by its name."""
    run, number = planned.run, planned.number
    prefix = job_prefix(str(run.root))
    logs = str(run.logs_path / f"attempt-{number:03d}")
    worker = sbatch.worker_options(config, excluded_nodes=excluded_nodes(run, time.time()))
    worker |= {"job-name": f"{prefix}-a{number}", "output": f"{logs}/%A_%a_0_log.out"}
    aggregation = sbatch.aggregation_options(config)
    aggregation |= {"job-name": planned.aggregation_name, "output": f"{logs}/%j_0_log.out"}
    preflight = {**worker, "job-name": f"{prefix}-preflight", "output": f"{logs}/preflight-%j.log", "time": 10}
    check = shlex.join(
        sbatch.python_command(config, "jobs.preflight", "--run", str(run.root), gpus=config.slurm.gpus_per_task)
    )
    cpus = config.slurm.cpus_per_task
    common = {"attempt": str(number), "log_folder": shlex.quote(logs)}
    worker_command = sbatch.worker_command(run, config, number, "first_shard")
    aggregation_command = sbatch.aggregation_command(run, config, num_pack_tasks=planned.num_pack_tasks)
    scripts = [
        ("worker.sbatch", worker, worker_command, cpus),
        ("aggregate.sbatch", aggregation, aggregation_command, 1),
        ("preflight.sbatch", preflight, check, cpus),
        *(_packing_scripts(planned, config, aggregation) if planned.packing else ()),
    ]
    rendered = {
        name: _job_script(name, config, options, command, cpus=num_cpus, values=common)
        for name, options, command, num_cpus in scripts
    }
    return rendered | {SUBMIT_SCRIPT: _fill(SUBMIT_SCRIPT, _submit_values(planned, config))}


def _packing_scripts(
    planned: SlurmAttempt, config: RunConfig, aggregation: sbatch.Options
) -> list[tuple[str, sbatch.Options, str, int]]:
    """Name, options, command and CPUs of the scripts of the packers and of the job after them."""
    run, name = planned.run, planned.packing[0]
    packing = sbatch.packing_options(config, excluded_nodes=excluded_nodes(run, time.time()))
    logs = f"{run.logs_path}/attempt-{planned.number:03d}"
    packing |= {"job-name": planned.name(name), "output": f"{logs}/%A_%a_0_log.out"}
    command = sbatch.packing_command(run, config, "first_task")
    finishing = {**aggregation, "job-name": planned.finishing_name}
    return [
        ("packing.sbatch", packing, command, config.aggregate.cpus_per_task),
        ("finishing.sbatch", finishing, sbatch.finishing_command(run, config), 1),
    ]


def _job_script(
    template: str, config: RunConfig, options: sbatch.Options, command: str, *, cpus: int, values: Mapping[str, str]
) -> str:
    setup = sbatch.setup_lines(config)
    srun = shlex.join(sbatch.srun_arguments(config, cpus=cpus))
    lines = {"sbatch_lines": "\n".join(sbatch_lines(options)), "setup": "".join(f"{line}\n" for line in setup)}
    return _fill(template, {**values, **lines, "srun_arguments": srun, "command": command})


def sbatch_lines(options: sbatch.Options) -> list[str]:
    """The ``#SBATCH`` lines of options, by name."""
    return [
        f"#SBATCH --{name}" if value is True else f"#SBATCH --{name}={shlex.quote(str(value))}"
        for name, value in sorted(options.items())
    ]


def _submit_values(planned: SlurmAttempt, config: RunConfig) -> dict[str, str]:
    lines = _array_lines(planned, planned.arrays, "array", before=None)
    after = _after([f"array_{k}" for k in range(len(planned.arrays))])
    lines += [f"queue {planned.aggregation_name} {after}aggregate.sbatch"]
    if planned.packing:
        lines += ["aggregation=$job", *_array_lines(planned, planned.packing, "packing", before="aggregation")]
        after = _after([f"packing_{k}" for k in range(len(planned.packing))])
        lines += [f"queue {planned.finishing_name} {after}finishing.sbatch"]
    then = f", then {planned.num_pack_tasks} tasks that pack the dataset, and who publishes it"
    return {
        "then": then if planned.packing else "",
        "attempt": str(planned.number),
        "attempt_folder": shlex.quote(str(planned.run.attempt_path(planned.number))),
        "run_dir": shlex.quote(str(planned.run.root)),
        "script_jobs": SCRIPT_JOBS,
        "num_shards": str(planned.num_shards),
        "num_arrays": str(len(planned.arrays)),
        "parallelism": str(config.slurm.array_parallelism),
        "queue_lines": "\n".join(lines),
    }


def _array_lines(
    planned: SlurmAttempt, arrays: Sequence[QueuedArray], variable: str, *, before: str | None
) -> list[str]:
    """Lines that queue arrays lane by lane, and set ``$variable_K`` to their ids."""
    lines: list[str] = []
    lanes: dict[int, str] = {}
    for k, queued in enumerate(arrays):
        lane = queued.array.lane
        lines += [*_queue_lines(planned, queued, before=lanes.get(lane, before)), f"{variable}_{k}=$job"]
        lanes[lane] = f"{variable}_{k}"
    return lines


def _queue_lines(planned: SlurmAttempt, queued: QueuedArray, *, before: str | None) -> list[str]:
    array = queued.array
    what, script = ("tasks", "packing.sbatch") if queued.is_packing else ("shards", "worker.sbatch")
    after = _after([before] if before else [])
    tasks = f"0-{array.num_tasks - 1}%{min(array.throttle, array.num_tasks)}"
    return [
        f"# {what} {array.first_shard} to {array.first_shard + array.num_tasks - 1}",
        f"queue {planned.name(queued)} --array={tasks} {after}{script} {array.first_shard}",
    ]


def _after(variables: Sequence[str]) -> str:
    """sbatch's arguments for a job after those whose ids are in these variables."""
    ids = ":".join(f"${name}" for name in variables)
    return f'--dependency="afterany:{ids}" --kill-on-invalid-dep=no ' if ids else ""


def _fill(template: str, values: Mapping[str, str]) -> str:
    text = (templates_folder() / template).read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], text)


def templates_folder() -> Path:
    """Where the templates lie: in an installed package beside this module, in a checkout at its root."""
    here = Path(__file__).resolve().parent
    found = [folder for folder in (here / "sbatch_templates", here.parent / "sbatch_templates") if folder.is_dir()]
    if not found:
        raise FileNotFoundError(f"sbatch_templates is neither in {here} nor beside it: install clipmill again")
    return found[0]
