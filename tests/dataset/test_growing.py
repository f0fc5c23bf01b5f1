"""A dataset that is built again over other clips: what is new is added, what has changed is packed again."""

import io
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.dataset import DatasetReport, DatasetSettings, build_dataset, check_dataset
from curation.documents import content_of, to_json
from curation.storage.local import LocalStorage
from tests.dataset.split_runs import (
    BUNNY,
    NUMBERED,
    ONE_EACH,
    chunks_of,
    files_in,
    keys_in,
    members_of,
    read_json,
    rows_in,
    samples_in,
    windows_of,
)


def changed(chunks: list[dict[str, Any]], uuid: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the meta that the lists have of a clip, as another run of a model would."""
    for entry in (entry for chunk in chunks for entry in chunk["clips"] if entry["uuid"] == uuid):
        change(entry["metas"]["v0"])
        entry["content"] = {"v0": content_of(to_json(entry["metas"]["v0"]))}


class Growing:
    """A dataset that is built again and again over what a test makes of a run's lists."""

    def __init__(self, run: Path, output: Path) -> None:
        self.clips, self.output, self.dataset = LocalStorage(str(run)), LocalStorage(str(output)), output / "v0"
        self.chunks = chunks_of(run, with_metas=True)

    def build(self, settings: DatasetSettings = ONE_EACH, **more: Any) -> DatasetReport:
        return build_dataset(self.chunks, clips=self.clips, output=self.output, settings=settings, **more)

    def tars(self) -> dict[str, tuple[int, str]]:
        """Each tar's inode, which a tar that is written again does not keep, and its key."""
        paths = self.dataset.rglob("video/*/*.tar")
        return {str(path): (path.stat().st_ino, members_of(path.read_bytes())[0]) for path in paths}


@pytest.fixture
def growing(split_run: Path, tmp_path: Path) -> Growing:
    return Growing(split_run, tmp_path)


def test_what_is_new_goes_to_new_tars_and_the_others_stay(growing: Growing, split_run: Path) -> None:
    growing.chunks = [chunk for chunk in growing.chunks if chunk["clip_chunk_index"] == 0]
    growing.build()
    before = growing.tars()
    num_before = len(before)
    growing.chunks = chunks_of(split_run, with_metas=True)
    report = growing.build()
    assert {path: growing.tars()[path] for path in before} == before
    assert report.last_build["kept_tars"] == num_before
    assert set(keys_in(growing.dataset, "video")) == windows_of(split_run)
    assert check_dataset(growing.output).problems == ()


def test_a_clip_whose_meta_has_changed_is_packed_again_alone(growing: Growing, split_run: Path) -> None:
    growing.build()
    before = growing.tars()
    uuid = min(windows_of(split_run)).split("_")[0]
    changed(growing.chunks, uuid, lambda meta: meta.update(aesthetic_score=4.5))
    growing.build()
    stays = {path: tar for path, tar in before.items() if uuid not in tar[1]}
    assert len(stays) < len(before)
    assert {path: growing.tars()[path] for path in stays} == stays
    scores = {row["clip_uuid"]: row["aesthetic_score"] for row in rows_in(growing.dataset / "catalogue.parquet")}
    assert {clip for clip, score in scores.items() if score == 4.5} == {uuid}
    assert check_dataset(growing.output).problems == ()


def test_numbers_stay_dense_when_clips_go(growing: Growing, split_run: Path) -> None:
    growing.build()
    gone = min(key for key in windows_of(split_run) if key.endswith("_0_255")).split("_")[0]
    for chunk in growing.chunks:
        chunk["clips"] = [entry for entry in chunk["clips"] if entry["uuid"] != gone]
    growing.build()
    assert set(keys_in(growing.dataset, "video")) == {key for key in windows_of(split_run) if gone not in key}
    assert check_dataset(growing.output).problems == ()


def test_duplicates_are_left_out_and_say_of_what(growing: Growing, split_run: Path) -> None:
    kept, other = sorted({key.split("_")[0] for key in windows_of(split_run) if key.endswith("_0_255")})
    report = growing.build(duplicates={other: kept})
    left_out = [row for row in rows_in(growing.dataset / "left_out.parquet") if row["clip_uuid"] == other]
    assert [(row["start_frame"], row["reason"]) for row in left_out] == [
        (0, f"duplicate of {kept}"),
        (256, f"duplicate of {kept}"),
    ]
    assert report.left_out_by_reason["duplicate of *"] == 2
    assert not [key for key in keys_in(growing.dataset, "video") if other in key]


def test_a_video_is_in_one_split_only(growing: Growing, split_run: Path) -> None:
    growing.build(replace(ONE_EACH, val_fraction=0.5))
    rows = rows_in(growing.dataset / "catalogue.parquet")
    assert {row["key"] for row in rows} == windows_of(split_run)
    splits = {video: {row["split"] for row in rows if row["video_id"] == video} for video in (BUNNY, NUMBERED)}
    assert all(len(found) == 1 for found in splits.values())
    assert all(row["tar"].startswith(f"{row['split']}/resolution_") for row in rows)
    assert check_dataset(growing.output).problems == ()


def test_windows_with_t5_vectors_have_them_in_their_own_tree(growing: Growing, run_copy: Path) -> None:
    """Each window's vectors are known by their numbers; a window without is left out."""
    growing.clips = LocalStorage(str(run_copy))
    expected: dict[str, int] = {}
    for number, chunk in enumerate(growing.chunks):
        path = f"t5_xxl/v0/{number}.npy"
        vectors: list[np.ndarray[Any, Any]] = []
        for entry in chunk["clips"]:
            places: list[list[int] | None] = []
            for start, end in entry["windows"]:
                rows = np.full((3, 1024), len(expected) + 1, np.float16)
                places.append([3 * len(vectors), 3] if start == 0 else None)
                expected |= {f"{entry['uuid']}_{start}_{end}": len(expected) + 1} if start == 0 else {}
                vectors += [rows] if start == 0 else []
            entry["t5"] = {"v0": {"path": path, "rows": places}}
        stream = io.BytesIO()
        np.save(stream, np.concatenate([np.empty((0, 1024), np.float16), *vectors]))
        growing.clips.write(path, stream.getvalue())
    report = growing.build()
    found = {sample["__key__"]: pickle.loads(sample["pickle"]) for sample in samples_in(growing.dataset, "t5_xxl")}
    assert {key: (len(arrays), arrays[0].shape, float(arrays[0].max())) for key, arrays in found.items()} == {
        key: (1, (3, 1024), float(number)) for key, number in expected.items()
    }
    assert list(found) == keys_in(growing.dataset, "video") == keys_in(growing.dataset, "metas")
    assert report.num_left_out == 2
    assert [info["data_keys"] for info in map(read_json, growing.dataset.rglob("wdinfo.json"))] == [
        ["video", "metas", "t5_xxl"]
    ] * len(report.buckets)
    assert check_dataset(growing.output).problems == ()


def test_built_without_some_videos_and_again_with_them_it_is_that_of_an_undisturbed_run(
    growing: Growing, split_run: Path, tmp_path: Path
) -> None:
    whole = Growing(split_run, tmp_path / "undisturbed")
    whole.build()
    growing.chunks = growing.chunks[:1]
    growing.build(is_complete=lambda: False)
    assert read_json(growing.dataset / "report.json")["is_complete"] is False
    growing.chunks = chunks_of(split_run, with_metas=True)
    growing.build()
    assert files_in(growing.dataset) == files_in(whole.dataset)
