"""Small runs on this machine for the tests of ``jobs``: synthetic videos, cuts at regular times, real processes."""

import hashlib
import io
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from jobs.config import RunConfig, load_config
from jobs.ledger import read_events
from jobs.planning import plan_run
from jobs.rundir import RunDir
from tests.patience import PATIENCE_S
from tests.synthetic import make_video

ROOT = Path(__file__).resolve().parent.parent


def make_videos(folder: Path, num_videos: int, *, num_frames: int = 45) -> Path:
    """Tiny videos with different pictures, one in a sub-folder, one with a name beyond ASCII; gives the folder."""
    for index in range(num_videos):
        name = {1: "a/b c.mp4", 2: "日本 é.mp4"}.get(index, f"v{index}.mp4")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make_video(folder / name, num_frames=num_frames, width=96, height=64, first_number=100 * index)
    return folder


def write_config(folder: Path, raw: Path, **settings: Any) -> Path:
    """A YAML file for a run in ``folder``: one shard, two or three clips of each video."""
    folder.mkdir(parents=True, exist_ok=True)
    split = {"splitting_algorithm": "fixed-stride", "fixed_stride_split_duration": 0.6}
    config = {
        "run_dir": str(folder / "run"),
        "input_video_path": str(raw),
        "output_clip_path": str(folder / "out"),
        "cluster": "local",
        "split": {**split, "fixed_stride_min_clip_length_s": 0.2},
        "plan": {"num_shards": 1},
        **settings,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    return path


def config_of(folder: Path, raw: Path, **settings: Any) -> RunConfig:
    return load_config(write_config(folder, raw, **settings))


def planned(folder: Path, raw: Path, **settings: Any) -> RunDir:
    """A run that is planned, with nothing started."""
    return plan_run(config_of(folder, raw, **settings)).run


def start_worker(
    run: RunDir, *, shard: int = 0, attempt: int = 1, program: Sequence[str] = ("-m", "jobs.worker")
) -> subprocess.Popen[str]:
    command = [sys.executable, *program, "--run", str(run.root), "--shard", str(shard)]
    command += ["--attempt", str(attempt)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def work(run: RunDir, *, shard: int = 0, attempt: int = 1) -> tuple[int, str]:
    """Let a worker run to its end; gives its exit code and its log."""
    worker = start_worker(run, shard=shard, attempt=attempt)
    log = worker.communicate(timeout=PATIENCE_S)[1]
    return worker.returncode, log


def events(run: RunDir, shard: int = 0) -> list[dict[str, Any]]:
    return list(read_events(run.shard_state_path(shard)))


def videos_of(run: RunDir, event: str, shard: int = 0) -> list[str]:
    """The videos of all events of one kind, in order."""
    return [each["video"] for each in events(run, shard) if each["event"] == event]


def wait_for(condition: Callable[[], bool], *, timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not true within {timeout_s} s"
        time.sleep(0.005)


def record_path(folder: Path, video_id: str) -> Path:
    return folder / "out" / "processed_videos" / f"{video_id}.json"


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every output file. What a killed writer left aside under a hidden name is no output."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            content = path.read_bytes()
            if path.name == "summary.json":
                document = json.loads(content)
                assert document.pop("pipeline_run_time") >= 0  # the one measured value
                content = json.dumps(document).encode()
            found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def clipmill(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.cli", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=PATIENCE_S,
        check=False,
    )


def clipmill_here(*arguments: str) -> subprocess.CompletedProcess[str]:
    """As ``clipmill``, in this process: for commands that only look, where most of the work is starting Python."""
    from jobs.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    before, sys.argv = sys.argv, ["clipmill", *arguments]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.argv = before
    return subprocess.CompletedProcess(["clipmill", *arguments], code, out.getvalue(), err.getvalue())


@contextmanager
def _process_is_kept() -> Iterator[None]:
    """A worker takes its process for its own: give back the loggers and the environment that it sets.

    Its rule for the allocator could not be taken back, and costs what runs after it here.
    """
    root, environment = logging.getLogger(), dict(os.environ)
    handlers, level = root.handlers, root.level
    root.handlers = []
    try:
        with patch("jobs.worker.give_back_large_blocks"):
            yield
    finally:
        root.handlers = handlers
        root.setLevel(level)
        os.environ.clear()
        os.environ.update(environment)


def run_here(*arguments: str) -> subprocess.CompletedProcess[str]:
    """As ``clipmill``, with its workers and all in this process: the libraries of models are loaded once."""
    with _process_is_kept():
        return clipmill_here(*arguments, "--set", "cluster=debug")


def work_here(run: RunDir, *, shard: int = 0, attempt: int = 1) -> tuple[int, str]:
    """As ``work``, in this process."""
    from jobs.worker import run_shard

    log = io.StringIO()
    with _process_is_kept(), redirect_stderr(log):
        code = run_shard(str(run.root), shard, attempt)
    return code, log.getvalue()
