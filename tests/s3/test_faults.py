"""What goes wrong on the way is tried again and counted, and no byte is other than it was written."""

import random
import threading
import time
import tracemalloc
from pathlib import Path
from typing import BinaryIO

import pytest

from curation.errors import StorageError
from curation.storage.options import MIB
from curation.storage.s3 import S3Storage
from tests.s3.conftest import Counted, storage_at
from tests.s3.proxy import SLOW_DOWN, Fault, Proxy
from tests.s3.server import S3Server

SEVERAL_PARTS = random.Random(0).randbytes(12 * MIB)
DROP_REQUEST, DROP_ANSWER = Fault("drop_request"), Fault("drop_answer")


def use_everything(s3: S3Storage, folder: Path) -> None:
    """Write and read in every way, and compare."""
    s3.write("small", b"small")
    with s3.writing("large") as file:
        file.write(SEVERAL_PARTS)
    assert s3.create("once", b"first")
    assert not s3.create("once", b"second")
    assert s3.read("once") == b"first"
    assert s3.read("large") == SEVERAL_PARTS
    assert s3.read_range("large", 7, 6 * MIB) == SEVERAL_PARTS[7 : 6 * MIB]
    assert s3.download("large", folder / "large") == len(SEVERAL_PARTS)
    assert (folder / "large").read_bytes() == SEVERAL_PARTS
    with s3.reading("large") as file:
        assert file.read() == SEVERAL_PARTS
    assert s3.exists("small")
    assert s3.size("large") == len(SEVERAL_PARTS)
    s3.delete("small")
    assert [path for path, _ in s3.list()] == ["large", "once"]


@pytest.mark.parametrize("fault", [DROP_REQUEST, DROP_ANSWER], ids=["request", "answer"])
def test_whatever_fails_once_is_tried_again(
    s3: S3Storage, proxy: Proxy, tmp_path: Path, counted: Counted, fault: Fault
) -> None:
    failed: set[str] = set()

    def is_new(line: str) -> bool:
        is_first = line not in failed
        failed.add(line)
        return is_first

    proxy.fail(fault, times=1000, when=is_new)
    use_everything(s3, tmp_path)
    assert len(failed) > 10
    assert counted()["retries"] == counted()["dropped"] == len(failed)
    # an upload whose beginning was done and not answered is one that nobody knows of
    assert len(list(s3.leftovers(older_than_s=0))) == (fault is DROP_ANSWER)


def test_bodies_that_break_off_are_read_on_from_there(
    s3: S3Storage, proxy: Proxy, tmp_path: Path, counted: Counted
) -> None:
    s3.write("large", SEVERAL_PARTS)
    begun = [0, 1, 1000, 100_000]
    for num_bytes in begun:
        proxy.fail(Fault("cut_answer", num_bytes=num_bytes), when=lambda line: line.startswith("GET"))
    assert s3.read("large") == SEVERAL_PARTS
    assert proxy.is_all_done
    assert counted()["resumed"] == len(begun)
    for num_bytes in begun * 3:
        proxy.fail(Fault("cut_answer", num_bytes=num_bytes), when=lambda line: line.startswith("GET"))
    assert s3.download("large", tmp_path / "large") == len(SEVERAL_PARTS)
    assert (tmp_path / "large").read_bytes() == SEVERAL_PARTS
    assert s3.read_range("large", 3, 9 * MIB) == SEVERAL_PARTS[3 : 9 * MIB]
    assert proxy.is_all_done
    assert counted()["resumed"] == len(begun) * 4


def test_every_request_is_counted_once(s3: S3Storage, proxy: Proxy, tmp_path: Path, counted: Counted) -> None:
    proxy.fail(SLOW_DOWN, times=2, when=lambda line: line.startswith("PUT"))
    proxy.fail(DROP_REQUEST, times=2, when=lambda line: line.startswith("GET"))
    use_everything(s3, tmp_path)
    operations = {name: number for name, number in counted().items() if name[0].isupper()}
    assert sum(operations.values()) == len(proxy.seen)
    assert (counted()["throttled"], counted()["dropped"], counted()["retries"]) == (2, 2, 4)


def test_what_never_answers_is_told_with_the_place_and_the_tries(proxy: Proxy, counted: Counted) -> None:
    s3 = storage_at(proxy.endpoint_url, max_tries=3)
    proxy.fail(DROP_REQUEST, times=3)
    with pytest.raises(
        StorageError, match=rf"can't write a/b in {s3.root}: no answer from {proxy.endpoint_url} .*3 tries"
    ):
        s3.write("a/b", b"")
    proxy.fail(SLOW_DOWN, times=3)
    with pytest.raises(StorageError, match=r"can't read a/b .*SlowDown: .*\(3 tries\)"):
        s3.read("a/b")
    assert counted()["retries"] == 4


def test_a_body_of_which_nothing_comes_ends(proxy: Proxy) -> None:
    s3 = storage_at(proxy.endpoint_url, max_tries=3)
    s3.write("a", b"content")
    proxy.fail(Fault("cut_answer", num_bytes=0), times=3, when=lambda line: line.startswith("GET"))
    with pytest.raises(StorageError, match="can't read a "):
        s3.read("a")
    assert s3.read("a") == b"content"


