"""Cosmos-Embed1: its frames, its vectors in batches, the texts, and what goes wrong, with a tiny checkpoint."""

import itertools
import json
import pickle
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from numpy.typing import NDArray

from curation.embedding.cosmos_embed1 import (
    CosmosEmbed1EmbeddingStage,
    CosmosEmbed1FrameCreationStage,
    CosmosEmbed1Model,
)
from curation.embedding.errors import EmbeddingStartError
from curation.embedding.models import EMBEDDING_MODELS
from curation.embedding.remote_code import load_remote_model, load_remote_processor
from curation.model import Clip, Video, VideoTask
from curation.pipeline import Pipeline
from tests.embedding.clips import SHAPE, noise, tasks_of, vectors_of
from tests.embedding.tiny_cosmos import (
    DIMENSIONS,
    NUM_FRAMES,
    REPOSITORY,
    SIDE,
    require_transformers,
    write_cosmos_embed1,
)
from tests.footage import small_footage
from tests.splitting import Alone, one_clip, splitting, task_of
from tests.synthetic import make_video, read_number

ERROR = "cosmos_embed1_embedding"


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with a tiny Cosmos-Embed1-224p."""
    require_transformers()
    folder = tmp_path_factory.mktemp("models")
    write_cosmos_embed1(folder / REPOSITORY)
    return folder


@pytest.fixture(scope="module")
def ready(model_dir: Path) -> CosmosEmbed1EmbeddingStage:
    """The stage with its model loaded."""
    stage = CosmosEmbed1EmbeddingStage(str(model_dir), "224p")
    stage.setup()
    return stage


# Frames


def test_frames_are_those_that_the_checkpoint_asks_for(tmp_path: Path, model_dir: Path) -> None:
    mp4 = one_clip(make_video(tmp_path / "v.mp4", num_frames=96, rate=Fraction(24)), preset="ultrafast")
    clip = Clip(UUID(int=1), "v", (0.0, 4.0), buffer=mp4)
    stage = CosmosEmbed1FrameCreationStage(str(model_dir), "224p")
    Pipeline("frames").add_stage(stage).run([VideoTask("v", "test", Video(Path("v"), clips=[clip]))])
    assert clip.cosmos_embed1_frames is not None
    assert clip.cosmos_embed1_frames.shape == SHAPE
    assert clip.cosmos_embed1_frames.dtype == np.uint8
    assert clip.extracted_frames == {}
    (request,) = CosmosEmbed1FrameCreationStage("no such folder", "448p").frame_requests()
    assert request.size(1920, 1080, 8) == (448, 448)


def test_frames_are_spread_over_the_clip(tmp_path: Path) -> None:
    mp4 = one_clip(make_video(tmp_path / "v.mp4", num_frames=96, rate=Fraction(24)), preset="ultrafast")
    clip = Clip(UUID(int=1), "v", (0.0, 4.0), buffer=mp4)
    (task,) = CosmosEmbed1FrameCreationStage("none", "224p").process(
        VideoTask("v", "test", Video(Path("v"), clips=[clip]))
    )
    frames = task.data.clips[0].cosmos_embed1_frames
    assert frames is not None
    assert [read_number(frame) for frame in frames] == [0, 12, 24, 36, 48, 60, 72, 84]


def test_one_decode_gives_the_frames_that_a_clip_gives_alone() -> None:
    source = small_footage("big_buck_bunny_1.mp4")
    stage = CosmosEmbed1FrameCreationStage("none", "224p")
    made = [
        clip
        for task in splitting(clip_len_s=3.0, preset="ultrafast").add_stage(stage).run([task_of(source)])
        for clip in task.data.clips
    ]
    assert len(made) > 1
    for clip in made:
        bare = Clip(clip.uuid, "v", clip.span, buffer=clip.buffer)
        Pipeline("alone").add_stage(Alone(stage)).run([VideoTask("v", "test", Video(Path("v"), clips=[bare]))])
        together, alone = clip.cosmos_embed1_frames, bare.cosmos_embed1_frames
        assert together is not None
        assert alone is not None
        difference = np.abs(together.astype(float) - alone.astype(float)).mean()
        assert difference < 4  # one is of the source, the other of the clip that was encoded of it


def test_a_clip_with_too_few_frames_repeats_its_last_one_and_says_so(tmp_path: Path) -> None:
    mp4 = one_clip(make_video(tmp_path / "v.mp4", num_frames=5), preset="ultrafast")
    clip = Clip(UUID(int=1), "v", (0.0, 5 / 30), buffer=mp4)
    (task,) = CosmosEmbed1FrameCreationStage("none", "224p").process(
        VideoTask("v", "test", Video(Path("v"), clips=[clip]))
    )
    (done,) = task.data.clips
    assert done.cosmos_embed1_frames is not None
    assert [read_number(frame) for frame in done.cosmos_embed1_frames] == [0, 1, 2, 3, 4, 4, 4, 4]
    assert done.notes == {ERROR: "5 of 8 frames: the last is repeated"}
    assert done.errors == {}


def test_a_clip_that_cannot_be_decoded_is_kept_with_its_reason(ready: CosmosEmbed1EmbeddingStage) -> None:
    clip = Clip(UUID(int=1), "v", (0.0, 1.0), buffer=b"no video")
    (task,) = CosmosEmbed1FrameCreationStage("none", "224p").process(
        VideoTask("v", "test", Video(Path("v"), clips=[clip]))
    )
    ready.process_batch([task])
    assert task.data.clips == [clip]
    assert clip.errors[ERROR].startswith("unreadable")
    assert clip.rejection is None
    assert clip.cosmos_embed1_embedding is None


def test_the_frame_stage_can_go_into_a_decode_child(model_dir: Path) -> None:
    stage = CosmosEmbed1FrameCreationStage(str(model_dir), "224p")
    assert stage.in_child
    assert pickle.loads(pickle.dumps(stage)).frame_requests() == stage.frame_requests()


# The checkpoint


def test_the_loaded_weights_are_those_of_the_files(model_dir: Path) -> None:
    from safetensors.torch import load_file

    model: Any = CosmosEmbed1Model(model_dir / REPOSITORY, EMBEDDING_MODELS["cosmos-embed1-224p"])._model
    loaded = model.state_dict()
    for file in (model_dir / REPOSITORY).glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            if name != "visual_encoder.pos_embed":  # the checkpoint's own hook fits it to the size
                assert loaded[name].equal(tensor), name


def test_a_hook_of_the_checkpoint_fits_its_position_embeddings(tmp_path: Path) -> None:
    require_transformers()
    for side in (2, 3):
        folder = write_cosmos_embed1(tmp_path / str(side), positions_side=side)
        model: Any = CosmosEmbed1Model(folder, EMBEDDING_MODELS["cosmos-embed1-224p"])._model
        assert model.visual_encoder.pos_embed.shape[1] == 4


def test_code_that_is_said_to_come_from_the_hub_comes_from_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_transformers()
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    local, saved = (
        CosmosEmbed1Model(
            write_cosmos_embed1(tmp_path / name, from_hub=name == "saved"), EMBEDDING_MODELS["cosmos-embed1-224p"]
        )
        for name in ("local", "saved")
    )
    np.testing.assert_array_equal(local.video_vectors(noise(1)), saved.video_vectors(noise(1)))
    assert not list(tmp_path.rglob("__pycache__"))  # the folder stays as it was


def test_a_checkpoint_without_a_weight_that_matters_is_refused(tmp_path: Path) -> None:
    require_transformers()
    from safetensors.torch import load_file, save_file

    folder = write_cosmos_embed1(tmp_path / REPOSITORY)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    file = folder / index["weight_map"].pop("query_tokens")
    save_file({name: tensor for name, tensor in load_file(file).items() if name != "query_tokens"}, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(EmbeddingStartError, match="weights are missing"):
        CosmosEmbed1EmbeddingStage(str(tmp_path), "224p").setup()


def test_missing_weights_are_named_with_the_command_that_gets_them(tmp_path: Path) -> None:
    require_transformers()
    with pytest.raises(FileNotFoundError, match=r"clipmill models pull --model nvidia/Cosmos-Embed1-336p"):
        CosmosEmbed1EmbeddingStage(str(tmp_path)).setup()


def test_broken_code_of_a_checkpoint_stops_the_run_with_its_reason(tmp_path: Path) -> None:
    require_transformers()
    folder = write_cosmos_embed1(tmp_path / REPOSITORY)
    (folder / "modeling_vit.py").write_text("import no_such_package\n")
    with pytest.raises(EmbeddingStartError, match="no_such_package"):
        CosmosEmbed1EmbeddingStage(str(tmp_path), "224p").setup()


def test_the_revisions_of_all_models_are_commits() -> None:
    checkpoints = [
        each
        for model in EMBEDDING_MODELS.values()
        for each in (model.checkpoint, model.text_checkpoint)
        if each is not None
    ]
    assert {len(bytes.fromhex(checkpoint.revision)) for checkpoint in checkpoints} == {20}
    assert [model.dimensions for model in EMBEDDING_MODELS.values()] == [256, 768, 768, 512]


# Vectors


def test_vectors_are_one_long_and_of_the_models_dimensions(ready: CosmosEmbed1EmbeddingStage) -> None:
    tasks = ready.process_batch(tasks_of(noise(3), clips_per_task=[3]))
    for vector in vectors_of(tasks).values():
        assert vector is not None
        assert vector.dtype == np.float32
        assert vector.shape == (DIMENSIONS,)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert all(clip.cosmos_embed1_frames is None for clip in tasks[0].data.clips)


def test_vectors_are_what_the_checkpoints_own_code_says(model_dir: Path, ready: CosmosEmbed1EmbeddingStage) -> None:
    frames = noise(3)
    expected = by_own_code(model_dir / REPOSITORY, frames)
    found = vectors_of(ready.process_batch(tasks_of(frames, clips_per_task=[3])))
    for place, vector in found.items():
        assert vector is not None
        np.testing.assert_allclose(vector, expected[place], atol=1e-5)


def by_own_code(folder: Path, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What a user of the published checkpoint writes: (clips, frames, colours, height, width) to the processor."""
    colours_first = np.stack([frames[..., colour] for colour in range(3)], axis=2)
    model = load_remote_model(folder, device="cpu", dtype="float32")
    inputs = load_remote_processor(folder)(videos=colours_first, return_tensors="pt")
    return np.asarray(model.get_video_embeddings(**inputs).visual_proj.numpy())


