"""Stages joined by bounded queues, and the sandbox in which those run that read other people's files."""

from curation.pipeline.executor import FailureBudgetError, Pipeline
from curation.pipeline.queues import ByteBoundedQueue
from curation.pipeline.stage import BatchStage, Stage, apply_batch, apply_stage
from curation.pipeline.stage_run import StageLook, StageTimes

__all__ = [
    "BatchStage",
    "ByteBoundedQueue",
    "FailureBudgetError",
    "Pipeline",
    "Stage",
    "StageLook",
    "StageTimes",
    "apply_batch",
    "apply_stage",
]
