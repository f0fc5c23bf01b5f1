"""Where artefacts are written: one protocol, one implementation for each kind of storage."""

from curation.storage.base import Leftover, Storage, StoredObject, locate, storage_for
from curation.storage.counts import add_request_counts, request_counts
from curation.storage.options import S3Options

__all__ = [
    "Leftover",
    "S3Options",
    "Storage",
    "StoredObject",
    "add_request_counts",
    "locate",
    "request_counts",
    "storage_for",
]
