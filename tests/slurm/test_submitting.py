"""Submitting on a real cluster: a launcher may die at any moment, the queue may be full, and nothing is queued twice.

The workers' ``python`` is a script that notes which shard it was started for, so that each start is seen.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import exits
from jobs.rundir import RunDir
from jobs.slurm import aggregation_name, job_prefix, worker_name
from tests.local_runs import clipmill as clipmill_process
from tests.local_runs import clipmill_here as clipmill
from tests.local_runs import make_videos
from tests.patience import PATIENCE_S

from .cluster import SlurmCluster
from .conftest import require_slurm, use
from .daemons import ClusterError, wait_until

NUM_SHARDS = 6

PYTHON = """#!/bin/bash
# one line for each start: what runs, and for which shard
note() {{ echo "$*" >>{notes}; }}
case " $* " in
*" jobs.worker "*) while [ $# -gt 1 ] && [ "$1" != --shard ]; do shift; done; note worker "$2" ;;
*" jobs.aggregation "*) note aggregation ;;
*) note "$@" ;;
esac
while [ -e {gate} ]; do sleep 0.1; done
"""

SBATCH_OF_A_DYING_LAUNCHER = """#!/bin/bash
# the launcher dies before a job is queued (an sbatch that outlives it is slow), or after it and before it knows
case " $* " in *" --test-only "*) exec {sbatch} "$@" ;; esac # planning asks, and queues nothing
echo >>{calls}
case $(wc -l <{calls}) in
1 | 5) kill -9 $PPID && sleep 2.5 && {sbatch} "$@" ;;
2 | 3 | 6) {sbatch} "$@" && kill -9 $PPID ;;
*) exec {sbatch} "$@" ;;
esac
"""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("raw"), NUM_SHARDS, num_frames=3)


@pytest.fixture(scope="module")
def small_arrays_cluster() -> Iterator[SlurmCluster]:
    """A site whose arrays have at most two tasks."""
    require_slurm(accounting=False)
    with SlurmCluster(nodes=2, max_array_size=2) as cluster:
        yield cluster


@pytest.fixture
def small_arrays(small_arrays_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    return use(small_arrays_cluster, monkeypatch)


class Site:
    """A run of six shards whose workers note their starts; they wait while the gate is closed."""

    def __init__(self, folder: Path, raw: Path, **slurm: Any) -> None:
        self.folder = folder
        self.notes = folder / "notes"
        self.gate = folder / "gate"
        self.run = RunDir(folder / "run")
        python = self.program("python", PYTHON.format(notes=self.notes, gate=self.gate))
        settings = {"time": "10", "gpus_per_task": 0, "cpus_per_task": 1, "mem_gb": 0.1, "aggregate_mem_gb": 0.1}
        config = {
            "run_dir": str(self.run.root),
            "input_video_path": str(raw),
            "output_clip_path": str(folder / "out"),
            "cluster": "slurm",
            "split": {"splitting_algorithm": "fixed-stride"},
            "plan": {"num_shards": NUM_SHARDS},
            "worker": {"lease_timeout_s": 4.0},
            "slurm": {**settings, "python": str(python), "array_parallelism": 2, **slurm},
        }
        self.config = folder / "run.yaml"
        self.config.write_text(yaml.safe_dump(config))

    def program(self, name: str, text: str) -> Path:
        """An executable in a folder of its own."""
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def starts(self) -> Counter[str]:
        """How often each shard's worker (and the aggregation) was started."""
        return Counter(self.notes.read_text().splitlines()) if self.notes.is_file() else Counter()

    def wait_for_aggregation(self) -> None:
        assert wait_until(lambda: self.starts()["aggregation"] > 0, timeout_s=PATIENCE_S), self.starts()

    def queued(self, cluster: SlurmCluster, *states: str) -> Counter[str]:
        """How many jobs or whole arrays of the run there are by name."""
        shown = cluster.client("squeue", "-h", f"--states={','.join(states) or 'all'}", "-o", "%F|%j")
        jobs = {tuple(line.split("|")) for line in shown.split()}
        return Counter(name for _, name in jobs if name.startswith(f"{job_prefix(str(self.run.root))}-"))


EACH_SHARD_ONCE = Counter([*(f"worker {k}" for k in range(NUM_SHARDS)), "aggregation"])


def jobs_of(site: Site, attempt: int = 1) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(site.run.jobs_path(attempt).read_text())
    return document


