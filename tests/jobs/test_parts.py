"""Long videos in parts, through workers: the output is that of videos that are processed at once."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs.parts import in_parts, parts_path, planned_parts, video_of
from jobs.planner import PlannedVideo, Shard
from jobs.planning import plan_run
from jobs.rundir import RunDir
from jobs.status import run_status
from jobs.unfinished import replan
from tests.local_runs import config_of, digests, events, planned, record_path, videos_of, work_here
from tests.synthetic import make_video

COUNT = 3


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A long video and a short one."""
    folder = tmp_path_factory.mktemp("raw")
    options = {"g": "24", "bf": "2", "sc_threshold": "0"}
    make_video(folder / "long.mp4", num_frames=240, width=96, height=64, audio="clicks", options=options)
    make_video(folder / "short.mp4", num_frames=40, width=96, height=64, first_number=1000)
    return folder


@pytest.fixture(scope="module")
def whole(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a run gives that splits nothing."""
    folder = tmp_path_factory.mktemp("whole")
    run = planned(folder, raw, **settings(max_part_gb=None))
    assert work_here(run)[0] == 0
    return outputs(folder)


def settings(*, max_part_gb: float | None, num_shards: int = 1, videos_at_once: int = 1) -> dict[str, Any]:
    return {
        "plan": {"num_shards": num_shards, "max_part_gb": max_part_gb},
        "clips": {"num_clips_per_chunk": 4},
        "worker": {"videos_at_once": videos_at_once},
    }


def in_three(folder: Path, raw: Path, *, num_shards: int = 4, videos_at_once: int = 1) -> RunDir:
    """A run in which the long video is processed in three parts, each in a shard of its own if there are four."""
    size_gb = (raw / "long.mp4").stat().st_size / 1e9
    chosen = settings(max_part_gb=size_gb / COUNT * 1.01, num_shards=num_shards, videos_at_once=videos_at_once)
    run = planned(folder, raw, **chosen)
    assert sorted(len(parts) for parts in planned_parts(run.shards(1)).values()) == [COUNT]
    return run


def shards_of_parts(run: RunDir) -> list[int]:
    """The shard of each part in order."""
    parts = [(video.part, shard.index) for shard in run.shards(1) for video in shard.videos if video.num_parts > 1]
    return [shard for _, shard in sorted(parts)]


def outputs(folder: Path) -> dict[str, str]:
    """Digests of all output files; records without how many frames were decoded."""
    found = digests(folder / "out")
    for path in (folder / "out" / "processed_videos").rglob("*.json"):
        record = json.loads(path.read_bytes())
        del record["num_decoded_frames"]
        found[str(path.relative_to(folder / "out"))] = json.dumps(record)
    return found


def test_parts_in_shards_of_their_own_give_the_output_of_whole_videos(
    raw: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    run = in_three(tmp_path, raw)
    for shard in reversed(range(4)):
        assert not record_path(tmp_path, "long.mp4").exists()
        assert work_here(run, shard=shard)[0] == 0
    assert outputs(tmp_path) == whole
    assert [path for path in Path(parts_path(run, run.load_config())).rglob("*") if path.is_file()] == []
    status = run_status(run)
    assert (status.num_videos, status.num_done, status.num_failed, status.num_running) == (2, 2, 0, 0)
    assert replan(run, run.load_config()) == ([], 0)


def test_parts_in_one_worker_at_once_give_the_output_of_whole_videos(
    raw: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    run = in_three(tmp_path, raw, num_shards=1, videos_at_once=3)
    assert work_here(run)[0] == 0
    assert outputs(tmp_path) == whole


def test_a_resume_takes_the_parts_that_are_missing(raw: Path, whole: dict[str, str], tmp_path: Path) -> None:
    run = in_three(tmp_path, raw)
    first, second, third = shards_of_parts(run)
    assert work_here(run, shard=second)[0] == 0
    shards, _ = replan(run, run.load_config())
    left = sorted(video.part for shard in shards for video in shard.videos if video.num_parts > 1)
    assert left == [0, 2]
    run.write_shards(2, shards)
    for shard in shards:
        assert work_here(run, shard=shard.index, attempt=2)[0] == 0
    assert outputs(tmp_path) == whole
    assert work_here(run, shard=first)[0] == work_here(run, shard=third)[0] == 0  # superseded: nothing is done again
    assert videos_of(run, "begin", first) == videos_of(run, "begin", third) == []


def test_parts_whose_worker_died_before_it_joined_them_are_joined_by_the_next(
    raw: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    run, other = in_three(tmp_path / "a", raw), in_three(tmp_path / "b", raw)
    *before, last = shards_of_parts(run)
    for each, shards in ((run, before), (other, [last])):
        for shard in shards:
            assert work_here(each, shard=shard)[0] == 0
    # all parts are done, and nobody has joined them
    for name in ("out", "run/parts"):
        shutil.copytree(tmp_path / "b" / name, tmp_path / "a" / name, dirs_exist_ok=True)
    planned_again, _ = replan(run, run.load_config())
    assert [video.part for shard in planned_again for video in shard.videos if video.num_parts > 1] == [COUNT - 1]
    run.write_shards(2, planned_again)
    for shard_again in planned_again:
        assert work_here(run, shard=shard_again.index, attempt=2)[0] == 0
    assert outputs(tmp_path / "a") == whole


def test_a_video_that_can_not_be_done_in_parts_is_done_whole_by_one_worker(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    make_video(raw / "long.mp4", num_frames=240, width=96, height=64, options={"g": "300"})  # one IDR
    make_video(raw / "short.mp4", num_frames=40, width=96, height=64)
    whole = planned(tmp_path / "whole", raw, **settings(max_part_gb=None))
    assert work_here(whole)[0] == 0
    run = in_three(tmp_path / "split", raw)
    for shard in range(4):
        assert work_here(run, shard=shard)[0] == 0
    assert outputs(tmp_path / "split") == outputs(tmp_path / "whole")
    assert sum(videos_of(run, "done", shard).count("long.mp4") for shard in range(4)) == 1
    assert sum(len(videos_of(run, "begin", shard)) for shard in range(4)) == 3  # a part, all of it, the short one
    assert run_status(run).is_complete


def test_a_part_that_fails_fails_its_video_once_and_nothing_of_it_stays(raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    shutil.copytree(raw, folder)
    run = in_three(tmp_path, folder)
    first, second, third = shards_of_parts(run)
    assert work_here(run, shard=second)[0] == 0
    assert list((tmp_path / "out" / "clips").glob("*.mp4"))
    (folder / "long.mp4").write_bytes(b"no video")
    assert work_here(run, shard=first)[0] == work_here(run, shard=third)[0] == 0
    record = json.loads(record_path(tmp_path, "long.mp4").read_bytes())
    assert (record["status"], record["failure"]["reason"]) == ("failed", "unreadable")
    assert list((tmp_path / "out" / "clips").glob("*.mp4")) == []
    assert [each["video"] for shard in range(4) for each in events(run, shard) if each["event"] == "failed"] == [
        "long.mp4"
    ]


# Planning


def test_parts_share_the_cost_of_their_video_and_none_costs_more_than_it_may(raw: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path, raw, plan={"max_part_gb": 1.0})
    videos = [PlannedVideo(0, 10**9), PlannedVideo(50, 35 * 10**8), PlannedVideo(99, 10)]
    found = list(in_parts(videos, config))
    assert [video for video in found if video.offset != 50] == [videos[0], videos[2]]
    parts = [video for video in found if video.offset == 50]
    assert [(part.part, part.num_parts) for part in parts] == [(k, 4) for k in range(4)]
    assert sum(part.cost for part in parts) == 35 * 10**8
    assert max(part.cost for part in parts) <= 10**9
    assert Shard(0, found).num_videos == 3


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"plan": {"max_part_gb": None}}, id="never"),
        pytest.param({"plan": {"target_shard_gb": 4.0}}, id="a shard may hold it"),
        pytest.param({"plan": {"num_shards": 3}}, id="never below 1 GB of its own accord"),
        pytest.param({"clips": {"clip_encoding": "smart-copy"}}, id="packets are copied"),
        pytest.param({"filters": {"motion_filter": "enable"}}, id="motion is measured"),
        pytest.param({"limit_clips": 5}, id="clips are counted"),
    ],
)
def test_what_is_not_split(changed: dict[str, Any], raw: Path, tmp_path: Path) -> None:
    cost = 9 * 10**8 if changed.get("plan") == {"num_shards": 3} else 35 * 10**8
    config = config_of(tmp_path, raw, **{"plan": {"max_part_gb": 1.0}, **changed})
    assert list(in_parts([PlannedVideo(0, cost)], config)) == [PlannedVideo(0, cost)]


def test_a_plan_with_parts_is_read_as_it_was_written(raw: Path, tmp_path: Path) -> None:
    run = in_three(tmp_path, raw)
    assert sum(run.shard_sizes(1).values()) == 2  # videos
    assert plan_run(run.load_config()).num_videos == 2
    assert [video.part for video in next(iter(planned_parts(run.shards(1)).values()))] == [0, 1, 2]


def test_a_key_in_a_log_tells_its_video() -> None:
    assert (video_of("a/b.mp4"), video_of("a/b.mp4//1of3")) == ("a/b.mp4", "a/b.mp4")
