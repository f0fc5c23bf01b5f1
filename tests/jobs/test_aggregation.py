"""What is published is what the records say, each video of the manifest once."""

import json
import os
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from curation.documents import to_json
from curation.errors import Failure, FailureReason
from curation.model import ClipStats, Video
from curation.writing.records import record_document
from jobs import exits
from jobs.aggregation import aggregate
from jobs.aggregation_lease import aggregation_lease
from jobs.ledger import Lease
from jobs.manifest import ManifestVideo, write_manifest
from jobs.planner import PlannedVideo, Shard
from jobs.planning import plan_run
from jobs.rundir import RunDir
from tests.local_runs import config_of, digests, make_videos, planned, record_path, work_here

TOTALS = {  # docs/rules.md, Records, the totals of Cosmos-Curate
    "num_input_videos",
    "num_processed_videos",
    "total_video_duration",
    "total_clip_duration",
    "max_clip_duration",
    "pipeline_run_time",
    "total_video_bytes",
    "total_num_clips_filtered_by_motion",
    "total_num_clips_filtered_by_aesthetic",
    "total_num_clips_passed",
    "total_num_clips_transcoded",
    "total_num_clips_with_embeddings",
    "total_num_clips_with_caption",
    "total_num_clips_with_webp",
}


def run_by_hand(folder: Path, ids: Sequence[str]) -> RunDir:
    """A planned run of videos that need not exist."""
    config = config_of(folder, folder / "raw")
    run = RunDir(Path(config.run_dir))
    run.claim(config)
    write_manifest([ManifestVideo(video, f"/raw/{video}") for video in ids], run.manifest_path)
    offsets = [offset for offset, _ in run.manifest_entries()]
    run.write_shards(1, [Shard(0, tuple(PlannedVideo(offset, 1) for offset in offsets))])
    return run


def add_record(folder: Path, video_id: str, *, failure: Failure | None = None) -> None:
    video = Video(Path("/raw") / video_id, id=video_id, failure=failure)
    path = record_path(folder, video_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_json(record_document(video, ClipStats(num_passed=1), provenance={})))


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out" / "summary.json").read_text())
    return found


def report_of(run: RunDir) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run.report_path.read_text())
    return found


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("raw"), 4)


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> tuple[Path, RunDir]:
    """A run whose four videos, in two shards, were all worked on."""
    folder = tmp_path_factory.mktemp("worked")
    run = planned(folder, raw, plan={"num_shards": 2}, output_dataset_path=str(folder / "dataset"))
    for shard in (0, 1):
        code, log = work_here(run, shard=shard)
        assert code == exits.DONE, log
    return folder, run


def stats_by_hand(out: Path) -> dict[str, float]:
    """Totals from the lists of clips and the files that are there, counted without the product's code."""
    chunks = [json.loads(path.read_text()) for path in (out / "processed_clip_chunks").rglob("*.json")]
    clips = [clip for chunk in chunks for clip in chunk["clips"]]
    spans = [Fraction(clip["span"][1]) - Fraction(clip["span"][0]) for clip in clips]
    mp4s = {path.stem for path in (out / "clips").glob("*.mp4")}
    previewed = {path.parent.name for path in (out / "previews").rglob("*.webp")}
    assert mp4s == {clip["uuid"] for clip in clips}
    return {
        "num_passed": len(clips),
        "num_transcoded": len(mp4s),
        "num_with_webp": len(previewed & mp4s),
        "total_clip_duration": float(sum(spans)),
        "max_clip_duration": float(max(spans)),
    }


def test_of_two_aggregations_one_waits_for_the_other(tmp_path: Path) -> None:
    run = run_by_hand(tmp_path, ["a"])
    other = Lease(aggregation_lease(run), timeout_s=2.0)
    assert other.acquire()
    codes: list[int] = []
    waiting = threading.Thread(target=lambda: codes.append(aggregate(run)))
    waiting.start()
    waiting.join(timeout=1.0)
    assert waiting.is_alive()
    assert not run.report_path.exists()
    other.release()
    waiting.join()
    assert codes == [exits.INCOMPLETE]
    assert not aggregation_lease(run).exists()


