"""Runs with clips, dataset or both at a real S3 server: what they leave is what the same run leaves on a disk."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.storage import S3Options, Storage, storage_for
from curation.storage.local import LocalStorage
from curation.storage.options import MIB
from curation.writing.embeddings import to_text
from jobs import exits
from jobs.config import ConfigError, load_config
from jobs.embeddings import embeddings_collected
from jobs.ledger import Lease
from jobs.parts import planned_parts
from jobs.planning import plan_run
from jobs.rundir import RunDir
from tests.local_runs import clipmill, clipmill_here, digests, make_videos, work, write_config
from tests.s3.outputs import new_root, s3_config, stored
from tests.s3.server import BUCKET, S3Server
from tests.synthetic import make_video

COUNT = 3


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short videos, one with an odd name, one that is processed in parts, and one that is none."""
    folder = make_videos(tmp_path_factory.mktemp("raw"), 3)
    make_video(
        folder / "long + 100%.mp4", num_frames=240, width=96, height=64, options={"g": "24", "sc_threshold": "0"}
    )
    (folder / "broken.mp4").write_text("this is no video")
    return folder


def settings(raw: Path, **more: Any) -> dict[str, Any]:
    """The long video in three parts, in two shards."""
    size_gb = (raw / "long + 100%.mp4").stat().st_size / 1e9
    return {
        "plan": {"num_shards": 2, "max_part_gb": size_gb / COUNT * 1.01},
        "clips": {"num_clips_per_chunk": 4},
        **more,
    }


