"""What Slurm does to workers that run: the wall time's end, preemption, requeue, scancel. Nothing is lost or blamed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import exits
from jobs.ledger import count_begun
from jobs.rundir import RunDir
from tests.footage import MEDIA
from tests.local_runs import digests, events, planned, videos_of, work
from tests.patience import PATIENCE_S
from tests.slurm.cluster import SlurmCluster
from tests.slurm.conftest import require_slurm
from tests.slurm.daemons import wait_until
from tests.slurm.workers import field, log_of, submit_workers, wait_for_event, wait_for_state
from tests.synthetic import make_video

NUM_VIDEOS = 12
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "PREEMPTED", "TIMEOUT", "NODE_FAIL")
PREEMPTING = """
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL PriorityTier=10 DefaultTime=10
PartitionName=cancelled Nodes=ALL PreemptMode=CANCEL DefaultTime=10
"""
URGENT = ("--partition=urgent", "--output=/dev/null", "--wrap=true")
SLOW = {"preset": "placebo", "crf": 1}  # a long video takes minutes


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    """Two nodes for one task each; jobs of the partition urgent end those of the others."""
    require_slurm(accounting=False)
    with SlurmCluster(nodes=2, cpus_per_node=1, gpus_per_node=0, more_configuration=PREEMPTING) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos that take a good part of a second each."""
    folder = tmp_path_factory.mktemp("raw")
    for index in range(NUM_VIDEOS):
        make_video(folder / f"v{index}.mp4", num_frames=60, width=320, height=240, first_number=100 * index)
    return folder


@pytest.fixture(scope="module")
def long_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    (folder / "long.mp4").write_bytes((MEDIA / "big_buck_bunny_1.mp4").read_bytes())
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    code, log = work(make_run(folder, raw))
    assert code == exits.DONE, log
    return digests(folder / "out")


def make_run(folder: Path, raw: Path, **settings: object) -> RunDir:
    worker = {"videos_at_once": 1, "lease_timeout_s": 5.0}
    return planned(folder, raw, worker=worker, **settings)


def ended_once(run: RunDir, num_shards: int = 1) -> bool:
    """Whether each of the videos was brought to its end exactly once."""
    done = [video for shard in range(num_shards) for video in videos_of(run, "done", shard)]
    return sorted(done) == sorted(f"v{index}.mp4" for index in range(NUM_VIDEOS))


def test_at_the_wall_times_end_a_task_queues_itself_again_and_no_other_one(
    cluster: SlurmCluster, tmp_path: Path, raw: Path, undisturbed: dict[str, str]
) -> None:
    run = make_run(tmp_path, raw, plan={"num_shards": 2})
    job = submit_workers(cluster, run, num_shards=2)
    wait_for_event(run, "begin")
    cluster.client("scancel", "--signal=USR2", f"{job}_0")  # reaches every process of the task, as at the wall time
    for task in ("0", "1"):
        assert wait_for_state(cluster, f"{job}_{task}", ENDED, run) == "COMPLETED"
    assert [field(cluster, f"{job}_{task}", "Restarts") for task in ("0", "1")] == ["1", "0"]
    assert ended_once(run, num_shards=2)
    assert digests(tmp_path / "out") == undisturbed
    assert "child_gone" not in log_of(run)  # decoders are not what the signal was for


def test_a_video_that_no_start_can_end_is_left_to_people_and_never_blamed(
    cluster: SlurmCluster, tmp_path: Path, long_raw: Path
) -> None:
    """Of two tasks one meets its wall time's end, the other is cancelled, and killed in the middle of its grace."""
    warned, cancelled = (make_run(tmp_path / name, long_raw, clips=SLOW) for name in ("warned", "cancelled"))
    warned_job, cancelled_job = (submit_workers(cluster, run) for run in (warned, cancelled))
    for run in (warned, cancelled):
        wait_for_event(run, "begin")
    cluster.client("scancel", "--signal=USR2", f"{warned_job}_0")
    cluster.client("scancel", f"{cancelled_job}_0")  # KillWait is 5 s here, less than the grace

    assert wait_for_state(cluster, f"{cancelled_job}_0", ENDED, cancelled) == "CANCELLED"
    wait_for_event(cancelled, "released")
    assert wait_for_state(cluster, f"{warned_job}_0", ENDED, warned) == "FAILED"
    assert field(cluster, f"{warned_job}_0", "ExitCode") == "3:0"
    assert "raise slurm.time" in log_of(warned)
    times = {each["event"]: each["time"] for each in events(warned)}
    assert times["end"] - times["released"] < 20  # from the signal to the end
    assert not warned.lease_path(0).exists()
    for run, job in ((warned, warned_job), (cancelled, cancelled_job)):
        assert field(cluster, f"{job}_0", "Restarts") == "0"
        assert not count_begun(events(run))  # nothing counts towards quarantine


def test_tasks_that_slurm_starts_again_go_on(
    cluster: SlurmCluster, tmp_path: Path, raw: Path, undisturbed: dict[str, str]
) -> None:
    """One is preempted with PreemptMode=REQUEUE, the other is requeued by a person."""
    preempted, requeued = (make_run(tmp_path / name, raw) for name in ("preempted", "requeued"))
    jobs = [submit_workers(cluster, run, f"--nodelist={node}") for run, node in ((preempted, "n1"), (requeued, "n2"))]
    wait_for_event(preempted, "begin")
    cluster.client("sbatch", *URGENT, "--nodelist=n1")
    wait_for_event(requeued, "begin")
    cluster.client("scontrol", "requeue", f"{jobs[1]}_0")
    for run, job, folder in zip((preempted, requeued), jobs, ("preempted", "requeued"), strict=True):
        wait_for_event(run, "start", number=2)
        assert wait_for_state(cluster, f"{job}_0", ENDED, run) == "COMPLETED"
        assert field(cluster, f"{job}_0", "Restarts") == "1"
        assert ended_once(run)
        assert digests(tmp_path / folder / "out") == undisturbed


def test_a_task_that_is_preempted_for_good_leaves_a_run_that_goes_on_from_there(
    cluster: SlurmCluster, tmp_path: Path, raw: Path, undisturbed: dict[str, str]
) -> None:
    """PreemptMode=CANCEL: no --requeue helps."""
    run = make_run(tmp_path, raw)
    job = submit_workers(cluster, run, "--partition=cancelled", "--nodelist=n1")
    wait_for_event(run, "begin")
    cluster.client("sbatch", *URGENT, "--nodelist=n1")
    assert wait_for_state(cluster, f"{job}_0", ENDED, run) != "COMPLETED"
    assert wait_until(lambda: not run.lease_path(0).exists(), timeout_s=PATIENCE_S)
    assert not count_begun(events(run))
    assert 0 < len(videos_of(run, "done")) < NUM_VIDEOS
    assert work(run)[0] == exits.DONE  # what resume comes to
    assert ended_once(run)
    assert digests(tmp_path / "out") == undisturbed
