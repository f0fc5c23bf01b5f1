"""Our tars, read by the standard library."""

import hashlib
import io
import random
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.dataset.tars import Member, TarDigest, TarWriter

contents = st.lists(st.binary(max_size=2000), max_size=8)


def written(members: list[tuple[str, bytes]]) -> tuple[bytes, list[Member], TarDigest]:
    stream = io.BytesIO()
    writer = TarWriter(stream)
    places = [writer.add(name, content) for name, content in members]
    digest = writer.finish()
    return stream.getvalue(), places, digest


@given(contents)
def test_a_tar_is_what_the_standard_library_writes(files: list[bytes]) -> None:
    expected = io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.USTAR_FORMAT) as theirs:
        for number, content in enumerate(files):
            header = tarfile.TarInfo(f"{number}.bin")
            header.size, header.mode, header.mtime = len(content), 0o644, 0
            theirs.addfile(header, io.BytesIO(content))
    tar, _, _ = written([(f"{number}.bin", content) for number, content in enumerate(files)])
    assert tar == expected.getvalue()


@given(contents)
def test_offset_and_size_point_at_the_content(files: list[bytes]) -> None:
    tar, places, _ = written([(f"{number}.bin", content) for number, content in enumerate(files)])
    assert [tar[place.offset : place.offset + place.size] for place in places] == files


def test_large_members_are_hashed_aside_with_the_same_digest() -> None:
    files = [(f"{number}.bin", bytes([number]) * 100_000 * (number % 3)) for number in range(9)]
    stream = io.BytesIO()
    with ThreadPoolExecutor(2) as aside:
        writer = TarWriter(stream, aside=aside)
        for name, content in files:
            writer.add(name, content)
        digest = writer.finish()
    assert stream.getvalue() == written(files)[0]
    assert digest.sha256 == hashlib.sha256(stream.getvalue()).hexdigest()


@given(contents)
def test_the_digest_is_that_of_the_whole_tar(files: list[bytes]) -> None:
    tar, _, digest = written([(f"{number}.bin", content) for number, content in enumerate(files)])
    assert digest == TarDigest(len(files), len(tar), hashlib.sha256(tar).hexdigest())


def test_a_member_has_no_time_and_no_owner() -> None:
    tar, _, _ = written([("a.mp4", b"x")])
    with tarfile.open(fileobj=io.BytesIO(tar)) as read:
        (member,) = read.getmembers()
    assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
    assert member.mode == 0o644


def test_a_name_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="name"):
        written([("n" * 300, b"")])


def test_a_large_file_that_is_put_on_the_disk_on_the_way_is_whole(tmp_path: Path) -> None:
    content = random.Random(8).randbytes(5 * 2**20)
    with (tmp_path / "large.tar").open("wb") as file, ThreadPoolExecutor(2) as aside:
        writer = TarWriter(file, aside=aside)
        for number in range(15):
            writer.add(f"{number}.bin", content)
        digest = writer.finish()
    assert digest.sha256 == hashlib.sha256((tmp_path / "large.tar").read_bytes()).hexdigest()
    with tarfile.open(tmp_path / "large.tar") as read:
        assert len(read.getnames()) == 15


class BrokenFile(io.BytesIO):
    """A stream to a disk that is gone."""

    def fileno(self) -> int:
        return 1_000_000


def test_a_disk_that_fails_on_the_way_is_an_error_at_the_end() -> None:
    with ThreadPoolExecutor(2) as aside:
        writer = TarWriter(BrokenFile(), aside=aside)
        writer.add("a.bin", bytes(40 * 2**20))
        with pytest.raises(OSError, match="Bad file descriptor"):
            writer.finish()
