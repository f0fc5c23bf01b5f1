"""Faults of processes and of the S3 server, at random: afterwards every byte is what it is on a disk without a fault.

``python -m tests.s3.campaign [--kills 200] [--seed 1]``; a short form of it is a test.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from jobs import exits
from jobs.rundir import RunDir
from tests.local_runs import ROOT
from tests.patience import PATIENCE_S
from tests.s3.outputs import new_root, stored
from tests.s3.server import S3Server, require_program
from tests.slurm.campaign import clipmill, outputs, pieces, report_of, write_config

_LONGEST_OUTAGE_S = 3.0  # of the shorter kind, which a run outlives by itself


@dataclass
class Campaign:
    """Footage in small pieces, and what an undisturbed run on this machine's disk makes of it."""

    folder: Path
    server: S3Server
    raw: Path
    wanted: dict[str, str]
    chance: random.Random

    @classmethod
    def prepare(cls, folder: Path, server: S3Server, *, seed: int) -> "Campaign":
        """Process the footage undisturbed."""
        raw = pieces(folder / "raw")
        config = write_config(folder / "undisturbed", raw, num_shards=1)
        clipmill("run", str(config))
        return cls(folder, server, raw, outputs(folder / "undisturbed"), random.Random(seed))

    def config(self, name: str, root: str, *, max_tries: int = 10) -> Path:
        """A run with its outputs on S3, four workers, two at once."""
        path = write_config(self.folder / name, self.raw, num_shards=4)
        document = yaml.safe_load(path.read_text())
        document |= {"output_clip_path": f"{root}/v0", "output_dataset_path": f"{root}/webdataset"}
        document |= {"local": {"parallel_shards": 2}, "cluster": "local"}
        document["s3"] = {"endpoint_url": self.server.endpoint_url, "max_tries": max_tries}
        path.write_text(yaml.safe_dump(document))
        return path

    def run_dir(self, name: str) -> RunDir:
        return RunDir(self.folder / name / "run")

    def compare(self, root: str) -> None:
        """Raises AssertionError, which names the objects that are not what they are without a fault."""
        found, wanted = stored(root, self.server), self.wanted
        differing = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
        assert not differing, f"{len(differing)} objects differ, such as {differing[:5]}"


def start(command: str, path: Path) -> "subprocess.Popen[bytes]":
    """A command of clipmill that goes on beside this process."""
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", command, str(path)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def processes_of(run: RunDir) -> dict[str, list[int]]:
    """Numbers of the processes of a run by what they are."""
    found: dict[str, list[int]] = {}
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(run.root) not in line:
            continue
        kinds = {"jobs.worker": "worker", "jobs.aggregation": "aggregation"}
        kind = next((kind for module, kind in kinds.items() if module in line), "launcher")
        found.setdefault(kind, []).append(process.pid)
        try:
            children = process.children() if kind == "worker" else []
        except psutil.NoSuchProcess:
            continue
        found.setdefault("decode child", []).extend(child.pid for child in children)
    return {kind: pids for kind, pids in found.items() if pids}


def kill_one(run: RunDir, chance: random.Random) -> str | None:
    """kill -9 a process of the run, if there is one of a kind chosen at random; gives that."""
    found = processes_of(run)
    weights = {"worker": 6, "decode child": 3, "aggregation": 6, "launcher": 1}
    (kind,) = chance.choices(list(weights), list(weights.values()))
    if kind not in found:
        return None
    try:
        os.kill(chance.choice(found[kind]), 9)
    except ProcessLookupError:
        return None
    return kind


def kills(campaign: Campaign, num_faults: int) -> str:
    """kill -9 at random moments, and the server killed and started again in between."""
    chance, faults = campaign.chance, Counter[str]()
    num_rounds = num_resumed = 0
    while faults.total() < num_faults:
        name, root = f"kills-{num_rounds}", new_root()
        run, path = campaign.run_dir(name), campaign.config(name, root)
        process = start("run", path)
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None or report_of(run).get("exit_code") != exits.DONE or processes_of(run):
            assert time.monotonic() < deadline, f"{name} does not end"
            if process.poll() is not None:
                num_resumed += 1
                process = start("resume" if run.plan_path.is_file() else "run", path)
            time.sleep(chance.uniform(0.0, 1.2))
            if faults.total() >= num_faults:
                continue
            if chance.random() < 0.25:
                campaign.server.stop()
                time.sleep(chance.uniform(0.1, _LONGEST_OUTAGE_S))
                campaign.server.start()
                faults["outage of the server"] += 1
            elif (kind := kill_one(run, chance)) is not None:
                faults[kind] += 1
        campaign.compare(root)
        num_rounds += 1
    what = ", ".join(f"{count} of {kind}" for kind, count in sorted(faults.items()))
    return f"{faults.total()} faults ({what}) in {num_rounds} runs, {num_resumed} resumes: all bytes equal"


def away(campaign: Campaign) -> str:
    """The server is away for longer than any request is tried: no video is blamed, and the run goes on later."""
    name, root = "away", new_root()
    run, path = campaign.run_dir(name), campaign.config(name, root, max_tries=3)
    process = start("run", path)
    deadline = time.monotonic() + PATIENCE_S
    while not has_begun(run):
        assert process.poll() is None, "it ended before the server was away"
        assert time.monotonic() < deadline, "no video was done"
        time.sleep(0.05)
    campaign.server.stop()
    try:
        code = process.wait(timeout=PATIENCE_S)
    finally:
        campaign.server.start()
    assert code != exits.DONE, "it ended well without a server"
    failed = [event for event in events_of(run) if event["event"] == "failed"]
    assert all(event["video"] == "notes.mp4" for event in failed), failed
    clipmill("resume", str(path))
    assert report_of(run)["exit_code"] == exits.DONE
    campaign.compare(root)
    return "the server was away until all had given up: no video blamed, one resume, all bytes equal"


def has_begun(run: RunDir) -> bool:
    return any(event["event"] == "done" for event in events_of(run))


def events_of(run: RunDir) -> list[dict[str, str]]:
    lines = (line for path in run.state_path.glob("shard-*.jsonl") for line in path.read_text().splitlines())
    return [json.loads(line) for line in lines if line.endswith("}")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder, S3Server(require_program()) as server:
        os.environ.update(server.environment)
        campaign = Campaign.prepare(Path(folder), server, seed=arguments.seed)
        begun = time.monotonic()
        print(f"away: {away(campaign)} ({time.monotonic() - begun:.0f} s)", flush=True)
        begun = time.monotonic()
        print(f"kills: {kills(campaign, arguments.kills)} ({time.monotonic() - begun:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
