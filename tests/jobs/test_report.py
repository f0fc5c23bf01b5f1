"""The report of a run says what the run's own files say: half done, whole, with failures and with rejections."""

import base64
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from curation.storage import storage_for
from jobs import exits
from jobs.aggregation import aggregate
from jobs.config import load_config, to_yaml
from jobs.ledger import Lease
from jobs.packing import run_packing
from jobs.report_counting import found_report
from jobs.report_document import report_document, try_page
from jobs.rundir import RunDir, write_json
from tests.local_runs import clipmill_here, digests, events, make_videos, planned, work_here
from tests.s3.outputs import new_root, s3_config
from tests.s3.server import S3Server

NUM_MOVING, SOURCE_S = 3, 1.5


def make_still(path: Path) -> None:
    """A second and a half in which nothing moves: a clip that is too short for the filter stays."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 128, 72, "yuv420p"
        for _ in range(45):
            picture = av.VideoFrame.from_ndarray(np.full((72, 128, 3), 90, np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos that move, one that does not, and one that is none."""
    folder = make_videos(tmp_path_factory.mktemp("raw"), NUM_MOVING)
    make_still(folder / "still.mp4")
    (folder / "broken.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> tuple[RunDir, dict[str, Any], dict[str, str]]:
    """A run of which one of two shards was worked on, its report document, and digests of what is in its folders."""
    folder = tmp_path_factory.mktemp("half")
    filters = {"motion_filter": "enable", "motion_per_patch_min_256_threshold": 0}
    run = planned(folder, raw, plan={"num_shards": 2}, output_dataset_path=str(folder / "dataset"), filters=filters)
    assert work_here(run, shard=0)[0] == exits.DONE
    before = digests(folder)
    found = found_report(run)
    assert digests(folder) == before, "only the aggregation writes"
    return run, report_document(run, found.report, made=found.made, state=found.state), before


@pytest.fixture(scope="module")
def whole(half: tuple[RunDir, dict[str, Any], dict[str, str]]) -> RunDir:
    """The same run, with the second shard, and aggregated."""
    run = half[0]
    assert work_here(run, shard=1)[0] == exits.DONE
    assert aggregate(run) == exits.DONE
    return run


@pytest.fixture(scope="module")
def document(whole: RunDir) -> dict[str, Any]:
    return document_of(whole)


def document_of(run: RunDir, **values: Any) -> dict[str, Any]:
    found = found_report(run)
    return report_document(run, found.report, made=found.made, state=found.state, **values)


def entries_of(run: RunDir) -> Iterator[dict[str, Any]]:
    for path in (run.root.parent / "out/processed_clip_chunks").rglob("*.json"):
        chunk = json.loads(path.read_text())
        yield from chunk["clips"] + chunk["filtered_clips"]


def totals_by_plot(document: dict[str, Any]) -> dict[str, float]:
    return {plot["id"]: sum(sum(each["values"]) for each in plot["series"]) for plot in document["plots"]}


def test_a_run_half_done_is_counted_as_far_as_it_is(half: tuple[RunDir, dict[str, Any], dict[str, str]]) -> None:
    _, document, before = half
    figures = document["figures"]
    done = [event for event in before if event.startswith("out/processed_videos/")]
    assert figures["num_done"] + figures["num_failed"] == len(done) > 0
    assert figures["num_missing"] == NUM_MOVING + 2 - len(done) > 0
    assert document["run"]["state"] == "incomplete"
    assert figures["num_packed"] is None
    assert 0 < len(document["clips"]) == document["num_clips_sampled_from"]
    assert "out/summary.json" not in before


def test_of_a_run_that_has_not_begun_everything_is_missing(tmp_path: Path, raw: Path) -> None:
    document = document_of(planned(tmp_path, raw))
    assert document["figures"]["num_missing"] == document["figures"]["num_videos"] == NUM_MOVING + 2
    assert (document["plots"], document["clips"], document["run"]["started"]) == ([], [], None)
    assert document["run"]["state"] == "incomplete"
    assert "NaN" not in json.dumps(document)


def test_a_run_that_is_worked_on_is_running(half: tuple[RunDir, dict[str, Any], dict[str, str]]) -> None:
    lease = Lease(half[0].lease_path(1), 60.0)
    assert lease.acquire()
    assert found_report(half[0]).state == "running"
    lease.release()


def test_figures_are_what_counting_the_outputs_gives(whole: RunDir, document: dict[str, Any], raw: Path) -> None:
    figures, entries = document["figures"], list(entries_of(whole))
    kept = [entry for entry in entries if entry["metas"]["v0"]["rejection"] is None]
    sources = [path for path in raw.rglob("*.mp4") if path.name != "broken.mp4"]
    lives = [events(whole, shard) for shard in (0, 1)]
    files = [path for path in (whole.root.parent / "out").rglob("*.*") if path.name != "summary.json"]
    assert document["run"]["state"] == "complete"
    assert (figures["num_videos"], figures["num_done"], figures["num_failed"], figures["num_missing"]) == (5, 4, 1, 0)
    assert len(entries) == 4 * 3  # of 1.5 s each: 0.6, 0.6 and 0.3 s
    assert figures["num_clips"] == len(kept) >= NUM_MOVING * 3
    assert figures["num_rejected"] == {"motion": len(entries) - len(kept), "aesthetic": 0}
    assert len(entries) > len(kept)
    assert figures["num_windows"] == figures["num_packed"] + figures["num_left_out"] == len(kept)
    assert figures["source_s"] == pytest.approx(SOURCE_S * len(sources))
    assert figures["clip_s"] == pytest.approx(SOURCE_S * len(sources))
    assert figures["source_bytes"] == sum(path.stat().st_size for path in sources)
    mp4s = [path for path in files if path.suffix == ".mp4"]
    assert figures["clip_bytes"] == sum(path.stat().st_size for path in mp4s)
    assert figures["num_files"] == len([path for path in files if path.is_file()])
    assert figures["worker_s"] == pytest.approx(sum(life[-1]["time"] - life[0]["time"] for life in lives), abs=0.001)
    assert figures["wall_s"] == pytest.approx(lives[1][-1]["time"] - lives[0][0]["time"], abs=0.001)
    assert figures["source_s_per_worker_s"] == pytest.approx(figures["source_s"] / figures["worker_s"], rel=0.01)
    assert figures["num_retries"] == 0
    assert 0 < figures["video_p50_s"] <= figures["video_p99_s"] < figures["worker_s"]
    assert figures["decoded_per_source_frame"] >= 1


def test_every_plot_adds_up(whole: RunDir, document: dict[str, Any]) -> None:
    totals, metas = totals_by_plot(document), [entry["metas"]["v0"] for entry in entries_of(whole)]
    assert totals["clip_duration"] == totals["resolution"] == totals["aspect_ratio"] == 12
    assert totals["motion"] == len([meta for meta in metas if "motion_score" in meta]) > 0
    assert totals["shots_per_video"] == 4
    assert totals["failures"] == 1
    plots = {plot["id"]: plot for plot in document["plots"]}
    durations = plots["clip_duration"]
    assert durations["labels"] == ["0-1"]
    num_rejected = len([meta for meta in metas if meta["rejection"]])
    assert {each["name"]: each["values"] for each in durations["series"]} == {
        "kept": [12 - num_rejected],
        "rejected": [num_rejected],
    }
    assert plots["shots_per_video"]["labels"] == ["3-4"]
    assert {each["name"]: each["values"][-1] for each in plots["progress"]["series"]} == {"done": 4, "failed": 1}
    assert [each["name"] for each in plots["stage_time"]["series"]] == ["busy", "starved", "blocked"]
    assert "aesthetic" not in plots
    assert "caption_words" not in plots
    for plot in document["plots"]:
        assert all(len(each["values"]) == len(plot["labels"]) for each in plot["series"]), plot["id"]


def test_clips_are_shown_with_what_their_files_say(whole: RunDir, document: dict[str, Any]) -> None:
    metas = {path.stem: json.loads(path.read_text()) for path in (whole.root.parent / "out/metas/v0").glob("*.json")}
    assert {clip["uuid"] for clip in document["clips"]} == set(metas)
    expected = Counter(
        "rejected" if meta["rejection"] else "error" if meta["errors"] else "kept" for meta in metas.values()
    )
    assert set(expected) == {"kept", "rejected", "error"}
    assert Counter(clip["status"] for clip in document["clips"]) == expected
    for clip in document["clips"]:
        meta = metas[clip["uuid"]]
        assert clip["span"] == meta["duration_span"]
        assert clip["source"] == meta["source_video"]
        assert clip["rejection"] == meta["rejection"]
        assert clip["errors"] == meta["errors"]
        assert clip["scores"].get("motion_global") == meta.get("motion_score", {}).get("global_mean")
        assert (whole.root / clip["clip_href"]).is_file()
        for window in clip["windows"]:
            name = f"{clip['uuid']}/{window['start_frame']}_{window['end_frame']}.webp"
            webp = whole.root.parent / "out/previews" / name
            assert webp.is_file() is (meta["rejection"] is None)
            url = f"data:image/webp;base64,{base64.b64encode(webp.read_bytes()).decode()}" if webp.is_file() else None
            assert window["preview"] == url


def test_failures_say_where_the_log_tells_of_them(whole: RunDir, raw: Path) -> None:
    failed = next(each for shard in (0, 1) for each in events(whole, shard) if each["event"] == "failed")
    shard = next(shard for shard in (0, 1) if failed in events(whole, shard))
    log = whole.logs_path / f"attempt-001/shard-{shard:05d}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"event=begin\nWARNING event=video_failed video={failed['video']} stage=x reason=unreadable\n")
    [failure] = document_of(whole)["failures"]
    assert (failure["video_id"], failure["reason"]) == ("broken.mp4", "unreadable")
    assert (failure["log"], failure["line"]) == (str(log), 2)
    assert whole.root / failure["log_href"] == log
    assert failure["retry"] == f"clipmill resume {whole.root} --failed unreadable"
    [error] = document_of(whole)["first_errors"]
    assert error.startswith("video failed (unreadable): 1")


def test_previews_keep_to_their_budget_and_every_clip_has_its_first_before_any_its_second(whole: RunDir) -> None:
    previews = [path.stat().st_size for path in (whole.root.parent / "out/previews").rglob("*.webp")]
    wanted = 0.5 * sum(previews) * 4 / 3
    clips = document_of(whole, max_preview_mb=wanted / 1e6)["clips"]
    held = [window["preview"] for clip in clips for window in clip["windows"] if window["preview"]]
    assert 0 < sum(map(len, held)) <= wanted
    assert len(held) < len(previews)
    assert not [w for clip in document_of(whole, max_preview_mb=0)["clips"] for w in clip["windows"] if w["preview"]]


def test_the_report_is_not_counted_again_until_something_ends(whole: RunDir) -> None:
    report = json.loads(whole.report_path.read_text())
    assert found_report(whole).report == report
    assert found_report(whole).made == whole.report_path.stat().st_mtime
    aside = whole.report_path.rename(whole.root / "aside.json")
    try:
        again = found_report(whole)
        assert again.state == "incomplete"  # nothing says that the dataset is published
        packed = {"num_packed": None, "num_left_out": None}
        assert again.report["figures"] == report["figures"] | packed
        shown = [plot for plot in report["plots"] if plot["id"] != "left_out"]
        assert again.report["plots"] == shown
        assert again.report["sample"] == report["sample"]
        write_json(whole.report_path, {"exit_code": exits.REFUSED, "refused": "the accounts do not add up"})
        assert found_report(whole).state == "refused"
    finally:
        aside.rename(whole.report_path)


def test_a_page_that_can_not_be_made_is_no_fault_of_the_run(whole: RunDir, caplog: pytest.LogCaptureFixture) -> None:
    page = whole.page_path
    assert re.match(r"<!doctype html>", page.read_text(), re.IGNORECASE)
    report = whole.report_path.read_bytes()
    page.unlink()
    page.mkdir()
    try_page(whole, json.loads(report))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert whole.report_path.read_bytes() == report
    shown = clipmill_here("report", str(whole.root))
    assert shown.returncode == exits.FAILED
    assert "name another place with --html" in shown.stderr
    page.rmdir()


def test_the_command_writes_the_page_or_prints_what_it_shows(whole: RunDir, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    shown = clipmill_here("report", str(whole.root), "--html", str(page), "--num-clips", "2")
    assert shown.returncode == exits.DONE, shown.stderr
    assert shown.stdout == f"wrote {page} (complete)\n"
    assert page.read_text().count("data:image/webp;base64,") == 2
    printed = clipmill_here("report", str(whole.root), "--json", "--versions", "v0")
    assert json.loads(printed.stdout) == json.loads(json.dumps(document_of(whole, max_preview_mb=0)))


def test_of_clips_at_s3_there_are_previews_and_no_links(
    whole: RunDir, document: dict[str, Any], s3_env: S3Server, tmp_path: Path
) -> None:
    root = new_root()
    there = load_config(s3_config(tmp_path, tmp_path, s3_env, root))
    for path in (whole.root.parent / "out").rglob("*.*"):
        if path.is_file():
            name = path.relative_to(whole.root.parent / "out")
            storage_for(there.output_clip_path, there.output_s3).write(str(name), path.read_bytes())
    here = whole.load_config()
    at_s3 = {name: getattr(there, name) for name in ("output_clip_path", "s3")}
    whole.write_settings(to_yaml(here.model_copy(update=at_s3)))
    try:
        found = document_of(whole)
    finally:
        whole.write_settings(to_yaml(here))
    assert found["clips"] == [{**clip, "clip_href": None} for clip in document["clips"]]
    assert [window for clip in found["clips"] for window in clip["windows"] if window["preview"]]


def test_where_tasks_pack_the_last_of_them_writes_the_page(whole: RunDir, tmp_path: Path) -> None:
    config = whole.load_config().model_copy(update={"output_dataset_path": str(tmp_path / "dataset")})
    whole.write_settings(to_yaml(config))
    figures = json.loads(whole.report_path.read_text())["figures"]
    assert aggregate(whole, num_pack_tasks=1) == exits.DONE
    assert not whole.page_path.exists()
    assert found_report(whole).state == "incomplete"
    assert run_packing(str(whole.root), 0) == exits.DONE
    assert run_packing(str(whole.root), None) == exits.DONE
    assert whole.page_path.is_file()
    assert json.loads(whole.report_path.read_text())["figures"] == figures
