"""What `clipmill doctor` says of a real Slurm."""

from pathlib import Path

from jobs.doctor_services import look_at_slurm
from tests.local_runs import config_of

from .cluster import SlurmCluster


def test_a_slurm_that_answers_is_shown_and_asked_whether_it_takes_the_jobs(
    tmp_path: Path, slurm_env: SlurmCluster
) -> None:
    slurm = {"gpus_per_task": 0, "cpus_per_task": 1, "mem_gb": 0.2, "aggregate_mem_gb": 0.2, "time": 20}
    found = list(look_at_slurm(config_of(tmp_path, tmp_path, cluster="slurm", slurm={**slurm, "aggregate_time": 10})))
    assert [each.level for each in found] == ["ok", "ok", "ok"], found
    assert "MaxArraySize" in found[0].found
    assert "partitions: " in found[1].found
    wrong = config_of(tmp_path, tmp_path, cluster="slurm", slurm={**slurm, "partition": "nowhere"})
    (problem,) = [each for each in look_at_slurm(wrong) if each.level == "problem" and "nowhere" in each.found]
    assert problem.mend
