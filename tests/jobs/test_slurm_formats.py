import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.slurm import (
    PlannedArray,
    aggregation_name,
    halved,
    is_submit_limit,
    job_prefix,
    max_array_size,
    may_be_queued,
    named_jobs,
    plan_arrays,
    queue_states,
    signal_delay_s,
    time_minutes,
    worker_name,
)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        pytest.param("30", 30, id="minutes"),
        pytest.param("30:01", 31, id="minutes:seconds, a begun minute counts"),
        pytest.param("90:00", 90, id="minutes:seconds, more than an hour"),
        pytest.param("04:00:00", 240, id="hours:minutes:seconds"),
        pytest.param("1:02:03", 63, id="hours:minutes:seconds, a begun minute counts"),
        pytest.param("48:00:00", 2880, id="hours:minutes:seconds, more than a day"),
        pytest.param("2-0", 2880, id="days-hours"),
        pytest.param("1-12", 2160, id="days-hours, half a day"),
        pytest.param("1-02:03", 1563, id="days-hours:minutes"),
        pytest.param("1-02:03:00", 1563, id="days-hours:minutes:seconds"),
        pytest.param("7-00:00:01", 10081, id="days-hours:minutes:seconds, a begun minute counts"),
        pytest.param("0:30", 1, id="less than a minute"),
        pytest.param("0", 0, id="zero asks for no limit"),
        pytest.param("00:00:00", 0, id="zero in another form"),
    ],
)
def test_a_wall_time_is_read_as_sbatch_reads_it(text: str, minutes: int) -> None:
    """Source: man sbatch, --time."""
    assert time_minutes(text) == minutes


@pytest.mark.parametrize("text", ["", "-", "1-", "-5", "1:2:3:4", "1-2:3:4:5", "2 hours", "4h", "1.5", "x-1", "1--1"])
def test_what_is_no_wall_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a Slurm wall time"):
        time_minutes(text)


SCONTROL = """\
Configuration data as of 2026-11-21T09:40:12
AccountingStorageBackupHost = (null)
LaunchParameters        = (null)
MailProg                = /usr/bin/mail
MaxArraySize            = 4001
MaxBatchRequeue         = 5
MaxJobCount             = 10000
SlurmctldParameters     = (null)
SLURM_VERSION           = 24.11.5

Slurmctld(primary) at head is UP
"""


def test_the_largest_array_is_read_from_what_scontrol_shows() -> None:
    assert max_array_size(SCONTROL) == 4001


def test_a_site_that_does_not_tell_has_the_default_of_slurm() -> None:
    """Source: man slurm.conf, MaxArraySize: the default value is 1001."""
    assert max_array_size("Configuration data as of 2026-11-21T09:40:12\n") == 1001


LIMITS = st.integers(1, 40)


@given(first=st.integers(0, 9), count=st.integers(0, 300), max_tasks=LIMITS, parallelism=LIMITS)
def test_arrays_hold_each_shard_once_in_order_and_none_is_too_long(
    first: int, count: int, max_tasks: int, parallelism: int
) -> None:
    arrays = plan_arrays(first, count, max_tasks=max_tasks, parallelism=parallelism)
    shards = [array.first_shard + task for array in arrays for task in range(array.num_tasks)]
    assert shards == list(range(first, first + count))
    sizes = [array.num_tasks for array in arrays]
    assert all(1 <= size <= max_tasks for size in sizes)
    assert len(sizes) == math.ceil(count / max_tasks)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1


@given(count=st.integers(1, 300), max_tasks=LIMITS, parallelism=LIMITS)
def test_the_lanes_share_what_may_run_at_once(count: int, max_tasks: int, parallelism: int) -> None:
    """Of a lane one array runs at a time, so the sum over the lanes is what can run at once."""
    arrays = plan_arrays(0, count, max_tasks=max_tasks, parallelism=parallelism)
    throttles: dict[int, set[int]] = {}
    for array in arrays:
        throttles.setdefault(array.lane, set()).add(array.throttle)
    assert all(len(each) == 1 and min(each) >= 1 for each in throttles.values())
    assert sum(sum(each) for each in throttles.values()) == parallelism
    assert len(throttles) == min(len(arrays), parallelism)


def test_twenty_five_thousand_shards_fit_arrays_of_a_thousand() -> None:
    """MaxArraySize 1001 allows the indices 0..1000: 25,000 shards are 25 arrays."""
    arrays = plan_arrays(0, 25_000, max_tasks=1001, parallelism=64)
    assert len(arrays) == 25
    assert sum(array.num_tasks for array in arrays) == 25_000


