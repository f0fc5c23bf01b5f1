"""What trainers point their loaders at: webdataset in two workers, Hugging Face datasets, and tarfile agree."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import webdataset as wds

from curation.dataset import check_dataset
from curation.storage.local import LocalStorage
from tests.dataset.split_runs import (
    NUMBERED,
    SETTINGS,
    build,
    make_split_run,
    read_json,
    rows_in,
    samples_in,
    tars_of,
    windows_of,
)
from tests.synthetic import frames_of, read_number

ONE_PART = replace(SETTINGS, target_tar_size_mb=0.03, max_tars_per_part=100)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split run in clips of two seconds."""
    return make_split_run(tmp_path_factory.mktemp("run"), clip_s=2.0)


@pytest.fixture(scope="module")
def dataset(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("dataset")
    build(run, output, ONE_PART)
    assert check_dataset(LocalStorage(str(output))).problems == ()
    return output / "v0"


def braces(bucket: Path, tree: str) -> str:
    """The tars of a bucket as a user writes them; numbers are dense in a part."""
    num_tars = len(read_json(bucket / "index.json")["tars"])
    return f"{bucket}/{tree}/part_000000/{{000000..{num_tars - 1:06d}}}.tar"


def buckets_of(dataset: Path) -> list[Path]:
    return [dataset / bucket for bucket in read_json(dataset / "report.json")["buckets"]]


def digests_in_tars(dataset: Path) -> dict[str, str]:
    """Key -> sha256 of the mp4, as the standard library reads them."""
    found = {}
    for path in tars_of(dataset, "video"):
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                found[member.name.removesuffix(".mp4")] = hashlib.sha256(content.read()).hexdigest()
    return found


def test_the_fixture_has_a_bucket_of_several_tars(dataset: Path) -> None:
    assert max(len(read_json(bucket / "index.json")["tars"]) for bucket in buckets_of(dataset)) >= 4


def test_webdataset_reads_every_sample_once_shuffled_and_in_two_workers(run: Path, dataset: Path) -> None:
    data = pytest.importorskip("torch.utils.data", reason="PyTorch is not installed")
    digests = digests_in_tars(dataset)
    assert set(digests) == windows_of(run)
    keys: list[str] = []
    for bucket in buckets_of(dataset):
        shuffled = wds.WebDataset(
            braces(bucket, "video"), shardshuffle=100, workersplitter=wds.split_by_worker, empty_check=False, seed=1
        ).shuffle(100)
        for sample in data.DataLoader(shuffled, batch_size=None, num_workers=2):
            assert hashlib.sha256(sample["mp4"]).hexdigest() == digests[sample["__key__"]]
            keys.append(sample["__key__"])
    assert Counter(keys) == Counter(list(digests))
    assert keys != list(digests), "it is shuffled"


def test_webdataset_reads_captions_beside_their_frames(dataset: Path) -> None:
    """The trees zipped sample by sample, as a trainer joins them."""
    for bucket in buckets_of(dataset):
        video, metas = (
            wds.WebDataset(braces(bucket, tree), shardshuffle=False, empty_check=False) for tree in ("video", "metas")
        )
        for sample, meta in zip(video, metas, strict=True):
            assert json.loads(meta["json"])["key"] == sample["__key__"] == meta["__key__"]


@pytest.mark.parametrize("tree", ["video", "metas"])
def test_hugging_face_datasets_reads_the_same(dataset: Path, tmp_path: Path, tree: str) -> None:
    quiet = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "tests.dataset.read_with_datasets", str(tmp_path), *tars_of(dataset, tree)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=quiet, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    digests = digests_in_tars(dataset)
    if tree == "video":
        assert {key: digest for key, digest, _ in rows} == digests
    else:
        assert {key for key, _, _ in rows} == set(digests)
        assert all(key == named for key, _, named in rows)
    assert len(rows) == len(digests)


def test_the_catalogue_and_the_indexes_count_what_the_tars_hold(dataset: Path) -> None:
    rows = rows_in(dataset / "catalogue.parquet")
    digests = digests_in_tars(dataset)
    assert {row["key"] for row in rows} == set(digests)
    assert len(rows) == len(digests) == sum(1 for _ in samples_in(dataset, "metas"))
    for row in rows:
        tar = (dataset / row["tar"]).read_bytes()
        assert hashlib.sha256(tar[row["offset"] : row["offset"] + row["size"]]).hexdigest() == digests[row["key"]]
    in_indexes = [
        tar["num_samples"] for bucket in buckets_of(dataset) for tar in read_json(bucket / "index.json")["tars"]
    ]
    assert sum(in_indexes) == len(rows)


def test_a_samples_mp4_shows_exactly_the_windows_frames(dataset: Path) -> None:
    metas = {sample["__key__"]: json.loads(sample["json"]) for sample in samples_in(dataset, "metas")}
    seen: list[int] = []
    for sample in samples_in(dataset, "video"):
        meta = metas[sample["__key__"]]
        if meta["video_id"] == NUMBERED:
            start, end = (meta["frame_span_source"][0] + int(part) for part in sample["__key__"].split("_")[1:])
            numbers = [read_number(rgb) for _, rgb in frames_of(sample["mp4"])]
            assert numbers == list(range(start, end + 1))
            seen += numbers
    assert sorted(seen) == list(range(1000))