@pytest.mark.parametrize("clips_per_task", [[11], [1] * 11, [3, 0, 5, 2, 1]], ids=["one", "eleven", "uneven"])
def test_a_clip_has_the_vector_that_it_has_alone(ready: CosmosEmbed1EmbeddingStage, clips_per_task: list[int]) -> None:
    frames = noise(11)
    together = vectors_of(ready.process_batch(tasks_of(frames, clips_per_task=clips_per_task)))
    for place in range(11):
        alone = ready.process_batch(tasks_of(frames[place : place + 1], clips_per_task=[1]))
        expected, found = alone[0].data.clips[0].cosmos_embed1_embedding, together[place]
        assert expected is not None
        assert found is not None
        np.testing.assert_allclose(found, expected, atol=1e-5)
    pairs = itertools.combinations(range(11), 2)
    differences = [np.abs(np.subtract(together[a], together[b])).max() for a, b in pairs]  # type: ignore[arg-type]
    assert min(differences) > 1e-4  # so that a mistaken clip would show


def test_frames_of_a_clip_in_another_order_are_another_clip(ready: CosmosEmbed1EmbeddingStage) -> None:
    frames = noise(1)
    forth, back = (
        ready.process_batch(tasks_of(rows, clips_per_task=[1]))[0].data.clips[0].cosmos_embed1_embedding
        for rows in (frames, frames[:, ::-1])
    )
    assert forth is not None
    assert back is not None
    assert np.abs(forth - back).max() > 1e-5


