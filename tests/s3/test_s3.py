"""What S3 is asked for, what is told when it refuses, and what nobody is told."""

import ast
import logging
import multiprocessing
import pickle
import random
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import curation
from curation.errors import StorageError
from curation.storage import S3Options, storage_for
from curation.storage.options import MIB
from curation.storage.s3 import S3Storage
from curation.storage.s3_client import client_for
from curation.storage.s3_create import Creator
from tests.s3.conftest import Counted, storage_at
from tests.s3.proxy import Fault, Proxy
from tests.s3.server import ADDRESS, BUCKET, S3Server

SEVERAL_PARTS = random.Random(0).randbytes(12 * MIB)


@pytest.fixture
def direct(s3_env: S3Server) -> S3Storage:
    """An empty storage, reached without the proxy."""
    return storage_at(s3_env.endpoint_url)


def test_only_one_module_imports_boto3_and_no_module_does_when_it_is_loaded() -> None:
    importers = set()
    for path in Path(curation.__file__).parents[1].glob("[cj]*/**/*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import) and any(each.name == "boto3" for each in node.names):
                importers.add(path.name)
                assert node not in tree.body
    assert importers == {"s3_client.py"}


# How many requests


def write_large(s3: S3Storage) -> None:
    s3.write("large", SEVERAL_PARTS)


def stream_small(s3: S3Storage) -> None:
    with s3.writing("small") as file:
        file.write(b"small")


def read_as_stream(s3: S3Storage) -> None:
    with s3.reading("before") as file:
        file.seek(5 * MIB)
        file.read(10)
        file.seek(1)
        file.read(10)


@pytest.mark.parametrize(
    ("act", "requests"),
    [
        pytest.param(lambda s3: s3.write("a", b"x"), {"PutObject": 1}, id="write"),
        pytest.param(stream_small, {"PutObject": 1}, id="a short stream"),
        pytest.param(
            write_large,
            {"CreateMultipartUpload": 1, "UploadPart": 3, "CompleteMultipartUpload": 1},
            id="12 MiB in parts of 5",
        ),
        pytest.param(lambda s3: s3.create("a", b"x"), {"PutObject": 1}, id="create"),
        pytest.param(lambda s3: s3.create("before", b"x"), {"PutObject": 1}, id="create what is there"),
        pytest.param(lambda s3: s3.read("before"), {"GetObject": 1}, id="read"),
        pytest.param(lambda s3: s3.read_range("before", 5, 9), {"GetObject": 1}, id="read a range"),
        pytest.param(read_as_stream, {"GetObject": 2}, id="read 20 bytes of two blocks"),
        pytest.param(lambda s3: s3.exists("before"), {"HeadObject": 1}, id="exists"),
        pytest.param(lambda s3: s3.exists("gone"), {"HeadObject": 1}, id="exists not"),
        pytest.param(lambda s3: s3.size("before"), {"HeadObject": 1}, id="size"),
        pytest.param(lambda s3: list(s3.list()), {"ListObjectsV2": 1}, id="list"),
        pytest.param(lambda s3: s3.delete("before"), {"DeleteObject": 1}, id="delete"),
        pytest.param(lambda s3: s3.delete_many(map(str, range(1500))), {"DeleteObjects": 2}, id="delete 1500"),
    ],
)
def test_no_request_is_sent_but_those_needed(
    direct: S3Storage, counted: Counted, act: Callable[[S3Storage], None], requests: dict[str, int]
) -> None:
    direct.write("before", SEVERAL_PARTS)
    direct.create("first", b"")  # asks once whether the server creates by condition
    direct.exists("gone")  # asks once whether there is a bucket
    before = counted()
    act(direct)
    assert counted() - before == requests


def test_a_download_asks_for_each_part_once(direct: S3Storage, counted: Counted, tmp_path: Path) -> None:
    direct.write("a", SEVERAL_PARTS)
    direct.download("a", tmp_path / "a")
    assert counted()["GetObject"] == 3


def test_a_listing_asks_for_a_page_when_it_is_needed(direct: S3Storage, counted: Counted) -> None:
    """A server that gives pages of two, of which a reader takes three objects."""
    for index in range(6):
        direct.write(f"{index}", b"")
    client_for(direct.options).meta.events.register("provide-client-params.s3.ListObjectsV2", _pages_of_two)
    try:
        listing = direct.list()
        assert [next(listing).path for _ in range(3)] == ["0", "1", "2"]
        assert counted()["ListObjectsV2"] == 2
        assert [path for path, _ in listing] == ["3", "4", "5"]
    finally:
        client_for(direct.options).meta.events.unregister("provide-client-params.s3.ListObjectsV2", _pages_of_two)


def _pages_of_two(params: dict[str, object], **_: object) -> None:
    params["MaxKeys"] = 2


# What objects are like


def test_a_content_type_tells_what_an_object_is(direct: S3Storage, s3_env: S3Server) -> None:
    types = {
        "a.mp4": "video/mp4",
        "a.B.WEBP": "image/webp",
        "a.json": "application/json",
        "a.tar": "application/x-tar",
        "a.parquet": "application/vnd.apache.parquet",
        "a": "application/octet-stream",
        "mp4": "application/octet-stream",
    }
    for path in types:
        direct.write(path, b"x")
    direct.create("once.json", b"{}")
    direct.write("large.mp4", SEVERAL_PARTS)
    types |= {"once.json": "application/json", "large.mp4": "video/mp4"}
    prefix = direct.root.removeprefix(f"s3://{BUCKET}/")
    heads = {path: s3_env.client().head_object(Bucket=BUCKET, Key=f"{prefix}/{path}") for path in types}
    assert {path: head["ContentType"] for path, head in heads.items()} == types


@pytest.mark.parametrize("root", [f"s3://{BUCKET}", f"s3://{BUCKET}/", f"s3://{BUCKET}/a", f"s3://{BUCKET}/a/b//"])
def test_a_key_is_prefix_slash_path(s3_env: S3Server, root: str) -> None:
    storage = storage_for(root, S3Options(endpoint_url=s3_env.endpoint_url))
    storage.write("c d.json", b"x")
    assert storage.root == root.rstrip("/")
    key = f"{root.rstrip('/')}/c d.json".removeprefix(f"s3://{BUCKET}/")
    assert s3_env.client().get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"x"


@pytest.mark.parametrize(("path", "problem"), [("x" * 1025, "1034 bytes, S3 holds 1024"), ("\udcff", "not UTF-8")])
def test_a_name_that_s3_cant_hold_is_told(direct: S3Storage, path: str, problem: str) -> None:
    for act in (direct.read, direct.exists, direct.delete, lambda path: direct.write(path, b"")):
        with pytest.raises(StorageError, match=problem):
            act(path)


def test_marks_of_folders_are_no_objects(direct: S3Storage, s3_env: S3Server) -> None:
    prefix = direct.root.removeprefix(f"s3://{BUCKET}/")
    s3_env.client().put_object(Bucket=BUCKET, Key=f"{prefix}/folder/")
    direct.write("folder/a", b"x")
    assert list(direct.list()) == [("folder/a", 1)]


# Servers that create by no condition


@pytest.fixture
def unconditional(s3_env: S3Server) -> S3Storage:
    """A storage whose server never sees a condition, as if it heeded none."""
    options = S3Options(endpoint_url=s3_env.endpoint_url, region="no-conditions")
    client_for(options).meta.events.register("before-sign.s3.PutObject", _without_condition)
    return S3Storage(storage_at(s3_env.endpoint_url).root, options)


def _without_condition(request: object, **_: object) -> None:
    headers = getattr(request, "headers")  # noqa: B009
    del headers["If-None-Match"]


def test_of_many_who_create_the_same_object_one_wins_without_conditions(unconditional: S3Storage) -> None:
    barrier, won = threading.Barrier(16), set[int]()

    def create(index: int) -> None:
        barrier.wait()
        if unconditional.create("a", b"%d" % index):
            won.add(index)

    threads = [threading.Thread(target=create, args=(index,)) for index in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = won
    assert unconditional.read("a") == b"%d" % winner
    assert not unconditional.create("a", b"later")
    assert [path for path, _ in unconditional.list()] == ["a"]
    assert list(unconditional.leftovers(older_than_s=0)) == []


def test_a_claim_whose_writer_died_is_waited_for_no_longer_than_its_lease(unconditional: S3Storage) -> None:
    own = f"{unconditional.root.removeprefix(f's3://{BUCKET}/')}/.clipmill/"
    creator = Creator(unconditional.options, BUCKET, own, settle_s=1.1, lease_s=3)
    claims = creator.claims_of("key")
    client_for(unconditional.options).put_object(Bucket=BUCKET, Key=f"{claims}0", Body=b"")
    assert creator.create("key", b"x")
    (leftover,) = unconditional.leftovers(older_than_s=3)
    unconditional.remove_leftover(leftover)
    assert list(unconditional.leftovers(older_than_s=0)) == []


# What is told


def closed_endpoint(_: S3Server) -> S3Storage:
    return S3Storage(f"s3://{BUCKET}/a", S3Options(endpoint_url=f"http://{ADDRESS}:1", max_tries=2))


def as_profile(name: str) -> Callable[[S3Server], S3Storage]:
    return lambda server: storage_at(server.endpoint_url, profile_name=name)


def no_bucket(server: S3Server) -> S3Storage:
    return S3Storage("s3://no-bucket/a", S3Options(endpoint_url=server.endpoint_url))


MISTAKES = [
    pytest.param(as_profile("wrong-secret"), "the secret key of profile 'wrong-secret' is not the one", id="secret"),
    pytest.param(as_profile("unknown-key"), "does not know the access key of profile 'unknown-key'", id="key"),
    pytest.param(as_profile("absent"), "there is no profile 'absent' in boto3's files", id="no profile"),
    pytest.param(no_bucket, "there is no bucket 'no-bucket' at http://127.0.0.1:[0-9]+: check its name", id="bucket"),
    pytest.param(closed_endpoint, "no answer from http://127.0.0.1:1 after 2 tries .*endpoint_url", id="endpoint"),
]


@pytest.mark.parametrize(("storage_with_mistake", "advice"), MISTAKES)
def test_a_mistake_is_told_with_what_to_mend(
    s3_env: S3Server, storage_with_mistake: Callable[[S3Server], S3Storage], advice: str, tmp_path: Path
) -> None:
    storage = storage_with_mistake(s3_env)
    for act in (
        lambda: storage.write("a", b""),
        lambda: storage.create("a", b""),
        lambda: storage.read("a"),
        lambda: list(storage.list()),
        lambda: storage.download("a", tmp_path / "a"),
        lambda: storage.delete_many(["a"]),
        lambda: list(storage.leftovers(older_than_s=0)),
        lambda: storage.exists("a"),  # a HEAD, which has no body that would say why
    ):
        with pytest.raises(StorageError, match=advice):
            act()


def test_a_bucket_that_is_not_there_is_no_object_that_is_not_there(s3_env: S3Server) -> None:
    with pytest.raises(StorageError, match="there is no bucket 'no-bucket'"):
        no_bucket(s3_env).exists("a")
    with pytest.raises(StorageError, match="there is no bucket 'no-bucket'"):
        no_bucket(s3_env).read("a")


def test_who_may_only_read_is_told_so(s3_env: S3Server, direct: S3Storage) -> None:
    direct.write("a", b"x")
    reader = S3Storage(direct.root, replace(direct.options, profile_name="reader"))
    assert reader.read("a") == b"x"
    with pytest.raises(StorageError, match="AccessDenied: profile 'reader' may not do that"):
        reader.write("a", b"y")


def test_no_credentials_are_told(s3_env: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    default = S3Storage(f"s3://{BUCKET}", S3Options(endpoint_url=s3_env.endpoint_url, region="of-nobody"))
    with pytest.raises(StorageError, match=r"no credentials: name a profile .*output_s3_profile_name"):
        default.write("a", b"")
    with pytest.raises(StorageError, match="profile 'empty' gives no credentials"):
        as_profile("empty")(s3_env).write("a", b"")


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            Fault(
                "answer", 400, b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-north-1</Region></Error>"
            ),
            id="another region is expected",
        ),
        pytest.param(
            Fault("answer", 301, b"<Error><Code>PermanentRedirect</Code><Region>eu-north-1</Region></Error>"),
            id="the bucket is elsewhere",
        ),
    ],
)
def test_a_wrong_region_is_told_with_the_right_one(s3: S3Storage, proxy: Proxy, fault: Fault) -> None:
    proxy.fail(fault, times=10)
    with pytest.raises(StorageError, match=r"the bucket is in region eu-north-1: set s3\.region"):
        s3.write("a", b"")