@pytest.mark.parametrize("goes_on", [False, True], ids=["the block ends", "the block goes on"])
def test_a_stream_whose_part_fails_leaves_nothing(proxy: Proxy, s3: S3Storage, goes_on: bool) -> None:
    hurried = S3Storage(s3.root, s3.options.hurried())
    hurried.write("large", b"before")
    proxy.fail(SLOW_DOWN, times=2, when=lambda line: "partNumber=2" in line)

    def write_until_it_fails(file: BinaryIO) -> None:
        file.write(SEVERAL_PARTS)
        for _ in range(500):  # the failing part may take longer than others that come after it
            time.sleep(0.1)
            file.write(SEVERAL_PARTS)

    def write() -> None:
        with hurried.writing("large") as file:
            with pytest.raises(StorageError, match="can't write large") as failed:
                write_until_it_fails(file)
            if not goes_on:
                raise failed.value

    with pytest.raises(StorageError, match="lacks parts" if goes_on else "can't write large"):
        write()
    assert s3.read("large") == b"before"
    assert list(s3.leftovers(older_than_s=0)) == []


NO_SUCH_UPLOAD = Fault("answer", 404, b"<Error><Code>NoSuchUpload</Code><Message>gone</Message></Error>")


def test_an_upload_whose_completion_was_done_but_not_answered_is_complete(proxy: Proxy, s3: S3Storage) -> None:
    """The next try then finds no upload, on servers that forget what is completed."""
    proxy.fail(DROP_ANSWER, when=lambda line: line.startswith("POST") and "uploadId=" in line)
    proxy.fail(NO_SUCH_UPLOAD, when=lambda line: line.startswith("POST") and "uploadId=" in line)
    s3.write("large", SEVERAL_PARTS)
    assert proxy.is_all_done
    assert s3.read("large") == SEVERAL_PARTS


def test_an_upload_that_someone_removed_is_an_error(proxy: Proxy, s3: S3Storage) -> None:
    s3.write("large", b"before")
    proxy.fail(NO_SUCH_UPLOAD, when=lambda line: line.startswith("POST") and "uploadId=" in line)
    with pytest.raises(StorageError, match="its unfinished upload was removed"):
        s3.write("large", SEVERAL_PARTS)
    assert s3.read("large") == b"before"


def test_a_download_whose_part_fails_leaves_nothing(proxy: Proxy, s3: S3Storage, tmp_path: Path) -> None:
    s3.write("large", SEVERAL_PARTS)
    hurried = S3Storage(s3.root, s3.options.hurried())
    gets = iter(range(1000))
    proxy.fail(SLOW_DOWN, times=2, when=lambda line: line.startswith("GET") and next(gets) > 0)
    with pytest.raises(StorageError, match="can't download large"):
        hurried.download("large", tmp_path / "copies" / "large")
    assert list((tmp_path / "copies").iterdir()) == []


def test_a_stream_that_is_not_answered_fails_where_it_is_read(proxy: Proxy, s3: S3Storage) -> None:
    s3.write("large", SEVERAL_PARTS)
    hurried = S3Storage(s3.root, s3.options.hurried())
    with hurried.reading("large") as file:
        proxy.fail(DROP_REQUEST, times=2)
        file.seek(9 * MIB)
        with pytest.raises(StorageError, match=r"can't read large .* no answer"):
            file.read(1)
        assert file.read(1) == SEVERAL_PARTS[9 * MIB : 9 * MIB + 1]


def test_memory_does_not_grow_with_an_object(s3_env: S3Server, tmp_path: Path) -> None:
    """Parts of 5 MiB, four on their way (each twice: ours and boto3's), and one that fills."""
    s3, block = storage_at(s3_env.endpoint_url), random.Random(1).randbytes(MIB)
    tracemalloc.start()
    try:
        with s3.writing("large") as file:
            for _ in range(150):
                file.write(block)
        s3.download("large", tmp_path / "large")
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 60 * MIB
    assert (tmp_path / "large").stat().st_size == 150 * MIB
    s3.delete("large")


def test_an_object_that_is_replaced_while_it_is_read_is_an_error_and_no_mixture(s3: S3Storage) -> None:
    s3.write("a", SEVERAL_PARTS)
    with s3.reading("a") as file:
        file.read(1000)
        s3.write("a", bytes(len(SEVERAL_PARTS)))
        with pytest.raises(StorageError, match="was replaced while it was read"):
            file.read()


def test_a_server_that_stops_and_starts_again_is_waited_for(s3_env: S3Server, counted: Counted) -> None:
    s3 = storage_at(s3_env.endpoint_url)
    contents = {f"{index}.bin": random.Random(index).randbytes(40_000) for index in range(96)}
    stopped, failures = threading.Event(), list[StorageError]()

    def write(paths: list[str]) -> None:
        try:
            for number, path in enumerate(paths):
                if number == 4:
                    stopped.wait()
                s3.write(path, contents[path])
                assert s3.read(path) == contents[path]
        except StorageError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(list(contents)[start::8],)) for start in range(8)]
    for thread in threads:
        thread.start()
    s3_env.stop()
    stopped.set()
    s3_env.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {path: s3.read(path) for path, _ in s3.list()} == contents
    assert counted()["dropped"] > 0
