"""What a report counts adds up to what there is, takes no more memory the more there is, and agrees with NumPy."""

import random
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.history import TimeSpent
from jobs.report_clips import ClipFigures, ClipSample, shown_clips
from jobs.report_figures import gpus_per_worker
from jobs.report_plots import MAX_POINTS, Histogram, Plot, progress
from tests.local_runs import config_of

CAPTION = "a car turns left at the crossing"


def spent(*events: tuple[str, float, dict[str, Any]]) -> TimeSpent:
    """Of one shard's log."""
    found = TimeSpent()
    for kind, time_s, values in events:
        found.add({"event": kind, "time": time_s, **values})
    found.end_log()
    return found


def entry(number: int, *, video: str = "v", rejected: bool = False, **meta: Any) -> dict[str, Any]:
    """A clip in a list, of ``number`` s at 1920 x 1080, as ``clip_entry`` makes it."""
    rejection = {"filter": "motion", "measure": 0.0, "limit": 0.001} if rejected else None
    meta = {"errors": {}, "valid": not rejected, "rejection": rejection, "windows": [], **meta}
    return {
        "uuid": str(uuid5(UUID(int=0), f"{video} {number}")),
        "span": [10.0, 10.0 + number],
        "width": 1920,
        "height": 1080,
        "num_bytes": 1000,
        "num_previews": 2,
        "windows": [[0, 9], [10, 19]],
        "metas": {"v0": meta},
    }


def chunk(kept: list[dict[str, Any]], filtered: list[dict[str, Any]], *, video: str = "v") -> dict[str, Any]:
    return {"video_id": video, "clips": kept, "filtered_clips": filtered}


def by_label(plot: Plot, series: str) -> dict[str, int]:
    values = next(each["values"] for each in plot["series"] if each["name"] == series)
    return {label: value for label, value in zip(plot["labels"], values, strict=True) if value}


@given(st.lists(st.floats(0, 2000, allow_nan=False), min_size=1))
def test_a_histogram_counts_what_numpy_counts(numbers: list[float]) -> None:
    edges = [1.0, 2.0, 5.0, 10.0, 900.0]
    found = Histogram(edges)
    for number in numbers:
        found.add("all", number)
    assert found.counts["all"] == np.histogram(numbers, [0, *edges, np.inf])[0].tolist()


def test_bins_are_named_by_what_they_hold_and_empty_ones_at_the_ends_are_left_out() -> None:
    assert Histogram([1, 2, 5]).labels == ["0-1", "1-2", "2-5", "5+"]
    assert Histogram([0.0005, 0.001]).labels == ["0-0.0005", "0.0005-0.001", "0.001+"]
    whole = Histogram([1, 2, 5, 10, 20], is_whole=True)
    assert whole.labels == ["0", "1", "2-4", "5-9", "10-19", "20+"]
    assert whole.plot("p", "t", x_label="x", y_label="y") is None
    whole.add("a", 1)
    whole.add("b", 9)
    plot = whole.plot("p", "t", x_label="x", y_label="y")
    assert plot is not None
    assert plot["labels"] == ["1", "2-4", "5-9"]
    assert plot["series"] == [{"name": "a", "values": [1, 0, 0]}, {"name": "b", "values": [0, 0, 1]}]


def test_clips_are_counted_by_what_their_lists_say() -> None:
    captioned = [{"qwen_caption": CAPTION, "qwen_status": "success"}, {"qwen_caption": " ".join(["word"] * 120)}]
    motion = {"global_mean": 0.003, "per_patch_min_256": 0.001}
    scores: dict[str, Any] = {"motion_score": motion, "aesthetic_score": 4.6}
    figures = ClipFigures("v0")
    lists = [
        chunk([entry(3, windows=captioned, **scores), entry(4, errors={"preview": "no"})], [entry(12, rejected=True)]),
        chunk([entry(3, video="w")], [], video="w"),
    ]
    assert list(figures.counted(lists)) == lists
    assert (figures.num_clips, figures.num_windows, figures.num_bytes) == (3, 6, 4000)
    assert figures.num_files == 4 * (1 + 1 + 2) + 2  # mp4, meta and two previews of each, and the lists
    plots = {plot["id"]: plot for plot in figures.plots()}
    assert by_label(plots["clip_duration"], "kept") == {"3-4": 2, "4-5": 1}
    assert by_label(plots["clip_duration"], "rejected") == {"10-15": 1}
    assert by_label(plots["resolution"], "kept") == {"1080": 3}
    assert by_label(plots["aspect_ratio"], "kept") == {"16:9": 3}
    assert by_label(plots["motion"], "kept") == {"0.002-0.005": 1}
    assert by_label(plots["aesthetic"], "kept") == {"4.5-5": 1}
    assert by_label(plots["caption_words"], "qwen") == {"5-9": 1, "100-149": 1}
    fates = Counter(clip["fate"] for clip in figures.sample.to_json())
    assert fates == {"kept": 2, "error": 1, "rejected: motion": 1}


