"""``clipmill search`` over whole runs: by clip, by file, by text."""

import json
import math
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from jobs import exits
from tests.captioning.tiny_models import require_transformers
from tests.embedding import tiny_cosmos
from tests.footage import footage, small_footage
from tests.local_runs import ROOT, clipmill, clipmill_here, make_videos, run_here, write_config

TEXTS = ["a red car", "a blue dog runs"]
SHORT = {"fixed_stride_min_clip_length_s": 0.5}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run over real footage, embedded by a model that knows no texts."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "raw").mkdir()
    for source in (footage("bikes.mp4"), small_footage("big_buck_bunny_1.mp4")):
        shutil.copy(source, folder / "raw")
    return ran(
        folder,
        folder / "raw",
        split={"splitting_algorithm": "fixed-stride", "fixed_stride_split_duration": 1.2, **SHORT},
        previews={"generate_previews": False},
        embeddings={"embedding_algorithm": "efficientnet-lite0"},
    )


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with previews, embedded by a model with random weights that knows some words."""
    require_transformers()
    folder = tmp_path_factory.mktemp("texts")
    tiny_cosmos.write_cosmos_embed1(folder / "models" / tiny_cosmos.REPOSITORY)
    return ran(
        folder,
        make_videos(folder / "raw", 3),
        models={"model_dir": str(folder / "models")},
        embeddings={"embedding_algorithm": "cosmos-embed1-224p", "texts_to_verify": TEXTS},
    )


def ran(folder: Path, raw: Path, **settings: Any) -> Path:
    done = run_here("run", str(write_config(folder, raw, **settings)))
    assert done.returncode == exits.DONE, done.stderr
    return folder


def search(*arguments: str | Path, **environment: str) -> list[dict[str, Any]]:
    """What it finds, as JSON."""
    asked = ("search", *map(str, arguments), "--json")
    done = clipmill(*asked, cwd=ROOT, **environment) if environment else clipmill_here(*asked)
    assert done.returncode == exits.DONE, done.stderr
    assert "warning" not in done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout)["results"]
    return results


def refused(*arguments: str | Path) -> tuple[int, str]:
    done = clipmill_here("search", *map(str, arguments))
    assert not done.stdout
    return done.returncode, done.stderr


def rows(tables: Path) -> tuple[list[str], NDArray[np.float64]]:
    found = pq.read_table(tables)
    return found["id"].to_pylist(), np.stack(found["embedding"].to_numpy()).astype(np.float64)


def meta(folder: Path, uuid: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"out/metas/v0/{uuid}.json").read_text())
    return found


def test_clips_like_one_are_those_with_the_greatest_cosines(real: Path) -> None:
    ids, vectors = rows(real / "out/enl0_embd_parquet")
    for own in (0, len(ids) // 2):
        cosines = vectors @ vectors[own]
        order = [k for k in np.argsort(-cosines, kind="stable") if k != own][:5]
        found = search(real / "out", "--like", ids[own], "--top", "5")
        assert [each["uuid"] for each in found] == [ids[k] for k in order]
        assert [each["rank"] for each in found] == [1, 2, 3, 4, 5]
        assert [each["cosine"] for each in found] == pytest.approx([cosines[k] for k in order], abs=1e-6)
        for each in found:
            said = meta(real, each["uuid"])
            assert (each["source_video"], each["span"]) == (said["source_video"], said["duration_span"])
            assert Path(each["clip"]) == real / "out/clips" / f"{each['uuid']}.mp4"


def test_a_run_is_named_by_its_folder_its_file_or_its_output(real: Path) -> None:
    ids, _ = rows(real / "out/enl0_embd_parquet")
    found = [search(place, "--like", ids[3]) for place in (real / "run", real / "config.yaml", real / "out")]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 10


def test_a_file_finds_the_clip_that_it_is(real: Path, tmp_path: Path) -> None:
    ids, _ = rows(real / "out/enl0_embd_parquet")
    for uuid in (ids[1], ids[-2]):
        file = tmp_path / "some video.mp4"
        shutil.copy(real / f"out/clips/{uuid}.mp4", file)
        (found,) = search(real / "run", "--like", file, "--top", "1")
        assert found["uuid"] == uuid
        assert found["cosine"] > 0.97  # frames before and after the clip was encoded differ a little


@pytest.fixture(scope="module")
def by_text(texts: Path) -> list[dict[str, dict[str, Any]]]:
    """For each text every clip that is found, by uuid."""
    return [{each["uuid"]: each for each in search(texts / "run", text, "--top", "99")} for text in TEXTS]


def test_cosines_with_texts_give_the_probabilities_that_stand_in_the_metas(
    texts: Path, by_text: list[dict[str, dict[str, Any]]]
) -> None:
    ids, _ = rows(texts / "out/ce1_embd_224p_parquet")
    assert set(by_text[0]) == set(by_text[1]) == set(ids)
    for uuid in ids:
        cosines = [found[uuid]["cosine"] for found in by_text]
        match = meta(texts, uuid)["text_match"]
        best = int(np.argmax(cosines))
        assert match["text"] == TEXTS[best]
        odds = 1 / (1 + math.exp(-100 * (cosines[best] - cosines[1 - best])))  # the softmax of 100 cosines, of two
        assert match["probability"] == pytest.approx(odds, abs=1e-4)


def test_an_output_without_its_run_takes_the_weights_that_are_set(
    texts: Path, by_text: list[dict[str, dict[str, Any]]]
) -> None:
    alone = search(texts / "out", TEXTS[0], "--top", "99", "--set", f"models.model_dir={texts / 'models'}")
    assert alone == list(by_text[0].values())
    code, said = refused(texts / "out", TEXTS[0], "--set", f"models.model_dir={texts / 'nowhere'}")
    assert code == exits.FAILED
    assert f"clipmill models pull --model {tiny_cosmos.REPOSITORY}" in said


def test_other_weights_than_those_of_the_vectors_are_told(texts: Path, tmp_path: Path) -> None:
    tiny_cosmos.write_cosmos_embed1(tmp_path / tiny_cosmos.REPOSITORY, seed=1)
    done = clipmill_here("search", str(texts / "run"), TEXTS[0], "--set", f"models.model_dir={tmp_path}")
    assert done.returncode == exits.DONE
    assert "warning: the vectors were made by nvidia/Cosmos-Embed1-224p@local:" in done.stderr


def test_what_is_printed_says_where_a_clip_is_from_and_what_it_shows(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(texts / "out", out)
    ids, _ = rows(out / "ce1_embd_224p_parquet")
    (best, *_) = search(out, "--like", ids[0])
    path = out / f"metas/v0/{best['uuid']}.json"
    said = json.loads(path.read_text())
    said["windows"][0] |= {"qwen_caption": "A car.", "qwen_lm_enhanced_caption": "A red car [turns] left."}
    path.write_text(json.dumps(said))
    printed = clipmill_here("search", str(out), "--like", ids[0]).stdout.splitlines()
    start_s, end_s = said["duration_span"]
    source = said["source_video"]
    assert printed[0] == f"  1  {best['cosine']:.4f}  {best['uuid']}  {start_s:.2f} to {end_s:.2f} s of {source}"
    assert printed[1] == "     A red car [turns] left."
    assert printed[2] == f"     {out}/clips/{best['uuid']}.mp4"
    window = said["windows"][0]
    (caption,) = search(out, "--like", ids[0])[0]["captions"]
    frames = {"start_frame": window["start_frame"], "end_frame": window["end_frame"]}
    assert caption == {**frames, "caption": "A red car [turns] left."}


class Page(HTMLParser):
    """Where pictures come from, and all text."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name == "src"]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("has_previews", [True, False])