@pytest.mark.parametrize("num_tasks", [1, 2, 7])
def test_a_halved_array_has_the_same_tasks_in_the_same_lane(num_tasks: int) -> None:
    halves = halved(PlannedArray(first_shard=5, num_tasks=num_tasks, throttle=3, lane=1))
    shards = [half.first_shard + task for half in halves for task in range(half.num_tasks)]
    assert shards == list(range(5, 5 + num_tasks))
    assert len(halves) == min(2, num_tasks)
    assert {(half.throttle, half.lane) for half in halves} == {(3, 1)}


def test_names_tell_runs_attempts_and_arrays_apart() -> None:
    runs = [job_prefix("/data/run"), job_prefix("/data/run2")]
    names = [worker_name(run, attempt, shard) for run in runs for attempt in (1, 11) for shard in (0, 1, 10)]
    names += [aggregation_name(run, attempt) for run in runs for attempt in (1, 11)]
    assert len(set(names)) == 16
    assert all(re.fullmatch(r"[A-Za-z0-9-]+", name) for name in names)
    assert names[0] == worker_name(job_prefix("/data/run"), 1, 0)  # the same in the next launcher


def test_jobs_are_found_by_name_and_of_several_the_newest() -> None:
    shown = "17|clipmill-a\n17|clipmill-a\n9|clipmill-b\n21|clipmill-b\n3|my job | x\n"
    assert named_jobs(shown) == {"clipmill-a": "17", "clipmill-b": "21", "my job | x": "3"}


POLICY = (
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy "
    "(job submit limit, user's size and/or time limits)"
)


@pytest.mark.parametrize(
    ("said", "is_limit"),
    [
        pytest.param(f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{POLICY}", True, id="jobs of a user in a QOS"),
        pytest.param(f"sbatch: error: QOSGrpSubmitJobsLimit\n{POLICY}", True, id="jobs of a QOS"),
        pytest.param(f"sbatch: error: AssocMaxSubmitJobLimit\n{POLICY}", True, id="jobs of an association"),
        pytest.param(f"sbatch: error: QOSMaxWallDurationPerJobLimit\n{POLICY}", False, id="too long a job"),
        pytest.param(f"sbatch: error: QOSMaxCpuPerUserLimit\n{POLICY}", False, id="too large a job"),
        pytest.param(POLICY, True, id="which limit is not said"),
        pytest.param(
            "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
            "sbatch: error: Batch job submission failed: Resource temporarily unavailable",
            True,
            id="MaxJobCount",
        ),
        pytest.param(
            "sbatch: error: Batch job submission failed: Invalid partition name specified", False, id="partition"
        ),
        pytest.param("sbatch: error: Batch job submission failed: Invalid job array specification", False, id="array"),
        pytest.param("", False, id="nothing"),
    ],
)
def test_limits_of_the_queue_are_told_from_what_never_fits(said: str, is_limit: bool) -> None:
    """Source: what sbatch of Slurm 22.05 printed on a cluster with these limits."""
    assert is_submit_limit(said) is is_limit


def test_without_an_answer_a_job_may_be_queued() -> None:
    failed = "sbatch: error: Batch job submission failed"
    assert may_be_queued(f"{failed}: Socket timed out on send/recv operation")
    assert may_be_queued(f"{failed}: Unable to contact slurm controller (connect failure)")
    assert not may_be_queued(f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{POLICY}")


@pytest.mark.parametrize(
    ("time_min", "delay_s"),
    [
        pytest.param(240, 120, id="long enough"),
        pytest.param(8, 120, id="a quarter is as much"),
        pytest.param(4, 60, id="a quarter"),
        pytest.param(1, 15, id="one minute"),
        pytest.param(0, 120, id="no limit"),
    ],
)
def test_a_short_wall_time_warns_for_a_quarter_of_it(time_min: int, delay_s: int) -> None:
    assert signal_delay_s(120, time_min=time_min) == delay_s


def test_each_task_of_an_array_has_its_own_state() -> None:
    shown = "17_0|RUNNING\n17_1|COMPLETED\n18|PENDING\n\n19_[2-5%2]|PENDING\n"
    assert queue_states(shown) == {"17_0": "RUNNING", "17_1": "COMPLETED", "18": "PENDING", "19_[2-5%2]": "PENDING"}


def test_an_empty_queue_has_no_states() -> None:
    assert queue_states("") == {}
