"""The file of shards and its index: one shard is found without the others, with an index or without."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.planner import PlannedVideo, Shard
from jobs.shard_files import index_path, read_index, read_shard, read_shards, write_shards

PARTS = st.sampled_from([(0, 1), (0, 3), (2, 3)])
VIDEOS = st.builds(
    lambda offset, cost, num_begun, part: PlannedVideo(offset, cost, num_begun, *part),
    *(st.integers(0, 2**50), st.integers(1, 2**50), st.integers(0, 3), PARTS),
)
SHARDS = st.lists(st.lists(VIDEOS, max_size=5).map(tuple), max_size=6).map(
    lambda lists: [Shard(3 + k, videos) for k, videos in enumerate(lists)]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(shards=SHARDS, is_there=st.booleans())
def test_what_is_written_is_read_back_with_an_index_or_without(
    tmp_path: Path, shards: list[Shard], is_there: bool
) -> None:
    path = tmp_path / "shards.jsonl"
    write_shards(path, shards)
    if not is_there:
        index_path(path).unlink()
    assert list(read_shards(path)) == shards
    places = read_index(path)
    assert [(place.shard, place.num_videos, place.cost) for place in places] == [
        (shard.index, shard.num_videos, sum(video.cost for video in shard.videos)) for shard in shards
    ]
    assert [read_shard(path, place) for place in places] == shards


@pytest.mark.parametrize("content", [b"", b"{", b'{"shards_bytes": 3, "shards": []}', b"\xff"])
def test_an_index_that_is_not_of_this_file_is_not_believed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "shards.jsonl"
    write_shards(path, [Shard(0, (PlannedVideo(0, 5),)), Shard(1, (PlannedVideo(9, 4),))])
    places = read_index(path)
    index_path(path).write_bytes(content)
    assert read_index(path) == places


def test_sizes_and_one_shard_are_known_without_the_lists_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "shards.jsonl"
    write_shards(path, [Shard(k, (PlannedVideo(k, 5),) * k) for k in range(4)])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(b"?" * (len(line) - 1) + b"\n" if k != 2 else line for k, line in enumerate(lines)))
    places = read_index(path)
    assert [place.num_videos for place in places] == [0, 1, 2, 3]
    assert len(read_shard(path, places[2]).videos) == 2


def test_each_line_is_json_that_a_person_can_read(tmp_path: Path) -> None:
    path = tmp_path / "shards.jsonl"
    write_shards(path, [Shard(7, (PlannedVideo(0, 5), PlannedVideo(40, 3)))])
    assert json.loads(path.read_text()) == {"shard": 7, "cost": 8, "videos": [[0, 5, 0], [40, 3, 0]]}
