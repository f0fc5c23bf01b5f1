"""What a submission would queue, told without queueing or writing anything."""

from collections.abc import Sequence

from jobs.packing_plan import num_pack_tasks
from jobs.planning import Plan
from jobs.slurm_attempt import QueuedArray, SlurmAttempt, is_unfinished_launch, plan_attempt
from jobs.slurm_client import ask_max_array_size
from jobs.slurm_submitter import Launch
from jobs.unfinished import replan


def dry_run(plan: Plan) -> str:
    """The arrays, their limits and order, and the batch script of each kind of job.

    Raises:
        SubmissionError: Slurm does not answer.
    """
    attempt = _next(plan)
    packing = f", then {attempt.num_pack_tasks} tasks that pack the dataset" if attempt.packing else ""
    throttles = {each.array.lane: each.array.throttle for each in attempt.arrays}
    lines = [
        f"would queue attempt {attempt.number}: {attempt.num_shards} shards in {len(attempt.arrays)} arrays, "
        f"at most {sum(throttles.values())} workers at once{packing}",
        *_array_lines(attempt, attempt.arrays, "shards", after=""),
        f"{attempt.aggregation_name}: after all of them (afterany)",
        *_array_lines(attempt, attempt.packing, "tasks of packing", after=attempt.aggregation_name),
        *([f"{attempt.finishing_name}: after all of these (afterany)"] if attempt.packing else []),
    ]
    return "\n".join([*lines, *_scripts(Launch(plan.run, plan.config, attempt))])


def _array_lines(attempt: SlurmAttempt, arrays: Sequence[QueuedArray], what: str, *, after: str) -> list[str]:
    """A line for each array; the first of a lane comes after the job ``after``."""
    lines: list[str] = []
    last: dict[int, str] = {}
    for each in arrays:
        array, name = each.array, attempt.name(each)
        spec = f"0-{array.num_tasks - 1}%{min(array.throttle, array.num_tasks)}"
        before = last.get(array.lane, after)
        then = f", after {before}" if before else ""
        is_there = f"; is queued already as {each.job_id}" if each.job_id else ""
        last_shard = array.first_shard + array.num_tasks - 1
        lines.append(f"{name}: --array={spec}, {what} {array.first_shard} to {last_shard}{then}{is_there}")
        last[array.lane] = name
    return lines


def _scripts(launch: Launch) -> list[str]:
    """The batch script of each kind of job."""
    attempt = launch.attempt
    lines: list[str] = []
    for queued in (*attempt.arrays[:1], *attempt.packing[:1]):
        executor, command = launch.array_job(queued)
        text = executor.text(command, num_tasks=queued.array.num_tasks, throttle=queued.array.throttle)
        lines += ["", f"# ---- {attempt.name(queued)}", text]
    executor, command = launch.aggregation_job({})
    lines += ["", f"# ---- {attempt.aggregation_name}", executor.text(command)]
    if attempt.packing:
        executor, command = launch.finishing_job({})
        lines += ["", f"# ---- {attempt.finishing_name}", executor.text(command)]
    return lines


def _next(plan: Plan) -> SlurmAttempt:
    """The attempt that would be queued, with nothing of it written."""
    run, config = plan.run, plan.config
    attempts = run.attempts() if run.plan_path.is_file() else []
    shards = [shard.index for shard in plan.shards]
    number = 1
    if attempts and is_unfinished_launch(run, attempts[-1]):
        begun = SlurmAttempt.load(run, attempts[-1])
        if begun is not None and begun.jobs:
            return begun
        number, shards = attempts[-1], list(run.shard_sizes(attempts[-1]))
    elif attempts and not (attempts == [1] and not run.jobs_path(1).is_file()):
        number, shards = attempts[-1] + 1, [shard.index for shard in replan(run, config)[0]]
    max_tasks = ask_max_array_size()
    return plan_attempt(
        run,
        number,
        shards,
        max_tasks=max_tasks,
        parallelism=config.slurm.array_parallelism,
        num_pack_tasks=num_pack_tasks(config),
    )
