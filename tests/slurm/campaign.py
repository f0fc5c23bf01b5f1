"""Faults on a real cluster, and every byte of the outputs compared with those of an undisturbed run.

``python -m tests.slurm.campaign [SCENARIO ...] [--kills 200] [--seed 1]``; without names all scenarios run. Each prints
one line of figures; a difference ends the campaign with what differs. CI runs them all with few kills.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import psutil
import yaml

from jobs import exits
from jobs.rundir import RunDir
from tests.footage import MEDIA
from tests.local_runs import clipmill_here, digests
from tests.patience import PATIENCE_S
from tests.slurm.cluster import SlurmCluster, is_client_variable
from tests.slurm.daemons import wait_until

ROOT = Path(__file__).resolve().parents[2]
NUM_VIDEOS, NUM_SHARDS = 12, 3
_LONG_ENOUGH_S = 3600.0


@dataclass
class Campaign:
    """A folder with real footage in small pieces, and what an undisturbed run makes of it."""

    folder: Path
    num_kills: int
    seed: int
    raw: Path
    wanted: dict[str, str]

    def config(self, name: str, *, num_shards: int = NUM_SHARDS, **slurm: Any) -> Path:
        """A run of its own."""
        return write_config(self.folder / name, self.raw, num_shards=num_shards, **slurm)

    def run_dir(self, name: str) -> RunDir:
        return RunDir(self.folder / name / "run")

    def compare(self, name: str) -> None:
        """Every file is what it is without a fault.

        Raises:
            AssertionError: names the files that differ.
        """
        found = outputs(self.folder / name)
        differing = sorted(key for key in found.keys() | self.wanted.keys() if found.get(key) != self.wanted.get(key))
        assert not differing, f"{name}: {len(differing)} files differ, such as {differing[:5]}"


def prepare(folder: Path, *, num_kills: int, seed: int) -> Campaign:
    """Cut footage into pieces and process them undisturbed on this machine."""
    raw = pieces(folder / "raw")
    clipmill("run", str(write_config(folder / "undisturbed", raw, num_shards=1)))
    return Campaign(folder, num_kills, seed, raw, outputs(folder / "undisturbed"))


def pieces(folder: Path) -> Path:
    """Films of two seconds each, 320x180, out of a real one, and one file that is none."""
    folder.mkdir(parents=True)
    frames = [frame.reformat(320, 180, "yuv420p") for frame in _decoded(MEDIA / "big_buck_bunny_1.mp4")]
    for index in range(NUM_VIDEOS - 1):
        first = index * (len(frames) - 48) // (NUM_VIDEOS - 2)
        with av.open(folder / f"piece {index:02d}.mp4", "w", options={"fflags": "+bitexact"}) as container:
            video = container.add_stream("libx264", rate=24, options={"preset": "veryfast", "crf": "30"})
            video.width, video.height, video.pix_fmt = 320, 180, "yuv420p"
            for tick, frame in enumerate(frames[first : first + 48]):
                frame.pts, frame.time_base, frame.pict_type = tick, Fraction(1, 24), av.video.frame.PictureType.NONE
                container.mux(video.encode(frame))
            container.mux(video.encode())
    (folder / "notes.mp4").write_text("this is no video")
    return folder


def _decoded(path: Path) -> Iterator[av.VideoFrame]:
    with av.open(path) as container:
        yield from container.decode(video=0)


def write_config(folder: Path, raw: Path, *, num_shards: int, **slurm: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "run_dir": str(folder / "run"),
        "input_video_path": str(raw),
        "output_clip_path": str(folder / "out" / "v0"),
        "output_dataset_path": str(folder / "out" / "webdataset"),
        "cluster": "slurm",
        "split": {
            "splitting_algorithm": "fixed-stride",
            "fixed_stride_split_duration": 0.5,
            "fixed_stride_min_clip_length_s": 0.2,
        },
        "plan": {"num_shards": num_shards},
        "worker": {"lease_timeout_s": 8.0, "max_attempts": 1000, "videos_at_once": 2},
        "slurm": {
            "time": "10",
            "gpus_per_task": 0,
            "cpus_per_task": 1,
            "mem_gb": 1.0,
            "array_parallelism": 2,
            "aggregate_mem_gb": 0.5,
            "aggregate_time": "5",
            **slurm,
        },
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def outputs(folder: Path) -> dict[str, str]:
    """sha256 of each output; what a killed writer left aside under a hidden name is no output."""
    return {name: digest for name, digest in digests(folder / "out").items() if not name.endswith(".tmp")}


def clipmill(*arguments: str, code: int | None = exits.DONE) -> subprocess.CompletedProcess[str]:
    """Run a command in this process; fails when it does not end with ``code`` (None: any)."""
    done = clipmill_here(*arguments)
    assert code is None or done.returncode == code, f"{arguments}: {done.returncode}: {done.stdout}{done.stderr}"
    return done


def has_jobs(cluster: SlurmCluster) -> bool:
    return bool(cluster.client("squeue", "--noheader", "--states=PD,R,CG,S,CF").strip())


def report_of(run: RunDir) -> dict[str, Any]:
    """The newest report; empty while there is none."""
    found: dict[str, Any] = json.loads(run.report_path.read_text()) if run.report_path.is_file() else {}
    return found


def is_held(cluster: SlurmCluster) -> bool:
    """Whether all that is queued are tasks that Slurm holds: it does that when a node fails while it starts one."""
    reasons = cluster.client("squeue", "--noheader", "--states=PD,R,CG,S,CF", "--format=%r").splitlines()
    held = [reason for reason in reasons if "held" in reason.lower()]
    return bool(held) and all(reason in held or reason == "Dependency" for reason in reasons)


def finish(cluster: SlurmCluster, run: RunDir, meanwhile: Callable[[], None] = lambda: time.sleep(0.5)) -> int:
    """Resume, as a person would, until the run is complete; gives how often that took.

    Raises:
        AssertionError: it is not after ``PATIENCE_S``; says what Slurm has.
    """
    num_resumed, deadline = 0, time.monotonic() + PATIENCE_S
    while report_of(run).get("exit_code") != exits.DONE or has_jobs(cluster):
        assert time.monotonic() < deadline, described(cluster)
        meanwhile()
        if is_held(cluster):
            clipmill("cancel", str(run.root))
            assert wait_until(lambda: not has_jobs(cluster), timeout_s=PATIENCE_S), described(cluster)
        if not has_jobs(cluster) and report_of(run).get("exit_code") != exits.DONE:
            clipmill("resume", str(run.root))
            num_resumed += 1
    return num_resumed


def described(cluster: SlurmCluster) -> str:
    """What Slurm says of its jobs and nodes, for a failure's message."""
    log = (cluster.folder / "log" / "slurmctld.log").read_text(errors="replace").splitlines()
    return "\n".join([cluster.client("squeue", "--long"), cluster.client("sinfo", "--list-reasons"), *log[-40:]])


