"""What the stages of all models do with clips that a model refuses, and with texts, shown with a model made for it."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from curation.embedding.cosmos_embed1 import CosmosEmbed1EmbeddingStage
from curation.embedding.stages import LoadedModel
from curation.pipeline import Pipeline
from tests.embedding.clips import SHAPE, noise, tasks_of, vectors_of

ERROR = "cosmos_embed1_embedding"

pytest.importorskip("torch", reason="needs torch: install the extra 'transformers'")


class Refusing:
    """A model that fails on any batch with a clip whose first pixel is 255, and on batches that are too large."""

    frame_shape = SHAPE

    def __init__(self, most: int = 100) -> None:
        self.most = most
        self.sizes: list[int] = []

    def video_vectors(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.sizes.append(len(frames))
        if len(frames) > self.most:
            raise RuntimeError("too many")
        if (frames[:, 0, 0, 0, 0] == 255).any():
            raise RuntimeError("a bad clip")
        nothing = frames[:, 0, 0, 0, 0] == 254
        return np.where(nothing[:, np.newaxis], np.nan, frames[:, 0, 0, :2, 0].astype(np.float32) + 1)

    def text_vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)


class WithModel(CosmosEmbed1EmbeddingStage):
    """The stage, with another model."""

    def __init__(self, model: LoadedModel, **settings: Any) -> None:
        super().__init__("none", "224p", **settings)
        self._given = model

    def load(self) -> LoadedModel:
        return self._given


def numbered(values: Sequence[int]) -> NDArray[np.uint8]:
    frames = noise(len(values))
    frames[:, 0, 0, 0, 0] = values
    return frames


def test_only_the_clip_at_fault_goes_without_a_vector(caplog: pytest.LogCaptureFixture) -> None:
    stage = WithModel(Refusing())
    stage.setup()
    with caplog.at_level(logging.WARNING):
        tasks = stage.process_batch(tasks_of(numbered([1, 2, 255, 4, 254, 6, 7]), clips_per_task=[2, 3, 2]))
    clips = [clip for task in tasks for clip in task.data.clips]
    assert [clip.cosmos_embed1_embedding is None for clip in clips] == [False, False, True, False, True, False, False]
    assert clips[2].errors == {ERROR: "RuntimeError: a bad clip"}
    assert clips[4].errors == {ERROR: "the model gave no finite vector"}
    for clip, value in zip(clips, [1, 2, 255, 4, 254, 6, 7], strict=True):
        if clip.cosmos_embed1_embedding is not None:
            ratio = clip.cosmos_embed1_embedding[0] / clip.cosmos_embed1_embedding[1]
            second = int(numbered([1, 2, 255, 4, 254, 6, 7])[clip.uuid.int, 0, 0, 1, 0])
            assert ratio == pytest.approx((value + 1) / (second + 1), rel=1e-5)
    assert stage.measures()["embeddings"][ERROR]["clips"] == 5
    assert stage.measures()["embeddings"][ERROR]["clips_failed"] == 2


def test_a_batch_that_is_too_large_is_made_smaller() -> None:
    model = Refusing(most=2)
    stage = WithModel(model)
    stage.setup()
    model.sizes.clear()
    tasks = stage.process_batch(tasks_of(numbered(range(8)), clips_per_task=[8]))
    assert all(vector is not None for vector in vectors_of(tasks).values())
    assert model.sizes == [8, 4, 2, 2, 4, 2, 2]


class CountsTexts(Refusing):
    """Says how often it read texts."""

    num_reads = 0

    def text_vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.num_reads += 1
        return super().text_vectors(texts)


def test_texts_are_read_once_a_run_however_many_clips_there_are() -> None:
    model = CountsTexts()
    stage = WithModel(model, texts_to_verify=["a car", "a cat runs"])
    (task,) = Pipeline("embed").add_stage(stage).run(tasks_of(noise(20) // 2, clips_per_task=[20]))
    assert model.num_reads == 1
    assert all(clip.cosmos_embed1_text_match is not None for clip in task.data.clips)
