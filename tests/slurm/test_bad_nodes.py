"""A node that can't work costs a run little: it is named and left out, and what it turned away is done elsewhere."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import exits
from jobs.bad_nodes import bad_nodes, excluded_nodes
from jobs.rundir import RunDir
from tests.local_runs import digests, make_videos, planned, work
from tests.slurm.cluster import SlurmCluster
from tests.slurm.conftest import require_slurm
from tests.slurm.workers import field, log_of, submit_workers, wait_for_state

NUM_SHARDS = 6
ENDED = ("COMPLETED", "FAILED", "CANCELLED")


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    require_slurm(accounting=False)
    with SlurmCluster(nodes=3, cpus_per_node=1, gpus_per_node=0) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("raw"), NUM_SHARDS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    run = planned(folder, raw)
    assert work(run)[0] == exits.DONE
    return digests(folder / "out")


def make_run(folder: Path, raw: Path, *, bad: tuple[str, ...], num_shards: int = NUM_SHARDS) -> RunDir:
    """A run whose scratch folder can't be written to on some nodes: a file is in its place there."""
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    for node in bad:
        (scratch / node).touch()
    worker = {"scratch_dir": f"{scratch}/$SLURMD_NODENAME", "scratch_min_gb": 0.0}
    return planned(folder, raw, worker=worker, plan={"num_shards": num_shards})


def end_states(cluster: SlurmCluster, run: RunDir, job: str, *, num_shards: int = NUM_SHARDS) -> list[str]:
    return [wait_for_state(cluster, f"{job}_{task}", ENDED, run) for task in range(num_shards)]


def test_what_a_bad_node_turns_away_is_done_elsewhere(
    cluster: SlurmCluster, tmp_path: Path, raw: Path, undisturbed: dict[str, str]
) -> None:
    run = make_run(tmp_path, raw, bad=("n1",))
    job = submit_workers(cluster, run, num_shards=NUM_SHARDS)
    assert end_states(cluster, run, job) == ["COMPLETED"] * NUM_SHARDS
    restarts = [int(field(cluster, f"{job}_{task}", "Restarts")) for task in range(NUM_SHARDS)]
    assert 1 <= sum(restarts) <= 2  # that is what the node cost
    assert {field(cluster, f"{job}_{task}", "NodeList") for task in range(NUM_SHARDS)} == {"n2", "n3"}
    assert digests(tmp_path / "out") == undisturbed

    (found,) = bad_nodes(run, time.time())
    assert (found.node, found.check) == ("n1", "scratch")
    assert f"{tmp_path}/scratch/n1" in found.message
    assert excluded_nodes(run, time.time()) == ["n1"]
    assert excluded_nodes(run, time.time() + 25 * 3600) == []


def test_where_a_task_may_not_requeue_the_array_is_saved_and_resume_has_the_rest(
    cluster: SlurmCluster, tmp_path: Path, raw: Path
) -> None:
    run = make_run(tmp_path, raw, bad=("n2",))
    states = end_states(cluster, run, submit_workers(cluster, run, "--no-requeue", num_shards=NUM_SHARDS))
    assert 1 <= states.count("FAILED") <= 2
    assert states.count("COMPLETED") == NUM_SHARDS - states.count("FAILED")
    assert "clipmill resume" in log_of(run, states.index("FAILED"))


def test_where_every_node_is_bad_no_task_waits_for_ever(cluster: SlurmCluster, tmp_path: Path, raw: Path) -> None:
    run = make_run(tmp_path, raw, bad=("n1", "n2", "n3"), num_shards=3)
    job = submit_workers(cluster, run, num_shards=3)
    assert end_states(cluster, run, job, num_shards=3) == ["FAILED"] * 3
    assert len(excluded_nodes(run, time.time())) < 3  # else nothing could be submitted for a day
    logs = "".join(log_of(run, shard) for shard in range(3))
    assert "event=same_on_all_nodes" in logs or "event=no_node_left" in logs


def test_what_is_wrong_with_the_run_is_no_nodes_fault(cluster: SlurmCluster, tmp_path: Path, raw: Path) -> None:
    run = make_run(tmp_path, raw, bad=())
    (tmp_path / "out").touch()  # a file where the output is to go, for every node
    job = submit_workers(cluster, run)
    assert wait_for_state(cluster, f"{job}_0", ENDED, run) == "FAILED"
    assert "check=output of_node=False" in log_of(run)
    assert bad_nodes(run, time.time()) == []
