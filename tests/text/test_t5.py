"""T5 vectors of captions: those of plain transformers, on the window whose caption it is, whatever else is there."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from numpy.typing import NDArray

from curation.model import CaptionOutcome, Clip, Video, VideoTask, Window
from curation.pipeline import Pipeline
from curation.text.t5 import DIMENSIONS, T5EncodingStage, T5StartError, TextNetwork
from tests.text.tiny_t5 import REPOSITORY, Format, Reference, require_transformers, write_t5

CAPTIONS = (
    "a red car",
    "The camera pans left over a street at night, and a dog runs.",
    "x",
    "A dog. " * 40,
    "日本 über & <unk> \n\t two   spaces ",
    "a red car runs at the dog " * 9,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_transformers()
    folder = tmp_path_factory.mktemp("models")
    write_t5(folder / REPOSITORY)
    return folder


@pytest.fixture(scope="module")
def reference(models: Path) -> Reference:
    return Reference(models / REPOSITORY)


def are_close(found: NDArray[np.float16], expected: NDArray[np.float32]) -> bool:
    """But for what float16 can't hold, whose numbers near 1 are 1e-3 apart."""
    return np.allclose(found, expected, rtol=2e-3, atol=2e-3)


def stage_of(models: Path, *, max_tokens: int = 512) -> T5EncodingStage:
    stage = T5EncodingStage(model_dir=str(models), max_tokens=max_tokens)
    stage.setup()
    return stage


def clip_of(number: int, *captions: str) -> Clip:
    windows = [Window(10 * k, 10 * k + 9, caption={"qwen": text} if text else {}) for k, text in enumerate(captions)]
    return Clip(UUID(int=number), "v.mp4", (0.0, 1.0), windows=windows)


def task_of(*clips: Clip, name: str = "v") -> VideoTask:
    return VideoTask(name, "test", Video(Path("v.mp4"), id=name, clips=list(clips), num_clip_chunks=1))


def vectors_of(window: Window) -> NDArray[np.float16]:
    assert window.t5_xxl_embedding is not None
    return window.t5_xxl_embedding


class InBatches:
    """A network that takes batches, as one on a GPU does, and keeps their sizes."""

    takes_batches = True

    def __init__(self, network: TextNetwork) -> None:
        self._network, self.dimensions = network, network.dimensions
        self.sizes: list[tuple[int, int, int]] = []

    def token_ids(self, texts: Sequence[str], *, max_tokens: int) -> list[tuple[list[int], bool]]:
        return self._network.token_ids(texts, max_tokens=max_tokens)

    def vectors(self, rows: Sequence[Sequence[int]], *, num_rows: int, num_tokens: int) -> list[NDArray[np.float16]]:
        self.sizes.append((len(rows), num_rows, num_tokens))
        return self._network.vectors(rows, num_rows=num_rows, num_tokens=num_tokens)


class BatchedStage(T5EncodingStage):
    network: InBatches

    def load(self) -> TextNetwork:
        self.network = InBatches(super().load())
        return self.network


# The vectors


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_vectors_are_those_of_transformers_from_each_format_of_weights(
    kind: Format, reference: Reference, tmp_path: Path
) -> None:
    write_t5(tmp_path / REPOSITORY, kind=kind)
    clips = [clip_of(number, text) for number, text in enumerate(CAPTIONS)]
    stage_of(tmp_path).process_batch([task_of(*clips)])
    for clip, text in zip(clips, CAPTIONS, strict=True):
        found, expected = vectors_of(clip.windows[0]), reference.vectors(text)
        assert found.dtype == np.float16
        assert found.shape == expected.shape == (len(expected), DIMENSIONS)
        assert are_close(found, expected)
        assert clip.errors == {}
    assert not np.allclose(vectors_of(clips[0].windows[0])[0], vectors_of(clips[2].windows[0])[0], atol=0.1)