def kills(campaign: Campaign, cluster: SlurmCluster) -> str:
    """(a) kill -9 workers, their decode children, Slurm's own step daemons and the aggregation, at random moments."""
    chance = random.Random(campaign.seed)
    killed: Counter[str] = Counter()
    num_rounds = num_resumed = 0

    def kill() -> None:
        time.sleep(chance.uniform(0.0, 1.5))
        if killed.total() < campaign.num_kills:
            killed.update(_kill_one(run, chance))

    while killed.total() < campaign.num_kills:
        name = f"kills-{num_rounds}"
        run = campaign.run_dir(name)
        clipmill("submit", str(campaign.config(name)))
        num_resumed += finish(cluster, run, kill)
        campaign.compare(name)
        num_rounds += 1
    what = ", ".join(f"{count} of {kind}" for kind, count in sorted(killed.items()))
    return f"{killed.total()} kills ({what}) in {num_rounds} runs, {num_resumed} resumes: all bytes equal"


def _kill_one(run: RunDir, chance: random.Random) -> list[str]:
    """kill -9 a process of the run, if there is one; gives its kind."""
    found: dict[str, set[int]] = {}
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(run.root) in line and ("jobs.worker" in line or "jobs.aggregation" in line):
            with contextlib.suppress(psutil.Error):  # it has just ended
                family = {"task": [process], "decode child": process.children(), "slurmstepd": process.parents()}
                for kind, members in family.items():
                    named = [each.pid for each in members if kind == "task" or kind.split()[0] in str(each.cmdline())]
                    found.setdefault(kind, set()).update(named)
    kinds = [kind for kind, pids in found.items() if pids]
    if not kinds:
        return []
    # Slurm takes two minutes to notice that a step daemon is gone
    kind = chance.choices(kinds, [{"task": 6.0, "decode child": 3.0}.get(kind, 0.2) for kind in kinds])[0]
    try:
        os.kill(chance.choice(sorted(found[kind])), signal.SIGKILL)
    except ProcessLookupError:
        return []
    return [kind]


