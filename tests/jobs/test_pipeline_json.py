"""The JSON of Cosmos-Curate's shard pipeline means here what it means there, and mistakes in it are told."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs import exits
from jobs.config import ConfigError
from jobs.pipeline_json import read_pipeline, shard_arguments
from tests.local_runs import clipmill

SEED = {  # the template of Cosmos' documentation
    "pipeline": "shard",
    "args": {
        "input_clip_path": "s3://your_bucket/your_dataset/processed_data/v0",
        "output_dataset_path": "s3://your_bucket/your_dataset/webdataset/v0",
        "annotation_version": "v0",
        "verbose": True,
        "perf_profile": False,
    },
}

# the arguments of Cosmos-Curate's shard pipeline (ShardPipelineSettings and CommonPipelineSettings), with its defaults
ALL_ARGUMENTS: dict[str, Any] = {
    "input_clip_path": "/clips",
    "output_dataset_path": "/dataset",
    "captioning_algorithm": "qwen",
    "annotation_version": "v0",
    "input_semantic_dedup_s3_profile_name": "default",
    "semantic_dedup_epsilon": 0.01,
    "max_tars_per_part": 100,
    "target_tar_size_mb": 500,
    "min_clips_per_tar": 1,
    "drop_small_shards": False,
    "input_semantic_dedup_path": None,
    "input_s3_profile_name": "default",
    "output_s3_profile_name": "default",
    "execution_mode": "AUTO",
    "limit": 0,
    "verbose": False,
    "model_weights_path": "/models",
    "perf_profile": True,
    "profile_tracing": False,
    "profile_tracing_sampling": 0.01,
    "profile_tracing_otlp_endpoint": "",
    "profile_cpu": False,
    "profile_memory": False,
    "profile_gpu": False,
    "profile_cpu_exclude": "_root",
    "profile_memory_exclude": "_root",
    "profile_gpu_exclude": "_root",
}


def arguments(**given: Any) -> dict[str, Any]:
    return {"pipeline": "shard", "args": {"input_clip_path": "/c", "output_dataset_path": "/d", **given}}


def test_the_documented_template_is_understood() -> None:
    found = shard_arguments(SEED, name="x")
    assert found.settings == {
        "output_clip_path": "s3://your_bucket/your_dataset/processed_data/v0",
        "output_dataset_path": "s3://your_bucket/your_dataset/webdataset/v0",
        "dataset.annotation_version": "v0",
    }
    assert found.verbose
    assert [note.split()[0] for note in found.notes] == ["perf_profile"]


def test_every_argument_of_cosmos_is_known_and_none_is_passed_over_in_silence() -> None:
    found = shard_arguments({"pipeline": "shard", "args": ALL_ARGUMENTS}, name="x")
    told = {note.split()[0] for note in found.notes}
    without_effect = {key for key in ALL_ARGUMENTS if key.startswith(("profile_", "perf_"))}
    assert told == without_effect | {"captioning_algorithm", "execution_mode", "model_weights_path"}
    assert found.settings["dataset.min_clips_per_tar"] == 1
    assert found.settings["input_s3_profile_name"] is None  # boto3's own credentials, whatever they are called


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        pytest.param(arguments(input_clip_pth=1), "did you mean 'input_clip_path'?", id="unknown argument"),
        pytest.param({"pipeline": "shard", "args": {}}, "args.input_clip_path: this argument is needed", id="missing"),
        pytest.param({"pipeline": "shard"}, "expected", id="no arguments"),
        pytest.param({**arguments(), "arg": {}}, "arg: unknown key; did you mean 'args'?", id="unknown key"),
        pytest.param(arguments(limit=-1), "args.limit: expected a whole number from 0, found -1", id="limit"),
        pytest.param(arguments(verbose="yes"), "args.verbose: expected true or false, found 'yes'", id="verbose"),
        pytest.param({"pipeline": "dedupe", "args": {}}, "unknown pipeline 'dedupe'", id="another"),
    ],
)
def test_what_is_not_understood_is_told(document: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        shard_arguments(document, name="shard.json")
    assert any(line.startswith("shard.json: ") and problem in line for line in error.value.problems), error.value


def test_only_a_json_file_with_a_pipeline_is_one(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(SEED))
    (tmp_path / "b.json").write_text('{"run_dir": "x"}')
    (tmp_path / "c.yaml").write_text(json.dumps(SEED))
    (tmp_path / "d.json").write_text("{")
    assert read_pipeline(tmp_path / "a.json") == SEED
    assert [read_pipeline(tmp_path / name) for name in ("b.json", "c.yaml", "d.json", "e.json")] == [None] * 4


def test_a_wrong_value_is_told_with_the_name_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "shard.json"
    path.write_text(json.dumps(arguments(target_tar_size_mb=0)))
    done = clipmill("run", str(path))
    assert done.returncode == exits.USAGE
    assert f"{path}: dataset.target_tar_size_mb: " in done.stderr
    assert "found 0" in done.stderr
