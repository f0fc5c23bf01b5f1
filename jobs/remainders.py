"""What killed writers of a run left aside: uploads that nobody completed, hidden files, claims. No reader sees them."""

from collections.abc import Iterator
from dataclasses import dataclass

from curation.storage import Leftover, Storage, storage_for
from jobs.aggregation_lease import aggregation_lease
from jobs.config import RunConfig
from jobs.ledger import is_held, live_leases
from jobs.local_state import live_executor
from jobs.packing_plan import live_packers
from jobs.rundir import RunDir


@dataclass(frozen=True)
class Remainder:
    """Something left aside, and where."""

    storage: Storage
    leftover: Leftover

    @property
    def place(self) -> str:
        return f"{self.storage.root}/{self.leftover.path}"

    def __str__(self) -> str:
        kind = "unfinished upload" if self.leftover.token else "aside"
        return f"{self.place} ({kind}, {self.leftover.age_s / 3600:.1f} h old)"

    def remove(self) -> None:
        """Take it away; nothing happens when it is gone."""
        self.storage.remove_leftover(self.leftover)


def who_is_at_work(run: RunDir, config: RunConfig) -> str | None:
    """In words, who may be writing now; None: nobody is."""
    timeout_s = config.worker.lease_timeout_s
    if live := live_leases(run, timeout_s=timeout_s):
        return f"{len(live)} workers"
    if live_executor(run, timeout_s=timeout_s) is not None:
        return "clipmill itself, on this machine"
    if is_held(aggregation_lease(run), timeout_s=timeout_s):
        return "the aggregation"
    if live := live_packers(run, config):
        return f"{len(live)} tasks that pack the dataset"
    return None


def remainders(run: RunDir, config: RunConfig, *, older_than_s: float) -> Iterator[Remainder]:
    """What was left in the run's folder and outputs, and is so old by the clock of where it lies.

    Raises:
        StorageError: an output can't be listed.
    """
    roots = {str(run.root): storage_for(str(run.root))}
    for root in (config.output_clip_path, config.output_dataset_path):
        if root is not None:
            storage = storage_for(root, config.output_s3)
            roots[storage.root] = storage
    inside = {a for a in roots for b in roots if a != b and a.startswith(f"{b.rstrip('/')}/")}
    for root, storage in roots.items():
        if root not in inside:
            for leftover in storage.leftovers(older_than_s=older_than_s):
                yield Remainder(storage, leftover)
