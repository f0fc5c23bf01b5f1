"""What a run says of its captions is what its clips say, and what its engines say they did."""

import json
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from curation.errors import Failure, FailureReason, StorageError
from curation.model import CaptionOutcome, Clip, Video, VideoTask, Window
from curation.pipeline import apply_stage
from curation.storage.local import LocalStorage
from curation.writing.clip_writer import ClipWriterStage
from jobs import exits
from jobs.aggregation import aggregate
from jobs.captions import captions_collected
from jobs.ledger import ShardLog
from jobs.manifest import ManifestVideo, write_manifest
from jobs.planner import PlannedVideo, Shard
from jobs.rundir import RunDir
from jobs.status import run_status
from tests.local_runs import config_of, make_videos, planned, work_here

QWEN = {"engine_s": 20.0, "prompt_tokens": 4000, "output_tokens": 500, "num_restarts": 1}
QWEN_LM = {"engine_s": 4.0, "prompt_tokens": 800, "output_tokens": 600, "num_restarts": 0}


def window(start: int, end: int, text: str | None, *, enhanced: str | None = None) -> Window:
    """A window whose caption is that text; None is one that failed."""
    found = Window(start, end)
    if text is None:
        found.caption_outcomes["qwen"] = CaptionOutcome("error", "refused")
        return found
    found.caption["qwen"] = text
    found.caption_outcomes["qwen"] = CaptionOutcome("success", "", 100, 10)
    if enhanced is not None:
        found.enhanced_caption["qwen_lm"] = enhanced
        found.caption_outcomes["qwen_lm"] = CaptionOutcome("truncated", "", 20, 7, ("repeated",))
    return found


def clip_of(number: int, *windows: Window) -> Clip:
    return Clip(UUID(int=number), "v.mp4", (0.0, 2.0), windows=list(windows))


Chunks = list[list[Clip]]


def run_of(folder: Path, videos: Mapping[str, Chunks | Failure | None]) -> RunDir:
    """A run whose videos have been worked on: their chunks, how they failed, or None for those that are missing."""
    config = config_of(folder, folder / "raw")
    run = RunDir(Path(config.run_dir))
    run.claim(config)
    write_manifest([ManifestVideo(video, f"/raw/{video}") for video in videos], run.manifest_path)
    run.write_shards(1, [Shard(0, tuple(PlannedVideo(offset, 1) for offset, _ in run.manifest_entries()))])
    writer = ClipWriterStage(config.output_clip_path)
    for name, found in videos.items():
        chunks = found if isinstance(found, list) else [[]] if found is not None else []
        for index, clips in enumerate(chunks):
            video = Video(Path("/raw") / name, id=name, clips=clips, clip_chunk_index=index)
            video.num_clip_chunks = len(chunks) if index == len(chunks) - 1 else 0
            video.failure = found if isinstance(found, Failure) else None
            list(apply_stage(writer, VideoTask(name, "test", video)))
    return run


def captions_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out/v0/all_window_captions.json").read_text(encoding="utf-8"))
    return found


def json_in(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def captioned_run(folder: Path) -> RunDir:
    videos: dict[str, Chunks | Failure | None] = {
        "b/日本.mp4": [
            [clip_of(1, window(0, 255, 'Ein "Hund".\n犬', enhanced="Ein Hund, lang."), window(256, 400, "c"))],
            [clip_of(2, window(0, 99, None)), clip_of(3)],
        ],
        "gone.mp4": None,
        "a.mp4": [[clip_of(4, window(0, 99, "d"))]],
        "failed.mp4": Failure(FailureReason.DECODE_ERROR, "damaged"),
        "empty.mp4": [[]],
    }
    return run_of(folder, videos)


# All captions


def test_all_captions_stand_under_video_clip_and_window_as_cosmos_curate_has_them(tmp_path: Path) -> None:
    """Enhanced captions are not among them; failed windows have none; videos that are not done are not there."""
    aggregate(captioned_run(tmp_path))
    assert captions_in(tmp_path) == {
        "b/日本.mp4": {
            str(UUID(int=1)): {"0_255": 'Ein "Hund".\n犬', "256_400": "c"},
            str(UUID(int=2)): {},
            str(UUID(int=3)): {},
        },
        "a.mp4": {str(UUID(int=4)): {"0_99": "d"}},
        "empty.mp4": {},
    }


def test_all_captions_come_in_the_order_of_the_summary(tmp_path: Path) -> None:
    aggregate(captioned_run(tmp_path))
    videos = json_in(tmp_path / "out/summary.json")["videos"]
    assert list(captions_in(tmp_path)) == [name for name, video in videos.items() if video["status"] == "done"]


def test_a_run_without_captions_has_no_document_of_them(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"a.mp4": [[clip_of(1, Window(0, 99))]]})
    assert aggregate(run) == exits.DONE
    assert not (tmp_path / "out/v0").exists()
    summary, report = json_in(tmp_path / "out/summary.json"), json_in(run.report_path)
    assert (summary["captions"], report["captions"]) == ({}, {})
    assert (summary["total_prompt_tokens"], summary["total_output_tokens"]) == (0, 0)


