"""What every storage promises; each test runs over all of them, and S3 is a real server."""

import base64
import io
import os
import pickle
import random
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from curation.errors import StorageError
from curation.storage import S3Options, Storage, locate, storage_for
from curation.storage.local import LocalStorage
from curation.storage.options import MIB
from tests.s3.server import BUCKET, S3Server

PART_BYTES = 5 * MIB
SEVERAL_PARTS = random.Random(0).randbytes(3 * PART_BYTES + 12_345)
PATHS = [
    "a.json",
    "a/b/c.mp4",
    "with space.mp4",
    "ünïcödé 視頻.mp4",
    "-leading.mp4",
    "line\nbreak.mp4",
    "a/.hidden",
    "a+b %2F%25%.mp4",
    "what?is#this&that=;:@!$'()*,[]{}|^~`\"<>.mp4",
    "tab\tand 🎬.mp4",
    "x" * 200,
    "/".join(["y" * 99] * 10),  # 999 characters
]


def storage_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> Storage:
    """An empty storage whose root is not there yet."""
    if kind == "local":
        return storage_for(str(folder / "root"))
    server: S3Server = request.getfixturevalue("s3_env")
    options = S3Options(endpoint_url=server.endpoint_url, part_size_bytes=PART_BYTES)
    return storage_for(f"s3://{BUCKET}/{uuid.uuid4().hex[:8]}", options)


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return storage_of(request.param, request, tmp_path)


@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
def test_what_is_written_is_read_back_under_any_name(storage: Storage, path: str) -> None:
    storage.write(path, b"\x00content\xff")
    assert storage.read(path) == b"\x00content\xff"
    assert storage.exists(path)
    assert list(storage.list()) == [(path, 9)]
    storage.delete_many([path])
    assert not storage.exists(path)


def test_the_same_name_in_two_folders_is_two_objects(storage: Storage) -> None:
    storage.write("a/v.mp4", b"a")
    storage.write("b/v.mp4", b"b")
    assert (storage.read("a/v.mp4"), storage.read("b/v.mp4")) == (b"a", b"b")


def test_an_empty_object_is_an_object(storage: Storage) -> None:
    storage.write("empty", b"")
    assert storage.exists("empty")
    assert storage.read("empty") == b""


def test_writing_again_replaces(storage: Storage) -> None:
    storage.write("a", b"first")
    storage.write("a", b"2")
    assert storage.read("a") == b"2"


def test_creating_again_changes_nothing_and_says_so(storage: Storage) -> None:
    assert storage.create("a/b", b"first")
    assert not storage.create("a/b", b"second")
    assert storage.read("a/b") == b"first"


def test_of_many_who_create_the_same_object_one_wins(storage: Storage) -> None:
    barrier, won = threading.Barrier(16), [b""] * 16

    def create(index: int) -> None:
        barrier.wait()
        if storage.create("a", b"%d" % index * 10_000):
            won[index] = b"%d" % index * 10_000

    threads = [threading.Thread(target=create, args=(index,)) for index in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = filter(None, won)
    assert storage.read("a") == winner


def test_a_stream_appears_whole_at_its_end(storage: Storage) -> None:
    with storage.writing("a/b") as file:
        file.write(b"one ")
        file.write(b"two")
        assert not storage.exists("a/b")
    assert storage.read("a/b") == b"one two"


def test_a_stream_that_breaks_off_leaves_what_was_there(storage: Storage) -> None:
    def break_off() -> None:
        with storage.writing("a") as file:
            file.write(b"half")
            raise ZeroDivisionError

    storage.write("a", b"before")
    with pytest.raises(ZeroDivisionError):
        break_off()
    assert storage.read("a") == b"before"


@pytest.mark.parametrize("path", ["gone", "a/gone", "file/below"])
def test_what_is_not_there_is_not_there(storage: Storage, path: str) -> None:
    storage.write("file", b"x")
    assert not storage.exists(path)
    storage.delete(path)
    with pytest.raises(FileNotFoundError):
        storage.read(path)


def test_a_folder_is_no_object(storage: Storage) -> None:
    storage.write("a/b", b"x")
    assert not storage.exists("a")


def test_what_is_deleted_is_gone_and_can_be_created_anew(storage: Storage) -> None:
    storage.write("a/b", b"x")
    storage.delete("a/b")
    assert not storage.exists("a/b")
    assert storage.create("a/b", b"y")


# Large objects, pieces of objects


def test_a_long_stream_is_one_object(storage: Storage) -> None:
    with storage.writing("a/long.tar") as file:
        for start in range(0, len(SEVERAL_PARTS), 700_001):
            piece = SEVERAL_PARTS[start : start + 700_001]
            assert file.write(piece) == len(piece)
        assert file.tell() == len(SEVERAL_PARTS)
        assert not storage.exists("a/long.tar")
    assert storage.read("a/long.tar") == SEVERAL_PARTS
    assert storage.size("a/long.tar") == len(SEVERAL_PARTS)


@pytest.mark.parametrize("num_bytes", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES])
def test_objects_around_the_size_of_a_part_are_whole(storage: Storage, tmp_path: Path, num_bytes: int) -> None:
    content = SEVERAL_PARTS[:num_bytes]
    storage.write("written", content)
    with storage.writing("streamed") as file:
        file.write(content)
    for path in ("written", "streamed"):
        assert storage.read(path) == content
        assert storage.download(path, tmp_path / "copies" / path) == num_bytes
        assert (tmp_path / "copies" / path).read_bytes() == content