def test_the_page_that_is_opened_shows_each_clip(texts: Path, tmp_path: Path, has_previews: bool) -> None:
    folder = tmp_path / "<copy> & more"
    shutil.copytree(texts / "out", folder)
    if not has_previews:
        shutil.rmtree(folder / "previews")
    opener = tmp_path / "bin/xdg-open"
    opener.parent.mkdir()
    opener.write_text('#!/bin/sh\nprintf %s "$1" > "$(dirname "$0")/opened"\n')
    opener.chmod(0o755)
    ids, _ = rows(folder / "ce1_embd_224p_parquet")
    path = f"{opener.parent}{os.pathsep}{os.environ['PATH']}"
    found = search(folder, "--like", ids[0], "--top", "3", "--open", PATH=path, TMPDIR=str(tmp_path))
    page = Page()
    page.feed(Path((opener.parent / "opened").read_text()).read_text())
    files = [Path(url2pathname(source.removeprefix("file://"))) for source in page.sources]
    assert all(file.is_file() for file in files)
    shown = [file.parent.name if has_previews else file.stem for file in files]
    assert shown == [each["uuid"] for each in found]
    assert {file.suffix for file in files} == {".webp" if has_previews else ".mp4"}
    assert all(each["clip"] in page.text for each in found)


def test_vectors_of_two_models_are_searched_one_at_a_time(texts: Path, tmp_path: Path) -> None:
    shutil.copytree(texts / "out/ce1_embd_224p_parquet", tmp_path / "ce1_embd_224p_parquet")
    shutil.copytree(texts / "out/ce1_embd_224p_parquet", tmp_path / "iv2_embd_parquet")
    ids, _ = rows(tmp_path / "iv2_embd_parquet")
    code, said = refused(tmp_path, "--like", ids[0])
    assert code == exits.USAGE
    assert "cosmos-embed1-224p, internvideo2" in said
    assert "--embedding" in said
    expected = [each["uuid"] for each in search(texts / "run", "--like", ids[0])]
    for name in ("internvideo2", "iv2_embd", "iv2_embd_parquet"):
        found = search(tmp_path, "--like", ids[0], "--embedding", name)
        assert [each["uuid"] for each in found] == expected
        assert all(each["span"] is None for each in found)  # there are no metas here