def test_a_launcher_that_is_killed_at_each_step_is_run_again_and_queues_each_shard_once(
    small_arrays: SlurmCluster, tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, raw)
    site.gate.touch()
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True, check=True).stdout.strip()
    sbatch = site.program("sbatch", SBATCH_OF_A_DYING_LAUNCHER.format(calls=tmp_path / "calls", sbatch=real))
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    codes: list[int] = []
    commands = [["submit", str(site.config)], ["resume", str(site.run.root)]]
    while len(codes) < 9 and (not codes or codes[-1] == -signal.SIGKILL):
        codes.append(clipmill_process(*commands[len(codes) % 2]).returncode)
    # at the first array before and after, at the second after, at the third not, at the aggregation before and after
    assert codes == [-signal.SIGKILL] * 5 + [exits.DONE]

    assert len((tmp_path / "calls").read_text()) == 6
    time.sleep(2)  # for what may have outlived a launcher
    prefix = job_prefix(str(site.run.root))
    expected = [worker_name(prefix, 1, first) for first in (0, 2, 4)] + [aggregation_name(prefix, 1)]
    assert site.queued(small_arrays) == Counter(expected)
    assert site.run.attempts() == [1]
    assert [job["shard"] for job in jobs_of(site)["jobs"]] == [*range(NUM_SHARDS), None]
    site.gate.unlink()
    site.wait_for_aggregation()
    assert site.starts() == EACH_SHARD_ONCE


SBATCH_ONCE = """#!/bin/bash
case " $* " in *" --test-only "*) exec {sbatch} "$@" ;; esac
echo >>{calls}
case $(wc -l <{calls}) in
1) {sbatch} "$@" >/dev/null && echo "sbatch: error: Socket timed out on send/recv operation" >&2 && exit 1 ;;
3) echo "sbatch: error: Batch job submission failed: Invalid partition name specified" >&2 && exit 1 ;;
*) exec {sbatch} "$@" ;;
esac
"""


def test_a_lost_answer_queues_nothing_twice_and_a_refusal_half_way_is_gone_on_from(
    small_arrays: SlurmCluster, tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, raw)
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True, check=True).stdout.strip()
    sbatch = site.program("sbatch", SBATCH_ONCE.format(calls=tmp_path / "calls", sbatch=real))
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    refused = clipmill("submit", str(site.config))
    assert refused.returncode == exits.FAILED
    assert "Invalid partition" in refused.stderr
    assert f"4 of {NUM_SHARDS} shards are queued" in refused.stderr  # the first array's answer was lost, not the array
    assert f"clipmill resume {site.run.root}" in refused.stderr
    resumed = clipmill("resume", str(site.run.root))
    assert resumed.returncode == exits.DONE, resumed.stderr
    site.wait_for_aggregation()
    assert site.starts() == EACH_SHARD_ONCE
    assert site.run.attempts() == [1]


def test_jobs_that_a_dead_launcher_did_not_write_down_are_cancelled_too(
    small_arrays: SlurmCluster, tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, raw)
    site.gate.touch()
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True, check=True).stdout.strip()
    dies = '[ "$1" = --test-only ] || kill -9 $PPID'
    sbatch = site.program("sbatch", f'#!/bin/bash\n{real} "$@"\n{dies}\n')
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
        assert clipmill_process("submit", str(site.config)).returncode == -signal.SIGKILL
    assert jobs_of(site)["jobs"] == []
    assert site.queued(small_arrays).total() == 1

    cancelled = clipmill("cancel", str(site.run.root))
    assert cancelled.returncode == exits.DONE, cancelled.stderr
    assert wait_until(lambda: not site.queued(small_arrays, "PD", "R", "CG"), timeout_s=PATIENCE_S)
    site.gate.unlink()
    resumed = clipmill("resume", str(site.run.root))
    assert resumed.returncode == exits.DONE, resumed.stderr
    assert site.run.attempts() == [1, 2]  # what was cancelled is not gone on with
    site.wait_for_aggregation()
    again = Counter(f"worker {shard}" for shard in site.run.shard_sizes(2))
    assert again.total() == NUM_SHARDS
    assert again <= site.starts()
    assert site.starts()["aggregation"] == 1


def test_arrays_of_a_run_together_keep_its_limit(small_arrays: SlurmCluster, tmp_path: Path, raw: Path) -> None:
    site = Site(tmp_path, raw)
    site.gate.touch()
    assert clipmill("submit", str(site.config)).returncode == exits.DONE
    assert wait_until(lambda: site.starts().total() == 2, timeout_s=PATIENCE_S)
    time.sleep(2)  # there are CPUs for two more
    assert site.starts().total() == 2
    dependencies = small_arrays.client("squeue", "-h", "-o", "%j|%E").split()
    waiting = {line.partition("|")[0]: line.partition("|")[2] for line in dependencies}
    prefix, arrays = job_prefix(str(site.run.root)), [each["job_id"] for each in jobs_of(site)["arrays"]]
    assert f"afterany:{arrays[0]}_" in waiting[worker_name(prefix, 1, 4)]
    assert all(f"afterany:{array}_" in waiting[aggregation_name(prefix, 1)] for array in arrays)
    site.gate.unlink()
    site.wait_for_aggregation()
    assert site.starts() == EACH_SHARD_ONCE


