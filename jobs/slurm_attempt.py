"""What of an attempt is queued in Slurm, kept in its ``jobs.json``: a launcher may die at any time."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobs.ledger import read_events
from jobs.rundir import RunDir, write_json
from jobs.slurm import (
    PlannedArray,
    aggregation_name,
    finishing_name,
    halved,
    is_worker_name,
    job_prefix,
    packing_name,
    plan_arrays,
    worker_name,
)
from jobs.slurm_client import find_named_jobs
from jobs.submission import Role, SubmittedJob

SCRIPT_JOBS = "submitted.txt"
"""Of an attempt that was rendered as scripts: a line ``NAME JOBID`` for each job that ``submit.sh`` queued."""


@dataclass
class QueuedArray:
    """An array of workers or of packers, and its job once sbatch took it."""

    array: PlannedArray
    job_id: str | None = None
    is_packing: bool = False


@dataclass
class SlurmAttempt:
    """The jobs of an attempt: what is to be queued, and what is.

    What is to be queued is saved before sbatch is called and its job id after. Names are known before, so that a job
    is found by its name when the launcher died between the two.

    Attributes:
        arrays: of workers.
        packing: arrays of packers, after the aggregation; none where that packs the dataset itself.
        finishing: the job after the packers.
    """

    run: RunDir
    number: int
    arrays: list[QueuedArray] = field(default_factory=list)
    aggregation: str | None = None
    is_aggregation_held: bool = False
    is_whole: bool = False
    route: str = "submitit"
    packing: list[QueuedArray] = field(default_factory=list)
    finishing: str | None = None

    @classmethod
    def planned(
        cls, run: RunDir, number: int, arrays: Sequence[PlannedArray], packing: Sequence[PlannedArray] = ()
    ) -> "SlurmAttempt":
        """An attempt of which nothing is queued."""
        packers = [QueuedArray(array, is_packing=True) for array in packing]
        return cls(run, number, [QueuedArray(array) for array in arrays], packing=packers)

    @classmethod
    def load(cls, run: RunDir, number: int) -> "SlurmAttempt | None":
        """What was saved; None when the attempt was never to be queued in Slurm."""
        document = read_jobs(run, number)
        if document.get("cluster") != "slurm" or "arrays" not in document:
            return None
        arrays, packing = (
            [QueuedArray(**{**each, "array": PlannedArray(**each["array"])}) for each in document.get(kind, ())]
            for kind in ("arrays", "packing")
        )
        kept = {key: document[key] for key in ("aggregation", "is_aggregation_held", "is_whole", "route")}
        return cls(run, number, arrays, **kept, packing=packing, finishing=document.get("finishing"))

    def save(self) -> None:
        """Replace ``jobs.json``."""
        document = {
            "cluster": "slurm",
            "route": self.route,
            "is_whole": self.is_whole,
            "aggregation": self.aggregation,
            "is_aggregation_held": self.is_aggregation_held,
            "finishing": self.finishing,
            "arrays": [asdict(each) for each in self.arrays],
            "packing": [asdict(each) for each in self.packing],
            "jobs": [asdict(job) for job in self.jobs],
        }
        write_json(self.run.jobs_path(self.number), document)

    @property
    def jobs(self) -> list[SubmittedJob]:
        """Everything that is queued, workers task by task."""
        workers = [
            SubmittedJob(f"{each.job_id}_{k}", each.array.first_shard + k)
            for each in self.arrays
            if each.job_id is not None
            for k in range(each.array.num_tasks)
        ]
        packing: list[tuple[str | None, Role]] = [(each.job_id, "packing") for each in self.packing]
        after: list[tuple[str | None, Role]] = [
            (self.aggregation, "aggregation"),
            *packing,
            (self.finishing, "finishing"),
        ]
        return workers + [SubmittedJob(job, None, role) for job, role in after if job is not None]

    @property
    def array_ids(self) -> list[str]:
        return [each.job_id for each in self.arrays if each.job_id is not None]

    @property
    def packing_ids(self) -> list[str]:
        return [each.job_id for each in self.packing if each.job_id is not None]

    @property
    def num_queued(self) -> int:
        """Shards that are queued."""
        return sum(each.array.num_tasks for each in self.arrays if each.job_id is not None)

    @property
    def num_shards(self) -> int:
        return sum(each.array.num_tasks for each in self.arrays)

    @property
    def is_cancelled(self) -> bool:
        return cancelled_path(self.run, self.number).exists()

    def next_array(self) -> QueuedArray | None:
        """The first array of workers that is not queued."""
        return next((each for each in self.arrays if each.job_id is None), None)

    def next_packing(self) -> QueuedArray | None:
        """The first array of packers that is not queued."""
        return next((each for each in self.packing if each.job_id is None), None)

    @property
    def num_pack_tasks(self) -> int:
        """0: the aggregation packs."""
        return sum(each.array.num_tasks for each in self.packing)

    def split(self, queued: QueuedArray) -> None:
        """Two smaller arrays in the place of one, one after the other."""
        arrays = self._kind(queued)
        place = arrays.index(queued)
        halves = halved(queued.array)
        arrays[place : place + 1] = [QueuedArray(half, is_packing=queued.is_packing) for half in halves]
        self.save()

    def before(self, queued: QueuedArray) -> list[str]:
        """Job of the array before this one in its lane, if there is one; packers come after the aggregation."""
        arrays = self._kind(queued)
        place = arrays.index(queued)
        first = [self.aggregation] if queued.is_packing else []
        lane = first + [each.job_id for each in arrays[:place] if each.array.lane == queued.array.lane]
        return [job for job in lane[-1:] if job is not None]

    def _kind(self, queued: QueuedArray) -> list[QueuedArray]:
        return self.packing if queued.is_packing else self.arrays

    def name(self, queued: QueuedArray) -> str:
        """Name of an array's job."""
        name = packing_name if queued.is_packing else worker_name
        return name(job_prefix(str(self.run.root)), self.number, queued.array.first_shard)

    @property
    def aggregation_name(self) -> str:
        return aggregation_name(job_prefix(str(self.run.root)), self.number)

    @property
    def finishing_name(self) -> str:
        return finishing_name(job_prefix(str(self.run.root)), self.number)

    def adopt(self, named: dict[str, str]) -> None:
        """Note the jobs that a launcher queued and did not live to note.

        Args:
            named: ids of jobs by name, as Slurm knows them now; one that Slurm forgot is known by its shards' events.
        """
        for each in (*self.arrays, *self.packing):
            each.job_id = each.job_id or named.get(self.name(each))
        self.finishing = self.finishing or named.get(self.finishing_name)
        if (doubtful := self.next_array()) is not None:  # they are queued in order: no later one can be
            doubtful.job_id = self.started_job(doubtful.array)
        if self.aggregation is None and self.aggregation_name in named:
            self.aggregation = named[self.aggregation_name]
            self.is_aggregation_held = self.next_array() is not None  # else it was queued last, after all of them
        self.save()

    def started_job(self, array: PlannedArray) -> str | None:
        """The job that worked on one of an array's shards, by its own word."""
        for shard in range(array.first_shard, array.first_shard + array.num_tasks):
            for event in read_events(self.run.shard_state_path(shard)):
                if event["event"] == "start" and event.get("attempt") == self.number and event.get("job"):
                    return str(event["job"])
        return None


