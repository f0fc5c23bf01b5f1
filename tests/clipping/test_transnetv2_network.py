"""Our TransNet V2 against the authors' inference code on real footage (see make_transnetv2_reference.py)."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="needs torch: install the extra 'models'")

import torch

from curation.clipping.shot_model import WEIGHTS_SHA256
from curation.clipping.transnetv2_network import TransNetV2, fold_for_cpu, load_transnetv2
from curation.clipping.transnetv2_windows import WindowedPredictor

REFERENCE = Path(__file__).with_name("transnetv2_reference.npz")


def real_frames() -> NDArray[np.uint8]:
    """uint8 RGB, shape (250, 27, 48, 3)."""
    with np.load(REFERENCE) as arrays:
        return np.asarray(arrays["frames"], np.uint8)


def authors_probabilities(num_frames: int) -> NDArray[np.float32]:
    """What the authors' code says about the first frames of the footage, float32, shape (num_frames,)."""
    with np.load(REFERENCE) as arrays:
        return np.asarray(arrays[f"probabilities_{num_frames}"], np.float32)


@cache
def our_network(weights: Path, *, is_folded: bool) -> TransNetV2:
    network = load_transnetv2(weights, "cpu")
    return fold_for_cpu(network) if is_folded else network


@cache
def our_probabilities(weights: Path, num_frames: int, *, is_folded: bool) -> NDArray[np.float32]:
    """What we say about the first frames of the footage, float32, shape (num_frames,)."""
    network = our_network(weights, is_folded=is_folded)
    predictor = WindowedPredictor(
        lambda windows: network(torch.from_numpy(windows)).numpy(),
    )
    for frame in real_frames()[:num_frames]:
        predictor.feed(frame)
    return predictor.finish()


forms = pytest.mark.parametrize(
    "is_folded", [pytest.param(False, id="as published, for a GPU"), pytest.param(True, id="folded, for a CPU")]
)


@forms
@pytest.mark.parametrize(
    "num_frames",
    [
        pytest.param(80, id="the last window is mostly padding"),
        pytest.param(250, id="the frames fill the windows' middles"),
    ],
)
def test_probabilities_are_those_of_the_authors_code(
    transnetv2_weights: Path, num_frames: int, is_folded: bool
) -> None:
    ours = our_probabilities(transnetv2_weights, num_frames, is_folded=is_folded)
    difference = ours - authors_probabilities(num_frames)
    assert np.abs(difference).max() <= 1e-4


def test_the_last_frame_before_each_real_cut_is_a_peak(transnetv2_weights: Path) -> None:
    probabilities = our_probabilities(transnetv2_weights, 250, is_folded=True)
    before, here, after = probabilities[:-2], probabilities[1:-1], probabilities[2:]
    peaks = 1 + np.flatnonzero((here > 0.4) & (here > before) & (here >= after))
    first_frames_of_new_shots = [30, 76, 137, 187, 242]  # seen by eye in the footage
    assert (peaks + 1).tolist() == first_frames_of_new_shots


@forms
def test_a_window_does_not_see_the_others_in_its_batch(transnetv2_weights: Path, is_folded: bool) -> None:
    network = our_network(transnetv2_weights, is_folded=is_folded)
    frames = torch.from_numpy(real_frames())
    windows = torch.stack([frames[:20], frames[20:40]])
    alone = torch.cat([network(window[None]) for window in windows])
    torch.testing.assert_close(network(windows), alone, rtol=0, atol=1e-5)


def test_loading_leaves_the_process_as_it_was(transnetv2_weights: Path) -> None:
    def process_state() -> tuple[list[int], bool, int]:
        random_state = torch.get_rng_state().tolist()
        return random_state, torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()

    before = process_state()
    load_transnetv2(transnetv2_weights, "cpu")
    assert process_state() == before


def test_another_file_is_refused_by_name_and_hash(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"")
    sha256_of_nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    with pytest.raises(ValueError, match=f"{re.escape(str(weights))}.*{sha256_of_nothing}.*{WEIGHTS_SHA256}"):
        load_transnetv2(weights, "cpu")
