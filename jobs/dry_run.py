"""What a submission would queue, told without queueing or writing anything."""

from jobs.planning import Plan
from jobs.slurm_attempt import SlurmAttempt, is_unfinished_launch, plan_attempt
from jobs.slurm_client import ask_max_array_size
from jobs.slurm_submitter import Launch
from jobs.unfinished import replan


def dry_run(plan: Plan) -> str:
    """The arrays, their limits and order, and the batch scripts of the workers and of the aggregation.

    Raises:
        SubmissionError: Slurm does not answer.
    """
    attempt = _next(plan)
    throttles = {each.array.lane: each.array.throttle for each in attempt.arrays}
    lines = [
        f"would queue attempt {attempt.number}: {attempt.num_shards} shards in {len(attempt.arrays)} arrays, "
        f"at most {sum(throttles.values())} workers at once"
    ]
    last: dict[int, str] = {}
    for each in attempt.arrays:
        array, name = each.array, attempt.name(each)
        spec = f"0-{array.num_tasks - 1}%{min(array.throttle, array.num_tasks)}"
        after = f", after {last[array.lane]}" if array.lane in last else ""
        is_there = f"; is queued already as {each.job_id}" if each.job_id else ""
        last_shard = array.first_shard + array.num_tasks - 1
        lines.append(f"{name}: --array={spec}, shards {array.first_shard} to {last_shard}{after}{is_there}")
        last[array.lane] = name
    lines.append(f"{attempt.aggregation_name}: after all of them (afterany)")
    launch = Launch(plan.run, plan.config, attempt)
    if attempt.arrays:
        executor, command = launch.worker_job(attempt.arrays[0])
        size = attempt.arrays[0].array
        text = executor.text(command, num_tasks=size.num_tasks, throttle=size.throttle)
        lines += ["", f"# ---- {attempt.name(attempt.arrays[0])}", text]
    executor, command = launch.aggregation_job({})
    lines += ["", f"# ---- {attempt.aggregation_name}", executor.text(command)]
    return "\n".join(lines)


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
    return plan_attempt(run, number, shards, max_tasks=max_tasks, parallelism=config.slurm.array_parallelism)
