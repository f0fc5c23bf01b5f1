"""Where indexes are kept, and whether one still says what the tables say."""

import errno
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from curation.search.index import VectorIndex, map_index, write_index
from curation.storage import Storage
from curation.storage.files import replacing, written_aside
from curation.vector_tables import VectorTable, find_tables

logger = logging.getLogger(__name__)

_FORMAT = 1
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}


def cache_folders(storage: Storage, *, own: Path | None = None) -> list[Path]:
    """Where an output's indexes may be, the best place first.

    Args:
        own: the user's choice, and then the only one. Else a hidden folder of an output that has files, and then
            ``clipmill/search`` in XDG_CACHE_HOME (``~/.cache``), where each output has a folder of its own.
    """
    root_hash = hashlib.sha256(storage.root.encode()).hexdigest()[:16]
    if own is not None:
        return [own / root_hash]
    beside = storage.local_path(".clipmill/search")
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return [*([beside] if beside is not None else []), home / "clipmill/search" / root_hash]


def open_index(storage: Storage, name: str, folders: Sequence[Path]) -> VectorIndex:
    """The index of one model's vectors; it is made anew where the tables are not those that it was made of.

    Args:
        name: the tables' folder, without ``_parquet``.
        folders: as ``cache_folders`` gives them; what is in none goes to the first that can be written to.

    Raises:
        FileNotFoundError: there are no tables.
        ValueError: they can't be read.
        StorageError: the storage failed.
        OSError: no folder can be written to, or the disk is full.
    """
    tables = find_tables(storage, name)
    if not any(table.num_rows for table in tables):
        raise FileNotFoundError(f"{storage.root} has no vectors in {name}_parquet/")
    fingerprint = _fingerprint(storage, tables)
    for folder in folders:
        try:
            index = map_index(folder / f"{name}.vectors", fingerprint=fingerprint)
        except PermissionError:
            continue
        if index is not None:
            return index
    target = _writable(folders) / f"{name}.vectors"
    logger.info("event=index_begun path=%s vectors=%d", target, sum(table.num_rows for table in tables))
    with replacing(target) as file:
        write_index(file, storage, tables, fingerprint=fingerprint)
    index = map_index(target, fingerprint=fingerprint)
    assert index is not None, f"{target} was written just now"
    return index


def _fingerprint(storage: Storage, tables: Sequence[VectorTable]) -> str:
    """Differs when a table was added, taken away or written anew.

    Other vectors in a table of the same name, size and number of rows have other least and greatest numbers, which are
    in the footer; and of a file the time counts, too.
    """
    seen = [
        (table.path, table.size_bytes, table.num_rows, table.digest, _written_ns(storage, table)) for table in tables
    ]
    return hashlib.sha256(json.dumps([_FORMAT, seen]).encode()).hexdigest()


def _written_ns(storage: Storage, table: VectorTable) -> int | None:
    path = storage.local_path(table.path)
    return path.stat().st_mtime_ns if path is not None else None


def _writable(folders: Sequence[Path]) -> Path:
    """The first folder that can be written to."""
    for folder in folders[:-1]:
        try:
            with written_aside(folder / "probe"):
                return folder
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise
    return folders[-1]
