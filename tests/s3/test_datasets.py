"""Datasets at a real S3 server: the bytes that they have on a disk, tars in several parts among them."""

import random
from pathlib import Path

import pytest

from curation.dataset import check_dataset, finish_dataset, pack_task
from curation.dataset.plan_files import KeptTar, PlannedSample, read_document
from curation.storage import Storage
from curation.storage.local import LocalStorage
from curation.storage.s3 import S3Storage
from tests.dataset.hand_plans import BUCKET, HandPlan, put_clip
from tests.s3.conftest import Counted, storage_at
from tests.s3.server import S3Server

MIB = 2**20


def tars(clips: Storage, *names: str) -> list[list[PlannedSample]]:
    """A tar of three clips for each name; 7 MiB, so that it goes to S3 in two parts."""
    rng = random.Random(8)
    return [
        [put_clip(clips, f"{name}{i}", rng.randbytes(7 * MIB // 3), number=number) for i in range(3)]
        for number, name in enumerate(names)
    ]


def build(clips: Storage, output: Storage) -> None:
    """Four tars; then the second is packed again, comes to nothing, and the last, which is kept, gets its number."""
    HandPlan(tars(clips, "a", "b", "c", "d")).write(output)
    pack_task(0, clips=clips, output=output, annotation_version="v0")
    finish_dataset(output=output, annotation_version="v0")
    index = read_document(output, f"v0/{BUCKET}/index.json")
    assert index is not None
    kept = [KeptTar(BUCKET, number, entry) for number, entry in enumerate(index["tars"])]
    files = [each.path.removeprefix("v0/") for each in output.list("v0/resolution")]
    lost = [put_clip(clips, "lost", b"lost", number=1, clip_path="none")]
    plan = HandPlan([lost], plan_id="two", kept=[kept[0], kept[2], kept[3]], num_kept=9, files=files)
    plan.write(output)
    pack_task(0, clips=clips, output=output, annotation_version="v0")
    finish_dataset(output=output, annotation_version="v0")


def files_of(output: Storage) -> dict[str, bytes]:
    return {each.path: output.read(each.path) for each in output.list() if ".clipmill/" not in each.path}


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("disk")
    output = LocalStorage(str(folder / "dataset"))
    build(LocalStorage(str(folder / "clips")), output)
    return files_of(output)


def test_a_dataset_on_s3_is_that_on_a_disk(on_disk: dict[str, bytes], s3: S3Storage) -> None:
    build(s3, s3)
    found = {path: content for path, content in files_of(s3).items() if path.startswith("v0/")}
    assert found == on_disk
    found_problems = check_dataset(s3, "v0")
    assert (found_problems.problems, found_problems.num_samples) == ((), 9)


def test_a_damaged_tar_on_s3_is_found(on_disk: dict[str, bytes], s3: S3Storage) -> None:
    for path, content in on_disk.items():
        s3.write(path, content)
    damaged = f"v0/{BUCKET}/video/part_000000/000002.tar"
    s3.write(damaged, on_disk[damaged][:-1] + b"?")
    (problem,) = check_dataset(s3).problems
    assert problem.startswith(f"{damaged}: sha256 ")


def test_a_clip_is_read_with_one_request(s3_env: S3Server, tmp_path: Path, counted: Counted) -> None:
    s3, output = storage_at(s3_env.endpoint_url), LocalStorage(str(tmp_path))
    HandPlan(tars(s3, "a", "b")).write(output)
    before = counted()["GetObject"]
    pack_task(0, clips=s3, output=output, annotation_version="v0")
    assert counted()["GetObject"] - before == 6
