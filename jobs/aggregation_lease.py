"""One aggregation of a run at a time: it publishes files that belong together."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.config import RunConfig
from jobs.ledger import Lease
from jobs.rundir import RunDir

logger = logging.getLogger(__name__)


def aggregation_lease(run: RunDir) -> Path:
    """The file that says who aggregates."""
    return run.leases_path / "aggregation.json"


@contextmanager
def only_aggregation(run: RunDir, config: RunConfig) -> Iterator[None]:
    """Waits until no other process aggregates this run, and keeps others waiting."""
    lease = Lease(aggregation_lease(run), config.worker.lease_timeout_s)
    while not lease.acquire():
        logger.warning("event=aggregation_waits run=%s: another aggregation is at work", run.root)
    try:
        yield
    finally:
        lease.release()
