"""Reading tables of vectors, as an output has them: parquet files with the columns ``id`` and ``embedding``."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curation.storage import Storage

ID_BYTES = 16
_ROWS_AT_ONCE = 8192
_TAIL_BYTES = 65_536  # enough for the footer of a table of 65,536 rows, with one request
_END_BYTES = 8  # after the footer: its length, and "PAR1" (Source: Apache Parquet, file format)


@dataclass(frozen=True, slots=True)
class VectorTable:
    """One table, by what its footer says.

    Attributes:
        path: in its storage.
        size_bytes: of the file.
        num_rows: of the table.
        metadata: how its vectors came to be; empty where it does not say.
        digest: sha256 of the footer, which has sizes, rows, and the least and greatest number of each group of rows.
    """

    path: str
    size_bytes: int
    num_rows: int
    metadata: Mapping[str, str]
    digest: str


class VectorRows(NamedTuple):
    """Some rows of a table.

    ``ids``: uint8, shape (num_rows, 16), the bytes of each UUID, which sort as its text does. ``vectors``: float32,
    shape (num_rows, dimensions), as they stand in the table: of any length, and what is no number is one.
    """

    ids: NDArray[np.uint8]
    vectors: NDArray[np.float32]


def find_tables(storage: Storage, name: str) -> list[VectorTable]:
    """The tables of one model's vectors, in the order of their names; only their footers are read.

    Args:
        name: the folder, without ``_parquet``.

    Raises:
        ValueError: a file is no parquet.
        StorageError: the storage failed.
    """
    objects = (each for each in storage.list(f"{name}_parquet/") if each.path.endswith(".parquet"))
    return [_described(storage, path, size_bytes) for path, size_bytes in sorted(objects)]


def _described(storage: Storage, path: str, size_bytes: int) -> VectorTable:
    tail = storage.read_range(path, max(0, size_bytes - _TAIL_BYTES), size_bytes)
    needed = int.from_bytes(tail[-_END_BYTES:-4], "little") + _END_BYTES
    if len(tail) < needed <= size_bytes:
        tail = storage.read_range(path, size_bytes - needed, size_bytes)
    try:
        footer = pq.ParquetFile(pa.BufferReader(tail)).metadata
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{storage.root}/{path} is no parquet file: {error}") from error
    said = {key.decode(): value.decode() for key, value in (footer.metadata or {}).items() if key != b"ARROW:schema"}
    return VectorTable(path, size_bytes, footer.num_rows, said, hashlib.sha256(tail[-needed:]).hexdigest())


def read_ids(storage: Storage, table: VectorTable) -> NDArray[np.uint8]:
    """The ids of a table, uint8, shape (num_rows, 16); no vector is read. Raises as ``read_rows``."""
    parts = [_ids(batch.column(0), table.path) for batch in _batches(storage, table, ["id"])]
    return np.concatenate(parts) if parts else np.empty((0, ID_BYTES), dtype=np.uint8)


def read_rows(storage: Storage, tables: Sequence[VectorTable]) -> Iterator[VectorRows]:
    """All rows of the tables in order, some thousand at a time.

    Raises:
        ValueError: an id is no UUID, or vectors are missing, no numbers, or of unequal lengths.
        StorageError: the storage failed.
    """
    dimensions = None
    for table in tables:
        for batch in _batches(storage, table, ["id", "embedding"]):
            rows = VectorRows(_ids(batch.column("id"), table.path), _vectors(batch.column("embedding"), table.path))
            dimensions = dimensions or rows.vectors.shape[1]
            if rows.vectors.shape[1] != dimensions:
                raise ValueError(f"{table.path}: vectors of {rows.vectors.shape[1]} numbers after some of {dimensions}")
            yield rows


def _batches(storage: Storage, table: VectorTable, columns: list[str]) -> Iterator[Any]:
    with storage.reading(table.path) as stream:
        file = pq.ParquetFile(stream)
        missing = set(columns) - set(file.schema_arrow.names)
        if missing:
            raise ValueError(f"{table.path} has no column {', '.join(sorted(missing))}: it is no table of vectors")
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
            if batch.num_rows:
                yield batch


def _ids(column: Any, path: str) -> NDArray[np.uint8]:
    texts = column.cast(pa.string())
    if texts.null_count or not pc.all(pc.equal(pc.binary_length(texts), 36)).as_py():
        raise ValueError(f"{path}: an id is no UUID")
    try:
        joined = bytes.fromhex("".join(texts.to_pylist()).replace("-", ""))
    except ValueError as error:
        raise ValueError(f"{path}: an id is no UUID: {error}") from error
    if len(joined) != ID_BYTES * len(texts):
        raise ValueError(f"{path}: an id is no UUID")
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, ID_BYTES)


def _vectors(column: Any, path: str) -> NDArray[np.float32]:
    values = column.flatten() if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type) else None
    if values is None or not pa.types.is_floating(values.type) or column.null_count or values.null_count:
        raise ValueError(f"{path}: embedding is {column.type} with {column.null_count} empty; expected lists of float")
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) != 1 or not lengths[0]:
        raise ValueError(f"{path}: vectors of unequal lengths, {sorted(lengths)[:5]}")
    numbers = values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return np.asarray(numbers).reshape(-1, lengths[0])
