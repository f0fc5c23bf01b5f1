"""Asks Slurm beforehand whether it would take a run's jobs; queues nothing, and waits for no answer for long."""

import os
import re
import subprocess
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from jobs.config import RunConfig
from jobs.packing_plan import num_pack_tasks
from jobs.sbatch import Options, aggregation_options, packing_options, worker_options
from jobs.slurm import is_submit_limit, time_minutes

_TIMEOUT_S = 3.0  # a plan is there within 5 s, whether Slurm answers or not
_JOB = "#!/bin/sh\n:\n"
_CHOICES = ("partition", "account", "qos")  # sbatch names the first that is wrong; without that one, the next


@dataclass(slots=True)
class SlurmAnswer:
    """What Slurm says to a run's jobs. ``max_jobs`` is the site's MaxJobCount, None where it did not tell."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    max_jobs: int | None = None


@dataclass(frozen=True, slots=True)
class _Said:
    """What a command said; ``fault`` tells why it said nothing."""

    code: int = 0
    out: str = ""
    error: str = ""
    fault: str = ""


def ask_slurm(config: RunConfig, *, mistaken: Collection[str] = ()) -> SlurmAnswer:
    """Try the jobs with ``sbatch --test-only``, and look at the limits that this does not tell.

    Args:
        mistaken: settings whose values are mistakes, such as ``slurm.partition``: what depends on them is not asked.
    """
    answer = SlurmAnswer()
    if config.cluster != "slurm" or {"cluster", *(f"slurm.{name}" for name in _CHOICES)} & set(mistaken):
        return answer
    jobs = {
        "workers": ("slurm.time", worker_options(config)),
        "aggregation": ("slurm.aggregate_time", aggregation_options(config)),
        **({"packers": ("aggregate.time", packing_options(config))} if num_pack_tasks(config) else {}),
    }
    with ThreadPoolExecutor(5) as pool:
        futures = [pool.submit(_refusals, options) for _, options in jobs.values()]
        partitions = pool.submit(_ask, ["scontrol", "show", "partition", "--oneliner"])
        limits = pool.submit(_ask, ["scontrol", "show", "config"])
    for name, future in zip(jobs, futures, strict=True):
        _add_refusals(answer, name, future.result())
    for said in {partitions.result().fault, limits.result().fault} - {""}:
        answer.warnings.append(f"slurm: {said}: the site's limits are not checked")
    for key, options in jobs.values():
        if key not in mistaken:
            _check_partition(answer, partitions.result().out, key, options)
    found = re.search(r"^MaxJobCount\s*=\s*(\d+)", limits.result().out, re.MULTILINE)
    answer.max_jobs = int(found[1]) if found else None
    return answer


def _add_refusals(answer: SlurmAnswer, name: str, refusals: Sequence[_Said]) -> None:
    known = " ".join(answer.problems + answer.warnings)
    for said in refusals:
        text = said.fault or _reason(said.error)
        if text in known:  # what is wrong for both kinds of jobs is told once
            continue
        if said.fault.endswith("PATH"):
            answer.problems.append(f"cluster: slurm: {text}; submit from a login node, or take cluster: local")
        elif said.fault:
            answer.warnings.append(f"slurm: {text}: partition, account, QOS and resources are not checked")
        elif is_submit_limit(said.error):
            answer.warnings.append(f"slurm: sbatch would not take the {name} now: {text}")
        else:
            answer.problems.append(f"slurm: sbatch refuses the {name}: {text}")


def _refusals(options: Options) -> list[_Said]:
    """Why sbatch would not take a job: what it names first, and what it names when that is left out."""
    refusals: list[_Said] = []
    while True:
        arguments = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
        said = _ask(["sbatch", "--test-only", *arguments], _JOB)
        if not said.code and not said.fault:
            return refusals
        culprit = next((name for name in _CHOICES if name in options and name in said.error.lower()), None)
        error = f"{said.error.rstrip()} ({culprit}: {options[culprit]})" if culprit else said.error
        refusals.append(_Said(said.code, said.out, error, said.fault))
        if culprit is None:
            return refusals
        options = {name: value for name, value in options.items() if name != culprit}


def _reason(stderr: str) -> str:
    """The last thing that sbatch said, which is the reason in words."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not line.startswith("Try ")]
    return re.sub(r"^(sbatch: )?(error: |allocation failure: )?", "", lines[-1]) if lines else "it gives no reason"


def _check_partition(answer: SlurmAnswer, partitions: str, key: str, options: Options) -> None:
    """A job with more time than its partition has is queued at most sites, and never starts."""
    asked = str(options.get("partition", "")).split(",")
    for line in partitions.splitlines():
        shown = dict(field.split("=", 1) for field in line.split() if "=" in field)
        name = shown.get("PartitionName", "")
        if name not in asked and not (asked == [""] and shown.get("Default") == "YES"):
            continue
        if shown.get("State", "UP") != "UP":
            problem = f"slurm: partition {name} is {shown['State']}: jobs wait there until it is up"
            answer.warnings += [problem] if problem not in answer.warnings else []
        limit = shown.get("MaxTime", "UNLIMITED")
        minutes = int(options.get("time", 0))
        if limit != "UNLIMITED" and minutes > time_minutes(limit):
            answer.problems.append(f"{key}: {minutes} minutes are more than partition {name} allows ({limit})")


def _ask(command: Sequence[str], text: str = "") -> _Said:
    # as from a login node, also from inside a job: its own limits must not reach the new ones
    inherited = {k: v for k, v in os.environ.items() if k == "SLURM_CONF" or not k.startswith(("SLURM_", "SBATCH_"))}
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_TIMEOUT_S, env=inherited, check=False
        )
    except FileNotFoundError:
        return _Said(fault=f"{command[0]} is not on PATH")
    except (OSError, subprocess.TimeoutExpired) as error:
        said = error.strerror if isinstance(error, OSError) else f"did not answer within {_TIMEOUT_S:.0f} s"
        return _Said(fault=f"{command[0]} {said}")
    return _Said(done.returncode, done.stdout, done.stderr)