@pytest.mark.parametrize(
    ("size", "resolution", "ratio"),
    [
        pytest.param((1920, 1080), "1080", "16:9", id="full HD"),
        pytest.param((1080, 1920), "1080", "9:16", id="upright"),
        pytest.param((720, 576), "480", "4:3", id="PAL"),
        pytest.param((3840, 2160), "2160 or more", "16:9", id="4K"),
        pytest.param((320, 180), "under 240", "16:9", id="small"),
        pytest.param((500, 500), "480", "1:1", id="square"),
        pytest.param((2560, 1080), "1080", "21:9", id="wide"),
    ],
)
def test_sizes_are_named_as_people_name_them(size: tuple[int, int], resolution: str, ratio: str) -> None:
    figures = ClipFigures("v0")
    figures.add(chunk([{**entry(1), "width": size[0], "height": size[1]}], []))
    plots = {plot["id"]: plot for plot in figures.plots()}
    assert by_label(plots["resolution"], "kept") == {resolution: 1}
    assert by_label(plots["aspect_ratio"], "kept") == {ratio: 1}


def test_the_sample_is_the_same_in_any_order_and_has_clips_of_every_fate() -> None:
    clips = [("kept", f"{k:05d}", "v") for k in range(3000)]
    clips += [("rejected: motion", f"m{k}", "v") for k in range(2000)] + [("error", "e", "v")]
    found = []
    for seed in (1, 2):
        random.Random(seed).shuffle(clips)
        sample = ClipSample()
        for clip in clips:
            sample.add(*clip)
        found.append(sample.to_json())
    assert found[0] == found[1]
    shown = shown_clips(found[0], 60)
    assert len(set(shown)) == 60
    assert "e" in shown
    assert Counter(uuid[0] in "me" for uuid in shown) == {True: 30, False: 30}
    fates = Counter(clip["fate"] for clip in found[0])
    assert len(found[0]) == fates.total() < 1000


