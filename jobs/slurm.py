"""Slurm's text formats. Pure."""

import hashlib
import re
from dataclasses import dataclass


def time_minutes(text: str) -> int:
    """A wall time in Slurm's format as whole minutes, rounded up; 0 asks for no limit.

    Source:
        man sbatch, ``--time``: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]].

    Raises:
        ValueError: the text is not of that format.
    """
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")] if re.fullmatch(r"\d+(:\d+){0,2}", rest) else []
    if not parts or (dash and not days.isdigit()):
        raise ValueError(f"not a Slurm wall time: {text!r}")
    if dash:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 1:
        hours, minutes, seconds = 0, parts[0], 0
    elif len(parts) == 2:
        hours, minutes, seconds = 0, *parts
    else:
        hours, minutes, seconds = parts
    total = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    return -(-total // 60)


def max_array_size(scontrol_config: str) -> int:
    """``MaxArraySize`` of ``scontrol show config``; an index may be at most one less. 1001 is Slurm's default."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", scontrol_config, re.MULTILINE)
    return int(found[1]) if found else 1001


@dataclass(frozen=True, slots=True)
class PlannedArray:
    """Array tasks over neighbouring shards, or tasks of packing: task 0 works on ``first_shard``.

    Arrays of the same ``lane`` run one after the other, at most ``throttle`` tasks at once.
    """

    first_shard: int
    num_tasks: int
    throttle: int
    lane: int


def plan_arrays(first_shard: int, num_shards: int, *, max_tasks: int, parallelism: int) -> list[PlannedArray]:
    """Arrays of about equal length over shards numbered from ``first_shard``, of which ``parallelism`` run at once.

    Slurm limits the tasks that run at once within one array only. So each array stands in a lane behind the one before
    it, and the throttles of the lanes add up to ``parallelism``.

    Args:
        max_tasks: tasks of one array: the site's MaxArraySize.
    """
    if not num_shards:
        return []
    num_arrays = -(-num_shards // max_tasks)
    num_lanes = min(num_arrays, parallelism)
    arrays = []
    for k in range(num_arrays):
        begin, end = (first_shard + num_shards * i // num_arrays for i in (k, k + 1))
        lane = k % num_lanes
        throttle = parallelism // num_lanes + (lane < parallelism % num_lanes)
        arrays.append(PlannedArray(begin, end - begin, throttle, lane))
    return arrays


def halved(array: PlannedArray) -> list[PlannedArray]:
    """The same tasks as two arrays of one lane; as it is when there is but one task."""
    half = array.num_tasks // 2
    if not half:
        return [array]
    rest = PlannedArray(array.first_shard + half, array.num_tasks - half, array.throttle, array.lane)
    return [PlannedArray(array.first_shard, half, array.throttle, array.lane), rest]


def job_prefix(run_dir: str) -> str:
    """What the names of all jobs of a run begin with, and of no other run: its folder's path tells runs apart."""
    return f"clipmill-{hashlib.sha256(run_dir.encode()).hexdigest()[:8]}"


def worker_name(prefix: str, attempt: int, first_shard: int) -> str:
    """Name of the array that begins with a shard: known before it is queued, so that it can be found by it."""
    return f"{prefix}-a{attempt}-s{first_shard}"


def aggregation_name(prefix: str, attempt: int) -> str:
    """Name of the aggregation after an attempt."""
    return f"{prefix}-a{attempt}-aggregation"


def packing_name(prefix: str, attempt: int, first_task: int) -> str:
    """Name of the array of packers that begins with a task."""
    return f"{prefix}-a{attempt}-p{first_task}"


def finishing_name(prefix: str, attempt: int) -> str:
    """Name of the job that publishes what an attempt's packers packed."""
    return f"{prefix}-a{attempt}-finishing"


def is_worker_name(name: str) -> bool:
    """Whether a job's name is that of an array of workers."""
    return re.search(r"-a\d+-s\d+$", name) is not None


def named_jobs(squeue: str) -> dict[str, str]:
    """Id of each job or whole array of ``squeue -h -o '%F|%j'`` by its name; the newest of several."""
    found: dict[str, str] = {}
    for line in squeue.splitlines():
        job, _, name = line.strip().partition("|")
        if job.isdigit() and int(job) >= int(found.get(name, 0)):
            found[name] = job
    return found


_REASON = re.compile(r"error: ((?:Assoc|QOS)\w+)$", re.MULTILINE)
_TRY_LATER = re.compile(
    r"job submit limit|job queue full|resource temporarily unavailable|try again|job creation temporarily disabled|"
    r"socket timed out|unable to contact slurm controller",
    re.IGNORECASE,
)


def is_submit_limit(sbatch_error: str) -> bool:
    """Whether sbatch refused for now: as many jobs are queued as the site allows, or its controller is too busy.

    Slurm tells it by words alone. One message stands for limits of the queue and for jobs that are too large or too
    long; a line before it says which limit it was.
    """
    if reasons := _REASON.findall(sbatch_error):
        return any("SubmitJob" in reason for reason in reasons)
    return _TRY_LATER.search(sbatch_error) is not None


_NO_ANSWER = re.compile("socket timed out|unable to contact slurm controller", re.IGNORECASE)


def may_be_queued(sbatch_error: str) -> bool:
    """Whether sbatch failed for want of an answer, so that the job may be queued all the same."""
    return _NO_ANSWER.search(sbatch_error) is not None


def signal_delay_s(delay_s: int, *, time_min: int) -> int:
    """How long before a wall time of ``time_min`` (0: none) workers are warned: a quarter of a short one."""
    return min(delay_s, time_min * 60 // 4) if time_min else delay_s


def queue_states(squeue: str) -> dict[str, str]:
    """State of each job of ``squeue -h -r -t all -o '%i|%T'``, by id (``123_4`` for an array's task)."""
    pairs = (line.strip().partition("|") for line in squeue.splitlines() if "|" in line)
    return {job: state for job, _, state in pairs}
