"""What planning hands to those who pack and to who finishes: the files of a build (docs/rules.md, Training dataset).

All paths are relative to the folder of the annotation version. A build is: ``building.json`` written, then the plan's
files with ``plan.json`` last, then tars and their results, then what describes the dataset; ``building.json`` goes at
the end.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from curation.dataset.settings import DatasetSettings
from curation.documents import to_json
from curation.storage import Storage

BUILDING = "building.json"
"""There while a build is under way: the dataset is not to be used."""

BUILDING_FOLDER = "building"
PLAN = f"{BUILDING_FOLDER}/plan.json"
PLANNED_LEFT_OUT = f"{BUILDING_FOLDER}/left_out.parquet"
SCHEMA_VERSION = 1

TASK_SCHEMA = pa.schema(
    [
        pa.field("bucket", pa.string(), nullable=False),  # its folder
        pa.field("tar", pa.int32(), nullable=False),  # number in the bucket
        pa.field("key", pa.string(), nullable=False),
        pa.field("clip_uuid", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("start_frame", pa.int32(), nullable=False),
        pa.field("end_frame", pa.int32(), nullable=False),  # inclusive
        pa.field("clip_path", pa.string(), nullable=False),
        pa.field("clip_sha256", pa.string(), nullable=False),
        pa.field("clip_bytes", pa.int64(), nullable=False),
        pa.field("clip_num_frames", pa.int32(), nullable=False),
        pa.field("content", pa.uint64(), nullable=False),
        pa.field("meta", pa.string()),  # the clip's meta as JSON; null: read metas/{version}/{uuid}.json
        pa.field("t5_path", pa.string()),
        pa.field("t5_first_row", pa.int64()),
        pa.field("t5_num_rows", pa.int32()),
    ]
)

_REPEATING = ["bucket", "tar", "split", "video_id", "t5_path"]

LEFT_OUT_SCHEMA = pa.schema(
    [
        pa.field("clip_uuid", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("start_frame", pa.int32()),  # null: a clip without windows
        pa.field("reason", pa.string(), nullable=False),
    ]
)


def task_file(task: int) -> str:
    """What a task packs."""
    return f"{BUILDING_FOLDER}/task-{task:05d}.parquet"


def result_file(bucket: str, number: int) -> str:
    """What came of a tar: it is there when the tar is whole in all its trees."""
    return f"{BUILDING_FOLDER}/tars/{bucket}/{number:06d}.parquet"


class PlannedSample(NamedTuple):
    """A row of a task file: one window to be packed."""

    bucket: str
    tar: int
    key: str
    clip_uuid: str
    video_id: str
    split: str
    start_frame: int
    end_frame: int
    clip_path: str
    clip_sha256: str
    clip_bytes: int
    clip_num_frames: int
    content: int
    meta: str | None
    t5_path: str | None
    t5_first_row: int | None
    t5_num_rows: int | None


@dataclass(frozen=True, slots=True)
class PlannedTar:
    """A tar that a task packs: a new one, or one that is packed again.

    Attributes:
        bucket: its folder.
        number: in the bucket; numbers are dense from 0 over the tars kept and packed.
        num_bytes: estimated bytes of mp4.
    """

    bucket: str
    number: int
    task: int
    num_samples: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class KeptTar:
    """A tar of an earlier build that stays as it is; ``entry`` is that of its bucket's ``index.json``."""

    bucket: str
    number: int
    entry: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PlanCounts:
    """What becomes of the kept clips and their windows, if all that is planned can be read.

    Attributes:
        num_clips: kept clips: with a window that is planned, and without.
        num_planned: windows in tars, kept and packed.
    """

    num_clips: int
    num_planned_clips: int
    num_windows: int
    num_planned: int

    @property
    def num_left_out_clips(self) -> int:
        return self.num_clips - self.num_planned_clips

    @property
    def num_left_out(self) -> int:
        """Windows left out."""
        return self.num_windows - self.num_planned


