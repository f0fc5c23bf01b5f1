"""What every way to run an attempt's shards has in common."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from jobs.config import RunConfig
from jobs.rundir import RunDir

Role = Literal["worker", "aggregation", "packing", "finishing"]
"""What a job of an attempt is for; packers are there where ``aggregate.num_tasks`` is above 1."""


@dataclass(frozen=True)
class SubmittedJob:
    """Where one shard of an attempt, or what comes after all of them (shard None), runs."""

    job_id: str
    shard: int | None
    role: Role = "worker"


class Submitter(Protocol):
    """Runs shards and, after all of them ended in whatever way, the aggregation and what packs its dataset."""

    def submit(self, run: RunDir, config: RunConfig, attempt: int, shards: Sequence[int]) -> list[SubmittedJob]:
        """Start everything; ``wait`` tells how it ended where that is known here."""

    def wait(self) -> int | None:
        """The run's exit code; None when the work goes on elsewhere."""


class SubmissionError(RuntimeError):
    """The jobs could not be submitted."""


class StoppedError(RuntimeError):
    """A person or a signal ended it before its end; says how to go on."""


def jobs_document(jobs: Sequence[SubmittedJob], *, cluster: str) -> dict[str, Any]:
    """What the run folder keeps of a submission."""
    return {"cluster": cluster, "jobs": [asdict(job) for job in jobs]}
