"""A dataset built from real footage and numbered frames, read back by webdataset, tarfile and pyarrow."""

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from curation.dataset import DatasetReport, build_dataset
from curation.errors import StorageError
from curation.storage.local import LocalStorage
from curation.video.probe import probe_bytes
from tests.dataset.split_runs import (
    BUNNY,
    NUMBERED,
    SETTINGS,
    build,
    chunks_of,
    files_in,
    keys_in,
    members_of,
    read_json,
    rows_in,
    samples_in,
    windows_of,
)
from tests.synthetic import frames_of, read_number


def metas_path(run: Path, key: str) -> Path:
    return run / "metas" / "v0" / f"{key.split('_')[0]}.json"


def clip_path(run: Path, key: str) -> Path:
    return run / "clips" / f"{key.split('_')[0]}.mp4"


def test_the_fixture_has_second_windows_short_clips_and_several_buckets(split_run: Path) -> None:
    entries = [entry for chunk in chunks_of(split_run) for entry in chunk["clips"]]
    assert sorted([entry["num_frames"], *entry["windows"]] for entry in entries) == [
        [3],
        [3],
        [120, [0, 119]],
        [500, [0, 255], [256, 499]],
        [500, [0, 255], [256, 499]],
    ]


def test_both_trees_hold_every_window_once_in_the_same_order(
    split_run: Path, built: tuple[Path, DatasetReport]
) -> None:
    video, metas = (keys_in(built[0], tree) for tree in ("video", "metas"))
    assert video == metas
    assert len(video) == len(set(video))
    assert set(video) == windows_of(split_run)


def test_a_sample_holds_the_frames_that_its_key_says(split_run: Path, built: tuple[Path, DatasetReport]) -> None:
    metas = {sample["__key__"]: json.loads(sample["json"]) for sample in samples_in(built[0], "metas")}
    seen = set()
    for sample in samples_in(built[0], "video"):
        meta = metas[sample["__key__"]]
        if meta["video_id"] == NUMBERED:
            first_of_clip = meta["frame_span_source"][0]
            start, end = (int(number) for number in sample["__key__"].split("_")[1:])
            numbers = [read_number(rgb) for _, rgb in frames_of(sample["mp4"])]
            assert numbers == list(range(first_of_clip + start, first_of_clip + end + 1))
            seen.update(numbers)
    assert seen == set(range(1000))


def test_a_sample_has_its_clips_metadata_with_its_own_window_only(
    split_run: Path, built: tuple[Path, DatasetReport]
) -> None:
    for sample in samples_in(built[0], "metas"):
        key, meta = sample["__key__"], json.loads(sample["json"])
        uuid, start, end = key.split("_")
        original = read_json(metas_path(split_run, key))
        assert meta == {**original, "key": key, "windows": meta["windows"]}
        assert [(window["start_frame"], window["end_frame"]) for window in meta["windows"]] == [(int(start), int(end))]
        assert meta["span_uuid"] == uuid


def test_samples_lie_in_the_bucket_of_their_size_and_window(built: tuple[Path, DatasetReport]) -> None:
    found = {
        (str(path.parent.relative_to(built[0])), len(read_json(path)["tars"])) for path in built[0].rglob("index.json")
    }
    assert {bucket for bucket, _ in found} == {
        "resolution_720/aspect_ratio_16_9/frames_0_255",
        "resolution_lt_720/aspect_ratio_4_3/frames_0_255",
        "resolution_lt_720/aspect_ratio_4_3/frames_256_511",
    }


def test_the_index_says_what_each_tar_is(built: tuple[Path, DatasetReport]) -> None:
    for path in built[0].rglob("index.json"):
        for tar in read_json(path)["tars"]:
            for tree in tar["trees"].values():
                content = (path.parent / tree["path"]).read_bytes()
                assert len(members_of(content)) == tar["num_samples"]
                assert len(content) == tree["num_bytes"]
                assert hashlib.sha256(content).hexdigest() == tree["sha256"]


def test_wdinfo_names_the_tars_of_every_tree_and_counts_their_keys(built: tuple[Path, DatasetReport]) -> None:
    infos = {path.parent: read_json(path) for path in built[0].rglob("wdinfo.json")}
    for bucket, info in infos.items():
        assert info["data_keys"] == ["video", "metas"]
        for tree in info["data_keys"]:
            tars = [bucket / tree / path for path in info["data_list"]]
            assert [len(members_of(tar.read_bytes())) for tar in tars] == info["data_list_key_count"]
            assert sorted(tars) == sorted((bucket / tree).rglob("*.tar"))
    assert sum(info["total_key_count"] for info in infos.values()) == built[1].num_packed


