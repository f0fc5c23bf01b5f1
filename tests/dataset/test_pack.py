"""Packing what a plan says: tars and their results."""

import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from curation.dataset import OtherPlanError, pack_task
from curation.dataset.plan_files import BUILDING, PlannedSample, result_file
from curation.dataset.results import TarResult, read_result, rows_of_result
from curation.dataset.t5_members import DIMENSIONS
from curation.errors import StorageError
from curation.storage.local import LocalStorage
from tests.dataset.hand_plans import BUCKET, HandPlan, meta_of, put_clip, uuid_of

TAR = f"v0/{BUCKET}/video/part_000000"


class Folders:
    """Where clips and dataset are."""

    def __init__(self, folder: Path) -> None:
        self.clips, self.output = LocalStorage(str(folder / "clips")), LocalStorage(str(folder / "dataset"))

    def put(self, *names: str, number: int = 0, **changes: Any) -> list[PlannedSample]:
        return [put_clip(self.clips, name, name.encode() * 100, number=number, **changes) for name in names]

    def pack(self, task: int = 0) -> None:
        pack_task(task, clips=self.clips, output=self.output, annotation_version="v0")

    def result(self, number: int) -> TarResult:
        return read_result(self.output.read(f"v0/{result_file(BUCKET, number)}"))

    def files(self) -> dict[str, bytes]:
        return {each.path: self.output.read(each.path) for each in self.output.list()}


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def members(tar: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as read:
        return {name: read.extractfile(name).read() for name in read.getnames()}  # type: ignore[union-attr]


def test_a_window_that_is_the_whole_clip_is_the_clips_bytes(folders: Folders) -> None:
    """These clips are no videos: nothing of them is parsed."""
    tar = folders.put("a", "b")
    HandPlan([tar]).write(folders.output)
    folders.pack()
    content = folders.output.read(f"{TAR}/000000.tar")
    assert members(content) == {f"{uuid_of(name)}_0_9.mp4": name.encode() * 100 for name in ("a", "b")}
    rows = rows_of_result(folders.output.read(f"v0/{result_file(BUCKET, 0)}")).to_pylist()
    assert [content[row["offset"] : row["offset"] + row["size"]] for row in rows] == [b"a" * 100, b"b" * 100]
    assert [row["content"] for row in rows] == [sample.content for sample in tar]


def test_each_tree_has_the_same_keys_in_the_same_order(folders: Folders) -> None:
    vectors = np.arange(4 * DIMENSIONS).reshape(4, DIMENSIONS).astype(np.float16)
    stream = io.BytesIO()
    np.save(stream, vectors)
    folders.clips.write("t5.npy", stream.getvalue())
    names = ("c", "a", "b")
    (one, two, three) = (
        folders.put(name, t5_path="t5.npy", t5_first_row=row, t5_num_rows=1)[0] for row, name in enumerate(names)
    )
    HandPlan([[one, two, three]], trees=("video", "metas", "t5_xxl")).write(folders.output)
    folders.pack()
    keys = [f"{uuid_of(name)}_0_9" for name in names]
    for tree, suffix in (("video", "mp4"), ("metas", "json"), ("t5_xxl", "pickle")):
        tar = folders.output.read(f"v0/{BUCKET}/{tree}/part_000000/000000.tar")
        assert list(members(tar)) == [f"{key}.{suffix}" for key in keys]
        assert len(tar) == folders.result(0).digests[tree].num_bytes


def test_a_task_packs_its_own_tars_only(folders: Folders) -> None:
    HandPlan([folders.put("a"), folders.put("b", number=1)], num_tasks=2).write(folders.output)
    folders.pack(task=1)
    assert [path for path in folders.files() if path.endswith(".tar")] == [
        f"v0/{BUCKET}/metas/part_000000/000001.tar",
        f"{TAR}/000001.tar",
    ]


def test_what_is_packed_stays_when_the_task_is_started_again(folders: Folders) -> None:
    HandPlan([folders.put("a"), folders.put("b", number=1)]).write(folders.output)
    folders.pack()
    before = folders.files()
    folders.clips.delete(f"clips/{uuid_of('a')}.mp4")  # would be left out if it were packed again
    folders.output.delete(f"v0/{result_file(BUCKET, 1)}")
    folders.output.delete(f"{TAR}/000001.tar")
    folders.pack()
    assert folders.files() == before


def test_tars_of_another_plan_are_packed_again(folders: Folders) -> None:
    tars = [folders.put("a")]
    HandPlan(tars, plan_id="one").write(folders.output)
    folders.pack()
    folders.output.write(f"{TAR}/000000.tar", b"old")
    HandPlan(tars, plan_id="two").write(folders.output)
    folders.pack()
    assert list(members(folders.output.read(f"{TAR}/000000.tar"))) == [f"{uuid_of('a')}_0_9.mp4"]
    assert folders.result(0).plan_id == "two"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param({"clip_path": "clips/none.mp4"}, "no clip clips/none.mp4", id="no clip"),
        pytest.param({"clip_sha256": "0" * 64}, "its chunk says 000", id="another clip"),
        pytest.param({"clip_num_frames": 20}, "unreadable", id="no video"),
        pytest.param({"meta": None}, "no metadata metas/v0/", id="no meta"),
        pytest.param({"meta": "{"}, "is not JSON", id="meta broken"),
        pytest.param({"meta": "[]"}, "has no windows", id="no meta but a list"),
        pytest.param({"meta": json.dumps(meta_of("", num_frames=9))}, "has 0 windows 0..9", id="another window"),
    ],
)
def test_what_cannot_be_had_is_left_out_alone(folders: Folders, changes: dict[str, Any], why: str) -> None:
    bad, good = folders.put("bad", **changes) + folders.put("good")
    HandPlan([[bad, good]]).write(folders.output)
    folders.pack()
    assert list(members(folders.output.read(f"{TAR}/000000.tar"))) == [f"{uuid_of('good')}_0_9.mp4"]
    (left_out,) = folders.result(0).left_out
    assert (left_out.clip_uuid, left_out.video_id, left_out.start_frame) == (uuid_of("bad"), "video", 0)
    assert why in left_out.reason