def plan_attempt(
    run: RunDir, number: int, shards: Sequence[int], *, max_tasks: int, parallelism: int, num_pack_tasks: int = 0
) -> SlurmAttempt:
    """The arrays of an attempt over neighbouring shards, and those that pack the dataset after it."""
    first = shards[0] if shards else 0
    if list(shards) != list(range(first, first + len(shards))):
        raise ValueError(f"shards of attempt {number} are not neighbours: {shards}")
    arrays = plan_arrays(first, len(shards), max_tasks=max_tasks, parallelism=parallelism)
    packing = plan_arrays(0, num_pack_tasks, max_tasks=max_tasks, parallelism=parallelism)
    return SlurmAttempt.planned(run, number, arrays, packing)


def read_jobs(run: RunDir, number: int) -> dict[str, Any]:
    """What the run folder keeps of an attempt's submission; empty when there was none."""
    path = run.jobs_path(number)
    document: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return document


def slurm_job_ids(run: RunDir) -> list[str]:
    """Every Slurm job and whole array of the run that was written down, oldest first."""
    return list(dict.fromkeys(job for number in run.attempts() for job in attempt_job_ids(run, number)))


def attempt_job_ids(run: RunDir, number: int, *, workers_only: bool = False) -> list[str]:
    """Slurm jobs and whole arrays of one attempt, whether submitit or a script queued them."""
    document = read_jobs(run, number)
    jobs = document["jobs"] if document.get("cluster") == "slurm" else []
    ids = [job["job_id"].partition("_")[0] for job in jobs if not (workers_only and job["shard"] is None)]
    script_jobs = run.attempt_path(number) / SCRIPT_JOBS
    if script_jobs.is_file():
        named = [line.split() for line in script_jobs.read_text().splitlines()]
        whole = [words for words in named if len(words) == 2]
        ids += [job for name, job in whole if is_worker_name(name) or not workers_only]
    return list(dict.fromkeys(ids))


def cancelled_path(run: RunDir, number: int) -> Path:
    """Stands in an attempt that was cancelled: a launcher that still queues it stops, and none goes on with it."""
    return run.attempt_path(number) / "cancelled"


def is_unfinished_launch(run: RunDir, number: int) -> bool:
    """Whether an attempt is still wanted and was not queued in Slurm to the end; its scripts: not queued at all."""
    attempt = SlurmAttempt.load(run, number)
    if attempt is None or attempt.is_cancelled:
        return False
    if attempt.route != "script":
        return not attempt.is_whole
    if (run.attempt_path(number) / SCRIPT_JOBS).exists():
        return False
    named = find_named_jobs()
    prefix = aggregation_name(job_prefix(str(run.root)), number).removesuffix("aggregation")
    is_known = any(name.startswith(prefix) or name == prefix.rstrip("-") for name in named)
    return not is_known and not any(attempt.started_job(each.array) for each in attempt.arrays)