def test_the_catalogue_points_at_the_bytes_of_each_mp4(built: tuple[Path, DatasetReport]) -> None:
    rows = rows_in(built[0] / "catalogue.parquet")
    mp4s = {sample["__key__"]: sample["mp4"] for sample in samples_in(built[0], "video")}
    assert {row["key"] for row in rows} == set(mp4s)
    for row in rows:
        tar = (built[0] / row["tar"]).read_bytes()
        mp4 = tar[row["offset"] : row["offset"] + row["size"]]
        assert mp4 == mp4s[row["key"]]
        assert row["key"] == f"{row['clip_uuid']}_{row['start_frame']}_{row['end_frame']}"
        assert row["tar"].startswith(f"{row['bucket']}/video/")
        probed = probe_bytes(mp4, name=row["key"]).metadata
        assert (row["width"], row["height"], row["num_frames"]) == (probed.width, probed.height, probed.num_frames)
        assert row["caption"] is None


def test_captions_and_scores_reach_the_catalogue(run_copy: Path, tmp_path: Path) -> None:
    path = next(path for path in (run_copy / "metas/v0").iterdir() if read_json(path)["video_id"] == BUNNY)
    meta = read_json(path) | {"aesthetic_score": 4.5, "motion_score": {"global_mean": 0.25, "per_patch_min_256": 0.0}}
    meta["windows"][0] |= {"qwen_caption": "A bird.", "qwen_lm_enhanced_caption": "A bird on a branch."}
    path.write_text(json.dumps(meta))
    build(run_copy, tmp_path / "dataset")
    rows = rows_in(tmp_path / "dataset/v0/catalogue.parquet")
    (row,) = [row for row in rows if row["video_id"] == BUNNY]
    assert (row["caption"], row["aesthetic_score"], row["motion_score"]) == ("A bird on a branch.", 4.5, 0.25)


def test_each_sample_has_the_caption_of_its_own_window_and_those_without_are_counted(
    run_copy: Path, tmp_path: Path
) -> None:
    for path in (run_copy / "metas/v0").iterdir():
        meta = read_json(path)
        for window in meta["windows"]:
            name = f"{meta['span_uuid']}_{window['start_frame']}_{window['end_frame']}"
            has_failed = window["start_frame"] > 0
            outcome = {"qwen_status": "error", "qwen_reason": "refused"} if has_failed else {"qwen_caption": name}
            window |= outcome
        path.write_text(json.dumps(meta))
    report = build(run_copy, tmp_path / "dataset")
    for sample in samples_in(tmp_path / "dataset/v0", "metas"):
        (window,) = json.loads(sample["json"])["windows"]
        failed = window["start_frame"] > 0
        assert window.get("qwen_caption") == (None if failed else sample["__key__"])
        assert window.get("qwen_status") == ("error" if failed else None)
    captions = {row["key"]: row["caption"] for row in rows_in(tmp_path / "dataset/v0/catalogue.parquet")}
    assert {key for key, caption in captions.items() if caption is None} == {
        key for key in windows_of(run_copy) if "_256_" in key
    }
    assert (report.num_packed, report.num_without_caption) == (5, 2)


def test_the_report_accounts_for_every_clip_and_window(built: tuple[Path, DatasetReport]) -> None:
    report = read_json(built[0] / "report.json")
    counts = {name: report[name] for name in report if name.startswith("num_") and name not in {"num_bytes"}}
    assert counts == {
        "num_clips": 5,
        "num_packed_clips": 3,
        "num_left_out_clips": 2,
        "num_windows": 5,
        "num_packed": 5,
        "num_left_out": 0,
        "num_without_caption": 5,
        "num_tars": len(list(built[0].glob("*/*/*/video/*/*.tar"))),
    }
    assert [row["reason"] for row in rows_in(built[0] / "left_out.parquet")] == ["fewer than 4 frames"] * 2
    assert report["left_out_by_reason"] == {"fewer than 4 frames": 2}
    assert report["num_bytes"] == sum(tar.stat().st_size for tar in built[0].rglob("*.tar"))
    assert report["settings"]["shuffle_seed"] == 7


