"""What an aggregation hands to the jobs that pack: which build, in how many tasks; and who of them is at work."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.config import RunConfig
from jobs.ledger import Lease, live_leases
from jobs.rundir import RunDir, write_json

_KIND = "pack"


@dataclass(frozen=True)
class PackingPlan:
    """``packing.json`` of the run folder: there from the end of an aggregation until the dataset is published.

    Attributes:
        plan_id: of the build in the dataset's own storage.
        report: what the aggregation says of the run, without the dataset.
    """

    plan_id: str
    num_tasks: int
    report: Mapping[str, Any]

    def save(self, run: RunDir) -> None:
        """From now on packers know what to do."""
        write_json(_path(run), asdict(self))

    @classmethod
    def load(cls, run: RunDir) -> "PackingPlan | None":
        """What is to be packed; None where nothing is."""
        try:
            return cls(**json.loads(_path(run).read_bytes()))
        except FileNotFoundError:
            return None

    @staticmethod
    def remove(run: RunDir) -> None:
        """From now on a packer that begins finds nothing to do."""
        _path(run).unlink(missing_ok=True)


def _path(run: RunDir) -> Path:
    return run.root / "packing.json"


def num_pack_tasks(config: RunConfig) -> int:
    """Tasks that pack after the aggregation; 0 where there is no dataset, or the aggregation packs it itself."""
    tasks = config.aggregate.num_tasks
    return tasks if config.output_dataset_path is not None and tasks > 1 else 0


def pack_lease(run: RunDir, config: RunConfig, task: int) -> Lease:
    """The right to pack what a task packs."""
    return Lease(run.leases_path / f"{_KIND}-{task:05d}.json", config.worker.lease_timeout_s)


def live_packers(run: RunDir, config: RunConfig) -> dict[int, dict[str, Any]]:
    """Holder of each task that somebody is packing now."""
    return live_leases(run, timeout_s=config.worker.lease_timeout_s, kind=_KIND)


@contextmanager
def no_packers(run: RunDir, config: RunConfig) -> Iterator[list[int]]:
    """Keep packers from beginning, and wait until the leases of dead ones ran out; gives the tasks of live ones."""
    with ExitStack() as held:
        live = []
        for path in sorted(run.leases_path.glob(f"{_KIND}-*.json")):
            task = int(path.stem.removeprefix(f"{_KIND}-"))
            lease = pack_lease(run, config, task)
            if lease.acquire():
                held.callback(lease.release)
            else:
                live.append(task)
        yield live


def note_packed(run: RunDir, plan: PackingPlan, task: int, requests: Mapping[str, int]) -> None:
    """Write down that a task has packed all it had to; ``requests``: that it sent to S3, by kind."""
    run.state_path.mkdir(parents=True, exist_ok=True)
    write_json(_done_path(run, task), {"plan_id": plan.plan_id, "requests": dict(requests)})


def packed_tasks(run: RunDir, plan: PackingPlan) -> dict[int, dict[str, int]]:
    """Requests of each task that has packed all it had to, by its number."""
    found = {}
    for path in run.state_path.glob(f"{_KIND}-*.json"):
        document = json.loads(path.read_bytes())
        task = int(path.stem.removeprefix(f"{_KIND}-"))
        if document["plan_id"] == plan.plan_id and task < plan.num_tasks:
            found[task] = document["requests"]
    return found


def forget_packed(run: RunDir) -> None:
    """Of a new plan no task has packed anything yet, though it may be the same plan for another place."""
    for path in run.state_path.glob(f"{_KIND}-*.json"):
        path.unlink(missing_ok=True)


def _done_path(run: RunDir, task: int) -> Path:
    return run.state_path / f"{_KIND}-{task:05d}.json"
