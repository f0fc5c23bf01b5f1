"""The clips nearest to a text or to a clip."""

from curation.search.cache import cache_folders, open_index
from curation.search.index import VectorIndex
from curation.search.nearest import Neighbour, nearest

__all__ = ["Neighbour", "VectorIndex", "cache_folders", "nearest", "open_index"]
