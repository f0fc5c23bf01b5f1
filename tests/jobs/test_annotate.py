"""Annotation versions: what is said of clips is made anew, and the clips stay what and where they are."""

import hashlib
import io
import json
import shutil
import signal
import tarfile
import time
from pathlib import Path
from typing import Any

import av
import pyarrow.parquet as pq
import pytest
import yaml

from jobs import exits
from jobs.config import load_config
from jobs.planning import plan_run
from jobs.rundir import RunDir
from tests.captioning import tiny_models
from tests.local_runs import (
    clipmill,
    clipmill_here,
    digests,
    make_videos,
    run_here,
    start_worker,
    videos_of,
    work,
    write_config,
)

WINDOWS = {"window_size": 8, "remainder_threshold": 8}
IN_VERSION = ("v1/", "metas/v1/")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny_models.require_transformers()
    return tiny_models.write_models(tmp_path_factory.mktemp("models"))


def captions(prompt: str, **more: Any) -> dict[str, Any]:
    engine = {"engine": "transformers", "engine_arguments": {"dtype": "float32"}, "captioning_max_output_tokens": 12}
    return {"captioning_prompt_text": prompt, **engine, **more}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    """A finished split run with captions, embeddings, previews and a dataset."""
    folder = tmp_path_factory.mktemp("split")
    raw = make_videos(folder / "raw", 3)
    (raw / "notes.mp4").write_text("this is no video")
    settings = {
        "windows": WINDOWS,
        "models": {"model_dir": str(models)},
        "captions": captions("What is it?"),
        "embeddings": {"embedding_algorithm": "efficientnet-lite0"},
        "output_dataset_path": str(folder / "dataset"),
    }
    done = run_here("run", str(write_config(folder, raw, **settings)))
    assert done.returncode == exits.DONE, done.stderr
    return folder


@pytest.fixture
def folder(split: Path, tmp_path: Path) -> Path:
    """A copy of its outputs."""
    for name in ("out", "dataset"):
        shutil.copytree(split / name, tmp_path / name)
    return tmp_path


