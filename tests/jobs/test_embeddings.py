"""Tables of vectors."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.errors import StorageError
from curation.storage import storage_for
from curation.writing.embeddings import from_text, to_text
from jobs.embeddings import embeddings_collected


def chunk(*entries: tuple[str, list[float]]) -> dict[str, Any]:
    vectors = [(uuid, to_text(np.array(numbers, np.float32))) for uuid, numbers in entries]
    return {"clips": [{"uuid": uuid, "embeddings": {"x_embd": text}} for uuid, text in vectors]}


def collect(folder: Path, *chunks: dict[str, Any], rows_per_file: int = 100) -> list[Path]:
    collected = embeddings_collected(
        chunks, storage_for(str(folder)), provenance={"model": "x@1"}, rows_per_file=rows_per_file
    )
    deque(collected, maxlen=0)
    return sorted((folder / "x_embd_parquet").glob("*"))


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_a_vector_comes_back_bit_for_bit(numbers: list[float]) -> None:
    vector = np.array(numbers, np.float32)
    assert from_text(to_text(vector)).tobytes() == vector.tobytes()


def test_text_is_base64_of_little_endian_float32() -> None:
    # 1.0 is 3f800000 and -2.0 is c0000000 (IEEE 754)
    assert to_text(np.array([1.0, -2.0])) == "AACAPwAAAMA="


@pytest.mark.parametrize(("num_rows", "expected"), [(5, [5]), (6, [6]), (7, [6, 1]), (13, [6, 6, 1])])
def test_files_are_filled_one_after_the_other(tmp_path: Path, num_rows: int, expected: list[int]) -> None:
    chunks = [chunk((f"clip{k}", [float(k), 1.0])) for k in range(num_rows)]
    tables = [pq.read_table(path) for path in collect(tmp_path, *chunks, rows_per_file=6)]
    assert [table.num_rows for table in tables] == expected
    assert [uuid for table in tables for uuid in table["id"].to_pylist()] == [f"clip{k}" for k in range(num_rows)]
    assert [row for table in tables for row in table["embedding"].to_pylist()] == [
        [float(k), 1.0] for k in range(num_rows)
    ]
    assert str(tables[0].schema.field("embedding").type) == "fixed_size_list<element: float>[2]"
    assert tables[0].schema.metadata[b"model"] == b"x@1"


def test_clips_without_a_vector_have_no_row_and_no_vectors_no_table(tmp_path: Path) -> None:
    (path,) = collect(tmp_path / "some", {"clips": [{"uuid": "a"}]}, chunk(("b", [1.0])))
    assert pq.read_table(path)["id"].to_pylist() == ["b"]
    assert collect(tmp_path / "none", {"clips": [{"uuid": "a"}]}) == []


def test_vectors_of_unequal_lengths_are_refused_and_leave_no_table(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unequal lengths"):
        collect(tmp_path, chunk(("a", [1.0, 2.0]), ("b", [1.0])))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_aggregation_that_breaks_off_leaves_no_table(tmp_path: Path) -> None:
    def chunks() -> Iterator[dict[str, Any]]:
        yield chunk(*((f"clip{k}", [1.0]) for k in range(4096)))
        raise StorageError("the disk is gone")

    with pytest.raises(StorageError, match="gone"):
        deque(embeddings_collected(chunks(), storage_for(str(tmp_path)), provenance={}), maxlen=0)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_shorter_table_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    rows = [chunk((f"clip{k}", [float(k), 1.0])) for k in range(13)]
    assert len(collect(tmp_path, *rows, rows_per_file=4)) == 4
    files = collect(tmp_path, *rows[:6], rows_per_file=4)
    assert [pq.read_table(path)["id"].to_pylist() for path in files] == [
        ["clip0", "clip1", "clip2", "clip3"],
        ["clip4", "clip5"],
    ]
