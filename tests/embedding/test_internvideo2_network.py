"""InternVideo2 against its authors' own code, which ``make_internvideo2_reference`` runs."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.embedding.make_internvideo2_reference import (
    NUM_FRAMES,
    recipe_frames,
    recipe_state,
    recipe_tokens,
)
from tests.embedding.tiny_internvideo2 import REFERENCE, reference_shapes

pytest.importorskip("torch", reason="needs torch: install the extra 'models'")

import torch
from torch import Tensor

from curation.embedding.internvideo2_checkpoint import InternVideo2Sizes, is_for_training
from curation.embedding.internvideo2_network import InternVideo2, load_internvideo2


def _state() -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in recipe_state(reference_shapes("small")).items()}


def _saved(state: object, folder: Path) -> Path:
    torch.save(state, folder / "model.pt")
    return folder / "model.pt"


def _frames() -> Tensor:
    return torch.from_numpy(recipe_frames())


def _text_vectors(network: InternVideo2, tokens: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = network.embed_texts(torch.from_numpy(tokens), torch.from_numpy(mask).bool()).numpy()
    return vectors


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> InternVideo2:
    checkpoint = _saved({"module": _state()}, tmp_path_factory.mktemp("internvideo2"))
    return load_internvideo2(checkpoint, "cpu")


def test_vectors_of_clips_are_those_of_the_authors_code(network: InternVideo2) -> None:
    vectors = network.embed_clips(_frames()).numpy()
    np.testing.assert_allclose(vectors, np.load(REFERENCE)["clip_vectors"], atol=1e-6, rtol=0)


def test_vectors_of_texts_are_those_of_the_authors_code(network: InternVideo2) -> None:
    vectors = _text_vectors(network, *recipe_tokens())
    np.testing.assert_allclose(vectors, np.load(REFERENCE)["text_vectors"], atol=1e-6, rtol=0)


def test_the_full_model_has_the_authors_names_and_shapes_but_for_what_only_training_needs() -> None:
    sizes = InternVideo2Sizes()
    with torch.device("meta"):
        ours = {name: tuple(value.shape) for name, value in InternVideo2(sizes).state_dict().items()}
    theirs = {name: shape for name, shape in reference_shapes("full").items() if not is_for_training(name, sizes)}
    assert ours == theirs
    assert sum(int(np.prod(shape)) for shape in ours.values()) > 1.2e9


def test_what_only_training_needs_changes_no_vector(network: InternVideo2, tmp_path: Path) -> None:
    needed = {name: value for name, value in _state().items() if not is_for_training(name, network.sizes)}
    bare = load_internvideo2(_saved(needed, tmp_path), "cpu")
    assert len(needed) < len(_state())
    assert torch.equal(bare.embed_clips(_frames()), network.embed_clips(_frames()))


def test_what_becomes_of_a_clip_does_not_depend_on_the_batch(network: InternVideo2) -> None:
    together = network.embed_clips(_frames())
    alone = torch.cat([network.embed_clips(clip[None]) for clip in _frames()])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_padding_of_a_text_changes_nothing(network: InternVideo2) -> None:
    tokens, mask = recipe_tokens()
    other = np.where(mask == 1, tokens, 7)
    np.testing.assert_allclose(
        _text_vectors(network, tokens, mask), _text_vectors(network, other, mask), atol=1e-6, rtol=0
    )


def test_vectors_have_unit_length(network: InternVideo2) -> None:
    tokens, mask = recipe_tokens()
    vectors = np.concatenate([network.embed_clips(_frames()).numpy(), _text_vectors(network, tokens, mask)])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_frames_of_another_number_are_refused(network: InternVideo2) -> None:
    with pytest.raises(ValueError, match=r"takes clips of shape \(4, 224, 224, 3\), got \(3, 224, 224, 3\)"):
        network.embed_clips(_frames()[:, : NUM_FRAMES - 1])


@pytest.mark.parametrize("wrapping", ["module", "model", None])
def test_a_checkpoint_may_stand_under_the_keys_of_trainers(wrapping: str | None, tmp_path: Path) -> None:
    content = {wrapping: _state(), "global_step": 3} if wrapping else _state()
    assert load_internvideo2(_saved(content, tmp_path), "cpu").sizes.depth == 3


def test_half_precision_weights_become_float32_on_a_cpu(tmp_path: Path) -> None:
    halves = {name: value.half() for name, value in _state().items()}
    network = load_internvideo2(_saved(halves, tmp_path), "cpu")
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        pytest.param("vision_encoder.blocks.1.attn.qkv.weight", None, "lacks .*1.attn.qkv.weight", id="a weight"),
        pytest.param("vision_proj.weight", None, "not a checkpoint of InternVideo2.*vision_proj", id="the head"),
        pytest.param("text_proj.bias", (3,), r"text_proj.bias \(3,\) instead of \(24,\)", id="another shape"),
        pytest.param("vision_encoder.extra", (3,), "does not have: vision_encoder.extra", id="an unknown name"),
        pytest.param("vision_encoder.pos_embed", (1, 129, 176), "129 places.*4 frames of 224", id="eight frames"),
        pytest.param("vision_encoder.cls_token", (1, 1, 3200), "not the 1B model", id="the 6B model"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(
    name: str, shape: tuple[int, ...] | None, message: str, tmp_path: Path
) -> None:
    state = {other: value for other, value in _state().items() if other != name}
    if shape is not None:
        state[name] = torch.zeros(shape)
    checkpoint = _saved(state, tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        load_internvideo2(checkpoint, "cpu")
    assert str(checkpoint) in str(caught.value)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    checkpoint = _saved({**_state(), "name": Path("any object")}, tmp_path)
    with pytest.raises(ValueError, match="not a checkpoint that holds tensors alone"):
        load_internvideo2(checkpoint, "cpu")


@pytest.mark.parametrize("kept", [0, 100, -100], ids=["empty", "its head", "all but its end"])
def test_a_cut_checkpoint_is_refused(kept: int, tmp_path: Path) -> None:
    whole = _saved(_state(), tmp_path).read_bytes()
    (tmp_path / "model.pt").write_bytes(whole[:kept] if kept else b"")
    with pytest.raises(ValueError, match="not a checkpoint that holds tensors alone"):
        load_internvideo2(tmp_path / "model.pt", "cpu")


def test_bfloat16_as_on_a_gpu_gives_nearly_the_same_vectors(tmp_path: Path) -> None:
    network = load_internvideo2(_saved(_state(), tmp_path), "cpu").to(torch.bfloat16)
    clips = network.embed_clips(_frames())
    assert clips.dtype == torch.float32
    with np.load(REFERENCE) as arrays:
        assert np.min(np.sum(clips.numpy() * arrays["clip_vectors"], axis=1)) > 0.999  # it has 8 bits
        texts = _text_vectors(network, *recipe_tokens())
        assert np.min(np.sum(texts * arrays["text_vectors"], axis=1)) > 0.999


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_nearly_the_same_vectors(tmp_path: Path) -> None:
    network = load_internvideo2(_saved(_state(), tmp_path), "cuda")
    tokens, mask = (torch.from_numpy(values).cuda() for values in recipe_tokens())
    clips, texts = network.embed_clips(_frames().cuda()).cpu(), network.embed_texts(tokens, mask.bool()).cpu()
    reference = np.load(REFERENCE)
    assert (clips * torch.from_numpy(reference["clip_vectors"])).sum(dim=1).min() > 0.999
    assert (texts * torch.from_numpy(reference["text_vectors"])).sum(dim=1).min() > 0.999
