"""The pages say what is there: links, commands, settings, code, and every key of the documents that a run writes."""

import ast
import importlib.util
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer

from curation.model import CaptionOutcome, Clip, Rejection, Video, VideoTask, Window
from curation.timeline import FrameSpan
from curation.writing.captions import count_captions
from curation.writing.records import clip_entry, clip_meta, record_document
from curation.writing.text_vectors import TextVectorsAside, set_aside
from jobs.cli import app
from jobs.config import RunConfig, read_config
from jobs.ledger import read_events
from tests.local_runs import clipmill, make_videos, write_config
from tests.synthetic import make_video

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OUTPUTS = ROOT / "docs" / "outputs.md"

NO_SETTINGS = ("dataset.missing_tars", "plan.json")
"""A key of the report, and a file."""

page_by_page = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in this language; an empty one is what people type and see."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def spans(page: Path) -> list[str]:
    """What stands between single backticks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


@page_by_page
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link.partition("#")[0]).exists()]
    assert not missing


def test_every_page_is_named_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in text] == []


def known_options(words: list[str]) -> set[str]:
    """The options of the command that these words begin with.

    Raises:
        AssertionError: there is no such command.
    """
    command: Any = typer.main.get_command(app)
    while commands := getattr(command, "commands", None):
        assert words, f"clipmill {command.name} is no command by itself"
        name = words.pop(0)
        assert name in commands, f"no command {name!r}; known: {', '.join(commands)}"
        command = commands[name]
    return {option for each in command.params for option in each.opts} | {"--help"}


@page_by_page
def test_commands_exist_with_their_options(page: Path) -> None:
    typed = [line.removeprefix("$ ") for block in blocks(page, "") for line in block.splitlines()]
    for text in [line.removeprefix(".venv/bin/") for line in typed] + spans(page):
        if not re.match(r"clipmill [a-z]", text):
            continue
        words = shlex.split(text.partition(" #")[0])[1:]
        options = known_options(words)
        named = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert named <= options, f"{text}: {named - options}"


@page_by_page
def test_settings_that_are_named_exist(page: Path) -> None:
    for span in spans(page):
        found = re.match(r"([a-z0-9_]+)\.([a-z0-9_]+)(?![\w.(/])", span)
        field = RunConfig.model_fields.get(found.group(1)) if found else None
        known = getattr(field.annotation, "model_fields", None) if field else None
        if found and known is not None and span not in NO_SETTINGS:
            assert found.group(2) in known, f"{span} is no setting"


@page_by_page
def test_yaml_on_a_page_is_a_config(page: Path, tmp_path: Path) -> None:
    for text in blocks(page, "yaml"):
        file = tmp_path / "run.yaml"
        file.write_text(text)
        missing = re.compile(r": (run_dir|output_clip_path): this key is needed|give input_video_path")
        assert [problem for problem in read_config(file).problems if not missing.search(problem)] == []


@page_by_page
def test_python_on_a_page_imports_what_there_is(page: Path) -> None:
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(("curation", "jobs")):
                module = importlib.import_module(node.module)
                assert [name.name for name in node.names if not hasattr(module, name.name)] == []
    for span in spans(page):
        found = re.fullmatch(r"((?:curation|jobs)(?:\.[a-z0-9_]+)+)(?:\.([A-Z]\w+))?", span)
        if found and not span.endswith(".json"):
            assert hasattr(importlib.import_module(found.group(1)), found.group(2) or "__doc__"), span


def named_in(text: str, page: Path) -> bool:
    """Whether a name stands between backticks, in a list or by itself."""
    return any(re.search(rf"(?<![\w]){re.escape(text)}(?![\w])", span) for span in spans(page))


def keys(document: object, *, but_below: Iterable[str] = ()) -> Iterator[str]:
    """All keys of a document at any depth; below some there are names of videos, stages, reasons..."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            yield key
            values = value.values() if key in but_below and isinstance(value, Mapping) else [value]
            for each in values:
                yield from keys(each, but_below=but_below)
    elif isinstance(document, list):
        for each in document:
            yield from keys(each, but_below=but_below)