def annotation(folder: Path, name: str = "v1", before: str = "v0", **settings: Any) -> Path:
    config = {
        "run_dir": str(folder / f"run-{name}"),
        "annotate": {"annotation_version": name, "from_annotation_version": before},
        "output_clip_path": str(folder / "out"),
        "output_dataset_path": str(folder / "dataset"),
        "cluster": "local",
        "plan": {"num_shards": 1},
        **settings,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def annotated(folder: Path, *arguments: Any, **settings: Any) -> None:
    done = run_here("annotate", str(annotation(folder, *arguments, **settings)))
    assert done.returncode == exits.DONE, done.stderr


@pytest.fixture(scope="module")
def recaptioned(split: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of its outputs with a second version, of another prompt."""
    folder = tmp_path_factory.mktemp("recaptioned")
    for name in ("out", "dataset"):
        shutil.copytree(split / name, folder / name)
    annotated(folder, captions=captions("Tell me more."), models={"model_dir": str(models)})
    return folder


def metas(folder: Path, version: str) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in (folder / f"out/metas/{version}").glob("*.json")}


def without(meta: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in meta.items() if name not in names}


def test_new_captions_stand_beside_the_old_and_every_clip_is_the_same(split: Path, recaptioned: Path) -> None:
    after = digests(recaptioned / "out")
    untouched = {path: digest for path, digest in after.items() if not path.startswith(IN_VERSION)}
    assert untouched == digests(split / "out")
    assert digests(recaptioned / "dataset/v0") == digests(split / "dataset/v0")

    old, new = metas(recaptioned, "v0"), metas(recaptioned, "v1")
    assert old.keys() == new.keys()
    said = ("windows", "provenance")
    assert {uuid: without(meta, *said) for uuid, meta in new.items()} == {
        uuid: without(meta, *said) for uuid, meta in old.items()
    }
    for uuid in old:
        for one, other in zip(old[uuid]["windows"], new[uuid]["windows"], strict=True):
            assert (one["start_frame"], one["end_frame"]) == (other["start_frame"], other["end_frame"])
            assert other["qwen_status"] in ("success", "truncated")
            assert one["qwen_caption"] != other["qwen_caption"]
        provenance = new[uuid]["provenance"]
        assert provenance["annotations"]["captions"]["prompts"]["qwen"]["text"] == "Tell me more."
        assert "prompts" not in provenance  # those of the captions that are gone
        assert provenance["config_hash"] == old[uuid]["provenance"]["config_hash"]

    everything = json.loads((recaptioned / "out/v1/all_window_captions.json").read_text())
    texts = {uuid: list(windows.values()) for clips in everything.values() for uuid, windows in clips.items()}
    assert texts == {uuid: [window["qwen_caption"] for window in meta["windows"]] for uuid, meta in new.items()}


def test_the_dataset_of_a_version_has_its_captions_with_the_same_clips(recaptioned: Path) -> None:
    folder = recaptioned
    tables = {name: pq.read_table(folder / f"dataset/{name}/catalogue.parquet").to_pylist() for name in ("v0", "v1")}
    rows = {name: {row["key"]: row["caption"] for row in table} for name, table in tables.items()}
    assert rows["v0"].keys() == rows["v1"].keys()
    new = metas(folder, "v1")
    said = {
        f"{uuid}_{window['start_frame']}_{window['end_frame']}": window["qwen_caption"]
        for uuid, meta in new.items()
        for window in meta["windows"]
    }
    assert rows["v1"] == said
    videos = [
        {path.relative_to(folder / f"dataset/{name}"): hashlib.sha256(path.read_bytes()).hexdigest() for path in tars}
        for name in ("v0", "v1")
        for tars in (sorted((folder / f"dataset/{name}").rglob("video/*/*.tar")),)
    ]
    assert videos[0] == videos[1] != {}
    for path in (folder / "dataset/v1").rglob("metas/*/*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                sample = json.load(tar.extractfile(member))  # type: ignore[arg-type]
                assert sample["windows"][0]["qwen_caption"] == said[member.name.removesuffix(".json")]


def test_what_is_not_made_anew_is_carried_and_each_version_is_complete(folder: Path) -> None:
    annotated(
        folder, previews={"target_fps": 5.0}, filters={"motion_filter": "score-only", "aesthetic_threshold": None}
    )
    old, new = metas(folder, "v0"), metas(folder, "v1")
    said = ("motion_score", "provenance", "notes", "errors")
    assert {uuid: without(meta, *said) for uuid, meta in new.items()} == {
        uuid: without(meta, *said) for uuid, meta in old.items()
    }
    assert all("motion_score" in meta or "motion" in meta["errors"] for meta in new.values())
    assert not any("motion_score" in meta for meta in old.values())
    assert {kind for meta in new.values() for kind in meta["provenance"]["annotations"]} == {"motion", "previews"}

    tables = [pq.read_table(folder / f"out/{name}enl0_embd_parquet") for name in ("", "v1/")]
    assert tables[0].to_pylist() == tables[1].to_pylist()
    summaries = [json.loads((folder / f"out/{name}summary.json").read_text()) for name in ("", "v1/")]
    names = [
        name for name in summaries[0] if name.startswith(("total_num_clips", "total_clip", "total_output", "embedd"))
    ]
    assert {name: summaries[0][name] for name in names} == {name: summaries[1][name] for name in names}
    previews = {path.relative_to(folder / "out/v1") for path in (folder / "out/v1/previews").rglob("*.webp")}
    assert previews == {path.relative_to(folder / "out") for path in (folder / "out/previews").rglob("*.webp")}

    annotated(folder, "v2", "v1", embeddings={"embedding_algorithm": "efficientnet-lite0", "embedding_target_fps": 4.0})
    third = metas(folder, "v2")
    assert {uuid: meta.get("motion_score") for uuid, meta in third.items()} == {
        uuid: meta.get("motion_score") for uuid, meta in new.items()
    }
    kinds = {"motion", "previews", "embeddings"}
    assert {kind for meta in third.values() for kind in meta["provenance"]["annotations"]} == kinds


def test_captions_that_are_there_can_be_told_anew_without_a_look_at_the_clips(folder: Path, models: Path) -> None:
    shutil.rmtree(folder / "out/clips")
    settings = captions("", generate_captions=False, enhance_captions=True, enhance_captions_max_output_tokens=8)
    del settings["captioning_prompt_text"]
    path = annotation(folder, captions=settings, models={"model_dir": str(models)}, output_dataset_path=None)
    done = run_here("annotate", str(path))
    assert done.returncode == exits.DONE, done.stderr
    old, new = metas(folder, "v0"), metas(folder, "v1")
    for uuid in old:
        for one, other in zip(old[uuid]["windows"], new[uuid]["windows"], strict=True):
            assert other["qwen_caption"] == one["qwen_caption"]
            assert other["qwen_lm_status"] in ("success", "truncated")


def test_windows_stay_unless_others_are_asked_for(folder: Path) -> None:
    other: dict[str, Any] = {"windows": {"window_size": 4, "remainder_threshold": 4}}
    refused = run_here("annotate", str(annotation(folder, previews={}, **other)))
    assert refused.returncode == exits.USAGE
    assert "annotate.rewindow: true makes them anew" in refused.stderr
    path = annotation(folder, previews={}, **other)
    done = run_here("annotate", str(path), "--set", "annotate.rewindow=true")
    assert done.returncode == exits.DONE, done.stderr
    for uuid, meta in metas(folder, "v1").items():
        starts = [window["start_frame"] for window in meta["windows"]]
        assert starts == list(range(0, 4 * len(starts), 4))
        assert meta["windows"][-1]["end_frame"] == meta["num_frames"] - 1
        assert len(list((folder / f"out/v1/previews/{uuid}").iterdir())) == len(starts)
    report = json.loads((folder / "dataset/v1/report.json").read_text())
    num_windows = sum(len(meta["windows"]) for meta in metas(folder, "v1").values())
    assert (report["num_packed"], report["num_left_out"]) == (num_windows, 0)
    catalogue = pq.read_table(folder / "dataset/v1/catalogue.parquet").to_pylist()
    assert len(catalogue) == num_windows
    for row in catalogue[:5]:
        with (folder / "dataset/v1" / row["tar"]).open("rb") as tar:
            tar.seek(row["offset"])
            mp4 = tar.read(row["size"])
        with av.open(io.BytesIO(mp4), "r") as container:
            num_frames = len(list(container.decode(video=0)))
        assert num_frames == row["end_frame"] - row["start_frame"] + 1


def test_a_clip_that_is_not_what_was_written_says_so_and_costs_no_other(folder: Path) -> None:
    first, second, *_ = sorted((folder / "out/clips").iterdir())
    first.write_bytes(first.read_bytes() + b"x")
    second.unlink()
    annotated(folder, previews={}, output_dataset_path=None)
    errors = {
        uuid: meta["errors"].get("clip_reader", "") for uuid, meta in metas(folder, "v1").items() if meta["errors"]
    }
    assert errors.keys() == {first.stem, second.stem}
    assert "has sha256" in errors[first.stem]
    assert f"no clip clips/{second.name}" in errors[second.stem]


def test_a_killed_worker_leaves_what_an_undisturbed_one_does(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(folder / "out", other / "out")
    settings: dict[str, Any] = {"previews": {}, "output_dataset_path": None}
    annotated(other, **settings)
    run = plan_run(load_config(annotation(folder, **settings))).run
    for num_done in (1, 2):
        worker = start_worker(run)
        while len(videos_of(run, "done")) < num_done and worker.poll() is None:
            time.sleep(0.005)
        worker.kill()
        assert worker.wait() in (-signal.SIGKILL, exits.DONE)
    code, log = work(run)
    assert code == exits.DONE, log
    done = clipmill_here("aggregate", str(run.root))
    assert done.returncode == exits.DONE, done.stderr
    assert digests(folder / "out") == digests(other / "out")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        pytest.param({}, "annotate: there is nothing to make anew", id="nothing to do"),
        pytest.param(
            {"filters": {"motion_filter": "enable"}}, "filters.motion_filter: clips that are there", id="filter"
        ),
        pytest.param({"previews": {}, "limit_clips": 2}, "limit_clips: all clips of a video", id="some clips"),
        pytest.param(
            {"previews": {}, "annotate": {"annotation_version": "v0"}}, "annotate.from_", id="the split's own"
        ),
        pytest.param({"previews": {}, "input_video_path": "raw"}, "reads the clips in output_clip_path", id="videos"),
        pytest.param(
            {"previews": {}, "dataset": {"annotation_version": "v0"}}, "this run packs what it makes", id="packs"
        ),
        pytest.param(
            {"previews": {}, "annotate": {"annotation_version": "v2", "from_annotation_version": "v1"}},
            "is no finished split output: it has no summary.json",
            id="a version that is not there",
        ),
    ],
)
def test_what_cannot_be_annotated_is_told_at_once(folder: Path, settings: dict[str, Any], problem: str) -> None:
    before = digests(folder)
    path = annotation(folder, **settings)
    done = run_here("annotate", str(path))
    assert done.returncode == exits.USAGE
    assert problem in done.stderr
    path.unlink()
    assert digests(folder) == before


def test_a_split_run_is_not_taken_for_an_annotation(split: Path) -> None:
    done = run_here("annotate", str(split / "config.yaml"))
    assert done.returncode == exits.USAGE
    assert "annotate.annotation_version: this key is needed" in done.stderr


def test_videos_that_failed_are_not_annotated(folder: Path) -> None:
    done_by_workers = clipmill("annotate", str(annotation(folder, previews={}, output_dataset_path=None)))
    assert done_by_workers.returncode == exits.DONE, done_by_workers.stderr
    first, second = (json.loads((folder / f"out/{name}summary.json").read_text()) for name in ("", "v1/"))
    assert (first["num_failed_videos"], second["num_failed_videos"]) == (1, 0)
    done = {video for video, entry in first["videos"].items() if entry["status"] == "done"}
    assert second["videos"].keys() == done
    assert RunDir(folder / "run-v1").report_path.is_file()


def test_captions_of_two_versions_are_shown_side_by_side(recaptioned: Path, tmp_path: Path) -> None:
    folder = recaptioned
    old, new = metas(folder, "v0"), metas(folder, "v1")
    shown = clipmill_here("compare", str(folder / "run-v1"), "--versions", "v0", "v1", "--json")
    assert shown.returncode == exits.DONE, shown.stderr
    clips = json.loads(shown.stdout)["clips"]
    assert len({clip["source_video"] for clip in clips}) == len(clips) == 3
    for clip in clips:
        for window, one, other in zip(
            clip["windows"], old[clip["uuid"]]["windows"], new[clip["uuid"]]["windows"], strict=True
        ):
            assert window["captions"] == {"v0": {"qwen": one["qwen_caption"]}, "v1": {"qwen": other["qwen_caption"]}}
    again = clipmill_here("compare", str(folder / "out"), "--json")
    assert json.loads(again.stdout) == json.loads(shown.stdout)

    page = tmp_path / "page.html"
    one = clips[0]["uuid"]
    done = clipmill_here("compare", str(folder / "out"), "--clip", one, "--html", str(page))
    assert done.returncode == exits.DONE, done.stderr
    assert page.read_text().count("data:image/webp;base64,") == len(old[one]["windows"])
    missing = clipmill_here("compare", str(folder / "out"), "--clip", "0ba07dbf-548b-58d7-ab81-a81008382f75")
    assert missing.returncode == exits.USAGE
    assert "has no clip 0ba07dbf" in missing.stderr