def test_a_dry_run_shows_everything_and_queues_and_writes_nothing(
    small_arrays: SlurmCluster, tmp_path: Path, raw: Path
) -> None:
    site = Site(tmp_path, raw)
    shown = clipmill("submit", str(site.config), "--dry-run")
    assert shown.returncode == exits.DONE, shown.stderr
    prefix = job_prefix(str(site.run.root))
    for words in (worker_name(prefix, 1, 4), aggregation_name(prefix, 1), "--array=0-1%1", "jobs.worker", "afterany"):
        assert words in shown.stdout
    assert not site.run.root.exists()
    assert not site.queued(small_arrays)


def test_scripts_are_submitted_by_hand_and_once_however_often(
    small_arrays: SlurmCluster, tmp_path: Path, raw: Path
) -> None:
    site = Site(tmp_path, raw)
    folder = tmp_path / "scripts"
    for _ in range(2):  # rendered twice before it is submitted, it is still the first attempt
        rendered = clipmill("submit", str(site.config), "--script", "--script-dir", str(folder))
        assert rendered.returncode == exits.DONE, rendered.stderr
    assert site.run.attempts() == [1]
    assert not site.queued(small_arrays)
    site.gate.touch()
    for _ in range(2):
        subprocess.run(["bash", str(folder / "submit.sh")], check=True, capture_output=True, timeout=PATIENCE_S)
    assert site.queued(small_arrays).total() == 4
    shown = clipmill("status", str(site.run.root), "--json")
    assert json.loads(shown.stdout)["jobs"], shown.stderr
    site.gate.unlink()
    site.wait_for_aggregation()
    assert site.starts() == EACH_SHARD_ONCE
    subprocess.run(["sbatch", str(folder / "preflight.sbatch")], check=True, capture_output=True)
    check = f"-u -m jobs.preflight --run {site.run.root}"
    assert wait_until(lambda: site.starts()[check] == 1, timeout_s=PATIENCE_S)


def test_scripts_that_were_submitted_are_cancelled(small_arrays: SlurmCluster, tmp_path: Path, raw: Path) -> None:
    site = Site(tmp_path, raw)
    site.gate.touch()
    assert clipmill("submit", str(site.config), "--script").returncode == exits.DONE
    script = site.run.attempt_path(1) / "submit.sh"
    subprocess.run([str(script)], check=True, capture_output=True, timeout=PATIENCE_S)
    assert clipmill("cancel", str(site.run.root)).returncode == exits.DONE
    assert wait_until(lambda: not site.queued(small_arrays, "PD", "R", "CG"), timeout_s=PATIENCE_S)
    again = subprocess.run([str(script)], capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert again.returncode == 1
    assert "clipmill resume" in again.stderr


def test_jobs_run_in_the_environment_that_the_config_asks_for(
    small_arrays: SlurmCluster, tmp_path: Path, raw: Path
) -> None:
    site = Site(tmp_path, raw)
    python = site.folder / "bin" / "python"
    seen = tmp_path / "seen"
    apptainer = (
        '#!/bin/bash\necho "$MODULES|$GREETING|$*" >>%s\nwhile [ "$1" != image.sif ]; do shift; done\nexec "${@:2}"\n'
    )
    site.program("apptainer", apptainer % seen)
    settings = {
        "modules": ["cuda/12.4", "a b"],
        "setup": [f"PATH={site.folder / 'bin'}:$PATH"],
        "environment": {"GREETING": "it's $HOME"},
        "container_image": "image.sif",
        "container_runtime": "apptainer",
        "container_mounts": ["/data:/mnt"],
    }
    module = tmp_path / "profile"
    module.write_text('module() { export MODULES="$1;$2;$3"; }\n')
    config = yaml.safe_load(site.config.read_text())
    config["slurm"] |= {**settings, "python": str(python)}
    config["slurm"]["environment"]["BASH_ENV"] = str(module)
    site.config.write_text(yaml.safe_dump(config))
    submitted = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "submit", str(site.config)],
        env={**os.environ, "BASH_ENV": str(module)},  # as a site's profile defines ``module``
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert submitted.returncode == exits.DONE, submitted.stderr
    site.wait_for_aggregation()
    assert site.starts() == EACH_SHARD_ONCE
    lines = seen.read_text().splitlines()
    assert len(lines) == NUM_SHARDS + 1
    for line in lines:
        modules, greeting, arguments = line.split("|")
        assert modules == "load;cuda/12.4;a b"
        assert greeting == "it's $HOME"
        assert f"--bind={raw} " in arguments
        assert f"--bind={site.run.root} " in arguments
        assert "--bind=/data:/mnt " in arguments