def test_a_download_is_whole_and_leaves_nothing_else(storage: Storage, tmp_path: Path) -> None:
    storage.write("a", SEVERAL_PARTS)
    folder = tmp_path / "copies"
    assert storage.download("a", folder / "a.mp4") == len(SEVERAL_PARTS)
    assert (folder / "a.mp4").read_bytes() == SEVERAL_PARTS
    with pytest.raises(FileNotFoundError):
        storage.download("gone", folder / "gone")
    assert os.listdir(folder) == ["a.mp4"]


@pytest.mark.parametrize(("start", "end"), [(0, 1), (3, 7), (0, 10), (5, 99), (10, 20), (99, 100), (4, 4)])
def test_a_range_is_what_a_slice_is(storage: Storage, start: int, end: int) -> None:
    storage.write("a", b"0123456789")
    assert storage.read_range("a", start, end) == b"0123456789"[start:end]


def test_a_stream_is_read_like_a_file(storage: Storage) -> None:
    storage.write("a", SEVERAL_PARTS)
    law, choices = io.BytesIO(SEVERAL_PARTS), random.Random(1)
    with storage.reading("a") as file:
        for _ in range(60):
            if choices.random() < 0.5:
                position = choices.randrange(len(SEVERAL_PARTS) + 100)
                assert file.seek(position) == law.seek(position)
            num_bytes = choices.choice([1, 1000, 300_000])
            assert file.read(num_bytes) == law.read(num_bytes)
            assert file.tell() == law.tell()
        assert file.seek(-5, os.SEEK_END) == len(SEVERAL_PARTS) - 5
        assert file.read() == SEVERAL_PARTS[-5:]
        file.seek(0)
        assert file.read() == SEVERAL_PARTS


def test_an_empty_object_is_read_like_an_empty_file(storage: Storage) -> None:
    storage.write("empty", b"")
    assert storage.size("empty") == 0
    assert storage.read_range("empty", 0, 10) == b""
    with storage.reading("empty") as file:
        assert file.read() == b""


def test_no_piece_is_read_of_what_is_not_there(storage: Storage) -> None:
    storage.write("folder/a", b"x")
    for path in ("gone", "folder"):
        with pytest.raises(FileNotFoundError):
            storage.size(path)
    with pytest.raises(FileNotFoundError):
        storage.read_range("gone", 0, 1)
    with pytest.raises(FileNotFoundError), storage.reading("gone"):
        pass


def test_the_file_of_an_object_is_told_where_there_is_one(storage: Storage) -> None:
    storage.write("a/b", b"x")
    path = storage.local_path("a/b")
    assert (path is None) == storage.root.startswith("s3://")
    assert path is None or path.read_bytes() == b"x"


# Listings


def test_a_listing_has_what_begins_with_the_prefix(storage: Storage) -> None:
    sizes = {"a-b/c": 1, "a.json": 2, "a/b": 3, "a/c/d": 4, "ab/c": 5, "z.json": 6, "ü/z": 7}
    for path, size_bytes in sizes.items():
        storage.write(path, bytes(size_bytes))
    for prefix in ("", "a", "a/", "a/c", "a/c/", "ab/c", "ü", "nothing/", "z.json"):
        found = [path for path in sizes if path.startswith(prefix)]
        assert sorted(storage.list(prefix)) == [(path, sizes[path]) for path in found]


def test_thousands_of_objects_are_listed_and_deleted(storage: Storage) -> None:
    paths = [f"{index % 7}/{index:05}.json" for index in range(2100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: storage.write(path, b"{}"), paths))
    assert [path for path, _ in storage.list()] == sorted(paths)
    storage.delete_many(iter([*paths[:-1], "never there"]))
    assert list(storage.list()) == [(paths[-1], 2)]


def test_a_storage_without_objects_has_an_empty_listing(storage: Storage) -> None:
    assert list(storage.list()) == []
    assert list(storage.leftovers(older_than_s=0)) == []


# Writers that are killed


KILLED_WRITER = """
import base64, pickle, sys
storage = pickle.loads(base64.b64decode(sys.argv[1]))
with storage.writing("a/b") as file:
    file.write(bytes(11 * 2**20))
    file.flush()
    print("half", flush=True)
    sys.stdin.read()
"""