def test_aggregating_twice_gives_the_same_captions(tmp_path: Path) -> None:
    run = captioned_run(tmp_path)
    aggregate(run)
    first = (tmp_path / "out/v0/all_window_captions.json").read_bytes()
    aggregate(run)
    assert (tmp_path / "out/v0/all_window_captions.json").read_bytes() == first


def chunks_of(num_videos: int) -> Iterator[dict[str, Any]]:
    for k in range(num_videos):
        clips = [{"uuid": str(UUID(int=k)), "windows": [[0, 255]], "captions": [{"qwen_caption": "word " * 200}]}]
        yield {"video_id": f"{k}.mp4", "clips": clips}


def peak_bytes(folder: Path, num_videos: int) -> int:
    tracemalloc.start()
    for _ in captions_collected(chunks_of(num_videos), LocalStorage(str(folder))):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(json_in(folder / "v0/all_window_captions.json")) == num_videos
    return peak


def test_memory_does_not_grow_with_the_number_of_captions(tmp_path: Path) -> None:
    peak_bytes(tmp_path / "warm", 10)
    assert peak_bytes(tmp_path / "many", 5000) < 2 * peak_bytes(tmp_path / "few", 50)


def test_captions_that_are_not_all_there_are_not_published(tmp_path: Path) -> None:
    run = captioned_run(tmp_path)
    (tmp_path / "out/processed_clip_chunks/a.mp4_0.json").unlink()
    with pytest.raises(StorageError, match=r"a\.mp4_0\.json is not there"):
        aggregate(run)
    assert list((tmp_path / "out/v0").iterdir()) == []


def test_no_videos_at_all_are_an_empty_document(tmp_path: Path) -> None:
    assert list(captions_collected([], LocalStorage(str(tmp_path)), version="v1")) == []
    assert json_in(tmp_path / "v1/all_window_captions.json") == {}


# Totals


def test_the_summary_has_the_tokens_that_the_metas_have(tmp_path: Path) -> None:
    run = captioned_run(tmp_path)
    aggregate(run)
    metas = [json_in(path) for path in (tmp_path / "out/metas/v0").iterdir()]
    windows = [entry for meta in metas for entry in meta["windows"]]
    summary = json_in(tmp_path / "out/summary.json")
    for kind in ("prompt", "output"):
        total = sum(tokens for entry in windows for key, tokens in entry.items() if key.endswith(f"_{kind}_tokens"))
        assert summary[f"total_{kind}_tokens"] == total > 0
    assert summary["captions"] == {
        "qwen": {
            "num_windows": 4,
            "num_success": 3,
            "num_truncated": 0,
            "num_error": 1,
            "num_flagged": 0,
            "prompt_tokens": 300,
            "output_tokens": 30,
        },
        "qwen_lm": {
            "num_windows": 1,
            "num_success": 0,
            "num_truncated": 1,
            "num_error": 0,
            "num_flagged": 1,
            "prompt_tokens": 20,
            "output_tokens": 7,
        },
    }
    assert summary["total_num_clips_with_caption"] == 2


def test_the_report_has_the_totals_of_the_summary(tmp_path: Path) -> None:
    run = captioned_run(tmp_path)
    aggregate(run)
    totals = json_in(tmp_path / "out/summary.json")["captions"]
    assert json_in(run.report_path)["captions"] == {key: {**each, "engine": None} for key, each in totals.items()}


