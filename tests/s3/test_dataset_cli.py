"""A dataset of a split output, each of both on a disk or at a real S3 server, is the same dataset."""

from pathlib import Path

import pytest

from jobs import exits
from tests.local_runs import clipmill, digests, make_videos, write_config
from tests.s3.outputs import new_root, s3_config, stored
from tests.s3.server import S3Server

SMALL_TARS = {"target_tar_size_mb": 0.001}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("raw"), 3)


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> Path:
    """The folder of a run's ``out`` and ``dataset``."""
    folder = tmp_path_factory.mktemp("on_disk")
    outputs = {"output_dataset_path": str(folder / "dataset"), "dataset": SMALL_TARS}
    done = clipmill("run", str(write_config(folder, raw, **outputs)))
    assert done.returncode == exits.DONE, done.stderr
    return folder


def test_a_dataset_built_and_checked_on_s3_has_the_bytes_of_one_on_disk(
    on_disk: Path, raw: Path, s3_env: S3Server, tmp_path: Path
) -> None:
    root, endpoint = new_root(), ("--set", f"s3.endpoint_url={s3_env.endpoint_url}")
    config = s3_config(tmp_path, raw, s3_env, root, dataset=SMALL_TARS, aggregate={"num_tasks": 2})
    done = clipmill("run", str(config))  # packed in tasks
    assert done.returncode == exits.DONE, done.stderr
    assert stored(f"{root}/dataset", s3_env) == digests(on_disk / "dataset")
    small = ("--set", "target_tar_size_mb=0.001", "--num-workers", "2")
    there = clipmill("dataset", "build", f"{root}/out", f"{root}/again", *endpoint, *small)
    assert there.returncode == exits.DONE, there.stderr
    assert stored(f"{root}/again", s3_env) == digests(on_disk / "dataset")
    checked = clipmill("dataset", "check", f"{root}/again", *endpoint)
    assert checked.returncode == exits.DONE, checked.stderr
    here = clipmill("dataset", "build", f"{root}/out", str(tmp_path / "here"), *endpoint, *small)
    assert here.returncode == exits.DONE, here.stderr
    assert digests(tmp_path / "here") == digests(on_disk / "dataset")
