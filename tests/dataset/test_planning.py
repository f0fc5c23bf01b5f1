"""What is planned: each window of each clip once, in a tar or left out; the same whatever order the lists come in."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from curation.dataset import DatasetPlan, DatasetSettings, plan_dataset
from curation.dataset.plan_files import BUILDING, PLANNED_LEFT_OUT, TaskFile, read_plan, task_file
from curation.documents import content_of, to_json
from curation.storage import storage_for
from tests.dataset.whole_clips import SETTINGS, chunk, clip, clip_uuid, files_below


def planned(
    folder: Path, *chunks: dict[str, Any], settings: DatasetSettings = SETTINGS, **more: Any
) -> tuple[DatasetPlan, list[dict[str, Any]], list[dict[str, Any]]]:
    """The plan, the rows of its tasks' files, and what is left out."""
    storage = storage_for(str(folder))
    plan = plan_dataset(chunks, clips=storage, output=storage, settings=settings, **more)
    rows = []
    for task in range(plan.num_tasks):
        with (folder / "v0" / task_file(task)).open("rb") as stream:
            file = TaskFile(stream, plan, task)
            for group, tar in enumerate(plan.of_task(task)):
                samples = file.samples(group)
                assert {(sample.bucket, sample.tar) for sample in samples} == {(tar.bucket, tar.number)}
                assert len(samples) == tar.num_samples
                rows += [sample._asdict() for sample in samples]
    return plan, rows, pq.read_table(folder / "v0" / PLANNED_LEFT_OUT).to_pylist()


def many(count: int = 60, *, videos: int = 5) -> list[dict[str, Any]]:
    """Lists of clips, some with two windows, some that can't be packed."""
    entries: list[dict[str, Any]] = [clip(f"{n}", num_frames=500 if n % 3 == 0 else 100) for n in range(count)]
    entries[4] = clip("4", valid=False, valid_reason="encode_error: too large")
    entries[5] |= {"valid": False, "valid_reason": "encode_error: no pixels", "windows": [], "width": None}
    entries[5] |= dict.fromkeys(("height", "num_frames", "num_bytes", "sha256"))
    entries[7] |= {"windows": [], "num_frames": 3}
    return [chunk(entries[video::videos], video=f"video {video}") for video in range(videos)]


def test_each_window_is_in_one_tar_or_left_out(tmp_path: Path) -> None:
    chunks = many()
    plan, rows, left_out = planned(tmp_path, *chunks)
    windows = [(entry["uuid"], start) for each in chunks for entry in each["clips"] for start, _ in entry["windows"]]
    found = [(row["clip_uuid"], row["start_frame"]) for row in rows]
    found += [(row["clip_uuid"], row["start_frame"]) for row in left_out if row["start_frame"] is not None]
    assert Counter(found) == Counter(windows)
    bare = {row["clip_uuid"] for row in left_out if row["start_frame"] is None}
    assert bare == {clip_uuid("5"), clip_uuid("7")}
    assert (plan.counts.num_windows, plan.counts.num_planned) == (len(windows), len(rows))
    assert (plan.counts.num_clips, plan.counts.num_left_out_clips) == (60, 3)


def test_the_plan_is_the_same_whatever_order_the_lists_come_in(tmp_path: Path) -> None:
    chunks = many()
    shuffled = [
        chunk(random.Random(n).sample(each["clips"], len(each["clips"])), video=each["video_id"])
        for n, each in enumerate(reversed(chunks))
    ]
    first, *_ = planned(tmp_path / "a", *chunks, num_tasks=3)
    again, *_ = planned(tmp_path / "b", *shuffled, num_tasks=3)
    assert first == again
    assert files_below(tmp_path / "a") == files_below(tmp_path / "b")


def test_tasks_share_the_same_tars_however_many_they_are(tmp_path: Path) -> None:
    one, rows, _ = planned(tmp_path / "a", *many())
    four, shared, _ = planned(tmp_path / "b", *many(), num_tasks=4)
    assert one.plan_id == four.plan_id
    assert rows == shared
    assert sorted({tar.task for tar in four.tars}) == [0, 1, 2, 3]


