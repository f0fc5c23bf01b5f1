"""Where artefacts are written: one protocol, one implementation for each kind of storage."""

from curation.storage.at_once import Writes, WritesAtOnce, read_ahead
from curation.storage.base import Leftover, Storage, StoredFile, StoredObject, locate, storage_for
from curation.storage.counts import add_request_counts, request_counts
from curation.storage.options import S3Options

__all__ = [
    "Leftover",
    "S3Options",
    "Storage",
    "StoredFile",
    "StoredObject",
    "Writes",
    "WritesAtOnce",
    "add_request_counts",
    "locate",
    "read_ahead",
    "request_counts",
    "storage_for",
]