def test_totals_are_what_counting_the_outputs_gives(worked: tuple[Path, RunDir], raw: Path) -> None:
    folder, run = worked
    assert aggregate(run) == exits.DONE
    expected, report, summary = stats_by_hand(folder / "out"), report_of(run), summary_of(folder)
    assert {key: report["clip_stats"][key] for key in expected} == pytest.approx(expected)
    assert summary["total_num_clips_passed"] == expected["num_passed"] > 4
    assert summary["total_num_clips_transcoded"] == expected["num_transcoded"]
    assert summary["total_num_clips_with_webp"] == expected["num_with_webp"]
    assert summary["total_clip_duration"] == pytest.approx(expected["total_clip_duration"])
    assert summary["max_clip_duration"] == pytest.approx(expected["max_clip_duration"])
    assert summary["total_video_duration"] == pytest.approx(4 * 45 / 30)
    assert summary["total_video_bytes"] == sum(path.stat().st_size for path in raw.rglob("*.mp4"))
    each = summary["videos"]
    assert set(each) == {str(path.relative_to(raw)) for path in raw.rglob("*.mp4")}
    assert sum(video["num_passed"] for video in each.values()) == expected["num_passed"]


def test_aggregating_twice_gives_the_same_bytes(worked: tuple[Path, RunDir]) -> None:
    folder, run = worked

    def everything() -> dict[str, str]:
        return digests(folder / "out") | digests(folder / "dataset")

    assert aggregate(run) == exits.DONE
    first, report = everything(), run.report_path.read_bytes()
    assert aggregate(run) == exits.DONE
    assert everything() == first
    assert run.report_path.read_bytes() == report


def test_the_order_in_which_shards_end_does_not_matter(worked: tuple[Path, RunDir], tmp_path: Path, raw: Path) -> None:
    folder, run = worked
    assert aggregate(run) == exits.DONE
    other = planned(tmp_path, raw, plan={"num_shards": 3}, output_dataset_path=str(tmp_path / "dataset"))
    for shard in (2, 0, 1):
        assert work_here(other, shard=shard)[0] == exits.DONE
    assert aggregate(other) == exits.DONE
    assert digests(tmp_path / "out") == digests(folder / "out")
    assert digests(tmp_path / "dataset") == digests(folder / "dataset")


@pytest.mark.parametrize(
    ("ids"),
    [
        pytest.param([], id="none"),
        pytest.param(['日本/é "quoted" 🎬.mp4'], id="one"),
        pytest.param([f"{k:04d}/é.mp4" for k in range(2500)], id="many"),
    ],
)
def test_the_summary_is_json_with_an_entry_for_each_video(tmp_path: Path, ids: list[str]) -> None:
    run = run_by_hand(tmp_path, ids)
    for video in ids:
        add_record(tmp_path, video)
    assert aggregate(run) == exits.DONE
    summary = summary_of(tmp_path)
    assert set(summary) >= TOTALS
    assert list(summary["videos"]) == ids
    assert summary["num_input_videos"] == summary["num_processed_videos"] == len(ids)
    assert summary["total_num_clips_passed"] == len(ids)


