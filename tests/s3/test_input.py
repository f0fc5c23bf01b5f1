"""Runs whose videos are on S3: the same output as from a folder, one download for each source, nothing left behind."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import exits
from jobs.rundir import RunDir
from tests.local_runs import digests, events, planned, start_worker, videos_of, wait_for, work, work_here
from tests.patience import PATIENCE_S
from tests.s3.proxy import Fault, Proxy
from tests.s3.server import BUCKET, S3Server
from tests.synthetic import make_video

PART_BYTES = 5 * 2**20
ODD_NAMES = [
    "v0.mp4",
    "a/same.mp4",
    "b/same.mp4",
    "b c/d e.mp4",
    "a+b/1+1=2 & 50%25.mp4",
    "日本 é/ü.mp4",
    "#?[x]'\".mp4",
    "/".join(["long" * 40] * 5) + ".mp4",
]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small videos with odd names."""
    folder = tmp_path_factory.mktemp("raw")
    for index, name in enumerate(ODD_NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make_video(folder / name, num_frames=30, width=96, height=64, first_number=100 * index)
    (folder / ".hidden.mp4").touch()
    (folder / "notes.txt").touch()
    return folder


@pytest.fixture
def prefix(s3_env: S3Server, raw: Path, request: pytest.FixtureRequest) -> str:
    """The same videos on S3."""
    return upload(s3_env, raw, f"in/{request.node.name}")


def upload(server: S3Server, folder: Path, prefix: str) -> str:
    client = server.client()
    for path in folder.rglob("*"):
        if path.is_file():
            client.put_object(Bucket=BUCKET, Key=f"{prefix}/{path.relative_to(folder)}", Body=path.read_bytes())
    return f"s3://{BUCKET}/{prefix}"


def s3_settings(endpoint_url: str, folder: Path, **worker: Any) -> dict[str, Any]:
    (folder / "scratch").mkdir(parents=True, exist_ok=True)
    worker = {"scratch_dir": str(folder / "scratch"), "scratch_min_gb": 0.0, "videos_at_once": 2, **worker}
    return {"s3": {"endpoint_url": endpoint_url, "part_size_mb": 5, "max_tries": 2}, "worker": worker}


def requests_of(run: RunDir, shard: int = 0) -> Counter[str]:
    found: Counter[str] = Counter()
    for event in events(run, shard):
        found.update(event.get("requests", {}))
    return found


def outputs(folder: Path, root: Path | str) -> dict[str, str]:
    """sha256 of every output file, as if the input had been at one and the same place."""
    for path in (folder / "out").rglob("*.json"):
        text = path.read_text().replace(json.dumps(str(root))[1:-1], "INPUT")
        path.write_text(re.sub(r'"content": \{\s*"v0": "[0-9a-f]{16}"\s*\}', "", text))  # metas have paths
    return digests(folder / "out")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> dict[str, str]:
    """What a run makes of the videos in the folder."""
    folder = tmp_path_factory.mktemp("local")
    code, log = work_here(planned(folder, raw))
    assert code == exits.DONE, log
    return outputs(folder, raw)


def test_input_on_s3_gives_what_a_folder_gives_with_one_request_for_each_source(
    tmp_path: Path, s3_env: S3Server, raw: Path, prefix: str, local: dict[str, str]
) -> None:
    run = planned(tmp_path, Path(), input_video_path=prefix, **s3_settings(s3_env.endpoint_url, tmp_path))
    code, log = work_here(run)
    assert code == exits.DONE, log
    assert outputs(tmp_path, prefix) == local
    assert requests_of(run) == {"GetObject": len(ODD_NAMES)}
    assert list((tmp_path / "scratch").iterdir()) == []


def test_what_does_not_fit_scratch_is_read_where_it_lies(
    tmp_path: Path, s3_env: S3Server, prefix: str, local: dict[str, str]
) -> None:
    settings = s3_settings(s3_env.endpoint_url, tmp_path, scratch_max_gb=0.0)
    run = planned(tmp_path, Path(), input_video_path=prefix, **settings)
    code, log = work_here(run)
    assert code == exits.DONE, log
    assert log.count("event=streamed") == len(ODD_NAMES)
    assert outputs(tmp_path, prefix) == local
    assert requests_of(run) == {"GetObject": len(ODD_NAMES)}  # each is smaller than a block


@pytest.fixture
def large(tmp_path: Path, s3_env: S3Server, request: pytest.FixtureRequest) -> tuple[Path, str]:
    """Videos of several parts and blocks, in a folder and on S3."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for index in range(2):
        path = folder / f"v{index}.mkv"
        make_video(path, num_frames=30, width=640, height=480, codec="rawvideo", options={}, first_number=100 * index)
    return folder, upload(s3_env, folder, f"large/{request.node.name}")


@pytest.mark.parametrize("max_gb", [None, 0.0], ids=["copied", "read where it lies"])
def test_a_source_of_several_parts_is_read_once(
    tmp_path: Path, s3_env: S3Server, large: tuple[Path, str], max_gb: float | None
) -> None:
    folder, uri = large
    assert work_here(planned(tmp_path / "local", folder))[0] == exits.DONE
    settings = s3_settings(s3_env.endpoint_url, tmp_path, scratch_max_gb=max_gb)
    run = planned(tmp_path / "s3", Path(), input_video_path=uri, **settings)
    code, log = work_here(run)
    assert code == exits.DONE, log
    assert outputs(tmp_path / "s3", uri) == outputs(tmp_path / "local", folder)
    sizes = [path.stat().st_size for path in folder.iterdir()]
    if max_gb is None:
        assert requests_of(run) == {"GetObject": sum(math.ceil(size / PART_BYTES) for size in sizes)}
    else:  # blocks of 4 MiB, at most once for each pass: what it is, when its frames are shown, the frames
        assert requests_of(run)["GetObject"] <= 3 * sum(math.ceil(size / 2**22) for size in sizes)


def test_parts_of_a_video_on_s3_are_those_of_the_file(
    tmp_path: Path, s3_env: S3Server, request: pytest.FixtureRequest
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    make_video(raw / "long.mp4", num_frames=300, width=96, height=64, options={"g": "30"})
    uri = upload(s3_env, raw, f"in/{request.node.name}")
    plan = {"num_shards": 3, "max_part_gb": (raw / "long.mp4").stat().st_size / 2.5 / 1e9}
    for folder, source, settings in (
        (tmp_path / "local", raw, {}),
        (tmp_path / "s3", uri, s3_settings(s3_env.endpoint_url, tmp_path)),
    ):
        run = planned(folder, Path(), input_video_path=str(source), plan=plan, **settings)
        codes = [work_here(run, shard=shard) for shard in range(3)]
        assert [code for code, _ in codes] == [exits.DONE] * 3, codes
        assert not [log for _, log in codes if "not_in_parts" in log]
    assert outputs(tmp_path / "s3", uri) == outputs(tmp_path / "local", raw)


def test_a_manifest_on_s3_may_name_objects_and_files(tmp_path: Path, s3_env: S3Server, raw: Path, prefix: str) -> None:
    rows = [
        {"path": f"{prefix}/{ODD_NAMES[4]}", "id": "far"},
        {"path": f"{prefix}/{ODD_NAMES[0]}", "start_s": 0.4, "id": "part"},
        {"path": str(raw / ODD_NAMES[1]), "id": "near"},
        {"path": f"{prefix}/gone.mp4", "id": "gone"},
    ]
    body = "".join(json.dumps(row) + "\n" for row in rows)
    s3_env.client().put_object(Bucket=BUCKET, Key="lists/a b.jsonl", Body=body.encode())
    settings = s3_settings(s3_env.endpoint_url, tmp_path)
    run = planned(tmp_path, Path(), input_video_path=None, manifest=f"s3://{BUCKET}/lists/a b.jsonl", **settings)
    code, log = work_here(run)
    assert code == exits.DONE, log
    assert sorted(videos_of(run, "done")) == ["far", "near", "part"]
    [failed] = [each for each in events(run) if each["event"] == "failed"]
    assert (failed["video"], failed["reason"]) == ("gone", "not_found")
    assert requests_of(run)["HeadObject"] <= 1  # of the one whose size the plan could not tell


def test_storage_that_is_away_is_no_fault_of_a_video(
    tmp_path: Path, s3_env: S3Server, prefix: str, local: dict[str, str]
) -> None:
    run = planned(tmp_path, Path(), input_video_path=prefix, **s3_settings(s3_env.endpoint_url, tmp_path))
    s3_env.stop()
    try:
        for _ in range(4):  # more often than a video may be begun
            code, log = work(run)
            assert code in {exits.INCOMPLETE, exits.FAILED}, log
    finally:
        s3_env.start()
    assert videos_of(run, "failed") == videos_of(run, "done") == []
    code, log = work(run)
    assert code == exits.DONE, log
    assert outputs(tmp_path, prefix) == local


@pytest.fixture
def proxy(s3_env: S3Server) -> Iterator[Proxy]:
    with Proxy(s3_env.port) as proxy:
        yield proxy


def is_video(line: str) -> bool:
    return line.startswith("GET") and ("mp4" in line or "mkv" in line)


@pytest.mark.parametrize("max_gb", [None, 0.0], ids=["copied", "read where it lies"])
@pytest.mark.parametrize("status", [503, 403])
def test_a_refusal_is_no_fault_of_a_video(
    tmp_path: Path, proxy: Proxy, prefix: str, local: dict[str, str], status: int, max_gb: float | None
) -> None:
    settings = s3_settings(proxy.endpoint_url, tmp_path, scratch_max_gb=max_gb)
    run = planned(tmp_path, Path(), input_video_path=prefix, **settings)
    code = {503: b"SlowDown", 403: b"AccessDenied"}[status]
    proxy.fail(Fault("answer", status, b"<Error><Code>%s</Code></Error>" % code), times=100, when=is_video)
    ended, log = work(run)
    if max_gb is None or status == 503:
        assert ended == exits.INCOMPLETE, log
    assert ended in {exits.INCOMPLETE, exits.FAILED}
    assert code.decode() in log
    assert videos_of(run, "failed") == videos_of(run, "done") == []
    proxy.heal()
    assert work(run)[0] == exits.DONE
    assert outputs(tmp_path, prefix) == local
    assert requests_of(run)["throttled"] >= (status == 503)


def test_what_one_source_is_refused_keeps_no_other_back(
    tmp_path: Path, proxy: Proxy, prefix: str, local: dict[str, str]
) -> None:
    run = planned(tmp_path, Path(), input_video_path=prefix, **s3_settings(proxy.endpoint_url, tmp_path))
    denied = Fault("answer", 403, b"<Error><Code>AccessDenied</Code></Error>")
    proxy.fail(denied, times=100, when=lambda line: line.startswith("GET") and line.endswith("/v0.mp4"))
    code, log = work(run)
    assert code == exits.INCOMPLETE
    assert "AccessDenied" in log
    assert len(videos_of(run, "done")) == len(ODD_NAMES) - 1
    assert videos_of(run, "failed") == []
    proxy.heal()
    assert work(run)[0] == exits.DONE
    assert outputs(tmp_path, prefix) == local


def test_a_connection_that_is_lost_in_the_middle_is_no_end_of_a_video(
    tmp_path: Path, s3_env: S3Server, proxy: Proxy, large: tuple[Path, str]
) -> None:
    folder, uri = large
    assert work(planned(tmp_path / "local", folder))[0] == exits.DONE
    settings = s3_settings(proxy.endpoint_url, tmp_path, scratch_max_gb=0.0)
    run = planned(tmp_path / "s3", Path(), input_video_path=uri, **settings)
    seen: Counter[str] = Counter()

    def is_second(line: str) -> bool:
        seen[line] += is_video(line)
        return is_video(line) and seen[line] > 1

    proxy.fail(Fault("drop_request"), times=1000, when=is_second)
    code, log = work(run)
    assert code == exits.INCOMPLETE, log
    assert videos_of(run, "failed") == videos_of(run, "done") == []
    proxy.heal()
    assert work(run)[0] == exits.DONE
    assert outputs(tmp_path / "s3", uri) == outputs(tmp_path / "local", folder)


def test_a_killed_worker_leaves_nothing_once_the_next_has_come(
    tmp_path: Path, proxy: Proxy, prefix: str, local: dict[str, str]
) -> None:
    scratch = tmp_path / "scratch"
    run = planned(tmp_path, Path(), input_video_path=prefix, **s3_settings(proxy.endpoint_url, tmp_path))
    for _ in range(3):
        before = len(proxy.seen)
        worker = start_worker(run)
        try:
            wait_for(lambda: any(map(is_video, list(proxy.seen)[before:])) or worker.poll() is not None)  # noqa: B023
        finally:
            worker.kill()
            worker.communicate(timeout=PATIENCE_S)
        assert len(list(scratch.iterdir())) <= 1
    code, log = work(run)
    assert code == exits.DONE, log
    assert list(scratch.iterdir()) == []
    assert outputs(tmp_path, prefix) == local
