"""On a real cluster: what failed is tried again, and what killed a task is found in its log."""

import os
import signal
from itertools import pairwise
from pathlib import Path

import pytest

from jobs import exits
from jobs.rundir import RunDir
from tests.patience import PATIENCE_S
from tests.slurm.cluster import SlurmCluster
from tests.slurm.daemons import wait_until
from tests.slurm.test_run import clipmill, make_config, running_workers, wait_for_report
from tests.synthetic import make_video


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small videos, of which one is a text."""
    folder = tmp_path_factory.mktemp("raw")
    for index in range(4):
        make_video(folder / f"v{index}.mp4", num_frames=300, width=320, height=240, first_number=300 * index)
    (folder / "v0.mp4").rename(folder.parent / "whole.mp4")
    (folder / "v0.mp4").write_text("no video")
    return folder


def died_tasks(run: RunDir) -> list[tuple[str, str]]:
    """Tasks that died, as ``logs --first-error`` tells of them: its line, and the line after it, with the log."""
    shown = clipmill("logs", str(run.root), "--first-error")
    assert shown.returncode == exits.DONE, shown.stderr
    return [pair for pair in pairwise(shown.stdout.splitlines()) if pair[0].startswith("task died")]


def test_a_killed_task_is_named_with_its_log_and_a_failure_is_tried_again(
    slurm_env: SlurmCluster, tmp_path: Path, raw: Path
) -> None:
    run = RunDir(tmp_path / "run")
    config = make_config(tmp_path, raw, output_dataset_path=None)
    assert clipmill("submit", str(config)).returncode == exits.DONE
    assert wait_until(lambda: bool(running_workers(run)), timeout_s=PATIENCE_S)
    victim = running_workers(run)[0]
    os.kill(int(victim["pid"]), signal.SIGKILL)
    assert wait_for_report(run)["num_failed"] <= 1

    # the others may all have ended before the lease of the killed one is too old to be somebody's
    assert wait_until(lambda: bool(died_tasks(run)), timeout_s=PATIENCE_S)
    [(_, where)] = died_tasks(run)
    assert f"{victim['job']}_{victim['task']}" in where
    assert Path(where.partition(", ")[2].rpartition(":")[0]).is_file()

    run.report_path.unlink()
    assert clipmill("resume", str(run.root)).returncode == exits.DONE
    report = wait_for_report(run)
    assert (report["num_done"], report["failures_by_reason"]) == (3, {"unreadable": 1})
    (raw / "v0.mp4").write_bytes((raw.parent / "whole.mp4").read_bytes())
    run.report_path.unlink()
    assert clipmill("resume", str(run.root), "--failed", "unreadable").returncode == exits.DONE
    report = wait_for_report(run)
    assert (report["num_done"], report["num_failed"], report["num_missing"]) == (4, 0, 0)
    assert [shard.num_videos for shard in run.shards(run.attempts()[-1])] == [1]
