"""Which clips show the same as others."""

from curation.dedup.duplicates import Duplicates, load_duplicates
from curation.dedup.semantic import DedupReport, DedupSettings, find_duplicates

__all__ = [
    "DedupReport",
    "DedupSettings",
    "Duplicates",
    "find_duplicates",
    "load_duplicates",
]