def kill_in_the_middle_of_writing(storage: Storage) -> None:
    """Kill a process that has written half of the object ``a/b``."""
    argument = base64.b64encode(pickle.dumps(storage)).decode()
    command = [sys.executable, "-c", KILLED_WRITER, argument]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half\n"
        writer.kill()


def test_a_killed_writer_leaves_what_was_there_and_a_leftover_that_can_be_removed(storage: Storage) -> None:
    storage.write("a/b", b"before")
    kill_in_the_middle_of_writing(storage)
    assert storage.read("a/b") == b"before"
    assert list(storage.list()) == [("a/b", 6)]
    assert list(storage.leftovers(older_than_s=3600)) == []
    (leftover,) = storage.leftovers(older_than_s=0)
    assert leftover.path.startswith("a/")
    assert leftover.age_s < 3600
    for _ in range(2):  # the second time it is gone
        storage.remove_leftover(leftover)
    assert list(storage.leftovers(older_than_s=0)) == []
    assert storage.read("a/b") == b"before"


def test_a_long_stream_that_breaks_off_leaves_nothing(storage: Storage) -> None:
    with suppress(ZeroDivisionError), storage.writing("a") as file:
        file.write(SEVERAL_PARTS)
        raise ZeroDivisionError
    assert list(storage.list()) == []
    assert list(storage.leftovers(older_than_s=0)) == []


def test_of_two_streams_to_one_object_the_last_to_end_is_there(storage: Storage) -> None:
    with storage.writing("a") as first:
        first.write(SEVERAL_PARTS)
        with storage.writing("a") as second:
            second.write(b"second")
        assert storage.read("a") == b"second"
    assert storage.read("a") == SEVERAL_PARTS


# Names of single objects


def test_one_object_is_found_by_its_name_alone(storage: Storage) -> None:
    storage.write("a/b c+%25.mp4", b"x")
    found, path = locate(f"{storage.root}/a/b c+%25.mp4", getattr(storage, "options", S3Options()))
    assert found.read(path) == b"x"


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "/folder/", "gopher://x", "name"])
def test_what_names_no_object_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=re.escape(uri)):
        locate(uri)


# A local folder


def test_a_folder_is_listed_in_the_order_of_s3(local: LocalStorage) -> None:
    paths = ["a-b/c", "a.json", "a/b", "a/c/d", "ab/c", "z.json", "ü/z"]
    for path in reversed(paths):
        local.write(path, b"")
    assert [path for path, _ in local.list()] == paths == sorted(paths, key=str.encode)


def test_a_link_to_a_folder_around_it_ends_a_listing(tmp_path: Path, local: LocalStorage) -> None:
    local.write("a/b", b"x")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert list(local.list()) == [("a/b", 1)]


@pytest.fixture
def local(tmp_path: Path) -> LocalStorage:
    return LocalStorage(str(tmp_path))


def test_nothing_but_the_objects_is_left_in_the_folder(tmp_path: Path, local: LocalStorage) -> None:
    local.write("a", b"1")
    local.write("a", b"2")
    local.create("b", b"1")
    local.create("b", b"2")
    with pytest.raises(ZeroDivisionError), local.writing("c"):
        raise ZeroDivisionError
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def write(storage: Storage) -> None:
    storage.write("in the way/v.mp4", b"x")


def create(storage: Storage) -> None:
    storage.create("in the way/v.mp4", b"x")


def stream(storage: Storage) -> None:
    with storage.writing("in the way/v.mp4") as file:
        file.write(b"x")


def replace_a_folder(storage: Storage) -> None:
    storage.write("folder", b"x")


def read_a_folder(storage: Storage) -> None:
    storage.read("folder")


def delete_a_folder(storage: Storage) -> None:
    storage.delete("folder")


@pytest.mark.parametrize("act", [write, create, stream, replace_a_folder, read_a_folder, delete_a_folder])
def test_what_the_file_system_refuses_is_an_error_of_the_storage_with_the_path(
    tmp_path: Path, local: LocalStorage, act: Callable[[Storage], None]
) -> None:
    (tmp_path / "in the way").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=r"can't \w+ (in the way/v\.mp4|folder): \w+"):
        act(local)


def test_a_full_disk_is_an_error_of_the_storage_and_leaves_nothing(tmp_path: Path) -> None:
    """A file size limit refuses the bytes as a full disk or a quota does: in the middle of them."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        for put in (LocalStorage(str(tmp_path)).write, LocalStorage(str(tmp_path)).create):
            with pytest.raises(StorageError, match="can't write a/b: File too large"):
                put("a/b", bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "a").iterdir()) == []


def test_the_root_is_a_folder_or_a_uri_of_one(tmp_path: Path) -> None:
    for root in (str(tmp_path), f"file://{tmp_path}"):
        assert storage_for(root).root == str(tmp_path)


def test_a_root_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no storage for 'gopher://x/y'"):
        storage_for("gopher://x/y")