def node_down(campaign: Campaign, cluster: SlurmCluster) -> str:
    """(b) A node goes down amid its tasks and comes back."""
    run = campaign.run_dir("node-down")
    clipmill("submit", str(campaign.config("node-down")))
    assert wait_until(lambda: any(run.leases_path.glob("shard-*.json")), timeout_s=PATIENCE_S)
    node = cluster.client("squeue", "--noheader", "--states=R", "--format=%N").split()[0]
    cluster.client("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=campaign")
    time.sleep(2)
    if "down" in cluster.client("sinfo", "--noheader", f"--nodes={node}", "--format=%T"):
        cluster.client("scontrol", "update", f"NodeName={node}", "State=RESUME")
    num_resumed = finish(cluster, run)
    campaign.compare("node-down")
    return f"{node} went down amid its tasks: {num_resumed} resumes, all bytes equal"


def twice(campaign: Campaign, cluster: SlurmCluster) -> str:
    """(c) Tasks are requeued, the same shards started by hand, and the run resumed, all at once."""
    run = campaign.run_dir("twice")
    clipmill("submit", str(campaign.config("twice")))
    assert wait_until(lambda: any(run.leases_path.glob("shard-*.json")), timeout_s=PATIENCE_S)
    running = cluster.client("squeue", "--noheader", "--states=R", "--array", "--format=%F_%K").split()
    tasks = [name for name in running if name[-1].isdigit()]
    for task in tasks:
        cluster.client("scontrol", "requeue", task)
    for shard in range(NUM_SHARDS):
        worker = f"cd {ROOT} && {sys.executable} -m jobs.worker --run {run.root} --shard {shard} --attempt 1"
        cluster.client("sbatch", "--mem=500", "--output=/dev/null", f"--wrap={worker}")
    clipmill("resume", str(run.root))
    num_resumed = finish(cluster, run)
    campaign.compare("twice")
    counts = Counter(event for path in run.state_path.glob("shard-*.jsonl") for event in _ended(path))
    assert counts.total() >= NUM_VIDEOS
    return f"{len(tasks)} tasks requeued, {NUM_SHARDS} shards doubled, 1 resume amid: {num_resumed} more, all equal"


def _ended(path: Path) -> Iterator[str]:
    for line in path.read_text().splitlines():
        event = json.loads(line)
        if event["event"] in {"done", "failed"}:
            yield event["video"]


