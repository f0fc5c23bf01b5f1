"""The commands as a person meets them: what they print, what they leave, and their exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from curation.errors import Failure, FailureReason
from jobs import exits
from jobs.ledger import Lease
from jobs.rundir import RunDir
from tests.local_runs import (
    ROOT,
    clipmill,
    clipmill_here,
    digests,
    make_videos,
    planned,
    record_path,
    wait_for,
    write_config,
)
from tests.patience import PATIENCE_S
from tests.terminal import Terminal


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("raw"), 3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> Path:
    """A folder with a run that is done; its config says slurm, and `run` keeps it on this machine."""
    folder = tmp_path_factory.mktemp("finished")
    config = write_config(folder, raw, cluster="slurm", output_dataset_path=str(folder / "dataset"))
    done = clipmill("run", str(config), PATH="/nonexistent")  # no sbatch, no squeue
    assert done.returncode == exits.DONE, done.stderr
    assert "3 videos done, 0 failed, 0 missing" in done.stdout
    return folder


def test_help_names_all_commands() -> None:
    shown = clipmill("--help")
    assert shown.returncode == exits.DONE
    for command in ("init", "plan", "run", "submit", "status", "resume", "cancel", "aggregate", "version"):
        assert f" {command} " in shown.stdout


def test_plan_shows_the_shards_and_writes_nothing(terminal: Terminal, tmp_path: Path, raw: Path) -> None:
    config = write_config(tmp_path, raw)
    answer = terminal("plan", config, "--set", "plan.num_shards=2")
    assert answer.code == exits.DONE
    assert "3 videos" in answer.out
    assert "2 shards" in answer.out
    assert list(tmp_path.iterdir()) == [config]


def test_plan_warns_of_what_is_missing(terminal: Terminal, tmp_path: Path, raw: Path) -> None:
    (tmp_path / "videos.txt").write_text("v0.mp4\n[x] not there.mp4\n")
    answer = terminal("plan", write_config(tmp_path, raw, manifest=str(tmp_path / "videos.txt")))
    assert answer.code == exits.DONE
    assert "warning: 1 of 2 videos are not there" in answer.err
    assert "[x] not there.mp4" in answer.err


def test_mistakes_in_a_config_are_listed_with_line_and_key(tmp_path: Path, raw: Path) -> None:
    config = write_config(tmp_path, raw)
    text = config.read_text() + "limt: 3\nclips:\n  crf: many\n"
    config.write_text(text)
    lines = text.splitlines()
    answer = clipmill_here("plan", str(config))
    assert answer.returncode == exits.USAGE
    assert answer.stdout == ""
    shown = answer.stderr.splitlines()
    assert len(shown) == 2
    for key, line in (("limt", lines.index("limt: 3") + 1), ("clips.crf", lines.index("  crf: many") + 1)):
        assert any(each.startswith(f"{config}:{line}: {key}: ") for each in shown), (key, line, shown)


@pytest.mark.parametrize("command", ["plan", "run", "submit"])
def test_a_config_that_is_not_there_is_wrong_usage(terminal: Terminal, tmp_path: Path, command: str) -> None:
    answer = terminal(command, tmp_path / "none.yaml")
    assert answer.code == exits.USAGE
    assert "none.yaml" in answer.err


@pytest.mark.parametrize("command", ["status", "resume", "cancel", "aggregate"])
def test_a_folder_that_is_no_run_is_wrong_usage(terminal: Terminal, tmp_path: Path, command: str) -> None:
    for folder in (tmp_path, tmp_path / "none [/x]"):
        answer = terminal(command, folder)
        assert answer.code == exits.USAGE
        assert f"{folder} is no run folder" in answer.err


def test_an_unknown_command_is_wrong_usage(terminal: Terminal) -> None:
    assert terminal("fly").code == exits.USAGE


def test_run_keeps_a_config_for_slurm_on_this_machine(finished: Path) -> None:
    jobs = json.loads(RunDir(finished / "run").jobs_path(1).read_text())
    assert jobs["cluster"] == "local"
    worker = {"job_id": "local-1-0", "shard": 0, "role": "worker"}
    assert jobs["jobs"] == [worker, {"job_id": "local-1-aggregation", "shard": None, "role": "aggregation"}]
    assert (finished / "dataset" / "v0" / "report.json").is_file()
    logs = "".join(path.read_text() for path in (finished / "run" / "logs").rglob("*.log"))
    assert "event=aggregated" in logs
    assert "ERROR" not in logs


def test_local_and_debug_give_the_same_bytes(finished: Path, tmp_path: Path, raw: Path) -> None:
    config = write_config(tmp_path, raw, cluster="debug", output_dataset_path=str(tmp_path / "dataset"))
    done = clipmill("run", str(config), "--set", "plan.num_shards=2")
    assert done.returncode == exits.DONE, done.stderr
    for name in ("out", "dataset"):
        assert digests(tmp_path / name) == digests(finished / name)


def test_a_run_again_is_the_same_run(terminal: Terminal, finished: Path) -> None:
    before = digests(finished / "out")
    answer = terminal("run", finished / "config.yaml")
    assert answer.code == exits.DONE
    assert "3 videos done" in answer.out
    assert digests(finished / "out") == before


def test_status_of_a_finished_run(terminal: Terminal, finished: Path) -> None:
    shown = json.loads(terminal("status", finished / "run", "--json").out)
    assert (shown["num_videos"], shown["num_done"], shown["is_complete"]) == (3, 3, True)
    answer = terminal("status", finished / "config.yaml", "--watch")  # complete: it ends at once
    assert answer.code == exits.DONE
    row = next(line for line in answer.out.splitlines() if "videos" in line and "3" in line)
    assert [word for word in row.replace("│", " ").split() if word.isdigit()] == ["3", "0", "0", "0", "3"]


def test_an_incomplete_run_is_3_and_resume_completes_it(terminal: Terminal, tmp_path: Path, raw: Path) -> None:
    run = planned(tmp_path, raw)
    answer = terminal("aggregate", run.root)
    assert answer.code == exits.INCOMPLETE
    assert f"clipmill resume {run.root}" in answer.err
    assert "0 videos done, 0 failed, 3 missing" in answer.out
    resumed = terminal("resume", run.root, "--set", "local.parallel_shards=2")
    assert resumed.code == exits.DONE
    assert "3 videos done, 0 failed, 0 missing" in resumed.out
    assert run.load_config().local.parallel_shards == 2


def test_resume_says_what_other_settings_would_do_again_and_refuses_another_run(
    terminal: Terminal, finished: Path, tmp_path: Path
) -> None:
    answer = terminal("resume", finished / "run", "--set", "clips.crf=40", "--explain")
    assert answer.code == exits.DONE
    assert "clips.crf: 23 -> 40" in answer.out
    answer = terminal("resume", finished / "run", "--set", f"output_clip_path={tmp_path / 'elsewhere'}")
    assert answer.code == exits.USAGE
    assert "output_clip_path" in answer.err
    assert "take another run_dir" in answer.err


def test_cancel_of_a_local_run_cancels_nothing(terminal: Terminal, finished: Path) -> None:
    answer = terminal("cancel", finished / "run")
    assert answer.code == exits.DONE
    assert "cancelled 0 jobs" in answer.out


def test_aggregate_while_a_worker_is_at_it_is_4(terminal: Terminal, tmp_path: Path, raw: Path) -> None:
    run = planned(tmp_path, raw)
    lease = Lease(run.lease_path(0), 60.0)
    assert lease.acquire()
    answer = terminal("aggregate", run.root)
    lease.release()
    assert answer.code == exits.REFUSED
    assert "refused: 1 shards are being worked on (0)" in answer.err


def test_an_output_that_fails_is_1_in_words(terminal: Terminal, tmp_path: Path, raw: Path) -> None:
    run = planned(tmp_path, raw)
    (tmp_path / "out").touch()
    answer = terminal("aggregate", run.root)
    assert answer.code == exits.FAILED
    assert "summary.json" in answer.err


def test_slurm_that_is_not_there_is_2_in_words(
    terminal: Terminal, tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(tmp_path, raw, cluster="slurm")
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = terminal("submit", config)
    assert answer.code == exits.USAGE
    assert "sbatch is not on PATH" in answer.err


def test_what_is_printed_is_never_taken_for_markup(terminal: Terminal, tmp_path: Path, raw: Path) -> None:
    folder = tmp_path / "run [/b] of :smile: [red]"
    run = planned(folder, raw)
    path = record_path(folder, "v0.mp4")
    path.parent.mkdir(parents=True)
    message = "v0.mp4: [mov,mp4 @ 0x1] no [/b]"
    failure = Failure(FailureReason.UNREADABLE, message)
    path.write_text(json.dumps({"status": "failed", "failure": {"reason": failure.reason, "message": message}}))
    answer = terminal("aggregate", run.root)
    assert answer.code == exits.INCOMPLETE
    assert message in answer.err
    assert f"clipmill resume {run.root}" in answer.err
    assert f"clipmill resume {run.root}" in terminal("cancel", run.root).out
    assert terminal("status", run.root).code == exits.DONE
    assert str(folder / "new.yaml") in terminal("init", folder / "new.yaml").out


def test_the_version_is_printed(terminal: Terminal) -> None:
    assert terminal("version").out.strip() == "0.1.0"


def test_a_local_run_that_is_terminated_takes_its_workers_with_it(tmp_path: Path) -> None:
    raw = make_videos(tmp_path / "raw", 2, num_frames=60)
    config = write_config(tmp_path, raw, clips={"preset": "placebo"})
    run = RunDir(tmp_path / "run")
    command = [sys.executable, "-m", "jobs.cli", "run", str(config)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(run.lease_path(0).is_file)
    worker = int(json.loads(run.lease_path(0).read_text())["pid"])
    process.terminate()
    assert process.wait(timeout=PATIENCE_S) == exits.INCOMPLETE
    wait_for(lambda: not is_worker(worker))


def is_worker(pid: int) -> bool:
    try:
        return b"jobs.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_mistakes_in_the_settings_do_not_hide_the_others(terminal: Terminal, tmp_path: Path, raw: Path) -> None:
    manifest = tmp_path / "videos.txt"
    manifest.write_text("v0.mp4\n\n")
    (tmp_path / "file").touch()
    outputs = {"output_clip_path": str(tmp_path / "file" / "out"), "manifest": str(manifest)}
    config = write_config(tmp_path, raw, **outputs, clips={"crff": 3}, windows={"window_size": -1})
    for command in ("plan", "run", "submit"):
        answer = terminal(command, config)
        assert answer.code == exits.USAGE
        for words in ("did you mean 'crf'", "windows.window_size", f"{manifest}:2: empty line", "output_clip_path: "):
            assert answer.err.count(words) == 1, answer.err
    assert not (tmp_path / "run").exists()


def test_a_plan_needs_no_model_library(tmp_path: Path, raw: Path) -> None:
    """Where they are installed, importing them takes longer than the plan: on a login node, a minute and more."""
    heavy = ("torch", "transformers", "vllm", "scipy", "pandas")
    script = f"import sys\nfor name in {heavy!r}: sys.modules[name] = None\nfrom jobs.cli import main\nmain()\n"
    captions = {"captions": {"captioning_algorithm": "qwen"}, "embeddings": {"generate_embeddings": True}}
    config = write_config(tmp_path, raw, **captions, split={"splitting_algorithm": "transnetv2"})
    command = [sys.executable, "-c", script, "plan", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S, check=False)
    assert done.returncode == exits.USAGE
    assert "Traceback" not in done.stderr
    assert "weights" in done.stderr