NO_CLIP = "00000000-0000-0000-0000-000000000001"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(["out", "a cat"], exits.USAGE, "knows no texts", id="a model without texts"),
        pytest.param(["out"], exits.USAGE, "give a text, or --like", id="nothing to look for"),
        pytest.param(["out", "a", "--like", "b"], exits.USAGE, "give a text, or --like", id="two things to look for"),
        pytest.param(["out", "--like", NO_CLIP], exits.USAGE, f"clip {NO_CLIP} has no vector", id="an unknown clip"),
        pytest.param(["out", "--like", "no.mp4"], exits.FAILED, "No such file", id="a file that is not there"),
        pytest.param(["out", "--like", "out/summary.json"], exits.USAGE, "can't be embedded", id="a file of no video"),
        pytest.param(["out/clips", "a cat"], exits.USAGE, "vectors of 0 models", id="a folder without vectors"),
        pytest.param(["nowhere", "a cat"], exits.USAGE, "no run folder", id="no folder"),
        pytest.param(["out", "a", "--embedding", "iv2_embd"], exits.USAGE, "efficientnet-lite0", id="another model"),
        pytest.param(["out", "a", "--set", "models.x=1"], exits.USAGE, "models.x: unknown key", id="no such setting"),
        pytest.param(["out", "a", "--top", "0"], exits.USAGE, "--top", id="no clips"),
    ],
)
def test_what_cannot_be_looked_for_is_said_in_a_line(real: Path, arguments: list[str], code: int, said: str) -> None:
    done = clipmill_here(
        "search", *(str(real / each) if each.startswith(("out", "nowhere", "no.")) else each for each in arguments)
    )
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
