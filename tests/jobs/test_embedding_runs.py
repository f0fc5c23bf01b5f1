"""Whole runs with embeddings and filters: from the YAML to the tables of vectors."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from curation.embedding.efficientnet_lite import EfficientNetLiteEmbeddingStage, EfficientNetLiteFrameCreationStage
from curation.model import Clip, Video, VideoTask
from curation.pipeline import Pipeline
from jobs import exits
from tests.captioning.tiny_models import require_transformers
from tests.embedding import tiny_cosmos
from tests.footage import DEMO_MEDIA, footage, small_footage
from tests.local_runs import clipmill_here, digests, make_videos, run_here, write_config


def run(folder: Path, raw: Path, **settings: Any) -> Path:
    settings.setdefault("previews", {"generate_previews": False})
    done = run_here("run", str(write_config(folder, raw, **settings)))
    assert done.returncode == exits.DONE, done.stderr
    return folder / "out"


def rows(folder: Path) -> dict[str, NDArray[np.float32]]:
    """All vectors of a folder of tables, by clip."""
    found: dict[str, NDArray[np.float32]] = {}
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path)
        assert table.schema.names == ["id", "embedding"]
        vectors = np.stack(table["embedding"].to_numpy())
        assert vectors.dtype == np.float32
        assert not set(found) & set(table["id"].to_pylist())
        found |= dict(zip(table["id"].to_pylist(), vectors, strict=True))
    return found


def metas(out: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in (out / "metas/v0").glob("*.json")}


def alone(out: Path, uuid: str) -> NDArray[np.float32]:
    """What the stages make of a clip's mp4."""
    span = json.loads((out / f"metas/v0/{uuid}.json").read_text())["duration_span"]
    clip = Clip(UUID(uuid), "", tuple(span), buffer=(out / f"clips/{uuid}.mp4").read_bytes())
    pipeline = Pipeline("alone").add_stage(EfficientNetLiteFrameCreationStage())
    pipeline.add_stage(EfficientNetLiteEmbeddingStage())
    pipeline.run([VideoTask("t", "d", Video(Path("v"), clips=[clip], num_clip_chunks=1))])
    assert clip.efficientnet_lite0_embedding is not None
    return clip.efficientnet_lite0_embedding


def test_each_kept_clip_has_one_row_with_its_own_vector(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for path in (small_footage(DEMO_MEDIA[0]), footage("cityCC0.mpg")):
        shutil.copy(path, raw)
    out = run(
        tmp_path,
        raw,
        split={"splitting_algorithm": "fixed-stride", "fixed_stride_split_duration": 2},
        embeddings={"embedding_algorithm": "efficientnet-lite0", "write_embedding_pickles": True},
    )
    found = rows(out / "enl0_embd_parquet")
    assert set(found) == set(metas(out))
    assert len(found) >= 10
    for uuid, vector in found.items():
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
        assert np.array_equal(pickle.loads((out / f"enl0_embd/{uuid}.pickle").read_bytes()), vector)
    for uuid in sorted(found)[::4]:  # the clip's own mp4, looked at by itself, is nearest to the row of its id
        own = alone(out, uuid)
        assert max(found, key=lambda other: float(found[other] @ own)) == uuid
        assert float(found[uuid] @ own) > 0.97
    summary = json.loads((out / "summary.json").read_text())
    assert summary["embedding_algorithm"] == "efficientnet-lite0"
    assert summary["total_num_clips_with_embeddings"] == len(found)


def test_tables_say_how_they_came_to_be_and_a_second_aggregation_gives_the_same(tmp_path: Path) -> None:
    raw = make_videos(tmp_path / "raw", 2)
    out = run(tmp_path, raw, embeddings={"embedding_algorithm": "efficientnet-lite0"})
    (table,) = (out / "enl0_embd_parquet").glob("*.parquet")
    said = {key.decode(): value.decode() for key, value in pq.read_schema(table).metadata.items()}
    assert said["embedding_algorithm"] == "efficientnet-lite0"
    assert said["model"].startswith("sha256:")
    before = digests(out)
    assert clipmill_here("aggregate", str(tmp_path / "run")).returncode == exits.DONE
    assert digests(out) == before
    assert not (out / "enl0_embd").exists()


def test_the_text_that_fits_best_stands_in_metas_and_report(tmp_path: Path) -> None:
    require_transformers()
    models = tmp_path / "models"
    tiny_cosmos.write_cosmos_embed1(models / tiny_cosmos.REPOSITORY)
    raw = make_videos(tmp_path / "raw", 3)
    texts = ["a red car", "a blue dog runs"]
    out = run(
        tmp_path,
        raw,
        models={"model_dir": str(models)},
        embeddings={"embedding_algorithm": "cosmos-embed1-224p", "texts_to_verify": texts},
    )
    matches = [meta["text_match"] for meta in metas(out).values()]
    assert all(match["text"] in texts and 0.5 <= match["probability"] <= 1 for match in matches)
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["text_matches"] == {
        text: count for text in sorted(texts) if (count := sum(match["text"] == text for match in matches))
    }
    assert set(rows(out / "ce1_embd_224p_parquet")) == set(metas(out))
    meta = next(iter(metas(out).values()))
    assert meta["provenance"]["models"]["cosmos-embed1-224p"].startswith(f"{tiny_cosmos.REPOSITORY}@local:")


def test_missing_weights_are_an_error_of_the_plan(tmp_path: Path) -> None:
    raw = make_videos(tmp_path / "raw", 1)
    config = write_config(
        tmp_path,
        raw,
        models={"model_dir": str(tmp_path / "models")},
        embeddings={"embedding_algorithm": "internvideo2", "texts_to_verify": ["a car"]},
        filters={"aesthetic_threshold": 4.5},
    )
    done = clipmill_here("plan", str(config))
    assert done.returncode == exits.USAGE
    for repository in (
        "OpenGVLab/InternVideo2-Stage2_1B-224p-f4",
        "google-bert/bert-large-uncased",
        "openai/clip-vit-large-patch14",
        "ttj/sac-logos-ava1-l14-linearMSE",
    ):
        assert f"clipmill models pull --model {repository} --model-dir {tmp_path}/models" in done.stderr


def test_still_clips_are_left_out_with_measure_and_limit(tmp_path: Path) -> None:
    only = tmp_path / "raw"
    only.mkdir()
    shutil.copy(footage("bikes.mp4"), only)
    split = {"splitting_algorithm": "fixed-stride", "fixed_stride_split_duration": 2}
    scored = run(tmp_path / "scored", only, split=split, filters={"motion_filter": "score-only"})
    scores = {uuid: meta["motion_score"]["global_mean"] for uuid, meta in metas(scored).items()}
    limit = sorted(scores.values())[len(scores) // 2]
    filters = {"motion_filter": "enable", "motion_global_mean_threshold": limit}
    out = run(tmp_path / "filtered", only, split=split, filters=filters)
    found = metas(out)
    assert {uuid for uuid, meta in found.items() if meta["rejection"]} == {
        u for u, score in scores.items() if score < limit
    }
    for uuid, meta in found.items():
        if meta["rejection"]:
            assert meta["rejection"] == {"filter": "motion", "measure": scores[uuid], "limit": limit}
            assert (out / f"filtered_clips/{uuid}.mp4").is_file()
        else:
            assert (out / f"clips/{uuid}.mp4").is_file()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["total_num_clips_filtered_by_motion"] == sum(score < limit for score in scores.values()) > 0
