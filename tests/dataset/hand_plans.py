"""Plans of datasets made by hand, for what packs and finishes them."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid5

import pyarrow as pa
import pyarrow.parquet as pq

from curation.dataset.plan_files import (
    BUILDING,
    LEFT_OUT_SCHEMA,
    PLANNED_LEFT_OUT,
    DatasetPlan,
    KeptTar,
    PlanCounts,
    PlannedSample,
    PlannedTar,
    task_file,
    task_identity,
    task_writer,
    write_plan,
)
from curation.dataset.settings import DatasetSettings
from curation.storage import Storage

BUCKET = "resolution_720/aspect_ratio_16_9/frames_0_255"
_NAMESPACE = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")


def uuid_of(name: str) -> str:
    """An id for a clip."""
    return str(uuid5(_NAMESPACE, name))


def meta_of(uuid: str, *, num_frames: int = 10, **more: Any) -> dict[str, Any]:
    """A clip's metadata with one window, which is the whole clip."""
    return {
        "span_uuid": uuid,
        "duration_span": [2.0, 2.0 + num_frames / 10],
        "width": 1280,
        "height": 720,
        "windows": [{"start_frame": 0, "end_frame": num_frames - 1}],
        "video_id": "video",
        **more,
    }


def put_clip(
    clips: Storage, name: str, mp4: bytes, *, number: int = 0, bucket: str = BUCKET, **changes: Any
) -> PlannedSample:
    """Put bytes into a split run as a clip, and plan its one window."""
    uuid = uuid_of(name)
    clips.write(f"clips/{uuid}.mp4", mp4)
    sample = PlannedSample(
        bucket=bucket,
        tar=number,
        key=f"{uuid}_0_9",
        clip_uuid=uuid,
        video_id="video",
        split="train",
        start_frame=0,
        end_frame=9,
        clip_path=f"clips/{uuid}.mp4",
        clip_sha256=hashlib.sha256(mp4).hexdigest(),
        clip_bytes=len(mp4),
        clip_num_frames=10,
        content=int(hashlib.sha256(mp4).hexdigest()[:16], 16),
        meta=json.dumps(meta_of(uuid)),
        t5_path=None,
        t5_first_row=None,
        t5_num_rows=None,
    )
    return sample._replace(**changes)


@dataclass
class HandPlan:
    """A plan whose tars are given, each as the list of its samples; ``write`` puts it where it is looked for."""

    tars: Sequence[Sequence[PlannedSample]]
    plan_id: str = "by hand"
    num_tasks: int = 1
    trees: tuple[str, ...] = ("video", "metas")
    settings: DatasetSettings = field(default_factory=DatasetSettings)
    kept: Sequence[KeptTar] = ()
    num_kept: int = 0  # samples in kept tars, one for each clip
    left_out: Sequence[Mapping[str, Any]] = ()
    files: Sequence[str] = ()

    def write(self, output: Storage) -> DatasetPlan:
        version = self.settings.annotation_version
        clips = {sample.clip_uuid for tar in self.tars for sample in tar}
        num_windows = sum(len(tar) for tar in self.tars) + self.num_kept
        lost_windows = sum(each["start_frame"] is not None for each in self.left_out)
        planned = [
            PlannedTar(tar[0].bucket, tar[0].tar, index * self.num_tasks // len(self.tars), len(tar), 0)
            for index, tar in enumerate(self.tars)
        ]
        plan = DatasetPlan(
            plan_id=self.plan_id,
            base="by hand",
            num_tasks=self.num_tasks,
            settings=self.settings,
            trees=self.trees,
            counts=PlanCounts(
                num_clips=len(clips | {each["clip_uuid"] for each in self.left_out}) + self.num_kept,
                num_planned_clips=len(clips) + self.num_kept,
                num_windows=num_windows + lost_windows,
                num_planned=num_windows,
            ),
            tars=tuple(planned),
            kept=tuple(self.kept),
        )
        building = {"plan_id": self.plan_id, "num_tasks": self.num_tasks, "files": list(self.files)}
        output.write(f"{version}/{BUILDING}", json.dumps(building).encode())
        for task in range(self.num_tasks):
            output.write(f"{version}/{task_file(task)}", self._task(plan, task))
        output.write(f"{version}/{PLANNED_LEFT_OUT}", _table(self.left_out))
        write_plan(output, plan)
        return plan

    def _task(self, plan: DatasetPlan, task: int) -> bytes:
        stream = io.BytesIO()
        with task_writer(stream, task_identity(plan.plan_id, plan.num_tasks, task)) as parquet:
            for planned, tar in zip(plan.tars, self.tars, strict=True):
                if planned.task == task:
                    parquet.write_table(pa.Table.from_pylist([each._asdict() for each in tar], parquet.schema))
        return stream.getvalue()


def _table(rows: Sequence[Mapping[str, Any]]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=LEFT_OUT_SCHEMA), stream)
    return stream.getvalue()
