"""An index has what the tables have, and is made anew when they are not those that it was made of."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.search import VectorIndex, cache_folders, nearest, open_index
from curation.storage.local import LocalStorage
from tests.search.tables import METADATA, NAME, random_ids, random_units, write_table

NOBODY = 65534


def opened(out: Path) -> VectorIndex:
    storage = LocalStorage(str(out))
    return open_index(storage, NAME, cache_folders(storage))


def file_of(out: Path) -> Path:
    (path,) = (out / ".clipmill/search").iterdir()
    return path


def test_each_clip_has_the_bits_of_its_row(tmp_path: Path) -> None:
    ids, vectors = random_ids(10_000), random_units(10_000, 24)
    write_table(tmp_path, 0, ids[:7000], vectors[:7000])
    write_table(tmp_path, 1, ids[7000:], vectors[7000:])
    index = opened(tmp_path)
    assert index.metadata == METADATA
    assert index.num_left_out == 0
    assert [str(index.clip(row)) for row in range(10_000)] == ids
    assert np.array_equal(index.vectors, vectors)
    for k in (0, 6999, 7000, 9999):
        assert index.row_of(UUID(ids[k])) == k
    assert index.row_of(UUID(int=1)) is None


def test_an_index_is_read_again_as_long_as_the_tables_are_the_same(tmp_path: Path) -> None:
    write_table(tmp_path, 0, random_ids(100), random_units(100, 8))
    opened(tmp_path)
    before = file_of(tmp_path).stat()
    opened(tmp_path)
    after = file_of(tmp_path).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_other_tables_make_another_index(tmp_path: Path) -> None:
    ids, vectors = random_ids(300), random_units(300, 8)
    path = write_table(tmp_path, 0, ids[:100], vectors[:100], compression="none")
    assert len(opened(tmp_path).vectors) == 100
    write_table(tmp_path, 1, ids[100:200], vectors[100:200])
    assert np.array_equal(opened(tmp_path).vectors, vectors[:200])
    written_ns = path.stat().st_mtime_ns
    num_bytes = path.stat().st_size
    write_table(tmp_path, 0, ids[:100], vectors[200:], compression="none")
    os.utime(path, ns=(written_ns, written_ns))  # the time tells nothing, and nor does the size
    assert path.stat().st_size == num_bytes
    assert np.array_equal(opened(tmp_path).vectors, np.concatenate([vectors[200:], vectors[100:200]]))
    (tmp_path / f"{NAME}_parquet/000001.parquet").unlink()
    assert np.array_equal(opened(tmp_path).vectors, vectors[200:])
    assert len(list((tmp_path / ".clipmill/search").iterdir())) == 1


@pytest.mark.parametrize("num_bytes", [0, 5, 1000, -1], ids=["empty", "shorter than its end", "cut", "a byte less"])
def test_half_an_index_is_none(tmp_path: Path, num_bytes: int) -> None:
    vectors = random_units(100, 8)
    write_table(tmp_path, 0, random_ids(100), vectors)
    opened(tmp_path)
    path = file_of(tmp_path)
    os.truncate(path, num_bytes if num_bytes >= 0 else path.stat().st_size + num_bytes)
    assert np.array_equal(opened(tmp_path).vectors, vectors)


def test_vectors_without_a_direction_are_left_out_and_others_made_1_long(tmp_path: Path) -> None:
    ids, vectors = random_ids(6), random_units(6, 8)
    given = vectors.copy()
    given[1], given[3, 2], given[4, 0], given[5] = 0, np.nan, np.inf, 40 * vectors[5]
    write_table(tmp_path, 0, ids, given)
    index = opened(tmp_path)
    assert [str(index.clip(row)) for row in range(len(index.vectors))] == [ids[0], ids[2], ids[5]]
    assert index.num_left_out == 3
    assert np.array_equal(index.vectors[:2], vectors[[0, 2]])
    assert np.allclose(index.vectors[2], vectors[5], atol=1e-7)


def test_where_no_vector_has_a_direction_nothing_is_found(tmp_path: Path) -> None:
    write_table(tmp_path, 0, random_ids(6), np.zeros((6, 8), dtype=np.float32))
    index = opened(tmp_path)
    assert (index.num_left_out, index.vectors.shape) == (6, (0, 8))
    assert nearest(index, np.ones(8), top=3) == []


def test_of_a_clip_in_two_tables_the_first_counts(tmp_path: Path) -> None:
    ids, vectors = random_ids(5), random_units(6, 8)
    write_table(tmp_path, 0, ids[:3], vectors[:3])
    write_table(tmp_path, 1, [ids[4], ids[1], ids[3]], vectors[3:])  # what a longer run before left
    index = opened(tmp_path)
    assert [str(index.clip(row)) for row in range(5)] == [ids[0], ids[1], ids[2], ids[4], ids[3]]
    assert np.array_equal(index.vectors, vectors[[0, 1, 2, 3, 5]])


def test_lists_of_no_fixed_size_are_read_too(tmp_path: Path) -> None:
    ids, vectors = random_ids(9), random_units(9, 8)
    folder = tmp_path / f"{NAME}_parquet"
    folder.mkdir()
    lists = pa.array(vectors.astype(np.float64).tolist(), pa.list_(pa.float64()))
    pq.write_table(pa.table({"id": pa.array(ids, pa.large_string()), "embedding": lists}), folder / "a.parquet")
    assert np.array_equal(opened(tmp_path).vectors, vectors)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        pytest.param({"id": ["no-uuid"], "embedding": [[1.0, 0.0]]}, "no UUID", id="an id that is none"),
        pytest.param({"id": [None], "embedding": [[1.0, 0.0]]}, "no UUID", id="no id"),
        pytest.param({"id": random_ids(1)}, "no column embedding", id="no vectors"),
        pytest.param({"id": random_ids(1), "embedding": ["text"]}, "expected lists of float", id="texts"),
        pytest.param({"id": random_ids(2), "embedding": [[1.0], None]}, "1 empty", id="a vector that is missing"),
        pytest.param({"id": random_ids(2), "embedding": [[1.0], [1.0, 2.0]]}, "unequal", id="unequal lengths"),
    ],
)
def test_what_is_no_table_of_vectors_is_refused(tmp_path: Path, columns: dict[str, object], said: str) -> None:
    folder = tmp_path / f"{NAME}_parquet"
    folder.mkdir()
    pq.write_table(pa.table(columns), folder / "a.parquet")
    with pytest.raises(ValueError, match=said):
        opened(tmp_path)
    assert not list((tmp_path / ".clipmill/search").iterdir())


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    write_table(tmp_path, 0, random_ids(3), random_units(3, 8)).write_bytes(b"x" * 5000)
    with pytest.raises(ValueError, match=r"000000\.parquet is no parquet"):
        opened(tmp_path)


def test_where_there_are_no_vectors_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no vectors in {NAME}_parquet"):
        opened(tmp_path)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody may write there, for whom root steps down."""
    was_root = os.geteuid() == 0
    folder.chmod(0o555)
    if was_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)
        folder.chmod(0o755)


def test_an_output_that_cannot_be_written_to_has_its_index_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path(tempfile.mkdtemp())  # pytest's folders are closed to others
    try:
        place.chmod(0o755)
        cache = place / "cache"
        cache.mkdir()
        cache.chmod(0o777)
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        vectors = random_units(20, 8)
        out = place / "out"
        write_table(out, 0, random_ids(20), vectors)
        with read_only(out):
            assert np.array_equal(opened(out).vectors, vectors)
            (file,) = cache.rglob("*.vectors")
            before = file.stat().st_ino
            assert np.array_equal(opened(out).vectors, vectors)
        assert file.stat().st_ino == before
        assert not (out / ".clipmill").exists()
    finally:
        shutil.rmtree(place)
