"""Whole runs with captions: real engines with tiny weights, from the YAML to the training dataset."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from curation.captioning.enhancement import CaptionEnhancementStage
from jobs import exits
from jobs.ledger import ShardLog
from tests.captioning import tiny_models
from tests.local_runs import (
    clipmill,
    clipmill_here,
    digests,
    events,
    make_videos,
    planned,
    run_here,
    start_worker,
    videos_of,
    wait_for,
    work_here,
    write_config,
)
from tests.patience import PATIENCE_S

ENGINE = {"dtype": "float32", "enforce_eager": True}
FEW_THREADS = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
IN_ONE_PROCESS = ("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # vLLM starts sooner


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models as ``clipmill models pull`` lays it out, but tiny."""
    tiny_models.require_transformers()
    return tiny_models.write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("raw"), 3)


@pytest.fixture(autouse=True)
def _few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FEW_THREADS.items():
        monkeypatch.setenv(name, value)


def settings(models: Path, **captions: Any) -> dict[str, Any]:
    given = {"engine_arguments": ENGINE, "captioning_max_output_tokens": 24, "captioning_prompt_text": "What is it?"}
    return {
        "models": {"model_dir": str(models)},
        "captions": given | captions,
        "windows": {"window_size": 8, "remainder_threshold": 8},
    }


def windows_of(out: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((out / "metas/v0").glob("*.json")):
        meta = json.loads(path.read_text())
        for window in meta["windows"]:
            yield f"{meta['span_uuid']}_{window['start_frame']}_{window['end_frame']}", window


@pytest.fixture(scope="module")
def by_transformers(tmp_path_factory: pytest.TempPathFactory, models: Path, raw: Path) -> Path:
    """The folder of a run that nobody disturbs, from the YAML to the dataset."""
    folder = tmp_path_factory.mktemp("transformers")
    given = settings(models, engine="transformers")
    done = run_here("run", str(write_config(folder, raw, **given, output_dataset_path=str(folder / "dataset"))))
    assert done.returncode == exits.DONE, done.stderr
    assert "captions qwen:" in done.stdout
    return folder


def test_everything_that_captions_leave_behind_says_the_same(by_transformers: Path) -> None:
    folder = by_transformers
    found = dict(windows_of(folder / "out"))
    assert len(found) > 10
    assert {window["qwen_status"] for window in found.values()} <= {"success", "truncated"}
    summary = json.loads((folder / "out/summary.json").read_text())
    for name in ("prompt_tokens", "output_tokens"):
        total = sum(window[f"qwen_{name}"] for window in found.values())
        assert summary[f"total_{name}"] == summary["captions"]["qwen"][name] == total
    texts = {key: str(window["qwen_caption"]) for key, window in found.items() if "qwen_caption" in window}

    everything = json.loads((folder / "out/v0/all_window_captions.json").read_text())
    listed = {
        f"{uuid}_{w}": text for clips in everything.values() for uuid, ws in clips.items() for w, text in ws.items()
    }
    assert listed == texts
    report = json.loads((folder / "run/report.json").read_text())
    assert report["captions"]["qwen"]["engine"]["output_tokens"] == summary["total_output_tokens"]
    assert report["captions"]["qwen"]["engine"]["output_tokens_per_s"] > 0
    assert report["dataset"]["num_packed"] == len(found)


def test_a_worker_killed_among_captions_leaves_no_vllm_and_a_resume_gives_the_bytes_of_the_other_engine(
    by_transformers: Path, models: Path, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_models.require_vllm()
    given = settings(models, engine="vllm") | {"worker": {"videos_at_once": 1}}  # the others are not done at once
    run = planned(tmp_path, raw, **given, output_dataset_path=str(tmp_path / "dataset"))
    worker = start_worker(run)
    wait_for(lambda: bool(videos_of(run, "done")))
    processes = psutil.Process(worker.pid).children(recursive=True)
    assert any(process.name().startswith("VLLM") for process in processes), processes
    worker.kill()
    assert worker.wait() in (-signal.SIGKILL, exits.DONE)
    _, left = psutil.wait_procs(processes, timeout=PATIENCE_S)
    assert left == [], "processes of the engine live on"
    monkeypatch.setenv(*IN_ONE_PROCESS)
    done = clipmill("resume", str(run.root))
    assert done.returncode == exits.DONE, done.stderr
    for name in ("out", "dataset"):
        assert digests(tmp_path / name) == digests(by_transformers / name)


def test_captions_are_enhanced_in_turns_on_one_gpu(models: Path, raw: Path, tmp_path: Path) -> None:
    shared = settings(models, engine="transformers", enhance_captions=True, enhance_captions_round_windows=5)
    shared["captions"] |= {"enhance_captions_max_output_tokens": 16}
    run = planned(tmp_path, raw, **shared)
    code, log = work_here(run)
    assert code == exits.DONE, log
    assert log.count("event=enhancement_round") >= 2
    for _, window in windows_of(tmp_path / "out"):
        assert window["qwen_lm_status"] in ("success", "truncated")
        assert window["qwen_lm_enhanced_caption"] != window["qwen_caption"]


def test_a_suspect_that_waits_for_held_captions_gets_its_turn(
    models: Path, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suspect is processed when nothing else is under way, and captions are held for a round that is far off."""
    monkeypatch.setattr(CaptionEnhancementStage, "max_idle_s", 0.5)
    shared = settings(models, engine="transformers", enhance_captions=True, enhance_captions_max_output_tokens=16)
    run = planned(tmp_path, raw, **shared)
    log = ShardLog(run.shard_state_path(0))
    for _ in range(2):
        log.append("begin", video="v0.mp4")
    log.close()
    assert work_here(run)[0] == exits.DONE
    begun = [each["video"] for each in events(run) if each["event"] == "begin"]
    assert begun[-1] == "v0.mp4"
    assert sorted(videos_of(run, "done")) == ["a/b c.mp4", "v0.mp4", "日本 é.mp4"]


def test_what_was_asked_stands_in_every_document(by_transformers: Path) -> None:
    out = by_transformers / "out"
    for path in [*(out / "metas/v0").glob("*.json"), *(out / "processed_videos").rglob("*.json")]:
        provenance = json.loads(path.read_text())["provenance"]
        assert provenance["prompts"]["qwen"]["text"] == "What is it?"
        assert provenance["models"]["qwen"].startswith("Qwen/Qwen2.5-VL-7B-Instruct@local:")


def test_missing_weights_are_an_error_of_the_plan_with_the_command_that_mends_it(raw: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, raw, models={"model_dir": str(tmp_path / "nothing")}, captions={})
    done = clipmill_here("plan", str(config))
    assert done.returncode == exits.USAGE
    assert f"clipmill models pull --model Qwen/Qwen2.5-VL-7B-Instruct --model-dir {tmp_path}/nothing" in done.stderr
