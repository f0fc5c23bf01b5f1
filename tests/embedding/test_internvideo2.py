"""Clips through the InternVideo2 stages: their frames, their vectors, and the texts that fit them."""

import inspect
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from numpy.typing import NDArray

from curation.embedding.errors import EmbeddingStartError
from curation.embedding.internvideo2 import (
    InternVideo2EmbeddingStage,
    InternVideo2FrameCreationStage,
    InternVideo2Model,
    find_file,
)
from curation.embedding.models import EMBEDDING_MODELS
from curation.gpu import is_on_gpu
from curation.model import Clip, Video, VideoTask
from curation.pipeline import Pipeline
from curation.weights.marker import FileMark, Marker, write_marker
from tests.embedding.make_internvideo2_reference import recipe_frames
from tests.embedding.tiny_internvideo2 import (
    DIMENSIONS,
    REFERENCE,
    REPOSITORY,
    WEIGHTS_NAME,
    WORDS,
    write_internvideo2,
    write_vocabulary,
    write_weights,
)
from tests.footage import MEDIA, footage, small_footage
from tests.splitting import clips_of, splitting, task_of
from tests.synthetic import make_video, read_number

CHECKPOINT = EMBEDDING_MODELS["internvideo2"].checkpoint
TEXTS = ["a red car", "a blue cat runs"]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="needs torch: install the extra 'models'")
    pytest.importorskip("transformers", reason="needs transformers: install the extra 'models'")
    return write_internvideo2(tmp_path_factory.mktemp("models"))


def embedding_stage(model_dir: Path, texts: list[str] | None = None) -> InternVideo2EmbeddingStage:
    stage = InternVideo2EmbeddingStage(str(model_dir), texts_to_verify=texts)
    stage.setup()
    return stage


def clip_with(frames: NDArray[np.uint8] | None) -> Clip:
    clip = Clip(uuid4(), "v.mp4", (0.0, 4.0))
    vars(clip)["intern_video_2_frames"] = frames
    return clip


def task_with(*clips: Clip) -> VideoTask:
    return VideoTask("v", "test", Video(Path("v"), clips=list(clips)))


def vector_of(clip: Clip) -> NDArray[np.float32]:
    assert clip.errors == {}
    assert clip.intern_video_2_embedding is not None
    return clip.intern_video_2_embedding


def test_parameters_and_defaults_are_those_that_users_of_nemo_curator_know() -> None:
    frames, embedding = (
        {name: given.default for name, given in inspect.signature(stage).parameters.items()}
        for stage in (InternVideo2FrameCreationStage, InternVideo2EmbeddingStage)
    )
    assert frames == {"model_dir": "InternVideo2", "target_fps": 2.0, "verbose": False}
    assert embedding == {
        "model_dir": "InternVideo2",
        "gpu_memory_gb": 10.0,
        "num_gpus_per_worker": 1.0,
        "texts_to_verify": None,
        "verbose": False,
    }