# Engines


def log_ends(run: RunDir) -> None:
    """Three workers: two came to their end with captions, one without."""
    run.state_path.mkdir(exist_ok=True)
    ends: list[dict[str, Any]] = [{"qwen": QWEN, "qwen_lm": QWEN_LM}, {"qwen": QWEN | {"output_tokens": 100}}, {}]
    for shard, captions in enumerate(ends):
        log = ShardLog(run.shard_state_path(shard))
        log.append("start", attempt=1)
        log.append("end", attempt=1, code=0, **({"captions": captions} if captions else {}))
        log.close()


def test_tokens_per_second_are_the_tokens_of_all_engines_by_the_seconds_of_all(tmp_path: Path) -> None:
    run = captioned_run(tmp_path)
    log_ends(run)
    aggregate(run)
    found = json_in(run.report_path)["captions"]
    assert found["qwen"]["engine"] == {
        "engine_s": 40.0,
        "prompt_tokens": 8000,
        "output_tokens": 600,
        "num_restarts": 2,
        "output_tokens_per_s": 15.0,
    }
    assert found["qwen_lm"]["engine"] == {**QWEN_LM, "output_tokens_per_s": 150.0}
    assert found["qwen"]["num_windows"] == 4


def test_an_engine_that_never_worked_has_no_speed(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"a.mp4": [[clip_of(1)]]})
    run.state_path.mkdir()
    ShardLog(run.shard_state_path(0)).append("end", captions={"qwen": dict.fromkeys(QWEN, 0)})
    aggregate(run)
    found = json_in(run.report_path)["captions"]["qwen"]
    assert (found["num_windows"], found["engine"]["output_tokens_per_s"]) == (0, None)


def test_status_tells_the_tokens_of_the_workers_that_ended(tmp_path: Path) -> None:
    run = captioned_run(tmp_path)
    run.write_shards(1, [*run.shards(1), Shard(1, ()), Shard(2, ())])
    assert run_status(run, ask_slurm=False).to_json()["captions"] == {}
    log_ends(run)
    shown = json.loads(json.dumps(run_status(run, ask_slurm=False).to_json()["captions"]))
    assert list(shown) == ["qwen", "qwen_lm"]
    assert (shown["qwen"]["output_tokens"], shown["qwen"]["output_tokens_per_s"]) == (600, 15.0)


# A dataset


def caption_outputs(out: Path) -> dict[str, str]:
    """Put a caption on every window of an output, as the writer would have; gives the captions by key of sample."""
    expected = {}

    def entry(uuid: str, start: int, end: int) -> dict[str, Any]:
        expected[f"{uuid}_{start}_{end}"] = f"{uuid} {start}"
        return {"qwen_caption": f"{uuid} {start}", "qwen_status": "success"}

    for path in (out / "processed_clip_chunks").rglob("*.json"):
        chunk = json_in(path)
        for clip in chunk["clips"]:
            clip["captions"] = [entry(clip["uuid"], start, end) for start, end in clip["windows"]]
            for window, caption in zip(clip["metas"]["v0"]["windows"], clip["captions"], strict=True):
                window.update(caption)
        path.write_text(json.dumps(chunk))
    for path in (out / "processed_videos").rglob("*.json"):
        path.write_text(json.dumps(json_in(path) | {"captions": {"qwen": {"num_windows": 1}}}))
    return expected


def test_one_pass_over_the_clips_makes_the_captions_and_the_dataset(tmp_path: Path) -> None:
    raw = make_videos(tmp_path / "raw", 2)
    run = planned(tmp_path, raw, output_dataset_path=str(tmp_path / "dataset"))
    assert work_here(run)[0] == exits.DONE
    expected = caption_outputs(tmp_path / "out")
    assert aggregate(run) == exits.DONE
    found = {
        f"{uuid}_{window}": caption
        for clips in captions_in(tmp_path).values()
        for uuid, windows in clips.items()
        for window, caption in windows.items()
    }
    assert found == expected
    report = json_in(run.report_path)["dataset"]
    assert (report["num_packed"], report["num_without_caption"]) == (len(expected), 0)
