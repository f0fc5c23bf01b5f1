"""What a check of a dataset finds: nothing where all is right, a line where something is not."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.dataset import check_dataset, finish_dataset, pack_task
from curation.dataset.catalogue import write_catalogue
from curation.storage.local import LocalStorage
from tests.dataset.hand_plans import BUCKET, HandPlan, put_clip, uuid_of

TAR = f"{BUCKET}/video/part_000000/000000.tar"
METAS = f"{BUCKET}/metas/part_000000/000001.tar"
INDEX = f"{BUCKET}/index.json"


@pytest.fixture
def output(tmp_path: Path) -> LocalStorage:
    """The root of a dataset of two tars with two samples each."""
    clips, output = LocalStorage(str(tmp_path / "clips")), LocalStorage(str(tmp_path / "datasets"))
    tars = [
        [put_clip(clips, name, name.encode() * 700, number=n) for name in pair] for n, pair in enumerate(("ab", "cd"))
    ]
    HandPlan(tars).write(output)
    pack_task(0, clips=clips, output=output, annotation_version="v0")
    finish_dataset(output=output, annotation_version="v0")
    return output


def test_a_whole_dataset_has_no_problems(output: LocalStorage) -> None:
    found = check_dataset(output)
    assert (found.problems, found.num_samples, found.num_tars) == ((), 4, 4)
    inside = LocalStorage(f"{output.root}/v0")
    assert check_dataset(inside) == found == check_dataset(output, "v0")


def test_where_there_is_no_dataset_it_says_so(tmp_path: Path) -> None:
    (problem,) = check_dataset(LocalStorage(str(tmp_path))).problems
    assert problem.startswith("no dataset in ")
    assert check_dataset(LocalStorage(str(tmp_path)), "v7").problems == ("v7/report.json is not there",)


def changed_document(path: str, change: Callable[[Any], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        document = json.loads((folder / path).read_bytes())
        change(document)
        (folder / path).write_text(json.dumps(document))

    return damage


def changed_bytes(path: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: _write(folder / path, change((folder / path).read_bytes()))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def removed(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).unlink()


def changed_catalogue(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        table = change(pq.read_table(folder / "catalogue.parquet"))
        stream = io.BytesIO()
        dataset_id = json.loads((folder / "report.json").read_bytes())["dataset_id"]
        write_catalogue(stream, [table.replace_schema_metadata()], dataset_id=dataset_id)
        (folder / "catalogue.parquet").write_bytes(stream.getvalue())

    return damage


def replaced(table: pa.Table, column: str, values: list[Any]) -> pa.Table:
    index = table.schema.get_field_index(column)
    return table.set_column(index, table.schema.field(column), pa.array(values, table.schema.field(column).type))


def with_members(change: Callable[[list[tuple[str, bytes]]], object]) -> Callable[[bytes], bytes]:
    """A tar with other members."""

    def rewrite(tar: bytes) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(tar)) as read:
            members = [(name, read.extractfile(name).read()) for name in read.getnames()]  # type: ignore[union-attr]
        change(members)
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as written:
            for name, content in members:
                header = tarfile.TarInfo(name)
                header.size = len(content)
                written.addfile(header, io.BytesIO(content))
        return stream.getvalue()

    return rewrite


def first_and_last_swapped(members: list[tuple[str, bytes]]) -> None:
    members[0], members[-1] = members[-1], members[0]


def first_renamed(members: list[tuple[str, bytes]]) -> None:
    members[0] = (members[0][0].replace(".mp4", ".avi"), members[0][1])


def first_without_key(members: list[tuple[str, bytes]]) -> None:
    members[0] = (members[0][0], members[0][1].replace(b'"key"', b'"kee"'))


def first_no_json(members: list[tuple[str, bytes]]) -> None:
    members[0] = (members[0][0], b"{")


def first_longer(members: list[tuple[str, bytes]]) -> None:
    members[0] = (members[0][0], members[0][1] * 2)


DAMAGES = [
    pytest.param(changed_bytes(TAR, lambda tar: tar[:700] + b"?" + tar[701:]), f"{TAR}: sha256 ", id="a byte"),
    pytest.param(changed_bytes(TAR, lambda tar: tar[:2000]), f"{TAR}: 2000 bytes, its index says", id="cut off"),
    pytest.param(removed(TAR), f"{TAR} is not there", id="a tar is gone"),
    pytest.param(
        changed_bytes(TAR, with_members(list.clear)), f"{TAR}: 0 samples, the catalogue has 2", id="no sample"
    ),
    pytest.param(
        changed_bytes(METAS, with_members(first_and_last_swapped)),
        f"{METAS}: sample {uuid_of('d')}_0_9 is where the catalogue has {uuid_of('c')}_0_9",
        id="another order",
    ),
    pytest.param(
        changed_bytes(TAR, with_members(first_renamed)),
        f"{TAR}: {uuid_of('a')}_0_9.avi is no member of the tree video",
        id="another member",
    ),
    pytest.param(
        changed_bytes(TAR, with_members(first_longer)),
        f"{TAR}: {uuid_of('a')}_0_9.mp4 has offset and size",
        id="longer",
    ),
    pytest.param(
        changed_bytes(METAS, with_members(first_without_key)),
        f"{METAS}: {uuid_of('c')}_0_9.json is of the key None",
        id="a meta of another key",
    ),
    pytest.param(
        changed_bytes(METAS, with_members(first_no_json)),
        f"{METAS}: {uuid_of('c')}_0_9.json is not JSON",
        id="a meta that is no JSON",
    ),
    pytest.param(
        lambda folder: _write(folder / TAR.replace("000000.tar", "000002.tar"), b""),
        f"{TAR.replace('000000.tar', '000002.tar')} is in no index",
        id="a tar too many",
    ),
    pytest.param(
        changed_document(INDEX, lambda index: index["tars"].pop(0)), f"{INDEX}: tar 0 is ", id="numbers with a gap"
    ),
    pytest.param(removed(INDEX), f"{INDEX} is not there", id="no index"),
    pytest.param(
        changed_document(f"{BUCKET}/wdinfo.json", lambda info: info.update(total_key_count=5)),
        f"{BUCKET}/wdinfo.json is not there, or not what index.json says",
        id="another wdinfo",
    ),
    pytest.param(
        changed_document("report.json", lambda report: report.update(num_packed=5)),
        "report.json: num_packed is 5, the indexes say 4",
        id="another count",
    ),
    pytest.param(
        changed_document("report.json", lambda report: report.update(num_left_out=5)),
        "left_out.parquet: 0 windows, report.json says 5",
        id="another count of what is left out",
    ),
    pytest.param(
        changed_bytes("wdinfo_list.csv", lambda text: text + b"?"), "wdinfo_list.csv is not there, or not", id="csv"
    ),
    pytest.param(removed("catalogue.parquet"), "catalogue.parquet is not there", id="no catalogue"),
    pytest.param(
        changed_catalogue(lambda table: replaced(table, "offset", [0, 1, 2, 3])),
        f"{TAR}: {uuid_of('a')}_0_9.mp4 has offset and size (512, 700), the catalogue says (0, 700)",
        id="another offset",
    ),
    pytest.param(
        changed_catalogue(lambda table: table.slice(1)),
        "catalogue.parquet: 3 rows, the indexes have 4",
        id="a row less",
    ),
    pytest.param(
        changed_catalogue(lambda table: pa.concat_tables([table, table.slice(0, 1)])),
        "catalogue.parquet: 1 samples are there twice",
        id="a sample twice",
    ),
    pytest.param(
        changed_catalogue(lambda table: replaced(table, "end_frame", [8, 9, 9, 9])),
        f"catalogue.parquet: '{uuid_of('a')}_0_9' is not the key of its row",
        id="a row of another window",
    ),
    pytest.param(lambda folder: _write(folder / "building.json", b"{}"), "building.json is there", id="unfinished"),
]


@pytest.mark.parametrize(("damage", "problem"), DAMAGES)
def test_what_is_wrong_is_said(output: LocalStorage, damage: Callable[[Path], None], problem: str) -> None:
    damage(Path(output.root) / "v0")
    found = check_dataset(output).problems
    assert [line for line in found if line.startswith(f"v0/{problem}")], found
    assert not [line for line in found if "\n" in line]