def test_the_list_of_buckets_agrees_with_the_report(built: tuple[Path, DatasetReport]) -> None:
    header, *rows = (built[0] / "wdinfo_list.csv").read_text().splitlines()
    assert header == "bucket,samples,tars,bytes"
    assert [row.split(",")[0] for row in rows] == read_json(built[0] / "report.json")["buckets"]
    assert sum(int(row.split(",")[1]) for row in rows) == built[1].num_packed


def test_numbers_are_dense_and_restart_in_each_part(split_run: Path, tmp_path: Path) -> None:
    build(split_run, tmp_path, replace(SETTINGS, target_tar_size_mb=0.001, max_tars_per_part=1))
    tars = sorted(tmp_path.glob("v0/resolution_lt_720/aspect_ratio_4_3/frames_0_255/video/*/*.tar"))
    assert [f"{tar.parent.name}/{tar.name}" for tar in tars] == ["part_000000/000000.tar", "part_000001/000000.tar"]


def test_a_rebuild_from_another_order_has_the_same_bytes(
    split_run: Path, built: tuple[Path, DatasetReport], tmp_path: Path
) -> None:
    chunks = chunks_of(split_run)
    random.Random(3).shuffle(chunks)
    for chunk in chunks:
        chunk["clips"].reverse()
    storage = LocalStorage(str(tmp_path))
    build_dataset(iter(chunks), clips=LocalStorage(str(split_run)), output=storage, settings=SETTINGS)
    assert files_in(tmp_path / "v0") == files_in(built[0])


def test_metas_in_the_lists_are_those_in_the_run(
    run_copy: Path, built: tuple[Path, DatasetReport], tmp_path: Path
) -> None:
    """With them no file of a meta is read, and the dataset is the same; those of another version are read."""
    (run_copy / "metas/v0").rename(run_copy / "metas/v1")
    clips, output, chunks = (
        LocalStorage(str(run_copy)),
        LocalStorage(str(tmp_path)),
        chunks_of(run_copy, with_metas=True),
    )
    build_dataset(chunks, clips=clips, output=output, settings=SETTINGS)
    assert tars_and_indexes(tmp_path / "v0") == tars_and_indexes(built[0])
    assert rows_but_contents(tmp_path / "v0") == rows_but_contents(built[0])
    other = replace(SETTINGS, annotation_version="v1")
    report = build_dataset(chunks, clips=clips, output=output, settings=other)
    assert report.num_packed == built[1].num_packed


def tars_and_indexes(dataset: Path) -> dict[str, bytes]:
    return {path: content for path, content in files_in(dataset).items() if path.startswith("resolution_")}


def rows_but_contents(dataset: Path) -> list[dict[str, Any]]:
    """The catalogue without what tells planning whether a meta has changed: of metas read by themselves it can't."""
    return [{**row, "content": None} for row in rows_in(dataset / "catalogue.parquet")]


def test_a_rebuild_in_place_changes_nothing(split_run: Path, tmp_path: Path) -> None:
    build(split_run, tmp_path)
    before = files_in(tmp_path)
    build(split_run, tmp_path)
    assert files_in(tmp_path) == before


def damaged(run: Path, key: str, how: str) -> str:
    """Damage a window's clip or metadata; gives what the reason must contain."""
    clip, meta = clip_path(run, key), metas_path(run, key)
    if how == "clip missing":
        clip.unlink()
        return "no clip"
    if how == "clip changed":
        clip.write_bytes(clip.read_bytes()[:-1] + b"?")
        return "sha256"
    if how == "clip not a video":
        clip.write_bytes(b"no video")
        for path in (run / "processed_clip_chunks").iterdir():
            chunk = read_json(path)
            for entry in chunk["clips"]:
                if key.startswith(entry["uuid"]):
                    entry["sha256"] = hashlib.sha256(b"no video").hexdigest()
            path.write_text(json.dumps(chunk))
        return "unreadable"
    if how == "meta missing":
        meta.unlink()
        return "no metadata"
    if how == "meta not json":
        meta.write_text("{")
        return "not JSON"
    meta.write_text(json.dumps(read_json(meta) | {"windows": []}))
    return "0 windows"


