"""What came of a planned tar, in a file beside the plan: it is there when the tar is whole in all its trees."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.dataset.catalogue import SCHEMA, table_of
from curation.dataset.content import LeftOut
from curation.dataset.tars import TarDigest

_METADATA = b"tar"


@dataclass(frozen=True, slots=True)
class TarResult:
    """A tar of each tree with the same samples, or none where not one sample could be had.

    Attributes:
        digests: tree -> what its tar holds; empty where there is no tar.
        mp4_bytes: bytes of the samples' mp4 alone.
        left_out: planned samples that could not be had.
    """

    plan_id: str
    digests: Mapping[str, TarDigest]
    mp4_bytes: int
    left_out: Sequence[LeftOut]


def result_bytes(result: TarResult, rows: list[dict[str, Any]], paths: Mapping[str, str]) -> bytes:
    """A result as a file: the catalogue's rows of the tar, and the rest in the schema's metadata.

    Args:
        rows: as ``catalogue_row`` gives them, in the order of the tar.
        paths: tree -> tar relative to the bucket.
    """
    document = {
        "plan_id": result.plan_id,
        "digests": {tree: {**asdict(digest), "path": paths[tree]} for tree, digest in result.digests.items()},
        "mp4_bytes": result.mp4_bytes,
        "left_out": [each._asdict() for each in result.left_out],
    }
    stream = io.BytesIO()
    pq.write_table(
        table_of(rows).replace_schema_metadata({_METADATA: json.dumps(document)}), stream, compression="zstd"
    )
    return stream.getvalue()


def read_result(content: bytes) -> TarResult:
    """What ``result_bytes`` was given, but its rows."""
    document = json.loads(pq.read_schema(io.BytesIO(content)).metadata[_METADATA])
    digests = {
        tree: TarDigest(digest["num_members"], digest["num_bytes"], digest["sha256"])
        for tree, digest in document["digests"].items()
    }
    left_out = [LeftOut(**each) for each in document["left_out"]]
    return TarResult(document["plan_id"], digests, document["mp4_bytes"], left_out)


def rows_of_result(content: bytes) -> pa.Table:
    """The catalogue's rows of a tar."""
    return pq.read_table(io.BytesIO(content)).select(SCHEMA.names).replace_schema_metadata()