@given(st.integers(0, 80), st.integers(0, 80), st.integers(0, 80), st.integers(0, 100))
def test_as_many_clips_are_shown_as_there_is_room_for(kept: int, rejected: int, errors: int, wanted: int) -> None:
    counts = {"kept": kept, "rejected: motion": rejected, "error": errors}
    sample = [{"fate": fate, "uuid": f"{fate} {k}"} for fate, count in counts.items() for k in range(count)]
    shown = shown_clips(sample, wanted)
    assert len(shown) == len(set(shown)) == min(wanted, len(sample))
    num_kept = sum(uuid.startswith("kept") for uuid in shown)
    assert num_kept >= min(kept, wanted // 2)


def test_memory_does_not_grow_with_the_clips() -> None:
    figures = ClipFigures("v0")
    tracemalloc.start()
    try:
        sizes = []
        for begin in (0, 3000):
            for number in range(begin, begin + 3000):
                figures.add(chunk([entry(number % 500, video=f"{number}")], []))
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sizes[1] < sizes[0] + 20_000


def test_a_killed_worker_counts_up_to_its_last_event() -> None:
    killed = [("start", 100.0, {}), ("begin", 101.0, {"video": "a"}), ("begin", 103.0, {"video": "b"})]
    again = [("start", 200.0, {}), ("begin", 201.0, {"video": "a"}), ("done", 209.0, {"video": "a"})]
    end = ("end", 210.0, {"cpu_s": 15.0, "num_cpus": 3, "gpu_busy": 0.25})
    found = spent(*killed, *again, end)
    assert found.worker_s == pytest.approx(3.0 + 10.0)
    assert found.cpu_busy == pytest.approx(15.0 / (3 * 10.0))
    assert found.gpu_busy == 0.25
    assert found.num_retries == 1
    assert list(found.video_s) == [8.0]


def test_what_no_worker_told_is_not_known() -> None:
    found = spent(("start", 1.0, {}), ("end", 2.0, {"code": 0}))
    assert (found.cpu_busy, found.gpu_busy) == (None, None)
    assert found.video_percentiles_s(50, 99) == [None, None]
    assert found.num_retries == 0


def test_a_clean_stop_is_no_retry_and_neither_is_the_end_of_a_part() -> None:
    found = TimeSpent()
    for kind, time_s, video in [
        ("begin", 1.0, "a"),
        ("released", 2.0, "a"),  # a clean stop, and what was nearly done was done in time
        ("done", 3.0, "a"),
        ("begin", 4.0, "b"),
        ("released", 5.0, "b"),
        ("begin", 6.0, "b"),
        ("done", 7.0, "b"),
        ("begin", 10.0, "long//0of2"),
        ("begin", 20.0, "long//1of2"),
        ("released", 30.0, "long//0of2"),
        ("released", 40.0, "long//1of2"),
        ("done", 41.0, "long"),
    ]:
        found.add({"event": kind, "time": time_s, "video": video})
    assert found.num_retries == 0
    assert found.video_percentiles_s(0, 100) == [1.0, 31.0]  # b the second time; both parts of the long one
    found.add({"event": "begin", "time": 50.0, "video": "long//1of2"})
    assert found.num_retries == 1


@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=60))
def test_percentiles_are_those_of_numpy(seconds: list[float]) -> None:
    found = TimeSpent()
    for index, each in enumerate(seconds):
        found.add({"event": "begin", "time": 0.0, "video": f"{index}"})
        found.add({"event": "done", "time": each, "video": f"{index}"})
    expected = np.percentile(np.array(seconds, np.float32), [50, 99])
    assert found.video_percentiles_s(50, 99) == pytest.approx(list(expected), rel=1e-5)


@given(st.lists(st.floats(0, 1e6), max_size=50), st.lists(st.floats(0, 1e6), max_size=50))
def test_progress_rises_from_the_begin_to_all_that_ended(done: list[float], failed: list[float]) -> None:
    begun_s = 1.7e9
    plot = progress([begun_s + each for each in done], [begun_s + each for each in failed], begun_s=begun_s)
    if not done + failed:
        assert plot is None
        return
    assert plot is not None
    assert len(plot["labels"]) <= MAX_POINTS
    for series, count in zip(plot["series"], (len(done), len(failed)), strict=True):
        assert series["values"] == sorted(series["values"])
        assert series["values"][-1] == count


@pytest.mark.parametrize(("span_s", "unit"), [(30.0, "s"), (600.0, "min"), (90_000.0, "h")])
def test_progress_is_told_in_a_unit_that_fits(span_s: float, unit: str) -> None:
    plot = progress([100.0 + span_s], [], begun_s=100.0)
    assert plot is not None
    seconds = {"s": 1, "min": 60, "h": 3600}[unit]
    assert plot["x_label"] == unit
    assert float(plot["labels"][-1]) * seconds == pytest.approx(span_s)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({"cluster": "slurm", "slurm": {"gpus_per_task": 2}}, 2, id="Slurm"),
        pytest.param({"cluster": "slurm", "slurm": {"gpus_per_task": 0}}, None, id="Slurm without GPUs"),
        pytest.param({"local": {"gpus": []}}, None, id="none wanted"),
        pytest.param({"local": {"gpus": ["0", "1"], "parallel_shards": 2}}, 1, id="one each"),
        pytest.param({"local": {"gpus": ["0", "1"], "parallel_shards": 4}}, 0.5, id="two share one"),
        pytest.param({"local": {"gpus": ["0"], "parallel_shards": 1}, "slurm": {"gpus_per_task": 2}}, None, id="less"),
    ],
)
def test_gpus_of_a_worker_are_those_that_it_was_given(
    tmp_path: Path, settings: dict[str, Any], expected: float | None
) -> None:
    assert gpus_per_worker(config_of(tmp_path, tmp_path, **settings)) == expected