def test_every_video_is_done_failed_or_missing(tmp_path: Path) -> None:
    ids = [f"v{k}" for k in range(60)]
    run = run_by_hand(tmp_path, ids)
    chance = random.Random(1)
    fates = {video: chance.choice(["done", "failed", "missing"]) for video in ids}
    for video, fate in fates.items():
        if fate != "missing":
            failure = Failure(FailureReason.TRUNCATED, f"{video}: cut off") if fate == "failed" else None
            add_record(tmp_path, video, failure=failure)
    assert aggregate(run) == exits.INCOMPLETE
    summary, report, fate_list = summary_of(tmp_path), report_of(run), list(fates.values())
    assert {video: each["status"] for video, each in summary["videos"].items()} == fates
    assert summary["num_processed_videos"] == report["num_done"] == fate_list.count("done")
    assert summary["num_failed_videos"] == report["num_failed"] == fate_list.count("failed")
    assert summary["num_missing_videos"] == report["num_missing"] == fate_list.count("missing")
    assert report["failures_by_reason"] == {"truncated": fate_list.count("failed")}
    assert report["missing_videos"] == [video for video, fate in fates.items() if fate == "missing"]
    assert report["exit_code"] == exits.INCOMPLETE


def test_a_failure_of_each_class_is_shown_however_many_there_are_of_another(tmp_path: Path) -> None:
    ids = [f"v{k:04d}" for k in range(1100)]
    run = run_by_hand(tmp_path, ids)
    for video in ids[:-1]:
        add_record(tmp_path, video, failure=Failure(FailureReason.EMPTY_FILE, "0 bytes"))
    add_record(tmp_path, ids[-1], failure=Failure(FailureReason.CRASHED, "the one to look at"))
    assert aggregate(run) == exits.DONE
    report = report_of(run)
    assert report["failures_by_reason"] == {"crashed": 1, "empty_file": 1099}
    assert {"video_id": ids[-1], "reason": "crashed", "message": "the one to look at"} in report["failed_videos"]


def test_nothing_is_published_while_a_shard_is_worked_on(tmp_path: Path) -> None:
    run = run_by_hand(tmp_path, ["a", "b"])
    add_record(tmp_path, "a")
    assert aggregate(run) == exits.INCOMPLETE
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*.json")}
    add_record(tmp_path, "b")
    record = record_path(tmp_path, "b")
    lease = Lease(run.lease_path(0), 60.0)
    assert lease.acquire()
    assert aggregate(run) == exits.REFUSED
    lease.release()
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*.json")}
    del after[record]
    assert after == before
    assert report_of(run)["exit_code"] == exits.REFUSED
    assert aggregate(run) == exits.DONE


def cut_plan(run: RunDir) -> None:
    run.write_shards(1, [Shard(0, next(run.shards(1)).videos[:-1])])


def cut_manifest(run: RunDir) -> None:
    lines = run.manifest_path.read_bytes().splitlines(keepends=True)
    run.manifest_path.write_bytes(b"".join(lines[:-1]))


@pytest.mark.parametrize("damage", [cut_plan, cut_manifest])
def test_accounts_that_do_not_add_up_are_refused(tmp_path: Path, damage: Callable[[RunDir], None]) -> None:
    run = run_by_hand(tmp_path, ["a", "b", "c"])
    for video in ("a", "b", "c"):
        add_record(tmp_path, video)
    damage(run)
    assert aggregate(run) == exits.REFUSED
    assert not (tmp_path / "out" / "summary.json").exists()
    assert "do not add up" in report_of(run)["refused"]


def test_totals_of_no_record_are_zero_and_all_is_missing(tmp_path: Path, raw: Path) -> None:
    run = plan_run(config_of(tmp_path, raw)).run
    assert aggregate(run) == exits.INCOMPLETE
    assert report_of(run)["clip_stats"] == asdict(ClipStats())
    assert summary_of(tmp_path)["num_missing_videos"] == 4
    assert summary_of(tmp_path)["pipeline_run_time"] == 0


def test_an_output_that_can_not_be_written_is_no_summary(tmp_path: Path) -> None:
    run = run_by_hand(tmp_path, ["a"])
    add_record(tmp_path, "a")
    os.mkdir(tmp_path / "out" / "summary.json")
    from curation.errors import StorageError

    with pytest.raises(StorageError, match="summary"):
        aggregate(run)
    assert not run.report_path.exists()
