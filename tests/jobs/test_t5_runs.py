"""Runs with T5 vectors of captions: from the YAML to the lists of clips."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.captioning.engines.options import EngineOptions
from curation.captioning.generation import CaptionGenerationStage
from jobs import exits
from jobs.config import ConfigError
from jobs.models_needed import missing_weights, named_model, needed_models
from jobs.stages import build_pipeline
from tests.captioning import tiny_models
from tests.local_runs import (
    clipmill_here,
    config_of,
    digests,
    events,
    make_videos,
    planned,
    run_here,
    work_here,
    write_config,
)
from tests.text import tiny_t5


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models as ``clipmill models pull`` lays it out, but tiny."""
    tiny_models.require_transformers()
    folder = tiny_models.write_models(tmp_path_factory.mktemp("models"))
    tiny_t5.write_t5(folder / tiny_t5.REPOSITORY)
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("raw"), 3)


def settings(models: Path, *, captions: dict[str, Any] | None = None, **t5: Any) -> dict[str, Any]:
    given = {
        "engine": "transformers",
        "engine_arguments": {"dtype": "float32"},
        "captioning_max_output_tokens": 16,
        "captioning_prompt_text": "What is it?",
    }
    return {
        "models": {"model_dir": str(models)},
        "captions": given | (captions or {}),
        "t5": {"generate_t5": True} | t5,
        "windows": {"window_size": 8, "remainder_threshold": 8},
        "previews": {"generate_previews": False},
    }


def entries(out: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((out / "processed_clip_chunks").rglob("*.json")):
        yield from json.loads(path.read_bytes())["clips"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, models: Path, raw: Path) -> Path:
    """A worker's output, with enhanced captions."""
    folder = tmp_path_factory.mktemp("made")
    enhanced = {"enhance_captions": True, "enhance_captions_max_output_tokens": 8}
    run = planned(folder, raw, **settings(models, captions=enhanced))
    code, log = work_here(run)
    assert code == exits.DONE, log
    (ended,) = [each for each in events(run) if each["event"] == "end"]
    counted = ended["text_vectors"]["t5_xxl"]
    assert counted["windows"] == sum(len(entry["windows"]) for entry in entries(folder / "out"))
    return folder / "out"


def test_each_window_has_the_vectors_of_the_caption_that_is_trained_on(made: Path, models: Path) -> None:
    reference = tiny_t5.Reference(models / tiny_t5.REPOSITORY)
    texts = set()
    for entry in entries(made):
        meta = json.loads((made / f"metas/v0/{entry['uuid']}.json").read_bytes())
        place = entry["t5"]["v0"]
        stored = np.load(made / place["path"])
        assert len(place["rows"]) == len(meta["windows"]) == len(entry["windows"])
        for window, (first, num_rows) in zip(meta["windows"], place["rows"], strict=True):
            text = window["qwen_lm_enhanced_caption"]
            expected = reference.vectors(text)
            assert np.allclose(stored[first : first + num_rows], expected, rtol=2e-3, atol=2e-3)
            assert window["t5_xxl_num_tokens"] == num_rows == len(expected)
            texts.add(text)
    assert len(texts) > 5


def test_documents_name_the_model_and_its_revision(made: Path) -> None:
    for path in [*(made / "metas/v0").glob("*.json"), *(made / "processed_videos").rglob("*.json")]:
        provenance = json.loads(path.read_bytes())["provenance"]
        assert provenance["models"][tiny_t5.REPOSITORY].startswith(f"{tiny_t5.REPOSITORY}@local:")


def test_settings_that_the_run_had_before_leave_their_vectors_to_be_named(
    models: Path, raw: Path, tmp_path: Path
) -> None:
    """Turned off, they are left over; turned on again with other settings, all is as in a run that always had them."""
    config = write_config(tmp_path, raw, **settings(models))
    assert run_here("run", str(config)).returncode == exits.DONE
    vectors = {str(path) for path in (tmp_path / "out").rglob("*.npy")}
    assert len(vectors) == 3
    resumed = run_here("resume", str(config), "--set", "t5.generate_t5=false")
    assert resumed.returncode == exits.DONE, resumed.stderr
    assert "t5.generate_t5: True -> False" in resumed.stdout
    assert set(clipmill_here("leftovers", str(config)).stdout.splitlines()) == vectors
    assert not any("t5" in entry for entry in entries(tmp_path / "out"))

    assert run_here("resume", str(config), "--set", "t5.max_tokens=5", "--set", "t5.generate_t5=true").returncode == 0
    assert max(rows[1] for entry in entries(tmp_path / "out") for rows in entry["t5"]["v0"]["rows"]) == 5
    other = write_config(tmp_path / "other", raw, **settings(models, max_tokens=5))
    assert run_here("run", str(other)).returncode == exits.DONE
    assert digests(tmp_path / "out") == digests(tmp_path / "other/out")


def test_missing_weights_are_an_error_of_the_plan_with_the_command_that_mends_it(raw: Path, tmp_path: Path) -> None:
    given = settings(tmp_path / "nothing")
    done = clipmill_here("plan", str(write_config(tmp_path, raw, **given)))
    assert done.returncode == exits.USAGE
    assert f"clipmill models pull --model google-t5/t5-11b --model-dir {tmp_path}/nothing" in done.stderr


def test_a_config_with_t5_needs_its_model(raw: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path, raw, **settings(tmp_path))
    assert [needed.name for needed in needed_models(config)] == ["qwen", "google-t5/t5-11b"]
    assert any("google-t5/t5-11b" in line for line in missing_weights(config))
    off = config_of(tmp_path, raw, **settings(tmp_path, generate_t5=False))
    assert [needed.name for needed in needed_models(off)] == ["qwen"]
    assert named_model("google-t5/t5-11b").model.repository == "google-t5/t5-11b"


def test_t5_without_captions_is_a_mistake(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="t5: there are no captions to encode"):
        config_of(tmp_path, raw, t5={"generate_t5": True})
    assert not config_of(tmp_path, raw).t5.generate_t5


def test_only_what_decides_the_vectors_is_in_the_hash_and_only_where_they_are_made(raw: Path, tmp_path: Path) -> None:
    def hash_of(**t5: Any) -> str:
        return config_of(tmp_path, raw, captions={}, t5=t5).content_hash

    off, on = hash_of(), hash_of(generate_t5=True)
    assert hash_of(max_tokens=100) == off == config_of(tmp_path, raw, captions={}).content_hash
    assert on != off
    assert hash_of(generate_t5=True, max_tokens=100) != on
    assert hash_of(generate_t5=True, gpu_memory_gb=20, tokens_per_batch=64) == on


def test_the_captioner_leaves_room_for_it_on_the_gpu_and_it_comes_after_all_captions(
    models: Path, raw: Path, tmp_path: Path
) -> None:
    given = settings(models, captions={"enhance_captions": True}, gpu_memory_gb=11.5)
    stages = build_pipeline(config_of(tmp_path, raw, **given)).stages
    names = [stage.name for stage in stages]
    assert names.index("enhancement") < names.index("t5") < names.index("clip_writer")
    (captioner,) = [stage for stage in stages if isinstance(stage, CaptionGenerationStage)]
    options: EngineOptions = captioner._options
    assert options.reserved_gpu_gb == 11.5
