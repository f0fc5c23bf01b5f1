"""Sources on their way to a node's disk: some ahead, never more than there is room for, gone when they were read."""

import threading
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

from curation.errors import StorageError
from curation.storage import S3Options, StoredFile, locate
from curation.video.remote import close_remote, remote_stream
from jobs.staging import Room, Staging, Wanted
from tests.local_runs import wait_for
from tests.s3.conftest import Counted
from tests.s3.proxy import Fault, Proxy
from tests.s3.server import BUCKET, S3Server

SIZE = 1000


@pytest.fixture
def wanted(s3_env: S3Server) -> list[Wanted]:
    prefix, client = uuid.uuid4().hex[:8], s3_env.client()
    for k in range(6):
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/{k}.mp4", Body=bytes([k]) * SIZE)
    return [Wanted(f"video {k}", f"s3://{BUCKET}/{prefix}/{k}.mp4", SIZE) for k in range(6)]


def staging(server: S3Server, folder: Path, *, max_bytes: int | None = None, num_at_work: int = 2) -> Staging:
    options = S3Options(endpoint_url=server.endpoint_url, part_size_bytes=5 * 2**20, max_tries=2)
    return Staging(folder, options, Room(max_bytes), num_at_work=num_at_work, is_stopped=lambda: False)


def copies(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes()[:1] for path in folder.glob("clipmill-input-*/*.mp4"))


def test_sources_come_ahead_and_go_when_they_were_read(
    s3_env: S3Server, tmp_path: Path, wanted: list[Wanted], counted: Counted
) -> None:
    with staging(s3_env, tmp_path) as stage:
        stage.want(wanted)
        for k, each in enumerate(wanted):
            found = stage.take(each)
            assert isinstance(found, Path)
            assert found.read_bytes() == bytes([k]) * SIZE
            expected = [bytes([j]) for j in range(k, min(k + 3, 6))]  # this one, and as many as are processed at once
            wait_for(lambda expected=expected: copies(tmp_path) == expected)  # type: ignore[misc]
            stage.give_back(each.key)
        assert copies(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    assert counted() == {"GetObject": len(wanted)}


def test_copies_keep_to_their_room_and_who_is_not_to_wait_is_read_where_it_lies(
    s3_env: S3Server, tmp_path: Path, wanted: list[Wanted]
) -> None:
    with staging(s3_env, tmp_path, max_bytes=SIZE) as stage:
        stage.want(wanted)
        assert isinstance(stage.take(wanted[0]), Path)
        assert isinstance(stage.take(wanted[1]), StoredFile)  # one of two that may be at work
        waiting: list[object] = []
        thread = threading.Thread(target=lambda: waiting.append(stage.take(wanted[2])))
        thread.start()
        assert copies(tmp_path) == [b"\0"]
        assert not waiting  # two are at work
        stage.give_back(wanted[0].key)
        thread.join()
        assert isinstance(waiting[0], Path | StoredFile)
        assert len(copies(tmp_path)) <= 1


def test_those_who_read_a_source_at_once_share_its_copy(
    s3_env: S3Server, tmp_path: Path, wanted: list[Wanted], counted: Counted
) -> None:
    both = [Wanted("a", wanted[0].uri, SIZE), Wanted("b", wanted[0].uri, SIZE)]
    with staging(s3_env, tmp_path) as stage:
        stage.want(both)
        first, second = stage.take(both[0]), stage.take(both[1])
        assert first == second
        stage.give_back("a")
        stage.give_back("a")
        assert copies(tmp_path) == [b"\0"]
        stage.give_back("b")
        assert copies(tmp_path) == []
    assert counted() == {"GetObject": 1}


def test_a_missing_object_and_a_refusal_are_told_to_who_asks_and_may_be_asked_for_again(
    s3_env: S3Server, tmp_path: Path, wanted: list[Wanted]
) -> None:
    with Proxy(s3_env.port) as proxy:
        options = S3Options(endpoint_url=proxy.endpoint_url, part_size_bytes=5 * 2**20, max_tries=2)
        with Staging(tmp_path, options, Room(), num_at_work=1, is_stopped=lambda: False) as stage:
            with pytest.raises(FileNotFoundError):
                stage.take(Wanted("gone", f"{wanted[0].uri}.gone"))
            proxy.fail(Fault("answer", 403, b"<Error><Code>AccessDenied</Code></Error>"))
            with pytest.raises(StorageError, match="AccessDenied"):
                stage.take(wanted[0])
            assert isinstance(stage.take(wanted[0]), Path)


def test_an_error_that_a_reader_swallows_is_raised_all_the_same(proxy: Proxy, wanted: list[Wanted]) -> None:
    options = S3Options(endpoint_url=proxy.endpoint_url, part_size_bytes=5 * 2**20, max_tries=1)
    source = StoredFile(*locate(wanted[0].uri, options))
    with pytest.raises(StorageError):
        _swallow(source, proxy)
    close_remote()


def _swallow(source: StoredFile, proxy: Proxy) -> None:
    """Do as FFmpeg does where it takes an error for the end."""
    with remote_stream(source, name="v") as stream:
        stream._file._stream.raw._blocks.clear()  # type: ignore[attr-defined]  # nothing is known of it any more
        proxy.fail(Fault("drop_request"), times=9)
        with suppress(StorageError):
            stream.read(10)