@pytest.mark.parametrize(
    "frames",
    [np.zeros((NUM_FRAMES, SIDE, SIDE + 2, 3), np.uint8), np.zeros(SHAPE, np.float32)],
    ids=["size", "type"],
)
def test_frames_that_the_model_does_not_take_are_refused_alone(
    ready: CosmosEmbed1EmbeddingStage, frames: NDArray[Any]
) -> None:
    tasks = tasks_of(noise(2), clips_per_task=[2])
    tasks[0].data.clips[0].cosmos_embed1_frames = frames
    bad, good = ready.process_batch(tasks)[0].data.clips
    assert bad.errors[ERROR].startswith("the model takes uint8 frames of shape (8, 28, 28, 3), got")
    assert good.cosmos_embed1_embedding is not None


def test_a_clip_without_frames_says_so(ready: CosmosEmbed1EmbeddingStage) -> None:
    clip = Clip(UUID(int=1), "v", (0.0, 1.0))
    ready.process_batch([VideoTask("v", "test", Video(Path("v"), clips=[clip]))])
    assert clip.errors[ERROR].startswith("no frames were prepared for it")


def test_a_second_try_does_no_harm(ready: CosmosEmbed1EmbeddingStage) -> None:
    tasks = ready.process_batch(tasks_of(noise(2), clips_per_task=[1, 1]))
    before = vectors_of(tasks)
    assert vectors_of(ready.process_batch(tasks)) == before
    assert all(clip.errors == {} for task in tasks for clip in task.data.clips)