def test_cancel_says_so_when_slurm_does_not_answer(
    small_arrays: SlurmCluster, tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, raw)
    assert clipmill("submit", str(site.config)).returncode == exits.DONE
    program = site.program("scancel", "#!/bin/bash\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    for path, words in ((f"{program.parent}:{os.environ['PATH']}", "Unable to contact"), ("/nowhere", "not on PATH")):
        monkeypatch.setenv("PATH", path)
        told = clipmill("cancel", str(site.run.root))
        assert told.returncode == exits.FAILED
        assert f"{words}" in told.stderr


ENFORCED = "AccountingStorageEnforce=associations,limits,qos\n"


@pytest.fixture(scope="module")
def full_cluster() -> Iterator[SlurmCluster]:
    """A site where a user may have four jobs queued or running; each task of an array is one."""
    require_slurm(accounting=True)
    with SlurmCluster(nodes=2, accounting=True, more_configuration=ENFORCED) as cluster:
        user = cluster.client("id", "-un").strip()
        cluster.client("sacctmgr", "-i", "add", "account", "lab")
        cluster.client("sacctmgr", "-i", "add", "user", user, "account=lab")
        cluster.client("sacctmgr", "-i", "modify", "qos", "normal", "set", "MaxSubmitJobsPerUser=4")
        assert wait_until(lambda: refuses_five_jobs(cluster), timeout_s=PATIENCE_S)  # the controller learns it later
        yield cluster


def refuses_five_jobs(cluster: SlurmCluster) -> bool:
    try:
        job = cluster.client("sbatch", "--parsable", "--hold", "--array=0-4", "--output=/dev/null", "--wrap=true")
    except ClusterError as error:
        return "QOSMaxSubmitJobPerUserLimit" in str(error)
    cluster.client("scancel", job.strip())
    return False


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_full_queue_is_waited_for_and_the_aggregation_keeps_its_place(
    full_cluster: SlurmCluster, tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(full_cluster, monkeypatch)
    site = Site(tmp_path, raw)
    site.gate.touch()
    launcher = start("submit", str(site.config))
    prefix = job_prefix(str(site.run.root))
    expected = Counter([worker_name(prefix, 1, 0), aggregation_name(prefix, 1)])
    # of six tasks half fit beside the aggregation
    assert wait_until(lambda: site.queued(full_cluster, "PD", "R") == expected, timeout_s=PATIENCE_S)
    time.sleep(3)  # it tries again, and there is no room
    assert launcher.poll() is None
    launcher.send_signal(signal.SIGINT)
    _, said = launcher.communicate(timeout=PATIENCE_S)
    assert launcher.returncode == exits.INCOMPLETE, said
    assert said.count("waiting for room") == 1
    assert f"3 of {NUM_SHARDS} shards are queued" in said
    assert f"clipmill resume {site.run.root}" in said
    assert site.queued(full_cluster, "PD", "R") == expected

    launcher = start("resume", str(site.run.root))
    time.sleep(1)
    site.gate.unlink()
    _, said = launcher.communicate(timeout=PATIENCE_S)
    assert launcher.returncode == exits.DONE, said
    site.wait_for_aggregation()
    assert site.starts() == EACH_SHARD_ONCE
    assert site.notes.read_text().splitlines()[-1] == "aggregation"
    assert site.run.attempts() == [1]


def test_a_launcher_that_waits_for_room_ends_when_the_run_is_cancelled(
    full_cluster: SlurmCluster, tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(full_cluster, monkeypatch)
    site = Site(tmp_path, raw)
    site.gate.touch()
    launcher = start("submit", str(site.config))
    assert wait_until(lambda: site.queued(full_cluster, "PD", "R").total() == 2, timeout_s=PATIENCE_S)
    assert clipmill("cancel", str(site.run.root)).returncode == exits.DONE
    _, said = launcher.communicate(timeout=PATIENCE_S)
    assert launcher.returncode == exits.INCOMPLETE, said
    assert "cancelled meanwhile" in said
    assert wait_until(lambda: not site.queued(full_cluster, "PD", "R", "CG"), timeout_s=PATIENCE_S)