OPEN = (
    *("videos", "metas", "content", "stages", "stage_seconds", "failures_by_reason", "left_out_by_reason", "t5"),
    *("extra", "errors", "notes", "embeddings", "models", "text_matches", "captions", "trees", "caption_tokens_per_s"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over two videos, and a file that is none, with a dataset."""
    folder = tmp_path_factory.mktemp("documents")
    make_videos(folder / "raw", 2)
    (folder / "raw" / "notes.mp4").write_text("this is no video")
    config = write_config(folder, folder / "raw", output_dataset_path=str(folder / "webdataset"))
    done = clipmill("run", str(config))
    assert done.returncode == 0, done.stderr
    return folder


def test_every_key_of_a_runs_documents_is_explained(finished: Path) -> None:
    documents: list[Any] = [json.loads(path.read_text()) for path in (finished / "out").rglob("*.json")]
    documents += [json.loads(path.read_text()) for path in (finished / "webdataset").rglob("*.json")]
    documents += [
        json.loads((finished / "run" / name).read_text()) for name in ("report.json", "attempts/001/jobs.json")
    ]
    documents += list(read_events(finished / "run" / "state" / "shard-00000.jsonl"))
    documents += [json.loads(line) for line in (finished / "run" / "manifest.jsonl").read_text().splitlines()]
    documents += [json.loads(line) for line in (finished / "run" / "plan" / "shards.jsonl").read_text().splitlines()]
    found = {key for document in documents for key in keys(document, but_below=OPEN)}
    tables = ("catalogue.parquet", "left_out.parquet")
    found |= {name for table in tables for name in pq.read_schema(finished / "webdataset" / "v0" / table).names}
    assert {"schema_version", "num_windows", "exit_code", "reason", "tar"} <= found  # it really looked
    assert sorted(key for key in found if not named_in(key, OUTPUTS)) == []


def test_every_file_of_a_run_is_in_the_trees(finished: Path) -> None:
    known = set(re.findall(r"[\w.-]+", "".join(blocks(OUTPUTS, ""))))
    folders = [finished / name for name in ("out", "webdataset", "run")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    # what is called after a clip, a video or a number stands in its folder, which has to be there
    names = {path.name if path.name in known else path.parent.name for path in files}
    numbered = r"[\da-f]{8}-[\da-f-]{27}|attempt-\d+|part_\d+|a"
    assert sorted(name for name in names - known if not re.fullmatch(numbered, name)) == []


def test_every_key_of_captions_and_vectors_is_explained() -> None:
    window = Window(0, 9, caption={"qwen": "a"}, enhanced_caption={"qwen_lm": "b"}, t5_xxl_truncated=True)
    window.t5_xxl_embedding = np.zeros((2, 1024), np.float16)
    window.caption_outcomes = {"qwen": CaptionOutcome("error", "why", 1, 2, ("empty",))}
    clip = Clip(UUID(int=1), "a.mp4", (0.0, 1.0), frame_span=FrameSpan(0, 10), windows=[window])
    clip.motion_score_global_mean = clip.motion_score_per_patch_min_256 = clip.aesthetic_score = 0.5
    clip.cosmos_embed1_text_match, clip.rejection = ("a text", 0.5), Rejection("motion", 0.5, 1.0)
    video = Video("a.mp4")
    meta = clip_meta(video, clip, provenance={})
    with TextVectorsAside() as aside:
        entry = clip_entry(clip, meta, embeddings={"ce1_embd_224p": ""}, t5=set_aside(clip, aside, "a.npy"))
    record = record_document(video, video.clip_stats, provenance={}, captions=count_captions([clip]))
    found = {key for each in (meta, entry, record) for key in keys(each, but_below=OPEN)}
    general = {re.sub(r"^(qwen|qwen_lm)_(?!lm_)", "{key}_", key) for key in found}
    assert {"{key}_caption", "{key}_enhanced_caption", "{key}_reason", "t5_xxl_num_tokens", "rows"} <= general
    assert sorted(key for key in general if not named_in(key, OUTPUTS)) == []


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_stages_of_the_page_on_extending_work(in_folder: Path) -> None:
    pytest.importorskip("torch", reason="the base class of embedders asks torch for a GPU")
    make_video(in_folder / "video.mp4", num_frames=60, width=96, height=64, options={"g": "20", "keyint_min": "20"})
    namespace: dict[str, Any] = {"__name__": "extending"}
    for text in blocks(ROOT / "docs" / "extending.md", "python"):
        exec(compile(text, "docs/extending.md", "exec"), namespace)
    done: list[VideoTask] = namespace["done"]
    assert [task.data.failure for task in done] == [None]
    (chunk,) = [json.loads(path.read_text()) for path in Path("processed/processed_clip_chunks").glob("*")]
    # 30 frames a second and a key frame each 20: the first one that is half a second on begins a clip
    assert [entry["span"][0] for entry in chunk["clips"]] == pytest.approx([0, 2 / 3, 4 / 3])
    assert all(list(entry["embeddings"]) == ["colour_embd"] for entry in chunk["clips"])
    assert all(entry["captions"][0]["brightness_caption"].endswith("scene.") for entry in chunk["clips"])
    assert all(os.path.exists(f"processed/clips/{entry['uuid']}.mp4") for entry in chunk["clips"])
    task = done[0]
    brightness = [float(clip.notes["brightness"]) for clip in task.data.clips]
    task.data.filtered_clips = []
    list(namespace["BrightnessFilterStage"](min_brightness=min(brightness) + 0.1).process(task))
    assert len(task.data.clips) + len(task.data.filtered_clips) == 3