def test_a_tar_that_comes_to_nothing_is_not_written(folders: Folders) -> None:
    HandPlan([folders.put("a", clip_path="none"), folders.put("b", number=1)]).write(folders.output)
    folders.pack()
    assert not folders.output.exists(f"{TAR}/000000.tar")
    assert (folders.result(0).digests, len(folders.result(0).left_out)) == ({}, 1)


def test_without_a_plan_nothing_is_packed(folders: Folders) -> None:
    with pytest.raises(OtherPlanError, match="no dataset is planned"):
        folders.pack()


def test_a_task_whose_plan_is_over_writes_nothing(folders: Folders) -> None:
    HandPlan([folders.put("a")]).write(folders.output)
    folders.output.delete(f"v0/{BUILDING}")
    with pytest.raises(OtherPlanError, match="the plan is done"):
        folders.pack()
    assert not [path for path in folders.files() if path.endswith(".tar")]


class FullStorage(LocalStorage):
    """A disk that has no room for streams of one name."""

    def __init__(self, root: str, *, refused: str) -> None:
        super().__init__(root)
        self.refused = refused

    @contextmanager
    def writing(self, path: str) -> Iterator[BinaryIO]:
        with super().writing(path) as stream:
            yield stream
            if self.refused in path:
                raise StorageError("can't write: no space left")


def test_no_tar_of_any_tree_appears_when_one_can_not_be_written(folders: Folders, tmp_path: Path) -> None:
    HandPlan([folders.put("a")]).write(folders.output)
    full = FullStorage(str(tmp_path / "dataset"), refused="metas")
    with pytest.raises(StorageError, match="no space left"):
        pack_task(0, clips=folders.clips, output=full, annotation_version="v0")
    assert not [path for path in folders.files() if path.endswith(".tar")]
    assert not folders.output.exists(f"v0/{result_file(BUCKET, 0)}")
    folders.pack()
    assert len(members(folders.output.read(f"{TAR}/000000.tar"))) == 1


def test_two_at_once_give_the_same_bytes(folders: Folders) -> None:
    tars = [folders.put(*(f"{number}-{i}" for i in range(20)), number=number) for number in range(8)]
    HandPlan(tars).write(folders.output)
    other = get_context("spawn").Process(target=folders.pack)
    other.start()
    folders.pack()
    other.join()
    assert other.exitcode == 0
    both = folders.files()
    folders.output.delete_many([path for path in both if "tars/" in path or path.endswith(".tar")])
    folders.pack()
    assert folders.files() == both