# What nobody is told


def test_no_credential_is_in_a_log_a_message_or_a_value(
    s3_env: S3Server, proxy: Proxy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token-of-a-session")
    caplog.set_level(logging.DEBUG)
    told = []
    profiles = [None, "reader", "wrong-secret", "unknown-key"]
    storages = [storage_at(proxy.endpoint_url, profile_name=name) for name in profiles]
    for storage in storages:
        for act in (
            partial(storage.write, "a", b""),
            partial(storage.read, "a"),
            partial(storage.exists, "a"),
            partial(storage.create, "a", b""),
        ):
            try:
                act()
            except (StorageError, FileNotFoundError):
                told.append(traceback.format_exc())
        told += [repr(storage), repr(storage.options), repr(vars(storage)), str(pickle.dumps(storage))]
    assert len(told) > 16 + 6
    credentials = (s3_env.folder / "aws-credentials").read_text().split()
    hidden = {s3_env.access_key, s3_env.secret_key, "a-token-of-a-session"}
    hidden |= {word for word in credentials if len(word) > 15 and "_" not in word}
    assert len(hidden) == 7
    for secret in hidden:
        assert not any(secret in text for text in [*told, caplog.text])


def test_an_endpoint_with_a_password_is_refused_without_showing_it() -> None:
    with pytest.raises(ValueError, match="no user or password") as caught:
        S3Options(endpoint_url="https://someone:hunter2@s3.example.org")
    assert "hunter2" not in str(caught.value)


# Other processes


def use(storage: S3Storage, path: str) -> None:
    storage.write(path, SEVERAL_PARTS)
    assert storage.read(path) == SEVERAL_PARTS


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_uses_a_storage_that_this_one_has_used(direct: S3Storage, method: str) -> None:
    use(direct, "here")
    context = multiprocessing.get_context(method)
    children = [context.Process(target=use, args=(direct, f"{index}"), daemon=True) for index in range(2)]  # type: ignore[attr-defined]
    for child in children:
        child.start()
    use(direct, "meanwhile")
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    assert sorted(path for path, _ in direct.list()) == ["0", "1", "here", "meanwhile"]


def test_threads_of_a_process_share_a_client(direct: S3Storage) -> None:
    found = set()
    threads = [threading.Thread(target=lambda: found.add(id(client_for(direct.options)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1