@pytest.mark.parametrize(
    "how", ["clip missing", "clip changed", "clip not a video", "meta missing", "meta not json", "meta without windows"]
)
def test_a_clip_that_cannot_be_had_is_left_out_alone(run_copy: Path, tmp_path: Path, how: str) -> None:
    windows = windows_of(run_copy)
    key = min(key for key in windows if key.endswith("_0_255"))
    why = damaged(run_copy, key, how)
    report = build(run_copy, tmp_path / "dataset")
    lost = {each for each in windows if each.startswith(key.split("_")[0])}
    assert set(keys_in(tmp_path / "dataset/v0", "video")) == windows - lost
    assert keys_in(tmp_path / "dataset/v0", "video") == keys_in(tmp_path / "dataset/v0", "metas")
    left_out = rows_in(tmp_path / "dataset/v0/left_out.parquet")
    reasons = [row["reason"] for row in left_out if row["start_frame"] is not None]
    assert len(reasons) == len(lost) == report.num_left_out
    assert all(why in reason for reason in reasons)
    assert (report.num_packed_clips, report.num_left_out_clips) == (2, 3)


def test_tars_without_a_sample_are_not_written_and_leave_no_gap(run_copy: Path, tmp_path: Path) -> None:
    one_each = replace(SETTINGS, target_tar_size_mb=0.001, max_tars_per_part=100)
    build(run_copy, tmp_path / "whole", one_each)
    bucket = "v0/resolution_lt_720/aspect_ratio_4_3/frames_0_255/video/part_000000"
    (first,) = members_of((tmp_path / "whole" / bucket / "000000.tar").read_bytes())
    clip_path(run_copy, first).unlink()
    build(run_copy, tmp_path / "dataset", one_each)
    assert [path.name for path in (tmp_path / "dataset" / bucket).iterdir()] == ["000000.tar"]


def test_files_of_an_earlier_build_that_are_of_no_use_are_removed(
    split_run: Path, built: tuple[Path, DatasetReport], tmp_path: Path
) -> None:
    other = replace(SETTINGS, target_tar_size_mb=0.001, max_tars_per_part=1, resolution_bins=(96,))
    build(split_run, tmp_path, other)
    build(split_run, tmp_path)
    assert files_in(tmp_path / "v0") == files_in(built[0])


class FailingStorage(LocalStorage):
    """A disk that is full after a number of writes."""

    def __init__(self, root: str, *, writes_left: int) -> None:
        super().__init__(root)
        self.writes_left = writes_left

    def _spend(self) -> None:
        if self.writes_left == 0:
            raise StorageError("can't write: no space left")
        self.writes_left -= 1

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


def test_a_build_that_was_cut_off_leaves_nothing_behind_after_the_next(
    split_run: Path, built: tuple[Path, DatasetReport], tmp_path: Path
) -> None:
    clips = LocalStorage(str(split_run))
    other = replace(SETTINGS, target_tar_size_mb=0.001, resolution_bins=(96,))
    for writes_left in range(0, 70, 7):
        full = FailingStorage(str(tmp_path), writes_left=writes_left)
        try:
            build_dataset(chunks_of(split_run), clips=clips, output=full, settings=other)
        except StorageError:
            assert writes_left == 0 or (tmp_path / "v0/building.json").exists()
        else:
            break
        build(split_run, tmp_path)
        assert files_in(tmp_path / "v0") == files_in(built[0])
    else:
        pytest.fail("no build ended")


def test_a_run_without_clips_gives_an_empty_dataset(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    report = build_dataset([], clips=storage, output=storage, settings=SETTINGS)
    assert report.num_clips == report.num_windows == 0
    assert sorted(files_in(tmp_path / "v0")) == [
        "catalogue.parquet",
        "left_out.parquet",
        "report.json",
        "wdinfo_list.csv",
    ]
    assert rows_in(tmp_path / "v0/catalogue.parquet") == []


def test_a_clip_that_is_listed_twice_is_refused(split_run: Path, tmp_path: Path) -> None:
    chunks = chunks_of(split_run)
    with pytest.raises(ValueError, match="listed twice"):
        build_dataset(
            [*chunks, chunks[0]],
            clips=LocalStorage(str(split_run)),
            output=LocalStorage(str(tmp_path)),
            settings=SETTINGS,
        )


@pytest.mark.parametrize(
    "changes", [{"target_tar_size_mb": 0}, {"max_tars_per_part": 0}, {"resolution_bins": (720, 1080)}]
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        replace(SETTINGS, **changes)