def test_what_stands_in_the_same_batch_does_not_matter(models: Path, reference: Reference) -> None:
    """Padding is seen by nobody: each text has the vectors that it has alone, in whatever company."""
    stage = BatchedStage(model_dir=str(models), tokens_per_batch=512)
    stage.setup()
    stage.network.sizes.clear()
    clips = [clip_of(number, *CAPTIONS) for number in range(3)]
    stage.process_batch([task_of(clip, name=str(clip.uuid)) for clip in clips])
    assert any(num_texts > 1 for num_texts, _, _ in stage.network.sizes)
    assert any(num_texts < num_rows for num_texts, num_rows, _ in stage.network.sizes)
    assert all(num_rows * num_tokens <= 512 for _, num_rows, num_tokens in stage.network.sizes)
    for clip in clips:
        for window, text in zip(clip.windows, CAPTIONS, strict=True):
            assert are_close(vectors_of(window), reference.vectors(text))


def test_batches_of_other_texts_give_the_same_bytes(models: Path) -> None:
    """A caption meets others at each run, so its rows must not be made by other sums."""
    stage = BatchedStage(model_dir=str(models), tokens_per_batch=512)
    stage.setup()
    alone, together = clip_of(1, CAPTIONS[1]), clip_of(2, CAPTIONS[1], *CAPTIONS)
    stage.process_batch([task_of(alone)])
    stage.process_batch([task_of(together)])
    assert vectors_of(alone.windows[0]).tobytes() == vectors_of(together.windows[0]).tobytes()


def test_a_long_caption_is_cut_off_as_transformers_does_and_says_so(models: Path, reference: Reference) -> None:
    text = "a red car runs at the dog " * 100
    assert len(reference.tokenizer(text)["input_ids"]) > 512
    clip = clip_of(1, text, "a red car")
    stage_of(models).process_batch([task_of(clip)])
    long, short = clip.windows
    assert are_close(vectors_of(long), reference.vectors(text, max_tokens=512))
    assert (len(vectors_of(long)), long.t5_xxl_truncated, short.t5_xxl_truncated) == (512, True, False)
    fewer = clip_of(2, text)
    stage_of(models, max_tokens=20).process_batch([task_of(fewer)])
    assert are_close(vectors_of(fewer.windows[0]), reference.vectors(text, max_tokens=20))


def test_captions_of_many_videos_are_matched_by_window(models: Path, reference: Reference) -> None:
    texts = [f"a {'red ' * (number % 7)}car {number}" for number in range(24)]
    tasks = [task_of(*(clip_of(4 * v + k, texts[4 * v + k]) for k in range(4)), name=f"v{v}") for v in range(6)]
    results = Pipeline("t5").add_stage(BatchedStage(model_dir=str(models))).run(tasks)
    windows = {clip.uuid.int: clip.windows[0] for task in results for clip in task.data.clips}
    assert sorted(windows) == list(range(24))
    for number, text in enumerate(texts):
        assert are_close(vectors_of(windows[number]), reference.vectors(text))


# Which caption


def test_the_caption_that_is_trained_on_is_encoded(models: Path, reference: Reference) -> None:
    window = Window(0, 9, caption={"qwen": "a red car"}, enhanced_caption={"qwen_lm": "a dog"})
    failed = Window(10, 19, caption={"qwen": "a red car"}, caption_outcomes={"qwen": CaptionOutcome("error", "cut")})
    nothing = Window(20, 29)
    clip = Clip(UUID(int=1), "v.mp4", (0.0, 1.0), windows=[window, failed, nothing])
    stage_of(models).process_batch([task_of(clip)])
    assert are_close(vectors_of(window), reference.vectors("a dog"))
    assert failed.t5_xxl_embedding is None
    assert nothing.t5_xxl_embedding is None
    assert clip.errors == {}


# What goes wrong


class Poisoned:
    """Tokens are letters. It fails for a batch with ``!``, gives infinity for ``?``, and can't read ``#``."""

    dimensions = DIMENSIONS
    takes_batches = True

    def token_ids(self, texts: Sequence[str], *, max_tokens: int) -> list[tuple[list[int], bool]]:
        if any("#" in text for text in texts):
            raise ValueError("no such letter")
        return [([ord(letter) for letter in text][:max_tokens], len(text) > max_tokens) for text in texts]

    def vectors(self, rows: Sequence[Sequence[int]], *, num_rows: int, num_tokens: int) -> list[NDArray[np.float16]]:
        if any(ord("!") in row for row in rows):
            raise RuntimeError("the kernel refuses")
        letters = [np.array([np.inf if letter == ord("?") else letter for letter in row]) for row in rows]
        return [np.repeat(row[:, None], DIMENSIONS, axis=1).astype(np.float16) for row in letters]


