"""The catalogue's rows, how they are written, and how those of a tar are found again."""

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.dataset.catalogue import Catalogue, catalogue_row, table_of, write_catalogue
from curation.dataset.content import SampleContent
from curation.dataset.plan_files import PlannedSample
from curation.dataset.tars import Member
from tests.dataset.hand_plans import BUCKET, meta_of, uuid_of

TARS = (3, 2, 4)  # samples in each


def sample(name: str, *, start: int = 0, end: int = 9, num_frames: int = 10) -> PlannedSample:
    uuid = uuid_of(name)
    key = f"{uuid}_{start}_{end}"
    return PlannedSample(
        BUCKET, 0, key, uuid, "v", "val", start, end, "c.mp4", "", 1, num_frames, 7, None, None, None, None
    )


def row(name: str, tar: str) -> dict[str, Any]:
    content = SampleContent(b"", meta_of(uuid_of(name)))
    return catalogue_row(sample(name), content, tar=tar, member=Member(512, 1))


def tables() -> list[pa.Table]:
    return [table_of([row(f"{tar}-{i}", f"{tar}.tar") for i in range(num)]) for tar, num in enumerate(TARS)]


def catalogue(parts: list[pa.Table], *, rows_per_group: int = 4) -> bytes:
    stream = io.BytesIO()
    write_catalogue(stream, parts, dataset_id="abc", rows_per_group=rows_per_group)
    return stream.getvalue()


@pytest.mark.parametrize(("rows_per_group", "num_groups"), [(1, 9), (2, 5), (4, 3), (9, 1), (100, 1)])
def test_rows_are_written_in_groups_and_none_is_lost(rows_per_group: int, num_groups: int) -> None:
    read = pq.ParquetFile(io.BytesIO(catalogue(tables(), rows_per_group=rows_per_group)))
    assert read.num_row_groups == num_groups
    names = [f"{tar}-{i}" for tar, num in enumerate(TARS) for i in range(num)]
    assert read.read()["clip_uuid"].to_pylist() == [uuid_of(name) for name in names]


def test_a_catalogue_without_rows_has_all_columns() -> None:
    assert pq.read_table(io.BytesIO(catalogue([]))).schema.names == list(row("a", "b"))


def test_the_same_rows_give_the_same_bytes_however_they_come() -> None:
    at_once = [pa.concat_tables(tables())]
    one_by_one = [at_once[0].slice(i, 1) for i in range(at_once[0].num_rows)]
    assert catalogue(tables()) == catalogue(at_once) == catalogue(one_by_one)


@pytest.mark.parametrize("rows_per_group", [1, 2, 4, 100])
def test_the_rows_of_a_tar_are_found_over_groups(rows_per_group: int) -> None:
    found = Catalogue(io.BytesIO(catalogue(tables(), rows_per_group=rows_per_group)))
    for tar in (2, 0, 1):
        keys = [key for table in found.rows_of(f"{tar}.tar") for key in table["key"].to_pylist()]
        assert keys == [sample(f"{tar}-{i}").key for i in range(TARS[tar])]
    assert list(found.rows_of("none.tar")) == []


def test_a_catalogue_says_which_dataset_it_describes_unless_it_lacks_a_column() -> None:
    content = catalogue(tables())
    assert Catalogue(io.BytesIO(content)).dataset_id == "abc"
    old = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(content)).drop_columns(["split"]), old)
    assert Catalogue(old).dataset_id == ""


def test_a_row_says_what_the_meta_says() -> None:
    uuid = uuid_of("a")
    meta = meta_of(
        uuid,
        motion_score={"global_mean": 0.5, "per_patch_min_256": 0.25},
        aesthetic_score=4.5,
        text_match={"text": "a bird", "probability": 0.75},
    )
    meta["windows"] = [{"start_frame": 2, "end_frame": 6, "qwen_caption": "A bird."}]
    window = sample("a", start=2, end=6)
    found = catalogue_row(window, SampleContent(b"", meta), tar="t.tar", member=Member(512, 3))
    assert found == {
        "key": f"{uuid}_2_6",
        "clip_uuid": uuid,
        "video_id": "v",
        "split": "val",
        "start_frame": 2,
        "end_frame": 6,
        "bucket": BUCKET,
        "tar": "t.tar",
        "offset": 512,
        "size": 3,
        "width": 1280,
        "height": 720,
        "num_frames": 5,
        "duration_s": 0.5,  # half of the clip's 10 frames, which last a second
        "caption": "A bird.",
        "aesthetic_score": 4.5,
        "motion_score": 0.5,
        "motion_per_patch_min_256": 0.25,
        "text_match": "a bird",
        "text_match_probability": 0.75,
        "content": 7,
    }


def test_what_was_not_measured_is_null() -> None:
    found = row("a", "t.tar")
    names = ("caption", "aesthetic_score", "motion_score", "motion_per_patch_min_256", "text_match")
    assert [found[name] for name in names] == [None] * 5