def test_four_frames_are_spread_from_the_first_to_the_last_that_two_a_second_give(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", num_frames=300, width=320, height=240)  # 30 fps: 0.0, 0.5, ... 9.5 s
    (clip,) = clips_of(path, clip_len_s=1000.0, preset="ultrafast")
    list(InternVideo2FrameCreationStage().process(task_with(clip)))
    frames = clip.intern_video_2_frames
    assert frames is not None
    assert (str(frames.dtype), frames.shape) == ("uint8", (4, 224, 224, 3))
    assert [read_number(frame) for frame in frames] == [0, 90, 195, 285]


def test_vectors_are_those_of_the_authors_code(model_dir: Path) -> None:
    clips = [clip_with(frames) for frames in recipe_frames()]
    embedding_stage(model_dir).process_batch([task_with(clips[0]), task_with(*clips[1:])])
    vectors = np.stack([vector_of(clip) for clip in clips])
    with np.load(REFERENCE) as arrays:
        np.testing.assert_allclose(vectors, arrays["clip_vectors"], atol=0.03 if is_on_gpu() else 1e-6, rtol=0)
    assert vectors.dtype == np.float32
    assert [clip.intern_video_2_frames for clip in clips] == [None, None, None]


def test_a_clip_that_can_not_be_embedded_fails_alone(model_dir: Path) -> None:
    good, broken = clip_with(recipe_frames()[0]), clip_with(recipe_frames()[1][:3])
    bare = clip_with(None)
    embedding_stage(model_dir).process_batch([task_with(broken), task_with(bare, good)])
    assert len(vector_of(good)) == DIMENSIONS
    for clip in (broken, bare):
        assert clip.intern_video_2_embedding is None
        assert clip.rejection is None
    assert "(4, 224, 224, 3)" in broken.errors["intern_video_2_embedding"]
    assert "no frames were prepared" in bare.errors["intern_video_2_embedding"]


@pytest.mark.parametrize("source", ["big_buck_bunny_1.mp4", "bikes.mp4"])
def test_real_footage_goes_through_a_whole_pipeline(source: str, model_dir: Path) -> None:
    path = MEDIA / source if (MEDIA / source).exists() else footage(source)
    pipeline = splitting(clip_len_s=2.0, preset="ultrafast")
    pipeline.add_stage(InternVideo2FrameCreationStage()).add_stage(
        InternVideo2EmbeddingStage(str(model_dir), texts_to_verify=TEXTS)
    )
    clips = [clip for task in pipeline.run([task_of(path)]) for clip in task.data.clips]
    vectors = np.stack([vector_of(clip) for clip in clips])
    assert len(clips) > 1
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert len(np.unique(vectors.round(5), axis=0)) == len(clips)
    assert all(clip.intern_video_2_frames is None and not clip.extracted_frames for clip in clips)


def test_a_clip_alone_has_the_vector_that_it_has_in_a_run(model_dir: Path) -> None:
    pipeline = splitting(clip_len_s=2.0, preset="ultrafast").add_stage(InternVideo2FrameCreationStage())
    (clip, *_) = (
        clip for task in pipeline.run([task_of(small_footage("big_buck_bunny_1.mp4"))]) for clip in task.data.clips
    )
    bare = Clip(clip.uuid, clip.source_video, clip.span, buffer=clip.buffer)
    Pipeline("frames").add_stage(InternVideo2FrameCreationStage()).run([task_with(bare)])
    embedding_stage(model_dir).process_batch([task_with(clip), task_with(bare)])
    assert float(vector_of(clip) @ vector_of(bare)) > 0.999  # one saw the source, the other the clip made of it


def test_the_text_that_fits_best_is_the_softmax_of_a_hundred_cosines(model_dir: Path) -> None:
    clips = [clip_with(frames) for frames in recipe_frames()]
    embedding_stage(model_dir, TEXTS).process_batch([task_with(*clips)])
    texts = InternVideo2Model(model_dir).text_vectors(TEXTS)
    for clip in clips:
        odds = np.exp(100 * (texts @ vector_of(clip)).astype(np.float64))
        assert clip.intern_video_2_text_match is not None
        text, probability = clip.intern_video_2_text_match
        assert text == TEXTS[int(odds.argmax())]
        assert probability == pytest.approx(odds.max() / odds.sum(), abs=1e-4)


def test_texts_are_read_as_bert_reads_them(model_dir: Path) -> None:
    import torch

    from curation.embedding.internvideo2_network import load_internvideo2

    network = load_internvideo2(model_dir / REPOSITORY / WEIGHTS_NAME, "cpu")
    pieces = ["[CLS]", "a", "red", "car", "##s", "?", "[UNK]", "[SEP]"]
    long = ["[CLS]", *["cat"] * 38, "[SEP]"]  # 40 tokens at most
    tokens = torch.tensor(
        [[WORDS.index(piece) for piece in row + ["[PAD]"] * (40 - len(row))] for row in (pieces, long)]
    )
    expected = network.embed_texts(tokens, tokens != 0).numpy()
    vectors = InternVideo2Model(model_dir).text_vectors(["A RED cars? Zebra", "cat " * 60])
    np.testing.assert_allclose(vectors, expected, atol=0.03 if is_on_gpu() else 1e-6)


def test_weights_are_found_in_the_folders_of_nemo_curator_and_of_the_hub(tmp_path: Path) -> None:
    for number, place in enumerate((REPOSITORY, REPOSITORY.split("/")[1], "")):
        folder = tmp_path / str(number) / place
        folder.mkdir(parents=True)
        (folder / WEIGHTS_NAME).write_bytes(b"weights")
        assert find_file(tmp_path / str(number), CHECKPOINT) == folder / WEIGHTS_NAME


def test_missing_weights_are_named_with_the_command_that_gets_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"no {WEIGHTS_NAME} in .*models pull --model {REPOSITORY}"):
        InternVideo2EmbeddingStage(str(tmp_path)).setup()


@pytest.mark.parametrize(
    ("revision", "size", "message"),
    [
        pytest.param("0" * 40, 7, f"at revision {'0' * 40}", id="another revision"),
        pytest.param(CHECKPOINT.revision, 8, "lacks .*not in its full size", id="cut"),
    ],
)
def test_a_pulled_folder_that_is_not_whole_is_not_taken(revision: str, size: int, message: str, tmp_path: Path) -> None:
    (folder := tmp_path / REPOSITORY).mkdir(parents=True)
    (folder / WEIGHTS_NAME).write_bytes(b"weights")
    write_marker(folder, Marker(REPOSITORY, revision, {WEIGHTS_NAME: FileMark(size, "")}))
    with pytest.raises(FileNotFoundError, match=message):
        find_file(tmp_path, CHECKPOINT)


def test_the_vocabulary_is_needed_for_texts_only(tmp_path: Path, model_dir: Path) -> None:
    del model_dir  # for its skips
    write_weights(tmp_path / REPOSITORY)
    embedding_stage(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no vocab.txt in .*bert-large-uncased"):
        embedding_stage(tmp_path, TEXTS)


def test_a_vocabulary_of_another_model_is_refused(tmp_path: Path, model_dir: Path) -> None:
    del model_dir
    write_weights(tmp_path)
    write_vocabulary(tmp_path, (*WORDS, *(f"word{number}" for number in range(200))))
    with pytest.raises(EmbeddingStartError, match="has 214 tokens, and the weights know 120"):
        embedding_stage(tmp_path, TEXTS)


def test_weights_of_another_model_end_the_run_with_the_reason(tmp_path: Path, model_dir: Path) -> None:
    del model_dir
    import torch

    torch.save({"model": {"weight": torch.zeros(3)}}, tmp_path / WEIGHTS_NAME)
    with pytest.raises(EmbeddingStartError, match="not a checkpoint of InternVideo2 Stage2"):
        embedding_stage(tmp_path)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="target_fps"):
        InternVideo2FrameCreationStage(target_fps=rate)