# Texts


def test_each_clip_has_its_best_text_and_its_probability(model_dir: Path) -> None:
    texts = ["a red car", "a blue dog sleeps", "cat"]
    stage = CosmosEmbed1EmbeddingStage(str(model_dir), "224p", texts_to_verify=texts)
    (task,) = Pipeline("embed").add_stage(stage).run(tasks_of(noise(4), clips_per_task=[4]))
    model = CosmosEmbed1Model(model_dir / REPOSITORY, EMBEDDING_MODELS["cosmos-embed1-224p"])
    read = np.concatenate([model.text_vectors([text]) for text in texts])  # one by one: padding must not matter
    for clip in task.data.clips:
        assert clip.cosmos_embed1_embedding is not None
        assert clip.cosmos_embed1_text_match is not None
        odds = np.exp(100.0 * (read.astype(float) @ clip.cosmos_embed1_embedding))
        text, probability = clip.cosmos_embed1_text_match
        assert text == texts[int(odds.argmax())]
        assert probability == pytest.approx(odds.max() / odds.sum(), abs=1e-4)


@pytest.mark.parametrize("given", [{"gpu_memory_gb": 0}, {"texts_to_verify": ["a", " "]}, {"variant": "720p"}], ids=str)
def test_settings_out_of_range_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"gpu_memory_gb|empty text|720p"):
        CosmosEmbed1EmbeddingStage(**given)


def test_frames_and_vectors_come_out_of_one_pipeline(model_dir: Path) -> None:
    pipeline = splitting(clip_len_s=3.0, preset="ultrafast")
    pipeline.add_stage(CosmosEmbed1FrameCreationStage(str(model_dir), "224p"))
    pipeline.add_stage(CosmosEmbed1EmbeddingStage(str(model_dir), "224p"))
    tasks = pipeline.run([task_of(small_footage(f"big_buck_bunny_{k}.mp4")) for k in (1, 2)])
    clips = [clip for task in tasks for clip in task.data.clips]
    assert len(clips) > 2
    assert [clip.errors for clip in clips] == [{}] * len(clips)
    assert all(clip.cosmos_embed1_embedding is not None for clip in clips)


# A GPU


def require_gpu() -> None:
    require_transformers()
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")


def test_on_a_gpu_vectors_are_those_of_a_cpu_but_for_the_short_numbers(model_dir: Path) -> None:
    require_gpu()
    stage = CosmosEmbed1EmbeddingStage(str(model_dir), "224p", gpu_memory_gb=1)
    stage.setup()
    found = vectors_of(stage.process_batch(tasks_of(noise(5), clips_per_task=[5])))
    expected = by_own_code(model_dir / REPOSITORY, noise(5))
    for place in range(5):
        vector = found[place]
        assert vector is not None
        assert float(vector @ expected[place]) > 0.99


def test_on_a_gpu_too_little_memory_is_refused_at_the_start(model_dir: Path) -> None:
    require_gpu()
    with pytest.raises(EmbeddingStartError, match=r"gpu_memory_gb is 1e-06; .* would do"):
        CosmosEmbed1EmbeddingStage(str(model_dir), "224p", gpu_memory_gb=1e-6).setup()
