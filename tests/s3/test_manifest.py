"""Prefixes and lists on S3 as manifests: in the order of keys whatever the server's, and what is wrong is told soon."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.storage import S3Options
from jobs import exits, manifest_s3
from jobs.manifest import MAX_ID_BYTES, MAX_ID_SEGMENT_BYTES, ManifestVideo
from jobs.manifest_copy import copy_manifest, read_manifest
from jobs.manifest_rows import ManifestError
from jobs.manifest_s3 import fitting_id
from tests.local_runs import clipmill_here, write_config
from tests.s3.conftest import Counted
from tests.s3.proxy import Fault, Proxy
from tests.s3.server import BUCKET, S3Server


def put(server: S3Server, prefix: str, *names: str, content: bytes = b"x") -> str:
    client = server.client()
    for name in names:
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=content)
    return f"s3://{BUCKET}/{prefix}"


def options(server: S3Server) -> S3Options:
    return S3Options(endpoint_url=server.endpoint_url, part_size_bytes=5 * 2**20, max_tries=2)


NAMES = ["b.mp4", "a/z.mp4", "a b.mp4", "a-b/c.MP4", "a.mkv", "日本/é.mov", "Z.mp4", "a+%20?.webm"]


@pytest.mark.parametrize("in_memory", [2, 2**17], ids=["through a file", "in memory"])
def test_a_prefix_is_its_videos_in_the_order_of_their_keys(
    s3_env: S3Server, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(manifest_s3, "_KEYS_IN_MEMORY", in_memory)
    root = put(s3_env, f"order-{in_memory}", *NAMES, ".hidden.mp4", "a/.b/c.mp4", "notes.txt", "a/")
    videos = read_manifest(f"{root}/", s3=options(s3_env))
    assert [(video.id, video.path) for video in videos] == [(name, f"{root}/{name}") for name in sorted(NAMES)]
    assert [video.extra for video in videos] == [{}] * len(NAMES)


def test_the_sizes_of_a_listing_are_the_costs_and_nothing_else_is_asked(s3_env: S3Server, counted: Counted) -> None:
    put(s3_env, "sizes", "a.mp4", content=b"x" * 1000)
    root = put(s3_env, "sizes", "b.mp4", content=b"x" * 30)
    table = copy_manifest(root, lambda _: None, s3=options(s3_env))
    assert table.costs.tolist() == [1000, 30]
    assert counted() == {"ListObjectsV2": 2}  # one of them a look whether that can be done


def test_a_list_may_be_on_s3_and_what_tells_its_size_is_not_asked(s3_env: S3Server, counted: Counted) -> None:
    root = put(s3_env, "list", *(f"{k}.mp4" for k in range(20)), content=b"x" * 7)
    rows = [{"path": f"{k}.mp4", **({"size_bytes": 70} if k < 15 else {})} for k in range(20)]
    rows += [{"path": f"{root}/gone.mp4"}]
    put(s3_env, "list", "of videos.jsonl", content="".join(json.dumps(row) + "\n" for row in rows).encode())
    table = copy_manifest(f"{root}/of videos.jsonl", lambda _: None, s3=options(s3_env))
    assert table.costs.tolist() == [70] * 15 + [7] * 5 + [1]
    assert (table.num_missing, table.num_looked) == (1, 7)
    assert table.first_missing == f"line 21: '{root}/gone.mp4': no such object"
    asked = counted()
    assert asked["HeadObject"] == 1 + 7  # of the list; of one with a size, and of those without
    assert asked["GetObject"] == 1


def test_a_problem_of_a_list_is_told_with_its_address(s3_env: S3Server) -> None:
    rows = [{"path": "/a.mp4"}, {"path": "/b.mp4", "start_s": -1}, {"id": "x"}, {"path": "/c.mp4", "id": "a.mp4"}]
    root = put(s3_env, "bad", "m.jsonl", content="".join(json.dumps(row) + "\n" for row in rows).encode())
    with pytest.raises(ManifestError) as caught:
        read_manifest(f"{root}/m.jsonl", s3=options(s3_env))
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == [
        f"{root}/m.jsonl:{line}:".removesuffix(":") for line in (2, 3, 4)
    ]


def test_a_list_that_is_not_there_is_told(s3_env: S3Server) -> None:
    with pytest.raises(ManifestError, match=r"gone.csv': no such object"):
        read_manifest(f"s3://{BUCKET}/gone.csv", s3=options(s3_env))


def test_a_key_of_a_thousand_characters_makes_an_id(s3_env: S3Server) -> None:
    names = ["x" * 250 + "/" + "y" * 240 + f"/{'z' * 240}{k}.mp4" for k in range(2)]
    names += ["/".join(["seg"] * 240) + ".mp4"]
    root = put(s3_env, "long", *names)
    videos = read_manifest(root, s3=options(s3_env))
    assert [video.path for video in videos] == [f"{root}/{name}" for name in sorted(names)]
    assert len({video.id for video in videos}) == len(names)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1), min_size=1))
def test_a_fitting_id_is_an_id(segments: list[str]) -> None:
    long = "/".join(segment * 30 for segment in segments if segment not in {".", ".."}) * 3 or "x"
    found = fitting_id(long, max_bytes=MAX_ID_BYTES, max_segment_bytes=MAX_ID_SEGMENT_BYTES)
    ManifestVideo(found, "/x.mp4")
    assert found != fitting_id(f"{long}x", max_bytes=MAX_ID_BYTES, max_segment_bytes=MAX_ID_SEGMENT_BYTES)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        pytest.param({"input_s3_profile_name": "wrong-secret"}, "SignatureDoesNotMatch", id="wrong secret"),
        pytest.param({"input_s3_profile_name": "unknown-key"}, "InvalidAccessKeyId", id="unknown key"),
        pytest.param({"input_s3_profile_name": "empty"}, "profile 'empty' gives no credentials", id="no credentials"),
        pytest.param({"input_s3_profile_name": "gone"}, "there is no profile 'gone'", id="no profile"),
        pytest.param({"input_video_path": "s3://no-such-lake/x"}, "there is no bucket 'no-such-lake'", id="no bucket"),
        pytest.param({"input_video_path": f"s3://{BUCKET}/nothing"}, "no video in it", id="nothing there"),
        pytest.param({"input_video_path": "gs://x/y"}, "known are local folders and s3://bucket/prefix", id="gs"),
        pytest.param({"s3": {"endpoint_url": "http://127.0.0.1:9"}}, "check s3.endpoint_url", id="no server"),
        pytest.param({"manifest": f"s3://{BUCKET}/gone.jsonl"}, "gone.jsonl': no such object", id="no list"),
    ],
)
def test_the_plan_says_what_to_mend(tmp_path: Path, s3_env: S3Server, settings: dict[str, object], told: str) -> None:
    put(s3_env, "plan", "a.mp4")
    settings = {"s3": {"endpoint_url": s3_env.endpoint_url}, "input_video_path": f"s3://{BUCKET}/plan", **settings}
    found = clipmill_here("plan", str(write_config(tmp_path, Path(), **settings)))
    assert found.returncode == exits.USAGE, found.stdout + found.stderr
    assert told in " ".join((found.stdout + found.stderr).split())


def test_a_refusal_is_told_by_the_plan(tmp_path: Path, s3_env: S3Server, proxy: Proxy) -> None:
    put(s3_env, "denied", "a.mp4")
    proxy.fail(Fault("answer", 403, b"<Error><Code>AccessDenied</Code></Error>"), times=9)
    settings = {"s3": {"endpoint_url": proxy.endpoint_url}, "input_video_path": f"s3://{BUCKET}/denied"}
    found = clipmill_here("plan", str(write_config(tmp_path, Path(), **settings)))
    assert found.returncode == exits.USAGE
    assert "input_video_path: can't list" in found.stdout + found.stderr
    assert "ask for the right to it" in " ".join((found.stdout + found.stderr).split())
    assert len([line for line in proxy.seen if "list-type" in line]) == 1  # it is not asked again and again
