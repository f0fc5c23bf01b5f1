"""Tables of a run's embeddings: the vectors that chunk documents carry, as parquet."""

from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation import layout
from curation.storage import Storage
from curation.writing.embeddings import from_text

ROWS_PER_FILE = 65_536
_ROWS_AT_ONCE = 4096


def embeddings_collected(
    chunks: Iterable[dict[str, Any]],
    storage: Storage,
    *,
    provenance: Mapping[str, str],
    rows_per_file: int = ROWS_PER_FILE,
) -> Generator[dict[str, Any], None, None]:
    """The same chunk documents; once the last was taken, the tables of all vectors are there.

    Args:
        provenance: kept in the tables' own metadata.
        rows_per_file: at most.

    Raises:
        ValueError: vectors of one model have unequal lengths.
    """
    with ExitStack() as stack:
        tables: dict[str, EmbeddingTable] = {}
        for chunk in chunks:
            for entry in chunk["clips"]:
                for name, text in entry.get("embeddings", {}).items():
                    if name not in tables:
                        tables[name] = stack.enter_context(EmbeddingTable(storage, name, provenance, rows_per_file))
                    tables[name].add(entry["uuid"], text)
            yield chunk
        for table in tables.values():
            table.finish()


class EmbeddingTable:
    """Parquet files with the columns ``id`` and ``embedding``; each appears when it is whole."""

    def __init__(self, storage: Storage, name: str, provenance: Mapping[str, str], rows_per_file: int) -> None:
        """``name``: the folder, without ``_parquet``."""
        self._rows_per_file = rows_per_file
        self._storage, self._name, self._provenance = storage, name, dict(provenance)
        self._ids: list[str] = []
        self._vectors: list[Any] = []
        self._num_rows = self._num_files = 0
        self._file = ExitStack()
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "EmbeddingTable":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)  # type: ignore[arg-type]  # what was begun and is not whole never appears

    def add(self, clip_id: str, text: str) -> None:
        """Append a clip's vector.

        Raises:
            ValueError: it has not as many numbers as those before it.
        """
        self._ids.append(clip_id)
        self._vectors.append(from_text(text))
        if len(self._ids) == min(_ROWS_AT_ONCE, self._rows_per_file - self._num_rows):
            self._flush()

    def finish(self) -> None:
        """Write what is left, and remove what an earlier, longer table had beyond it."""
        self._flush()
        self._close_file()
        beyond = self._num_files
        while self._storage.exists(path := layout.embedding_table(self._name, beyond)):
            self._storage.delete(path)
            beyond += 1

    def _flush(self) -> None:
        if not self._ids:
            return
        size = len(self._vectors[0])
        if any(len(vector) != size for vector in self._vectors):
            raise ValueError(f"{self._name}: vectors of unequal lengths")
        batch = self._batch(size)
        if self._writer is None:
            path = layout.embedding_table(self._name, self._num_files)
            stream = self._file.enter_context(self._storage.writing(path))
            self._writer = self._file.enter_context(pq.ParquetWriter(stream, batch.schema, compression="zstd"))
            self._num_files += 1
        self._writer.write_batch(batch)
        self._num_rows += len(self._ids)
        self._ids, self._vectors = [], []
        if self._num_rows >= self._rows_per_file:
            self._close_file()

    def _batch(self, size: int) -> pa.RecordBatch:
        values = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(self._vectors)), size)
        schema = pa.schema(
            [("id", pa.string()), ("embedding", pa.list_(pa.float32(), size))], metadata=self._provenance
        )
        return pa.record_batch([pa.array(self._ids, pa.string()), values], schema=schema)

    def _close_file(self) -> None:
        self._file.close()
        self._writer, self._num_rows = None, 0