@pytest.fixture(scope="module")
def on_disk(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with local outputs."""
    folder = tmp_path_factory.mktemp("on_disk")
    outputs = {"output_dataset_path": str(folder / "dataset")}
    done = clipmill("run", str(write_config(folder, raw, **settings(raw, **outputs))))
    assert done.returncode == exits.DONE, done.stderr
    (parts,) = planned_parts(RunDir(folder / "run").shards(1)).values()
    assert len(parts) == COUNT
    return folder


@pytest.fixture(scope="module")
def wanted(on_disk: Path) -> dict[str, str]:
    return outputs_of(on_disk)


def outputs_of(folder: Path) -> dict[str, str]:
    return {f"{name}/{path}": digest for name in ("out", "dataset") for path, digest in digests(folder / name).items()}


def differing(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    return sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))


def test_a_run_on_s3_leaves_the_bytes_of_a_run_on_disk_and_no_credential_anywhere(
    raw: Path, wanted: dict[str, str], s3_env: S3Server, tmp_path: Path
) -> None:
    root = new_root()
    path = s3_config(tmp_path, raw, s3_env, root, **settings(raw))
    done = clipmill("run", str(path), CLIPMILL_LOG_LEVEL="DEBUG")
    assert done.returncode == exits.DONE, done.stderr
    assert differing(stored(root, s3_env), wanted) == []
    for said in (done.stdout, done.stderr):
        assert_tells_no_credential(said.encode(), s3_env)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert_tells_no_credential(file.read_bytes(), s3_env)
    storage = storage_for(root, S3Options(endpoint_url=s3_env.endpoint_url))
    for each in storage.list():
        assert_tells_no_credential(storage.read(each.path), s3_env)
    assert list(storage.leftovers(older_than_s=0)) == []

    # what is done again takes its records away and puts others there
    again = clipmill("resume", str(path), "--failed", "all", "--set", "previews.target_fps=2")
    assert again.returncode == exits.DONE, again.stderr
    assert any(path.startswith("out/previews/") for path in differing(stored(root, s3_env), wanted))
    back = clipmill("resume", str(path), "--set", "previews.target_fps=1")
    assert back.returncode == exits.DONE, back.stderr
    assert differing(stored(root, s3_env), wanted) == []
    assert clipmill_here("leftovers", str(path)).stdout == ""


def test_clips_on_s3_are_annotated_as_those_on_a_disk(on_disk: Path, s3_env: S3Server, tmp_path: Path) -> None:
    root = new_root()
    storage = storage_for(root, S3Options(endpoint_url=s3_env.endpoint_url))
    shutil.copytree(on_disk / "out", tmp_path / "out")
    for path in sorted((tmp_path / "out").rglob("*")):
        if path.is_file():
            storage.write(str(path.relative_to(tmp_path)), path.read_bytes())
    local = {"output_clip_path": str(tmp_path / "out")}
    on_s3: dict[str, Any] = {"output_clip_path": f"{root}/out", "s3": {"endpoint_url": s3_env.endpoint_url}}
    for name, places in (("local", local), ("s3", on_s3)):
        run = {"run_dir": str(tmp_path / name), "annotate": {"annotation_version": "v1"}, "cluster": "local"}
        config = tmp_path / f"{name}.yaml"
        config.write_text(json.dumps({**run, **places, "previews": {"target_fps": 3.0}}))
        done = clipmill("annotate", str(config))
        assert done.returncode == exits.DONE, done.stderr
    found, wanted = stored(root, s3_env), {f"out/{path}": digest for path, digest in digests(tmp_path / "out").items()}
    assert differing(found, wanted) == []
    assert any(path.startswith("out/v1/previews/") for path in found)


def assert_tells_no_credential(content: bytes, server: S3Server) -> None:
    assert server.secret_key.encode() not in content
    assert server.access_key.encode() not in content


@pytest.mark.parametrize("on_s3", ["output_clip_path", "output_dataset_path"])
def test_clips_and_dataset_may_lie_in_different_places(
    raw: Path, wanted: dict[str, str], s3_env: S3Server, tmp_path: Path, on_s3: str
) -> None:
    root = new_root()
    local = {"output_clip_path": str(tmp_path / "out"), "output_dataset_path": str(tmp_path / "dataset")}
    names = {"output_clip_path": "out", "output_dataset_path": "dataset"}
    path = s3_config(tmp_path, raw, s3_env, root, **settings(raw, **local | {on_s3: f"{root}/{names[on_s3]}"}))
    done = clipmill("run", str(path))
    assert done.returncode == exits.DONE, done.stderr
    assert differing(stored(root, s3_env) | outputs_of(tmp_path), wanted) == []


def test_every_object_says_what_it_is(raw: Path, s3_env: S3Server, tmp_path: Path) -> None:
    root = new_root()
    (tmp_path / "raw").mkdir()
    shutil.copy(raw / "v0.mp4", tmp_path / "raw")
    run = plan_run(load_config(s3_config(tmp_path, tmp_path / "raw", s3_env, root))).run
    assert work(run)[0] == exits.DONE
    assert clipmill("aggregate", str(run.root)).returncode == exits.DONE
    client, prefix = s3_env.client(), root.removeprefix(f"s3://{BUCKET}/")
    types: dict[str, set[str]] = {}
    for each in client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")["Contents"]:
        kind = client.head_object(Bucket=BUCKET, Key=each["Key"])["ContentType"]
        types.setdefault(each["Key"].rpartition(".")[2], set()).add(kind)
    assert types["mp4"] == {"video/mp4"}
    assert types["webp"] == {"image/webp"}
    assert types["json"] == {"application/json"}
    assert types["tar"] == {"application/x-tar"}


def test_long_names_of_videos_fit_into_keys(s3_env: S3Server, tmp_path: Path) -> None:
    """Two ids of 899 bytes that differ in the last; their rows name files of their own."""
    make_videos(tmp_path / "raw", 1)
    ids = ["/".join(["d" * 180] * 4 + ["e" * 174 + last]) for last in "xy"]
    rows = [{"id": each, "path": "v0.mp4"} for each in ids]
    manifest = tmp_path / "videos.jsonl"
    manifest.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    root = f"{new_root()}/{'p' * 200}"
    path = s3_config(tmp_path, tmp_path / "raw", s3_env, root, manifest=str(manifest))
    done = clipmill("run", str(path))
    assert done.returncode == exits.DONE, done.stderr
    videos = json.loads(storage_for(f"{root}/out", S3Options(endpoint_url=s3_env.endpoint_url)).read("summary.json"))
    assert {each: video["status"] for each, video in videos["videos"].items()} == dict.fromkeys(ids, "done")


# What a plan says


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"run_dir": "s3://lake/run"}, "run_dir: the run's state needs a file system", id="run_dir"),
        pytest.param({"output_s3_profile_name": "reader"}, "profile 'reader' may not do that", id="may not write"),
        pytest.param({"output_s3_profile_name": "nobody"}, "there is no profile 'nobody'", id="no such profile"),
        pytest.param({"output_dataset_path": "s3://gone/x"}, "output_dataset_path: .*no bucket 'gone'", id="no bucket"),
        pytest.param(
            {"s3": {"endpoint_url": "http://127.0.0.1:1"}}, "no answer from http://127.0.0.1:1", id="no server"
        ),
        pytest.param({"output_clip_path": "gs://lake/x"}, "no storage for 'gs://lake/x'", id="another scheme"),
        pytest.param({"output_clip_path": f"s3://lake/{'p' * 300}"}, "the prefix has 300 bytes", id="a long prefix"),
    ],
)
def test_a_plan_says_what_is_wrong_with_an_output(
    raw: Path, s3_env: S3Server, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        plan_run(load_config(s3_config(tmp_path, raw, s3_env, new_root(), **changes)))


def test_a_plan_leaves_nothing_at_the_outputs(raw: Path, s3_env: S3Server, tmp_path: Path) -> None:
    root = new_root()
    plan_run(load_config(s3_config(tmp_path, raw, s3_env, root)))
    storage = storage_for(root, S3Options(endpoint_url=s3_env.endpoint_url))
    assert list(storage.list()) == []
    assert list(storage.leftovers(older_than_s=0)) == []


# Tables and tars


def test_a_table_of_several_parts_has_the_same_bytes_on_s3_and_on_disk(s3_env: S3Server, tmp_path: Path) -> None:
    options = S3Options(endpoint_url=s3_env.endpoint_url, part_size_bytes=5 * MIB)
    vectors = np.random.default_rng(0).normal(size=(6000, 256)).astype(np.float32)
    entries = [{"uuid": str(i), "embeddings": {"iv2_embd": to_text(vector)}} for i, vector in enumerate(vectors)]
    remote: Storage = storage_for(new_root(), options)
    for storage in (remote, LocalStorage(str(tmp_path))):
        assert len(list(embeddings_collected([{"clips": entries}], storage, provenance={}))) == 1
    path = "iv2_embd_parquet/000000.parquet"
    assert remote.size(path) > 5 * MIB
    assert hashlib.sha256(remote.read(path)).digest() == hashlib.sha256((tmp_path / path).read_bytes()).digest()


# What killed writers leave


@pytest.fixture
def littered(raw: Path, s3_env: S3Server, tmp_path: Path) -> tuple[RunDir, Storage]:
    """A run that is planned, an upload that nobody completed at its clips, and a hidden file in its folder."""
    root = new_root()
    run = plan_run(load_config(s3_config(tmp_path, raw, s3_env, root))).run
    prefix = root.removeprefix(f"s3://{BUCKET}/")
    s3_env.client().create_multipart_upload(Bucket=BUCKET, Key=f"{prefix}/out/v0/catalogue.parquet")
    (run.root / f".{'0' * 32}.tmp").write_bytes(b"half")
    return run, storage_for(f"{root}/out", S3Options(endpoint_url=s3_env.endpoint_url))


def test_doctor_names_what_was_left_aside_and_removes_it_when_told(littered: tuple[RunDir, Storage]) -> None:
    run, storage = littered
    young = clipmill_here("doctor", str(run.root), "--clean")
    assert "nothing that is 24 h old" in young.stdout
    listed = clipmill_here("doctor", str(run.root), "--older-than-h", "0")
    assert listed.stdout.count("left aside: ") == 2
    assert f"{storage.root}/v0/catalogue.parquet (unfinished upload" in listed.stdout
    assert len(list(storage.leftovers(older_than_s=0))) == 1
    cleaned = clipmill_here("doctor", str(run.root), "--older-than-h", "0", "--clean")
    assert cleaned.stdout.count("removed: ") == 2
    assert list(storage.leftovers(older_than_s=0)) == []
    assert not list(run.root.glob(".*.tmp"))
    assert (run.root / "run.yaml").is_file()


@pytest.mark.parametrize("holder", ["shard-00000.json", "aggregation.json"])
def test_doctor_removes_nothing_while_somebody_is_at_work(littered: tuple[RunDir, Storage], holder: str) -> None:
    run, storage = littered
    lease = Lease(run.leases_path / holder, 60.0)
    assert lease.acquire()
    try:
        refused = clipmill_here("doctor", str(run.root), "--older-than-h", "0", "--clean")
        assert refused.returncode == exits.FAILED
        assert "may be writing" in refused.stderr
        assert len(list(storage.leftovers(older_than_s=0))) == 1
    finally:
        lease.release()