def small_arrays(campaign: Campaign, _cluster: SlurmCluster) -> str:
    """(d) 6 shards where an array may have 3 tasks."""
    with on_cluster(nodes=4, max_array_size=3) as cluster:
        run = campaign.run_dir("small-arrays")
        clipmill("submit", str(campaign.config("small-arrays", num_shards=NUM_VIDEOS // 2)))
        jobs = json.loads(run.jobs_path(1).read_text())["jobs"]
        arrays = {job["job_id"].partition("_")[0] for job in jobs if job["shard"] is not None}
        assert sorted(job["shard"] for job in jobs if job["shard"] is not None) == list(range(NUM_VIDEOS // 2))
        finish(cluster, run)
    campaign.compare("small-arrays")
    return f"{NUM_VIDEOS // 2} shards in {len(arrays)} arrays of at most 3: all bytes equal"


def no_accounting(campaign: Campaign, cluster: SlurmCluster) -> str:
    """(e) There is no accounting, and sacct hangs."""
    programs = campaign.folder / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "sacct").write_text(f"#!/bin/sh\nexec sleep {_LONG_ENOUGH_S:g}\n")
    (programs / "sacct").chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{programs}:{before}"
    try:
        run = campaign.run_dir("no-accounting")
        clipmill("submit", str(campaign.config("no-accounting")))
        num_asked = 0
        while not run.report_path.is_file():
            status = json.loads(clipmill("status", str(run.root), "--json").stdout)
            counts = [status[f"num_{each}"] for each in ("done", "failed", "running", "waiting")]
            assert sum(counts) == NUM_VIDEOS, counts
            num_asked += 1
            time.sleep(0.5)
        finish(cluster, run)
    finally:
        os.environ["PATH"] = before
    campaign.compare("no-accounting")
    return f"sacct hangs, no database: {num_asked} times status added up to {NUM_VIDEOS}, all bytes equal"


def always_fails(campaign: Campaign, cluster: SlurmCluster) -> str:
    """(f) One shard fails whenever it is tried: the aggregation says so; once it is mended the run ends as ever."""
    run = campaign.run_dir("always-fails")
    fails = 'if [ "${SLURM_ARRAY_TASK_ID:-}" = 1 ]; then exit 1; fi'
    clipmill("submit", str(campaign.config("always-fails", setup=[fails])))
    assert wait_until(lambda: not has_jobs(cluster), timeout_s=PATIENCE_S)
    report = report_of(run)
    size = next(len(shard.videos) for shard in run.shards(1) if shard.index == 1)
    assert (report["exit_code"], report["num_missing"]) == (exits.INCOMPLETE, size), report
    assert report["num_done"] + report["num_failed"] + report["num_missing"] == NUM_VIDEOS
    clipmill("resume", str(run.root), "--set", "slurm.setup=[]")
    finish(cluster, run)
    campaign.compare("always-fails")
    return f"a shard of {size} videos failed always: reported as missing, the others published; mended: all bytes equal"


SCENARIOS: dict[str, Callable[[Campaign, SlurmCluster], str]] = {
    "kills": kills,
    "node-down": node_down,
    "twice": twice,
    "small-arrays": small_arrays,
    "no-accounting": no_accounting,
    "always-fails": always_fails,
}


@contextmanager
def on_cluster(**settings: Any) -> Iterator[SlurmCluster]:
    """A cluster that this process's commands of Slurm go to."""
    before = dict(os.environ)
    with SlurmCluster(**settings) as cluster:
        for name in filter(is_client_variable, list(os.environ)):
            del os.environ[name]
        os.environ.update(cluster.environment)
        try:
            yield cluster
        finally:
            os.environ.clear()
            os.environ.update(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", choices=[[], *SCENARIOS], help="which; default all")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder, on_cluster() as cluster:
        campaign = prepare(Path(folder), num_kills=arguments.kills, seed=arguments.seed)
        for name in arguments.scenarios or SCENARIOS:
            begun = time.monotonic()
            print(f"{name}: {SCENARIOS[name](campaign, cluster)} ({time.monotonic() - begun:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