def test_another_seed_is_another_order_and_another_plan(tmp_path: Path) -> None:
    one, rows, _ = planned(tmp_path / "a", *many())
    other_settings = DatasetSettings(target_tar_size_mb=SETTINGS.target_tar_size_mb, shuffle_seed=1)
    other, other_rows, _ = planned(tmp_path / "b", *many(), settings=other_settings)
    assert one.plan_id != other.plan_id
    assert [row["key"] for row in rows] != [row["key"] for row in other_rows]
    assert sorted(row["key"] for row in rows) == sorted(row["key"] for row in other_rows)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"caption": "another caption"}, id="a caption"),
        pytest.param({"sha256": "ab" * 32}, id="an mp4"),
        pytest.param({"valid": False, "valid_reason": "broken"}, id="whether it is valid"),
    ],
)
def test_whatever_changes_in_a_clip_changes_the_plan(tmp_path: Path, changes: dict[str, Any]) -> None:
    one, *_ = planned(tmp_path / "a", chunk([clip("a"), clip("b")]))
    other, *_ = planned(tmp_path / "b", chunk([clip("a"), clip("b", **changes)]))
    assert one.plan_id != other.plan_id


def test_a_row_says_what_its_list_said(tmp_path: Path) -> None:
    entry = clip("a", num_frames=500, caption="Gänse „fliegen“")
    _, rows, _ = planned(tmp_path, chunk([entry], video="videos/ä.mp4"))
    first = next(row for row in rows if row["start_frame"] == 0)
    uuid = clip_uuid("a")
    assert first["key"] == f"{uuid}_0_255"
    assert (first["clip_uuid"], first["video_id"], first["split"]) == (uuid, "videos/ä.mp4", "train")
    assert (first["clip_path"], first["clip_sha256"]) == (f"clips/{uuid}.mp4", entry["sha256"])
    assert (first["end_frame"], first["clip_num_frames"], first["clip_bytes"]) == (255, 500, entry["num_bytes"])
    assert content_of(to_json(json.loads(first["meta"]))) == entry["content"]["v0"]


def test_a_meta_that_the_list_does_not_have_is_null(tmp_path: Path) -> None:
    _, rows, _ = planned(tmp_path, chunk([clip("a"), clip("b", metas={"v1": {}}, content={}), clip("c")]))
    assert {row["clip_uuid"]: row["meta"] is None for row in rows} == {
        clip_uuid("a"): False,
        clip_uuid("b"): True,
        clip_uuid("c"): False,
    }


def test_what_cannot_be_a_sample_is_left_out_with_its_reason(tmp_path: Path) -> None:
    *_, left_out = planned(tmp_path, *many())
    assert {(row["clip_uuid"], row["start_frame"], row["reason"]) for row in left_out} == {
        (clip_uuid("4"), 0, "encode_error: too large"),
        (clip_uuid("5"), None, "encode_error: no pixels"),
        (clip_uuid("7"), None, "fewer than 4 frames"),
    }
    assert {row["clip_uuid"]: row["video_id"] for row in left_out}[clip_uuid("4")] == "video 4"


def test_a_duplicate_is_left_out_for_the_one_that_is_kept(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    duplicates = {clip_uuid("a"): clip_uuid("c"), clip_uuid("d"): clip_uuid("b")}
    _, rows, left_out = planned(tmp_path, chunk(clip(name) for name in names), duplicates=duplicates)
    assert {row["clip_uuid"] for row in rows} == {clip_uuid("b"), clip_uuid("c")}
    assert {row["clip_uuid"]: row["reason"] for row in left_out} == {
        clip_uuid("a"): f"duplicate of {clip_uuid('c')}",
        clip_uuid("d"): f"duplicate of {clip_uuid('b')}",
    }


def test_a_duplicate_of_what_the_dataset_does_not_have_is_packed(tmp_path: Path) -> None:
    broken = clip("broken", valid=False, valid_reason="broken")
    duplicates = {clip_uuid("a"): clip_uuid("elsewhere"), clip_uuid("b"): clip_uuid("broken")}
    _, rows, left_out = planned(tmp_path, chunk([clip("a"), clip("b"), broken]), duplicates=duplicates)
    assert {row["clip_uuid"] for row in rows} == {clip_uuid("a"), clip_uuid("b")}
    assert [row["reason"] for row in left_out] == ["broken"]


def test_a_small_bucket_is_left_out_when_it_is_to_be_dropped(tmp_path: Path) -> None:
    settings = DatasetSettings(min_clips_per_tar=2, drop_small_shards=True)
    entries = [clip("a"), clip("b"), clip("c", num_frames=500)]
    _, rows, left_out = planned(tmp_path, chunk(entries), settings=settings)
    bucket = "resolution_720/aspect_ratio_16_9/frames_256_511"
    assert [(row["clip_uuid"], row["start_frame"], row["reason"]) for row in left_out] == [
        (clip_uuid("c"), 256, f"bucket {bucket} has 1 samples, fewer than 2")
    ]
    assert len(rows) == 3


def test_a_clip_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"listed twice.*{clip_uuid('b')}"):
        planned(tmp_path, chunk([clip("a"), clip("b")]), chunk([clip("b")]))
    assert not (tmp_path / "v0").exists()