@dataclass(frozen=True, slots=True)
class DatasetPlan:
    """Which tars are packed, by whom, and which stay.

    Attributes:
        plan_id: the same for the same clips, settings and earlier dataset.
        base: says in words what was found of an earlier dataset.
        is_complete: every video of the run is done or failed; where some are missing it is no base to grow on.
        replaced: tars of the earlier dataset, by bucket and number, that unfinished builds may have replaced.
        trees: of every tar.
        tars: to be packed, by bucket and number; those of a task follow each other, as do the row groups of its file.
        kept: as they are, by bucket and number.
    """

    plan_id: str
    base: str
    num_tasks: int
    settings: DatasetSettings
    trees: tuple[str, ...]
    counts: PlanCounts
    tars: tuple[PlannedTar, ...]
    kept: tuple[KeptTar, ...]
    is_complete: bool = True
    replaced: tuple[tuple[str, int], ...] = ()

    def of_task(self, task: int) -> list[PlannedTar]:
        """The tars of a task, one for each row group of its file, in order."""
        return [tar for tar in self.tars if tar.task == task]

    def to_document(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "plan_id": self.plan_id,
            "base": self.base,
            "num_tasks": self.num_tasks,
            "settings": self.settings.to_document(),
            "trees": list(self.trees),
            "counts": asdict(self.counts),
            "left_out": PLANNED_LEFT_OUT,
            "tars": [asdict(tar) for tar in self.tars],
            "kept": [asdict(tar) for tar in self.kept],
            "is_complete": self.is_complete,
            "replaced": [list(place) for place in self.replaced],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "DatasetPlan":
        return cls(
            plan_id=document["plan_id"],
            base=document["base"],
            num_tasks=document["num_tasks"],
            settings=DatasetSettings.from_document(document["settings"]),
            trees=tuple(document["trees"]),
            counts=PlanCounts(**document["counts"]),
            tars=tuple(PlannedTar(**tar) for tar in document["tars"]),
            kept=tuple(KeptTar(**tar) for tar in document["kept"]),
            is_complete=document["is_complete"],
            replaced=tuple((bucket, number) for bucket, number in document["replaced"]),
        )


def read_plan(output: Storage, annotation_version: str) -> DatasetPlan | None:
    """The plan of the build that is under way; None where none was finished."""
    document = read_document(output, f"{annotation_version}/{PLAN}")
    return None if document is None else DatasetPlan.from_document(document)


def write_plan(output: Storage, plan: DatasetPlan) -> None:
    """Make a plan the one that is packed; what belongs to it is there already."""
    output.write(f"{plan.settings.annotation_version}/{PLAN}", to_json(plan.to_document()))


def read_document(storage: Storage, path: str) -> dict[str, Any] | None:
    """A JSON document; None where there is none."""
    try:
        document: dict[str, Any] = json.loads(storage.read(path))
    except FileNotFoundError:
        return None
    return document


class TaskFile:
    """What a task packs, one row group for each tar.

    Raises:
        ValueError: the file belongs to another plan: planning was interrupted, and has to be done again.
    """

    def __init__(self, stream: BinaryIO, plan: DatasetPlan, task: int) -> None:
        self._parquet = pq.ParquetFile(stream)
        found = json.loads((self._parquet.schema_arrow.metadata or {}).get(b"plan", b"null"))
        expected = task_identity(plan.plan_id, plan.num_tasks, task)
        if found != expected:
            raise ValueError(f"{task_file(task)} is of {found}, expected {expected}: plan again")

    def samples(self, group: int) -> list[PlannedSample]:
        """The samples of the tar at this place of ``DatasetPlan.of_task``, in order."""
        columns = [column.to_pylist() for column in self._parquet.read_row_group(group).columns]
        return [PlannedSample(*row) for row in zip(*columns, strict=True)]


def task_identity(plan_id: str, num_tasks: int, task: int) -> dict[str, Any]:
    """What a task's file says it is."""
    return {"plan_id": plan_id, "num_tasks": num_tasks, "task": task}


@contextmanager
def task_writer(stream: BinaryIO, identity: Mapping[str, Any]) -> Iterator["pq.ParquetWriter"]:
    """Writes a task's file: ``write_table`` with the rows of a tar gives its row group. The stream is left open."""
    schema = TASK_SCHEMA.with_metadata({"plan": json.dumps(identity)})
    with pq.ParquetWriter(
        stream, schema, compression={"meta": "zstd"}, use_dictionary=_REPEATING, write_statistics=False
    ) as writer:
        yield writer


def build_files(plan: DatasetPlan) -> Sequence[str]:
    """Every file below ``building/`` that a build of this plan may leave."""
    tasks = (task_file(task) for task in range(plan.num_tasks))
    return [PLAN, PLANNED_LEFT_OUT, *tasks, *(result_file(tar.bucket, tar.number) for tar in plan.tars)]
