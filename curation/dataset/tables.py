"""The dataset's two tables, put together from what the tars' results, the plan and an earlier catalogue hold."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from curation.dataset.account import LeftOutAccount, PackedAccount
from curation.dataset.catalogue import ROWS_PER_GROUP, Catalogue, regrouped, write_catalogue
from curation.dataset.content import VIDEO, LeftOut
from curation.dataset.folder import DatasetFolder
from curation.dataset.numbering import PlacedTar
from curation.dataset.plan_files import LEFT_OUT_SCHEMA, PLANNED_LEFT_OUT, result_file
from curation.dataset.report import CATALOGUE, LEFT_OUT
from curation.dataset.results import rows_of_result
from curation.errors import StorageError
from curation.storage import read_ahead

_READERS = 8
_RESULTS_AT_ONCE = 16


def publish_left_out(folder: DatasetFolder, unreadable: Iterable[LeftOut]) -> LeftOutAccount:
    """Write the table of what is left out: as planned, then what could not be read."""
    account = LeftOutAccount()
    ordered = sorted(unreadable, key=lambda each: (each.clip_uuid, each.start_frame))
    rows = pa.Table.from_pylist([each._asdict() for each in ordered], schema=LEFT_OUT_SCHEMA)
    with (
        folder.reading(PLANNED_LEFT_OUT) as stream,
        folder.writing(LEFT_OUT) as written,
        pq.ParquetWriter(written, LEFT_OUT_SCHEMA, compression="zstd") as parquet,
    ):
        planned = pq.ParquetFile(stream)
        groups = (planned.read_row_group(group) for group in range(planned.num_row_groups))
        for table in regrouped(account.counted(_chained(groups, rows)), ROWS_PER_GROUP):
            parquet.write_table(table.replace_schema_metadata())
    return account


def _chained(tables: Iterable[pa.Table], last: pa.Table) -> Iterator[pa.Table]:
    yield from (table.select(LEFT_OUT_SCHEMA.names).cast(LEFT_OUT_SCHEMA) for table in tables)
    if len(last):
        yield last


def publish_catalogue(folder: DatasetFolder, tars: Mapping[str, list[PlacedTar]], dataset_id: str) -> PackedAccount:
    """Write the catalogue, unless it describes this dataset already.

    Raises:
        StorageError: the catalogue that is there does not list a tar that was kept.
    """
    account = PackedAccount()
    with _earlier_catalogue(folder) as earlier:
        if earlier is not None and earlier.dataset_id == dataset_id:
            deque(account.counted(earlier.tables(["clip_uuid", "caption"])), maxlen=0)
        else:
            in_order = [each for bucket in tars.values() for each in bucket]
            with folder.writing(CATALOGUE) as stream:
                write_catalogue(stream, account.counted(_rows(folder, in_order, earlier)), dataset_id=dataset_id)
    return account


@contextmanager
def _earlier_catalogue(folder: DatasetFolder) -> Iterator[Catalogue | None]:
    if not folder.exists(CATALOGUE):
        yield None
        return
    with folder.reading(CATALOGUE) as stream:
        yield Catalogue(stream)


def _rows(folder: DatasetFolder, tars: Iterable[PlacedTar], earlier: Catalogue | None) -> Iterator[pa.Table]:
    """The rows of all tars: the results are read ahead, those of kept tars taken out of the earlier catalogue."""

    def read(each: PlacedTar) -> tuple[PlacedTar, bytes | None]:
        found = each.found
        return each, None if found.is_kept else folder.read(result_file(found.bucket, found.number))

    for each, content in read_ahead(read, tars, num_threads=_READERS, at_most=_RESULTS_AT_ONCE):
        old_path, path = (f"{each.found.bucket}/{tar.paths[VIDEO]}" for tar in (each.found.tar, each.tar))
        tables = [rows_of_result(content)] if content is not None else _kept_rows(earlier, old_path)
        num_rows = sum(table.num_rows for table in tables)
        if num_rows != each.tar.num_samples:
            found = f"{num_rows} samples in {old_path}, its index {each.tar.num_samples}"
            raise StorageError(f"{CATALOGUE} lists {found}: remove report.json to pack everything anew")
        yield from (_under(table, path) if path != old_path else table for table in tables)


def _kept_rows(earlier: Catalogue | None, tar: str) -> list[pa.Table]:
    return [] if earlier is None else list(earlier.rows_of(tar))


def _under(rows: pa.Table, tar: str) -> pa.Table:
    """The rows of a tar that is moved."""
    column = rows.schema.get_field_index("tar")
    return rows.set_column(column, rows.schema.field(column), pa.array([tar] * rows.num_rows, pa.string()))
