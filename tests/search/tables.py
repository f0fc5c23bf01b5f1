"""Tables of vectors as an output has them, written with pyarrow alone."""

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

NAME = "ce1_embd_224p"
METADATA = {"embedding_algorithm": "cosmos-embed1-224p", "model": "nvidia/Cosmos-Embed1-224p@some-commit"}


def random_ids(number: int, *, seed: int = 0) -> list[str]:
    content = np.random.default_rng(seed).bytes(16 * number)
    return [str(UUID(bytes=content[16 * k : 16 * k + 16])) for k in range(number)]


def random_units(number: int, dimensions: int, *, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((number, dimensions))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def write_table(
    out: Path, number: int, ids: Sequence[str], vectors: NDArray[np.float32], *, compression: str = "zstd"
) -> Path:
    """``<out>/<NAME>_parquet/<number>.parquet``, in groups of 4096 rows as runs write them."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    table = pa.table({"id": pa.array(ids, pa.string()), "embedding": values}).replace_schema_metadata(METADATA)
    path = out / f"{NAME}_parquet" / f"{number:06d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    has_dictionary = compression != "none"  # its size depends on the numbers
    pq.write_table(table, path, compression=compression, use_dictionary=has_dictionary, row_group_size=4096)
    return path
