"""The JSON of Cosmos-Curate's split pipeline runs unchanged, and mistakes in it are told."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from jobs import exits
from jobs.config import load_config, read_config
from tests.captioning import tiny_models
from tests.local_runs import make_videos, run_here

PROMPT = "You are a video caption expert. Please describe this video in two paragraphs: 1. ... 2. ..."

FIRST = {  # the initial processing in Cosmos' documentation
    "input_video_path": "s3://your_bucket/your_dataset/raw_data",
    "output_clip_path": "s3://your_bucket/your_dataset/processed_data/v0",
    "generate_embeddings": True,
    "generate_previews": True,
    "generate_captions": True,
    "splitting_algorithm": "transnetv2",
    "captioning_algorithm": "qwen",
    "captioning_prompt_variant": "default",
    "captioning_prompt_text": PROMPT,
    "limit": 0,
    "limit_clips": 0,
}

AGAIN = {  # its re-captioning
    "input_video_path": "s3://your_bucket/your_dataset/processed_data/v0/clips",
    "output_clip_path": "s3://your_bucket/your_dataset/processed_data/v1",
    "generate_embeddings": False,
    "generate_previews": False,
    "generate_captions": True,
    "splitting_algorithm": "fixed-stride",
    "fixed_stride_split_duration": 100000000,
    "captioning_algorithm": "qwen",
    "captioning_prompt_variant": "default",
    "captioning_prompt_text": "<your modified prompt here>",
    "limit": 0,
    "limit_clips": 0,
}


def written(path: Path, arguments: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"pipeline": "split", "args": arguments}), encoding="utf-8")
    return path


def test_the_documents_of_the_field_say_what_they_say_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = load_config(written(tmp_path / "first.json", FIRST))
    assert (first.input_video_path, first.output_clip_path) == (FIRST["input_video_path"], FIRST["output_clip_path"])
    assert first.captions.generate_captions
    assert first.captions.prompt == PROMPT
    assert first.embeddings.generate_embeddings
    assert first.previews.generate_previews
    assert first.split.splitting_algorithm == "transnetv2"
    assert Path(first.run_dir).parent == tmp_path / "runs"
    assert first.cluster == "local"

    again = load_config(written(tmp_path / "again.json", AGAIN))
    assert (again.split.splitting_algorithm, again.split.fixed_stride_split_duration) == ("fixed-stride", 1e8)
    assert (again.embeddings.generate_embeddings, again.previews.generate_previews) == (False, False)
    assert again.run_dir != first.run_dir


def test_what_is_generated_unless_a_document_says_otherwise(tmp_path: Path) -> None:
    config = load_config(written(tmp_path / "bare.json", {"input_video_path": "/raw", "output_clip_path": "/out"}))
    made = (config.embeddings.generate_embeddings, config.captions.generate_captions, config.previews.generate_previews)
    assert made == (True, True, False)  # the defaults of Cosmos-Curate's split pipeline


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        pytest.param({"generate_caption": True}, "unknown argument; did you mean 'generate_captions'?", id="unknown"),
        pytest.param({"super_resolution": True}, "args.super_resolution: clipmill does not do this", id="not done"),
        pytest.param({"captioning_algorithm": "gemini"}, "captions.captioning_algorithm", id="not a model here"),
        pytest.param({"limit": -1}, "limit: ", id="a wrong value"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, arguments: dict[str, Any], problem: str) -> None:
    path = written(tmp_path / "wrong.json", {**FIRST, **arguments})
    found = read_config(path)
    assert any(problem in each and each.startswith(str(path)) for each in found.problems), found.problems


def test_arguments_that_change_nothing_are_noted(tmp_path: Path) -> None:
    given = {"verbose": True, "qwen_num_gpus_per_worker": 2, "super_resolution": False, "vlm_filter": "disable"}
    found = read_config(written(tmp_path / "some.json", {**FIRST, **given}))
    assert found.problems == []
    assert [note.split("args.")[1].split(" ")[0] for note in found.notes] == ["verbose", "qwen_num_gpus_per_worker"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny_models.require_transformers()
    return tiny_models.write_models(tmp_path_factory.mktemp("models"))


def test_clips_are_captioned_anew_by_the_recipe_of_the_field_and_keep_their_bytes(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = make_videos(tmp_path / "raw", 2, num_frames=150)
    small = {"model_weights_path": str(models), "captioning_max_output_tokens": 8}
    engine = ["--set", "captions.engine=transformers", "--set", "captions.engine_arguments={dtype: float32}"]
    places = {"input_video_path": str(raw), "output_clip_path": str(tmp_path / "processed/v0")}
    cut = {"splitting_algorithm": "fixed-stride", "fixed_stride_split_duration": 2.5}
    first = written(tmp_path / "first.json", {**FIRST, **places, **cut, **small, "generate_embeddings": False})
    done = run_here("run", str(first), *engine)
    assert done.returncode == exits.DONE, done.stderr

    places = {
        "input_video_path": f"{places['output_clip_path']}/clips",
        "output_clip_path": str(tmp_path / "processed/v1"),
    }
    again = written(tmp_path / "again.json", {**AGAIN, **places, **small})
    done = run_here("run", str(again), *engine)
    assert done.returncode == exits.DONE, done.stderr
    before, after = (
        sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / f"processed/{v}/clips").iterdir())
        for v in ("v0", "v1")
    )
    assert before == after
    assert len(before) == 4
    metas = [json.loads(path.read_text()) for path in (tmp_path / "processed/v1/metas/v0").iterdir()]
    assert {meta["provenance"]["prompts"]["qwen"]["text"] for meta in metas} == {AGAIN["captioning_prompt_text"]}
    assert all("qwen_caption" in window for meta in metas for window in meta["windows"])