def test_a_window_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"windows are listed twice.*0\.\.99"):
        planned(tmp_path, chunk([clip("a", windows=[[0, 99], [0, 99]])]))


def test_an_id_that_is_no_uuid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'a\.b' is no UUID"):
        planned(tmp_path, chunk([clip("a", uuid="a.b")]))


def vectors(*rows: list[int] | None) -> dict[str, Any]:
    return {"v0": {"path": "t5_xxl/v0/video_0.npy", "rows": list(rows)}}


def test_with_t5_vectors_a_window_without_any_is_left_out(tmp_path: Path) -> None:
    entries = [clip("a", num_frames=500, t5=vectors([7, 30], None)), clip("b")]
    plan, rows, left_out = planned(tmp_path, chunk([clip("before")]), chunk(entries))
    assert plan.trees == ("video", "metas", "t5_xxl")
    (row,) = rows
    assert (row["t5_path"], row["t5_first_row"], row["t5_num_rows"]) == ("t5_xxl/v0/video_0.npy", 7, 30)
    assert {(row["clip_uuid"], row["start_frame"]) for row in left_out} == {
        (clip_uuid("a"), 256),
        (clip_uuid("b"), 0),
        (clip_uuid("before"), 0),
    }
    assert {row["reason"] for row in left_out} == {"no T5 vectors"}


def test_without_t5_they_do_not_count(tmp_path: Path) -> None:
    settings = DatasetSettings(t5=False)
    plan, rows, left_out = planned(tmp_path, chunk([clip("a", t5=vectors([0, 5])), clip("b")]), settings=settings)
    assert (plan.trees, len(rows), left_out) == (("video", "metas"), 2, [])
    assert {row["t5_path"] for row in rows} == {None}


def test_no_video_is_in_both_splits(tmp_path: Path) -> None:
    settings = DatasetSettings(val_fraction=0.3)
    chunks = [chunk([clip(f"{v} {n}") for n in range(3)], video=f"video {v}") for v in range(40)]
    _, rows, _ = planned(tmp_path, *chunks, settings=settings)
    splits = {(row["video_id"], row["split"]) for row in rows}
    assert len(splits) == 40
    assert {split for _, split in splits} == {"train", "val"}
    assert all(row["bucket"].startswith(f"{row['split']}/resolution_720/") for row in rows)


def test_a_whole_clip_counts_with_all_its_bytes_and_a_part_with_its_share(tmp_path: Path) -> None:
    entries = [clip("a", num_frames=100, num_bytes=1001), clip("b", num_frames=500, num_bytes=1000)]
    plan, *_ = planned(tmp_path, chunk(entries))
    assert sorted((tar.bucket.rpartition("/")[2], tar.num_bytes) for tar in plan.tars) == [
        ("frames_0_255", 1001 + 512),
        ("frames_256_511", 488),
    ]


def test_nothing_at_all_is_planned_too(tmp_path: Path) -> None:
    plan, rows, left_out = planned(tmp_path, num_tasks=2)
    assert (plan.tars, rows, left_out) == ((), [], [])
    assert plan.counts.num_windows == 0


def test_the_plan_is_read_as_it_was_written_and_notes_all_its_files(tmp_path: Path) -> None:
    plan, *_ = planned(tmp_path, *many(), num_tasks=2)
    storage = storage_for(str(tmp_path))
    assert read_plan(storage, "v0") == plan
    building = json.loads((tmp_path / "v0" / BUILDING).read_bytes())
    written = {path.removeprefix("v0/") for path in files_below(tmp_path)} - {BUILDING}
    assert written <= set(building["files"])
    assert f"{plan.tars[-1].bucket}/index.json" in building["files"]
    assert (building["plan_id"], building["num_tasks"]) == (plan.plan_id, 2)
