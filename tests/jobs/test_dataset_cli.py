"""A dataset is built of a finished split output alone, and is the one that the run would have built."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs import exits
from tests.local_runs import (
    clipmill_here,
    digests,
    make_videos,
    planned,
    record_path,
    run_here,
    work_here,
    write_config,
)

SMALL_TARS = "target_tar_size_mb=0.001"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("raw"), 4)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> Path:
    """The folder of a run's ``out`` and its ``dataset``; the run folder is gone, and so are the videos' records."""
    folder = tmp_path_factory.mktemp("made")
    settings = {"output_dataset_path": str(folder / "dataset"), "dataset": {"target_tar_size_mb": 0.001}}
    done = run_here("run", str(write_config(folder, raw, **settings)))
    assert done.returncode == exits.DONE, done.stderr
    shutil.rmtree(folder / "run")
    shutil.rmtree(folder / "out" / "processed_videos")
    return folder


@pytest.fixture(scope="module")
def expected(made: Path) -> dict[str, str]:
    return digests(made / "dataset")


@pytest.mark.parametrize("num_workers", ["1", "3"])
def test_the_dataset_of_an_output_is_the_one_of_its_run(
    made: Path, expected: dict[str, str], tmp_path: Path, num_workers: str
) -> None:
    arguments = [str(made / "out"), str(tmp_path / "d"), "--set", SMALL_TARS, "--num-workers", num_workers]
    done = clipmill_here("dataset", "build", *arguments)
    assert done.returncode == exits.DONE, done.stderr
    assert digests(tmp_path / "d") == expected
    report = json.loads((tmp_path / "d/v0/report.json").read_text())
    assert f"{report['num_packed']} windows in {report['num_tars']} tars, 0 left out" in done.stdout


def test_the_json_of_a_shard_pipeline_builds_the_same(made: Path, expected: dict[str, str], tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"input_clip_path": str(made / "out"), "output_dataset_path": str(tmp_path / "d")}
    arguments |= {"annotation_version": "v0", "verbose": True, "perf_profile": False}
    path = tmp_path / "shard.json"
    path.write_text(json.dumps({"pipeline": "shard", "args": arguments}))
    done = clipmill_here("run", str(path), "--set", f"dataset.{SMALL_TARS}")
    assert done.returncode == exits.DONE, done.stderr
    assert "note: perf_profile has no effect here" in done.stderr
    assert digests(tmp_path / "d") == expected


def test_a_dataset_that_is_there_is_extended_by_what_is_new(
    made: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"input_clip_path": str(made / "out"), "output_dataset_path": str(tmp_path / "d")}
    first = tmp_path / "first.json"
    first.write_text(json.dumps({"pipeline": "shard", "args": arguments | {"limit": 2}}))
    assert clipmill_here("run", str(first), "--set", SMALL_TARS).returncode == exits.DONE
    tars = {path: path.stat().st_mtime_ns for path in (tmp_path / "d").rglob("*.tar")}
    keys = set(pq.read_table(tmp_path / "d/v0/catalogue.parquet")["key"].to_pylist())
    whole = set(pq.read_table(made / "dataset/v0/catalogue.parquet")["key"].to_pylist())
    assert keys < whole
    assert (
        clipmill_here("dataset", "build", str(made / "out"), str(tmp_path / "d"), "--set", SMALL_TARS).returncode == 0
    )
    assert {path: path.stat().st_mtime_ns for path in tars} == tars
    assert set(pq.read_table(tmp_path / "d/v0/catalogue.parquet")["key"].to_pylist()) == whole


def test_videos_that_were_not_done_make_it_incomplete(tmp_path: Path, raw: Path) -> None:
    run = planned(tmp_path, raw)
    assert work_here(run)[0] == exits.DONE
    record_path(tmp_path, "v0.mp4").unlink()
    assert clipmill_here("aggregate", str(run.root)).returncode == exits.INCOMPLETE
    done = clipmill_here("dataset", "build", str(tmp_path / "out"), str(tmp_path / "d"))
    assert done.returncode == exits.INCOMPLETE
    assert "incomplete: 1 videos" in done.stderr
    assert len(list((tmp_path / "d").rglob("*.tar"))) == 2  # one bucket's, a tree of mp4 and one of metas


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        pytest.param(["--set", "val_fracton=0.1"], "did you mean 'val_fraction'?", id="unknown setting"),
        pytest.param(["--set", "val_fraction=2"], "dataset.val_fraction", id="wrong value"),
        pytest.param([], "no finished split output: it has no summary.json", id="no output"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_made(tmp_path: Path, arguments: list[str], problem: str) -> None:
    (tmp_path / "out").mkdir()
    done = clipmill_here("dataset", "build", str(tmp_path / "out"), str(tmp_path / "d"), *arguments)
    assert done.returncode == exits.USAGE
    assert problem in done.stderr
    assert not (tmp_path / "d").exists()


def test_a_check_tells_a_whole_dataset_from_one_with_another_byte(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "dataset", tmp_path / "d")
    good = clipmill_here("dataset", "check", str(tmp_path / "d"))
    assert good.returncode == exits.DONE, good.stderr
    tar = sorted((tmp_path / "d").rglob("video/**/*.tar"))[0]
    content = bytearray(tar.read_bytes())
    content[700] ^= 1
    tar.write_bytes(content)
    bad = clipmill_here("dataset", "check", str(tmp_path / "d"))
    assert bad.returncode == exits.FAILED
    assert str(tar.relative_to(tmp_path / "d/v0")) in bad.stderr
    assert clipmill_here("dataset", "check", str(tmp_path / "nothing")).returncode == exits.FAILED


def test_duplicates_are_left_out_with_the_clip_that_is_kept(tmp_path: Path, raw: Path) -> None:
    embeddings = {"generate_embeddings": True, "embedding_algorithm": "efficientnet-lite0"}
    done = run_here("run", str(write_config(tmp_path, raw, embeddings=embeddings)))
    assert done.returncode == exits.DONE, done.stderr
    found = clipmill_here("dedup", str(tmp_path / "out"), str(tmp_path / "duplicates"), "--eps", "0.5")
    assert found.returncode == exits.DONE, found.stderr
    pairs = pq.read_table(tmp_path / "duplicates/duplicates.parquet").to_pylist()
    assert pairs
    arguments: dict[str, Any] = {"input_clip_path": str(tmp_path / "out"), "output_dataset_path": str(tmp_path / "d")}
    arguments |= {"input_semantic_dedup_path": str(tmp_path / "duplicates"), "semantic_dedup_epsilon": 0.01}
    path = tmp_path / "shard.json"
    path.write_text(json.dumps({"pipeline": "shard", "args": arguments}))
    refused = clipmill_here("run", str(path))
    assert refused.returncode == exits.USAGE
    assert "clipmill dedup --eps 0.01" in refused.stderr
    path.write_text(json.dumps({"pipeline": "shard", "args": arguments | {"semantic_dedup_epsilon": 0.5}}))
    built = clipmill_here("run", str(path))
    assert built.returncode == exits.DONE, built.stderr
    left_out = pq.read_table(tmp_path / "d/v0/left_out.parquet").to_pylist()
    assert {(each["clip_uuid"], each["reason"]) for each in left_out} == {
        (each["id"], f"duplicate of {each['max_id']}") for each in pairs
    }
