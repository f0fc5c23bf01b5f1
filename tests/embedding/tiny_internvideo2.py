"""A checkpoint of InternVideo2 with small random weights, in the folders of the published one and its vocabulary."""

import json
from pathlib import Path

import numpy as np

from tests.embedding.make_internvideo2_reference import recipe_state

REFERENCE = Path(__file__).with_name("internvideo2_reference.npz")
REPOSITORY, WEIGHTS_NAME = "OpenGVLab/InternVideo2-Stage2_1B-224p-f4", "InternVideo2-stage2_1b-224p-f4.pt"
TEXT_REPOSITORY = "google-bert/bert-large-uncased"
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "car", "##s", "cat", "dog", "red", "blue", "runs", "?")
DIMENSIONS = 24


def reference_shapes(kind: str) -> dict[str, tuple[int, ...]]:
    """The authors' names and shapes of the ``small`` or the ``full`` model, those for training included."""
    with np.load(REFERENCE) as arrays:
        return {name: tuple(shape) for name, shape in json.loads(str(arrays[f"{kind}_shapes"])).items()}


def write_weights(folder: Path) -> Path:
    """The weights as a trainer saves them; the file."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: torch.from_numpy(value) for name, value in recipe_state(reference_shapes("small")).items()}
    torch.save({"module": state}, folder / WEIGHTS_NAME)
    return folder / WEIGHTS_NAME


def write_vocabulary(folder: Path, words: tuple[str, ...] = WORDS) -> Path:
    """The folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return folder


def write_internvideo2(model_dir: Path) -> Path:
    """A ``model_dir`` with both."""
    write_weights(model_dir / REPOSITORY)
    write_vocabulary(model_dir / TEXT_REPOSITORY)
    return model_dir