class PoisonedStage(T5EncodingStage):
    def load(self) -> TextNetwork:
        return Poisoned()


def test_a_caption_that_fails_costs_its_own_window(caplog: pytest.LogCaptureFixture) -> None:
    stage = PoisonedStage()
    stage.setup()
    first, second = clip_of(1, "good", "bad!", "fine", "wide?"), clip_of(2, "also", "odd#")
    with caplog.at_level(logging.WARNING):
        stage.process_batch([task_of(first, name="a"), task_of(second, name="b")])
    texts = [
        window.caption["qwen"]
        for clip in (first, second)
        for window in clip.windows
        if window.t5_xxl_embedding is not None
    ]
    assert texts == ["good", "fine", "also"]
    for clip in (first, second):
        for window in clip.windows:
            if window.t5_xxl_embedding is not None:
                assert window.t5_xxl_embedding[:, 0].tolist() == [ord(letter) for letter in window.caption["qwen"]]
    refused, infinite = (
        "window 10_19: RuntimeError: the kernel refuses",
        "window 30_39: its vectors are no finite numbers",
    )
    assert first.errors["t5_xxl"].startswith(f"{refused}; {infinite}")
    assert second.errors == {"t5_xxl": "window 10_19: ValueError: no such letter"}
    assert stage.measures()["text_vectors"]["t5_xxl"]["windows_failed"] == 3


def test_models_that_are_loaded_at_the_same_time_are_whole(models: Path, reference: Reference) -> None:
    """The stages of a pipeline set up at the same time, and transformers changes things for the whole process."""
    stages = [T5EncodingStage(model_dir=str(models)) for _ in range(6)]
    with ThreadPoolExecutor(len(stages)) as pool:
        list(pool.map(lambda stage: stage.setup(), stages))
    for stage in stages:
        clip = clip_of(1, "a red car")
        stage.process_batch([task_of(clip)])
        assert are_close(vectors_of(clip.windows[0]), reference.vectors("a red car"))


def test_missing_weights_name_the_command_that_mends_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"clipmill models pull --model {REPOSITORY} --model-dir {tmp_path}"):
        T5EncodingStage(model_dir=str(tmp_path)).setup()


def test_vectors_of_another_size_are_refused(tmp_path: Path) -> None:
    require_transformers()
    write_t5(tmp_path / REPOSITORY, d_model=64)
    with pytest.raises(T5StartError, match="have 64 numbers, a dataset holds 1024"):
        T5EncodingStage(model_dir=str(tmp_path)).setup()


@pytest.mark.parametrize("kind", ["safetensors", "legacy"])
def test_a_checkpoint_that_lacks_a_part_of_the_encoder_is_refused(kind: Format, tmp_path: Path) -> None:
    require_transformers()
    import torch
    from safetensors.torch import load_file, save_file

    folder = write_t5(tmp_path / REPOSITORY, kind=kind)
    lost = "encoder.block.1.layer.0.SelfAttention.q.weight"
    if kind == "safetensors":
        weights = load_file(folder / "model.safetensors")
        del weights[lost]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
        del weights[lost]
        torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(T5StartError, match=f"it lacks {lost}"):
        T5EncodingStage(model_dir=str(tmp_path)).setup()


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"model": "gpt"}, id="unknown model"),
        pytest.param({"max_tokens": 1}, id="no room for a token"),
        pytest.param({"tokens_per_batch": 0}, id="empty batches"),
        pytest.param({"gpu_memory_gb": 0}, id="no memory"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, str | int]) -> None:
    with pytest.raises(ValueError, match=r"unknown model|must be"):
        T5EncodingStage(**settings)  # type: ignore[arg-type]
