"""Shards: nothing lost, nothing twice, and close to the best balance that there is."""

import itertools
from collections.abc import Sequence
from dataclasses import astuple, replace
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.planner import PlannedVideo, PlannedVideos, Shard, count_shards, plan_shards, split_long


def videos_of(costs: Sequence[int]) -> list[PlannedVideo]:
    """Videos of those costs, one manifest line of 100 bytes after the other."""
    return [PlannedVideo(offset=100 * line, cost=cost) for line, cost in enumerate(costs)]


@st.composite
def plans(draw: st.DrawFn, max_videos: int = 60, max_shards: int = 20) -> tuple[list[PlannedVideo], int]:
    largest = draw(st.sampled_from([1, 3, 10**3, 10**12]))
    videos = videos_of(draw(st.lists(st.integers(1, largest), min_size=1, max_size=max_videos)))
    return videos, draw(st.integers(1, min(len(videos), max_shards)))


def makespan(shards: Sequence[Shard]) -> int:
    return max(shard.cost for shard in shards)


def best_makespan(costs: Sequence[int], num_shards: int) -> int:
    """The heaviest shard of the best plan, found by trying every one."""
    every_plan = itertools.product(range(num_shards), repeat=len(costs))
    return min(
        max(sum(cost for cost, shard in zip(costs, plan, strict=True) if shard == k) for k in range(num_shards))
        for plan in every_plan
    )


@given(plans())
def test_each_video_is_in_exactly_one_shard(plan: tuple[list[PlannedVideo], int]) -> None:
    videos, num_shards = plan
    planned = [video for shard in plan_shards(videos, num_shards=num_shards) for video in shard.videos]
    assert sorted(planned, key=lambda video: video.offset) == videos


@given(plans())
def test_there_are_as_many_shards_as_asked_and_none_is_empty(plan: tuple[list[PlannedVideo], int]) -> None:
    videos, num_shards = plan
    shards = plan_shards(videos, num_shards=num_shards)
    assert len(shards) == num_shards
    assert all(shard.videos for shard in shards)


@given(plans(), st.integers(0, 1000))
def test_shards_are_numbered_from_the_first_index(plan: tuple[list[PlannedVideo], int], first: int) -> None:
    videos, num_shards = plan
    shards = plan_shards(videos, num_shards=num_shards, first_index=first)
    assert [shard.index for shard in shards] == list(range(first, first + num_shards))


@given(plans())
def test_the_cost_of_a_shard_is_that_of_its_videos(plan: tuple[list[PlannedVideo], int]) -> None:
    videos, num_shards = plan
    shards = plan_shards(videos, num_shards=num_shards)
    assert [shard.cost for shard in shards] == [sum(video.cost for video in shard.videos) for shard in shards]


@given(plans(max_videos=6, max_shards=3))
@settings(deadline=None)
def test_the_heaviest_shard_is_within_grahams_bound_of_the_best(plan: tuple[list[PlannedVideo], int]) -> None:
    videos, num_shards = plan
    best = best_makespan([video.cost for video in videos], num_shards)
    bound = (Fraction(4, 3) - Fraction(1, 3 * num_shards)) * best  # Graham 1969, theorem 2
    assert makespan(plan_shards(videos, num_shards=num_shards)) <= bound


@given(plans())
def test_the_heaviest_shard_costs_at_most_the_mean_and_one_video_more(plan: tuple[list[PlannedVideo], int]) -> None:
    videos, num_shards = plan
    costs = [video.cost for video in videos]
    shards = plan_shards(videos, num_shards=num_shards)
    assert makespan(shards) <= Fraction(sum(costs), num_shards) + max(costs)


@given(plans(), st.randoms(use_true_random=False))
def test_the_plan_does_not_depend_on_the_order_of_the_videos(
    plan: tuple[list[PlannedVideo], int], random: Random
) -> None:
    videos, num_shards = plan
    shuffled = random.sample(videos, len(videos))
    assert plan_shards(shuffled, num_shards=num_shards) == plan_shards(videos, num_shards=num_shards)


@given(plans())
def test_a_shard_begins_with_its_dearest_video(plan: tuple[list[PlannedVideo], int]) -> None:
    videos, num_shards = plan
    for shard in plan_shards(videos, num_shards=num_shards):
        costs = [video.cost for video in shard.videos]
        assert costs == sorted(costs, reverse=True)


