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
from jobs.rundir import RunDir
from jobs.slurm import job_prefix
from jobs.slurm_attempt import SCRIPT_JOBS, QueuedArray, SlurmAttempt, plan_attempt
from jobs.slurm_client import ask_max_array_size
from jobs.submission import SubmittedJob

SUBMIT_SCRIPT = "submit.sh"


class ScriptSubmitter:
    """Renders ``worker.sbatch``, ``aggregate.sbatch``, ``preflight.sbatch`` and a ``submit.sh``; queues nothing.

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
    return {
        "worker.sbatch": _job_script("worker.sbatch", config, worker, worker_command, cpus=cpus, values=common),
        "aggregate.sbatch": _job_script(
            "aggregate.sbatch", config, aggregation, sbatch.aggregation_command(run, config), cpus=1, values=common
        ),
        "preflight.sbatch": _job_script("preflight.sbatch", config, preflight, check, cpus=cpus, values=common),
        SUBMIT_SCRIPT: _fill(SUBMIT_SCRIPT, _submit_values(planned, config)),
    }


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
    lines = []
    variables: dict[int, str] = {}
    for k, queued in enumerate(planned.arrays):
        array = queued.array
        before = variables.get(array.lane)
        lines += [*_queue_lines(planned, queued, before=before), f"array_{k}=$job"]
        variables[array.lane] = f"array_{k}"
    after = ":".join(f"$array_{k}" for k in range(len(planned.arrays)))
    dependency = f'--dependency="afterany:{after}" --kill-on-invalid-dep=no ' if after else ""
    lines += [f"queue {planned.aggregation_name} {dependency}aggregate.sbatch"]
    return {
        "attempt": str(planned.number),
        "attempt_folder": shlex.quote(str(planned.run.attempt_path(planned.number))),
        "run_dir": shlex.quote(str(planned.run.root)),
        "script_jobs": SCRIPT_JOBS,
        "num_shards": str(planned.num_shards),
        "num_arrays": str(len(planned.arrays)),
        "parallelism": str(config.slurm.array_parallelism),
        "queue_lines": "\n".join(lines),
    }


def _queue_lines(planned: SlurmAttempt, queued: QueuedArray, *, before: str | None) -> list[str]:
    array = queued.array
    dependency = f'--dependency="afterany:${before}" --kill-on-invalid-dep=no ' if before else ""
    tasks = f"0-{array.num_tasks - 1}%{min(array.throttle, array.num_tasks)}"
    return [
        f"# shards {array.first_shard} to {array.first_shard + array.num_tasks - 1}",
        f"queue {planned.name(queued)} --array={tasks} {dependency}worker.sbatch {array.first_shard}",
    ]


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
