"""The paths of an output, against the tables of docs/rules.md."""

import re
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation import layout

CLIP = UUID("12345678-1234-5678-9234-567812345678")
NAME = "12345678-1234-5678-9234-567812345678"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (layout.clip(CLIP), f"clips/{NAME}.mp4"),
        (layout.clip(CLIP, filtered=True), f"filtered_clips/{NAME}.mp4"),
        (layout.preview(CLIP, 256, 383), f"previews/{NAME}/256_383.webp"),
        (layout.meta(CLIP, "v0"), f"metas/v0/{NAME}.json"),
        (layout.meta(CLIP, "v1"), f"metas/v1/{NAME}.json"),
        (layout.record("2024/a.mp4"), "processed_videos/2024/a.mp4.json"),
        (layout.clip_chunk("2024/a.mp4", 3), "processed_clip_chunks/2024/a.mp4_3.json"),
        (layout.SUMMARY, "summary.json"),
        (layout.all_window_captions("v0"), "v0/all_window_captions.json"),
    ],
)
def test_the_output_of_a_split_run_lies_where_the_contract_says(path: str, expected: str) -> None:
    assert path == expected


@pytest.mark.parametrize(
    ("start_frame", "expected"),
    [
        (0, "resolution_720/aspect_ratio_16_9/frames_0_255"),
        (255, "resolution_720/aspect_ratio_16_9/frames_0_255"),
        (256, "resolution_720/aspect_ratio_16_9/frames_256_511"),
        (1024, "resolution_720/aspect_ratio_16_9/frames_1024_1279"),
    ],
)
def test_a_window_goes_to_the_bucket_of_256_frames_in_which_it_begins(start_frame: int, expected: str) -> None:
    assert layout.bucket("720", "16_9", layout.frame_window(start_frame)) == expected


@given(st.integers(0, 10**6))
def test_the_bucket_of_a_window_holds_its_first_frame(start_frame: int) -> None:
    found = re.fullmatch(
        r"resolution_1080/aspect_ratio_9_16/frames_(\d+)_(\d+)",
        layout.bucket("1080", "9_16", layout.frame_window(start_frame)),
    )
    assert found is not None
    first, last = int(found[1]), int(found[2])
    assert first <= start_frame <= last == first + 255
    assert first % 256 == 0


@pytest.mark.parametrize(
    ("tree", "index", "expected"),
    [
        ("video", 0, "video/part_000000/000000.tar"),
        ("metas", 99, "metas/part_000000/000099.tar"),
        ("t5_xxl", 100, "t5_xxl/part_000001/000000.tar"),
        ("video", 12345, "video/part_000123/000045.tar"),
    ],
)
def test_a_part_holds_as_many_tars_as_was_set(tree: str, index: int, expected: str) -> None:
    assert layout.tar(tree, index, max_tars_per_part=100) == expected


@given(st.integers(1, 200), st.integers(1, 1000))
def test_tars_have_paths_of_their_own_that_sort_in_order(max_tars_per_part: int, num_tars: int) -> None:
    paths = [layout.tar("video", index, max_tars_per_part=max_tars_per_part) for index in range(num_tars)]
    assert paths == sorted(set(paths))


@given(st.uuids(), st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_key_of_a_sample_is_whole_in_webdataset(uuid: UUID, start_frame: int, num_frames: int) -> None:
    key = layout.sample_key(str(uuid), start_frame, start_frame + num_frames)
    assert key == f"{uuid}_{start_frame}_{start_frame + num_frames}"
    assert re.fullmatch(layout.KEY_PATTERN, key)


awkward_ids = st.lists(st.sampled_from(["a", "1", "_", "/", ".json"]), min_size=1, max_size=6).map("".join)


@given(awkward_ids, awkward_ids, st.integers(0, 20), st.integers(0, 20))
def test_two_chunks_never_share_a_path(one: str, other: str, one_chunk: int, other_chunk: int) -> None:
    same = layout.clip_chunk(one, one_chunk) == layout.clip_chunk(other, other_chunk)
    assert same == ((one, one_chunk) == (other, other_chunk))