@given(st.integers(1, 400), st.integers(1, 40))
def test_equal_videos_are_dealt_out_evenly(num_videos: int, num_shards: int) -> None:
    shards = plan_shards(videos_of([7] * num_videos), num_shards=min(num_videos, num_shards))
    sizes = [len(shard.videos) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


def test_of_two_shards_of_equal_cost_the_one_with_fewer_videos_takes_the_next() -> None:
    shards = plan_shards(videos_of([5, 4, 3, 1, 1, 1]), num_shards=2)
    assert [[video.cost for video in shard.videos] for shard in shards] == [[5, 1, 1], [4, 3, 1]]


def test_a_video_keeps_how_often_it_was_begun() -> None:
    video = PlannedVideo(offset=7, cost=3, num_begun=2)
    assert plan_shards([video], num_shards=1) == [Shard(0, (video,))]


@given(st.lists(st.builds(PlannedVideo, st.integers(0, 99), st.integers(1, 9), st.integers(0, 2))), st.data())
def test_a_table_is_the_sequence_of_its_videos(videos: list[PlannedVideo], data: st.DataObject) -> None:
    table = PlannedVideos.of(videos)
    assert list(table) == videos
    assert table == videos
    assert table.cost == sum(video.cost for video in videos)
    places = data.draw(st.lists(st.integers(0, len(videos) - 1), max_size=9)) if videos else []
    assert list(table.take(np.array(places, np.int64))) == [videos[place] for place in places]
    assert [table[place] for place in places] == [videos[place] for place in places]
    assert list(table[1:7:2]) == videos[1:7:2]


@given(plans(), st.integers(1, 10**12))
def test_a_video_above_the_limit_is_planned_in_its_parts(plan: tuple[list[PlannedVideo], int], limit: int) -> None:
    videos, _ = plan
    in_half = {v: [replace(v, cost=v.cost // 2, num_begun=1), replace(v, cost=v.cost - v.cost // 2)] for v in videos}
    expected = [part for v in videos for part in (in_half[v] if v.cost > limit else [v])]
    found = split_long(PlannedVideos.of(videos), in_half.__getitem__, above_cost=limit)
    assert sorted(map(astuple, found)) == sorted(map(astuple, expected))


def test_no_videos_make_no_shards() -> None:
    assert plan_shards([], num_shards=1) == []


@pytest.mark.parametrize("num_shards", [0, -1, 4])
def test_more_shards_than_videos_or_none_are_refused(num_shards: int) -> None:
    with pytest.raises(ValueError, match=f"need 1 <= num_shards <= 3 videos, got {num_shards}"):
        plan_shards(videos_of([1, 2, 3]), num_shards=num_shards)


GB = 10**9


@pytest.mark.parametrize(
    ("costs", "num_shards", "target_shard_gb", "expected"),
    [
        pytest.param([GB] * 10, 4, 20.0, 4, id="as asked"),
        pytest.param([GB] * 10, 40, 20.0, 10, id="never more than videos"),
        pytest.param([GB] * 10, None, 20.0, 1, id="all fit in one"),
        pytest.param([5 * GB] * 8, None, 20.0, 2, id="exactly two"),
        pytest.param([5 * GB] * 8 + [1], None, 20.0, 3, id="one byte more than two"),
        pytest.param([100 * GB] * 2, None, 20.0, 2, id="a video is not divided"),
        pytest.param([], None, 20.0, 1, id="no videos"),
    ],
)
def test_the_number_of_shards(costs: list[int], num_shards: int | None, target_shard_gb: float, expected: int) -> None:
    assert count_shards(videos_of(costs), num_shards=num_shards, target_shard_gb=target_shard_gb) == expected


@given(plans(), st.none() | st.integers(1, 100), st.floats(0.001, 1e6))
def test_a_counted_number_of_shards_can_be_planned(
    plan: tuple[list[PlannedVideo], int], num_shards: int | None, target_shard_gb: float
) -> None:
    videos, _ = plan
    counted = count_shards(videos, num_shards=num_shards, target_shard_gb=target_shard_gb)
    assert len(plan_shards(videos, num_shards=counted)) == counted


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False))
def test_any_positive_target_gives_a_number_of_shards(target_shard_gb: float) -> None:
    assert 1 <= count_shards(videos_of([5, GB, 3]), num_shards=None, target_shard_gb=target_shard_gb) <= 3
