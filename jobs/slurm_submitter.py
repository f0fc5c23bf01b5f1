"""An attempt's shards as Slurm arrays, and after them what makes the dataset, through submitit."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs import sbatch
from jobs.bad_nodes import excluded_nodes
from jobs.config import RunConfig
from jobs.packing_plan import num_pack_tasks
from jobs.rundir import RunDir
from jobs.slurm import is_submit_limit, may_be_queued
from jobs.slurm_attempt import QueuedArray, SlurmAttempt, plan_attempt
from jobs.slurm_client import ask_max_array_size, cancel_jobs, find_named_jobs, outside_any_job, release_after
from jobs.submission import StoppedError, SubmissionError, SubmittedJob

if TYPE_CHECKING:
    from jobs.submitit_arrays import CommandExecutor

logger = logging.getLogger(__name__)

_FIRST_WAIT_S = 2.0
_LONGEST_WAIT_S = 60.0
_MAX_LOOKS = 10


class SlurmSubmitter:
    """Arrays of workers, a dependent aggregation, and after that packers and who ends them, through submitit."""

    def submit(self, run: RunDir, config: RunConfig, attempt: int, shards: Sequence[int]) -> list[SubmittedJob]:
        """Submit the arrays and, ``afterany`` of all of them, the aggregation, and what packs its dataset.

        Goes on where a dead launcher stopped.

        Raises:
            SubmissionError: sbatch refused, with what it said; what was queued before stays so.
            StoppedError: Ctrl-C, and what is queued stays so; or somebody cancelled the attempt.
        """
        with outside_any_job():
            launched = _begun(run, attempt)
            if launched is None:
                launched = plan_attempt(
                    run,
                    attempt,
                    shards,
                    max_tasks=ask_max_array_size(),
                    parallelism=config.slurm.array_parallelism,
                    num_pack_tasks=num_pack_tasks(config),
                )
                launched.save()  # before sbatch: a launcher that dies leaves names to look for
            return Launch(run, config, launched).queue_all()

    def wait(self) -> None:
        """The work goes on in Slurm."""
        return


def _begun(run: RunDir, attempt: int) -> SlurmAttempt | None:
    """What an earlier launcher left of the attempt, if it queued something; else new settings may plan it anew."""
    begun = SlurmAttempt.load(run, attempt)
    if begun is None or begun.route != "submitit":
        return None
    begun.adopt(find_named_jobs())
    return begun if begun.jobs else None


@dataclass
class Launch:
    """The queueing of one attempt."""

    run: RunDir
    config: RunConfig
    attempt: SlurmAttempt
    _largest_taken: int = 0
    _has_warned: bool = False

    def queue_all(self) -> list[SubmittedJob]:
        """Queue what is not queued yet; see ``SlurmSubmitter.submit``."""
        sbatch.make_mounted_folders(self.config)
        try:
            while (queued := self.attempt.next_array()) is not None:
                self._queue_array(queued)
            self._queue_aggregation()
            while (queued := self.attempt.next_packing()) is not None:
                self._queue_array(queued)
            if self.attempt.packing:
                self._queue_finishing()
        except KeyboardInterrupt:
            raise StoppedError(f"stopped: {self._how_far()}") from None
        except _CancelledError:
            cancel_jobs([job.job_id for job in self.attempt.jobs])
            raise StoppedError(f"cancelled meanwhile; go on with: clipmill resume {self.run.root}") from None
        except SubmissionError as error:
            raise SubmissionError(f"{error}; {self._how_far()}" if self.attempt.jobs else str(error)) from error
        self.attempt.is_whole = True
        self.attempt.save()
        return self.attempt.jobs

    def _queue_array(self, queued: QueuedArray) -> None:
        """Queue an array, or wait for room, or put two smaller ones in its place."""
        array = queued.array
        executor, command = self.array_job(queued)
        throttle = min(array.throttle, array.num_tasks)
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                job_id = self._sbatch(lambda: executor.queue(command, num_tasks=array.num_tasks, throttle=throttle))
                break
            except _NoRoomError as error:
                self._warn(str(error))
                if not error.may_be_queued:
                    self._hold_aggregation()
                    if array.num_tasks > max(1, self._largest_taken):
                        self.attempt.split(queued)
                        return
            wait_s = _wait(wait_s)
            if (found := self._look_for(self.attempt.name(queued))) is not None:
                job_id = found  # taken after all: the answer came too late
                break
        queued.job_id = job_id
        self._largest_taken = max(self._largest_taken, array.num_tasks)
        self._saved()

    def _queue_aggregation(self) -> None:
        after = sbatch.dependency_options(self.attempt.array_ids)
        if self.attempt.aggregation is not None:
            if self.attempt.is_aggregation_held:
                release_after(self.attempt.aggregation, str(after.get("dependency", "")))
            return
        self.attempt.aggregation = self._queue_one(self.attempt.aggregation_name, lambda: self._aggregation(after))
        self._saved()

    def _queue_finishing(self) -> None:
        if self.attempt.finishing is None:
            executor, command = self.finishing_job(sbatch.dependency_options(self.attempt.packing_ids))
            self.attempt.finishing = self._queue_one(self.attempt.finishing_name, lambda: executor.queue(command))
            self._saved()

    def _queue_one(self, name: str, queue: Callable[[], str]) -> str:
        """Queue a job that is no array, or wait for room; gives its id."""
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                return self._sbatch(queue)
            except _NoRoomError as error:
                self._warn(str(error))
                wait_s = _wait(wait_s)
                if (found := self._look_for(name)) is not None:
                    return found

    def _hold_aggregation(self) -> None:
        """Where room is short, the aggregation takes its place before the workers fill it."""
        if self.attempt.aggregation is not None:
            return
        try:
            self.attempt.aggregation = self._sbatch(lambda: self._aggregation({"hold": True}))
        except _NoRoomError:
            self.attempt.aggregation = self._look_for(self.attempt.aggregation_name)
        self.attempt.is_aggregation_held = self.attempt.aggregation is not None
        self._saved()

    def _look_for(self, name: str) -> str | None:
        """The job of that name, once Slurm answers: a controller too busy to say so may have taken it."""
        wait_s = _FIRST_WAIT_S
        for _ in range(_MAX_LOOKS - 1):
            try:
                return find_named_jobs().get(name)
            except SubmissionError as error:
                self._warn(str(error))
                wait_s = _wait(wait_s)
        return find_named_jobs().get(name)

    def array_job(self, queued: QueuedArray) -> "tuple[CommandExecutor, str]":
        """What queues an array, and the command of its tasks."""
        config, first, excluded = self.config, str(queued.array.first_shard), excluded_nodes(self.run, time.time())
        if queued.is_packing:
            options = sbatch.packing_options(config, excluded_nodes=excluded)
            command = sbatch.packing_command(self.run, config, first)
        else:
            options = sbatch.worker_options(config, excluded_nodes=excluded)
            command = sbatch.worker_command(self.run, config, self.attempt.number, first)
        options |= {"job-name": self.attempt.name(queued), **sbatch.dependency_options(self.attempt.before(queued))}
        cpus = config.aggregate.cpus_per_task if queued.is_packing else config.slurm.cpus_per_task
        return self._executor(options, cpus=cpus), command

    def aggregation_job(self, further: sbatch.Options) -> "tuple[CommandExecutor, str]":
        """What queues the aggregation, and its command."""
        options = sbatch.aggregation_options(self.config) | {"job-name": self.attempt.aggregation_name, **further}
        command = sbatch.aggregation_command(self.run, self.config, num_pack_tasks=self.attempt.num_pack_tasks)
        return self._executor(options, cpus=1), command

    def finishing_job(self, further: sbatch.Options) -> "tuple[CommandExecutor, str]":
        """What queues the job after the packers, and its command."""
        options = sbatch.aggregation_options(self.config) | {"job-name": self.attempt.finishing_name, **further}
        return self._executor(options, cpus=1), sbatch.finishing_command(self.run, self.config)

    def _aggregation(self, further: sbatch.Options) -> str:
        executor, command = self.aggregation_job(further)
        return executor.queue(command)

    def _executor(self, options: sbatch.Options, *, cpus: int) -> "CommandExecutor":
        from jobs.submitit_arrays import CommandExecutor

        return CommandExecutor(
            self.run.logs_path / f"attempt-{self.attempt.number:03d}",
            options,
            setup=sbatch.setup_lines(self.config),
            srun_arguments=sbatch.srun_arguments(self.config, cpus=cpus),
        )

    def _sbatch(self, queue: Callable[[], str]) -> str:
        if self.attempt.is_cancelled:
            raise _CancelledError
        try:
            return queue()
        except SubmissionError as error:
            said = _last_line(str(error))
            if is_submit_limit(str(error)):
                raise _NoRoomError(said, may_be_queued=may_be_queued(str(error))) from error
            raise SubmissionError(f"sbatch refused: {said}") from error

    def _saved(self) -> None:
        self.attempt.save()
        if self.attempt.is_cancelled:  # by somebody who could not know of the job yet
            raise _CancelledError

    def _warn(self, said: str) -> None:
        if not self._has_warned:
            logger.warning("sbatch takes no more for now (%s): waiting for room; %s", said, self._how_far())
            self._has_warned = True

    def _how_far(self) -> str:
        attempt = self.attempt
        return (
            f"{attempt.num_queued} of {attempt.num_shards} shards are queued; if this ends, go on with: "
            f"clipmill resume {self.run.root}, or take it back with: clipmill cancel {self.run.root}"
        )


class _NoRoomError(Exception):
    """sbatch takes no more for now; ``may_be_queued``: it took the job perhaps, and could not say so."""

    def __init__(self, said: str, *, may_be_queued: bool) -> None:
        super().__init__(said)
        self.may_be_queued = may_be_queued


class _CancelledError(Exception):
    """Somebody cancelled the attempt while it was being queued."""


def _wait(wait_s: float) -> float:
    """Wait, and give the next, longer wait."""
    time.sleep(wait_s)
    return min(2 * wait_s, _LONGEST_WAIT_S)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing was said"
