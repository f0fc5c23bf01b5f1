"""Finishing what tasks have packed: numbers, tables, documents, and what is removed."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq
import pytest

from curation.dataset import (
    DatasetReport,
    OtherPlanError,
    UnfinishedError,
    check_dataset,
    complete_publication,
    finish_dataset,
    pack_task,
)
from curation.dataset.plan_files import BUILDING, KeptTar, PlannedSample, result_file
from curation.errors import StorageError
from curation.storage.local import LocalStorage
from tests.dataset.hand_plans import BUCKET, HandPlan, put_clip, uuid_of


class Folders:
    """Where clips and dataset are."""

    def __init__(self, folder: Path) -> None:
        self.clips, self.output = LocalStorage(str(folder / "clips")), LocalStorage(str(folder / "dataset"))

    def tar(self, *names: str, number: int = 0, **changes: Any) -> list[PlannedSample]:
        return [put_clip(self.clips, name, name.encode() * 100, number=number, **changes) for name in names]

    def pack(self) -> None:
        pack_task(0, clips=self.clips, output=self.output, annotation_version="v0")

    def finish(self) -> DatasetReport:
        return finish_dataset(output=self.output, annotation_version="v0")

    def build(self, plan: HandPlan) -> DatasetReport:
        plan.write(self.output)
        self.pack()
        return self.finish()

    def files(self) -> dict[str, bytes]:
        return {each.path: self.output.read(each.path) for each in self.output.list()}

    def document(self, path: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.output.read(f"v0/{path}"))
        return document

    def table(self, name: str) -> list[dict[str, Any]]:
        return list(pq.read_table(io.BytesIO(self.output.read(f"v0/{name}.parquet"))).to_pylist())

    def problems(self) -> tuple[str, ...]:
        return check_dataset(self.output, "v0").problems

    def kept(self) -> list[KeptTar]:
        """The tars of the dataset that is there, all to be kept."""
        return [
            KeptTar(BUCKET, number, entry) for number, entry in enumerate(self.document(f"{BUCKET}/index.json")["tars"])
        ]


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def clips_in_order(folders: Folders) -> list[str]:
    return [row["clip_uuid"] for row in folders.table("catalogue")]


def uuids(*names: str) -> list[str]:
    return [uuid_of(name) for name in names]


def test_a_finished_dataset_is_whole_and_nothing_of_the_build_is_left(folders: Folders) -> None:
    report = folders.build(HandPlan([folders.tar("a", "b"), folders.tar("c", number=1)]))
    assert folders.problems() == ()
    assert not [path for path in folders.files() if "building" in path]
    assert (report.num_packed, report.num_tars, report.num_clips) == (3, 2, 3)
    assert clips_in_order(folders) == uuids("a", "b", "c")


def test_nothing_is_published_while_a_tar_is_missing(folders: Folders) -> None:
    HandPlan([folders.tar("a"), folders.tar("b", number=1)]).write(folders.output)
    folders.pack()
    folders.output.delete(f"v0/{result_file(BUCKET, 1)}")
    before = folders.files()
    with pytest.raises(UnfinishedError, match="1 tars are not packed") as raised:
        folders.finish()
    assert raised.value.missing == [f"{BUCKET}/video/part_000000/000001.tar"]
    assert folders.files() == before


def test_results_of_another_plan_do_not_count(folders: Folders) -> None:
    tars = [folders.tar("a")]
    HandPlan(tars, plan_id="one").write(folders.output)
    folders.pack()
    HandPlan(tars, plan_id="two").write(folders.output)
    with pytest.raises(UnfinishedError):
        folders.finish()


def test_the_last_tar_takes_the_number_of_one_that_came_to_nothing(folders: Folders) -> None:
    tars = [folders.tar(name, number=number) for number, name in enumerate("abcd")]
    tars[1] = [tars[1][0]._replace(clip_path="none")]
    report = folders.build(HandPlan(tars))
    assert folders.problems() == ()
    assert clips_in_order(folders) == uuids("a", "d", "c")
    assert [path[-10:] for path in folders.files() if path.endswith(".tar")] == [f"{n:06d}.tar" for n in range(3)] * 2
    assert (report.num_packed, report.num_left_out, report.num_left_out_clips) == (3, 1, 1)
    assert report.left_out_by_reason == {"no clip none": 1}


def test_a_bucket_that_came_to_nothing_is_not_there(folders: Folders) -> None:
    other = BUCKET.replace("720", "1080")
    report = folders.build(HandPlan([folders.tar("a"), folders.tar("b", bucket=other, clip_path="none")]))
    assert folders.problems() == ()
    assert report.buckets == (BUCKET,)
    assert not [path for path in folders.files() if other in path]


def test_rows_of_kept_tars_come_from_the_earlier_catalogue_also_where_they_are_moved(folders: Folders) -> None:
    folders.build(HandPlan([folders.tar(name, number=number) for number, name in enumerate("abc")]))
    rows = {row["clip_uuid"]: row for row in folders.table("catalogue")}
    kept = folders.kept()
    again = [folders.tar("x", number=1, clip_path="none")]
    report = folders.build(HandPlan(again, plan_id="two", kept=[kept[0], kept[2]], num_kept=2, files=_files(folders)))
    assert folders.problems() == ()
    assert clips_in_order(folders) == uuids("a", "c")
    moved = f"{BUCKET}/video/part_000000/000001.tar"
    assert folders.table("catalogue") == [rows[uuid_of("a")], rows[uuid_of("c")] | {"tar": moved}]
    assert report.last_build == {"base": "by hand", "kept_tars": 2, "packed_tars": 0}


def _files(folders: Folders) -> list[str]:
    """What an earlier build left, as ``building.json`` names it."""
    return [path.removeprefix("v0/") for path in folders.files() if BUCKET in path]


def test_what_an_earlier_build_left_and_nobody_needs_is_removed(folders: Folders) -> None:
    folders.build(HandPlan([folders.tar(name, number=number) for number, name in enumerate("abc")]))
    other = BUCKET.replace("720", "1080")
    folders.build(HandPlan([folders.tar("a", bucket=other)], plan_id="two", files=_files(folders)))
    assert folders.problems() == ()
    assert not [path for path in folders.files() if BUCKET in path]


def test_the_planned_and_the_unreadable_are_listed_together(folders: Folders) -> None:
    planned: list[dict[str, Any]] = [
        {"clip_uuid": uuid_of("p"), "video_id": "v", "start_frame": 0, "reason": f"duplicate of {uuid_of('a')}"},
        {"clip_uuid": uuid_of("q"), "video_id": "v", "start_frame": 0, "reason": f"duplicate of {uuid_of('b')}"},
        {"clip_uuid": uuid_of("r"), "video_id": "v", "start_frame": None, "reason": "fewer than 4 frames"},
    ]
    tar = folders.tar("a") + folders.tar("b", clip_path="none")
    report = folders.build(HandPlan([tar], left_out=planned))
    assert folders.problems() == ()
    lost = {"clip_uuid": uuid_of("b"), "video_id": "video", "start_frame": 0, "reason": "no clip none"}
    assert folders.table("left_out") == [*planned, lost]
    assert report.left_out_by_reason == {"duplicate of *": 2, "fewer than 4 frames": 1, "no clip none": 1}
    assert (report.num_clips, report.num_packed_clips, report.num_left_out_clips) == (5, 1, 4)
    assert (report.num_windows, report.num_packed, report.num_left_out) == (4, 1, 3)


def test_a_plan_whose_counts_do_not_come_out_is_not_reported(folders: Folders) -> None:
    tar = folders.tar("a")
    plan = HandPlan([tar], num_kept=1)  # a kept sample is planned, but no tar is
    plan.write(folders.output)
    folders.pack()
    with pytest.raises(AssertionError, match="1 packed \\+ 0 left out != 2"):
        folders.finish()
    assert folders.output.exists(f"v0/{BUILDING}")


def test_trees_that_are_not_there_are_named(folders: Folders) -> None:
    folders.build(HandPlan([folders.tar("a")]))
    info = folders.document(f"{BUCKET}/wdinfo.json")
    assert (info["data_keys"], info["absent_data_keys"]) == (["video", "metas"], ["t5_xxl"])


def test_few_tars_are_noted(folders: Folders) -> None:
    folders.build(HandPlan([folders.tar(str(number), number=number) for number in range(7)]))
    assert "7 tars in all" in folders.document("report.json")["notes"][0]
    folders.build(HandPlan([folders.tar(str(number), number=number) for number in range(8)], plan_id="two"))
    assert folders.document("report.json")["notes"] == []


def test_a_build_that_changes_nothing_changes_no_byte(folders: Folders) -> None:
    folders.build(HandPlan([folders.tar("a"), folders.tar("b", number=1)]))
    before = folders.files()
    kept = folders.kept()
    folders.build(HandPlan([], plan_id="two", kept=kept, num_kept=2, files=_files(folders)))
    assert folders.files() == before


def test_to_finish_again_only_reports(folders: Folders) -> None:
    first = folders.build(HandPlan([folders.tar("a")]))
    before = folders.files()
    assert folders.finish() == first
    complete_publication(output=folders.output, annotation_version="v0")
    assert folders.files() == before


def test_where_nothing_was_planned_nothing_is_finished(folders: Folders) -> None:
    with pytest.raises(OtherPlanError, match="no dataset is planned"):
        folders.finish()
    folders.output.write(f"v0/{BUILDING}", b'{"plan_id": "one", "files": []}')
    with pytest.raises(OtherPlanError, match="was interrupted"):
        folders.finish()
    complete_publication(output=folders.output, annotation_version="v0")


class FailingStorage(LocalStorage):
    """A disk that fails after a number of changes."""

    def __init__(self, root: str, *, changes_left: int) -> None:
        super().__init__(root)
        self.changes_left = changes_left

    def _spend(self) -> None:
        if self.changes_left == 0:
            raise StorageError("can't write: no space left")
        self.changes_left -= 1

    def write(self, path: str, content: bytes) -> None:
        self._spend()
        super().write(path, content)

    @contextmanager
    def writing(self, path: str) -> Iterator[BinaryIO]:
        self._spend()
        with super().writing(path) as stream:
            yield stream

    def delete(self, path: str) -> None:
        self._spend()
        super().delete(path)


def extended(folders: Folders) -> None:
    """A dataset of four tars, of which two are kept, one is packed again and comes to nothing, and one is gone."""
    folders.build(HandPlan([folders.tar(name, number=number) for number, name in enumerate("abcd")]))
    kept, files = folders.kept(), _files(folders)
    again = [folders.tar("x", number=1, clip_path="none"), folders.tar("y", "z", number=2)]
    HandPlan(again, plan_id="two", kept=[kept[0], kept[3]], num_kept=2, files=files).write(folders.output)
    folders.pack()


def test_a_finish_that_was_cut_off_anywhere_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    undisturbed = Folders(tmp_path / "undisturbed")
    extended(undisturbed)
    undisturbed.finish()
    assert undisturbed.problems() == ()
    assert clips_in_order(undisturbed) == uuids("a", "d", "y", "z")
    for changes_left in range(100):
        folders = Folders(tmp_path / str(changes_left))
        extended(folders)
        full = FailingStorage(folders.output.root, changes_left=changes_left)
        try:
            finish_dataset(output=full, annotation_version="v0")
        except StorageError:
            assert folders.output.exists(f"v0/{BUILDING}")
            folders.finish()
            assert folders.files() == undisturbed.files()
        else:
            break
    else:
        pytest.fail("no finish ended")
    assert changes_left > 10
