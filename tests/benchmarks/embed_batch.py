"""Clips embedded a second on a CPU at 1, 8 and 32 clips at once: the demo's model, and a tiny Cosmos-Embed1.

One thread, median CPU seconds of interleaved repetitions, frames in memory already. VALUE is the demo's model at the
number that a CPU takes (``CPU_CLIPS``) over one clip at a time: batches must not cost anything where they don't help.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from curation.embedding.gpu_batch import CPU_CLIPS
from curation.embedding.stages import LoadedModel
from tests.benchmarks.harness import interleaved_cpu_s, parse_size, verdict
from tests.footage import footage

GOAL: Final = 0.9
AT_ONCE: Final = (1, 8, 32)


def demo() -> LoadedModel:
    from curation.embedding.efficientnet_lite import WEIGHTS_NAME, EfficientNetLiteModel

    return EfficientNetLiteModel(footage(WEIGHTS_NAME), "cpu")


def tiny_cosmos(folder: Path) -> LoadedModel:
    from curation.embedding.cosmos_embed1 import CosmosEmbed1Model
    from curation.embedding.models import EMBEDDING_MODELS
    from tests.embedding.tiny_cosmos import write_cosmos_embed1

    return CosmosEmbed1Model(write_cosmos_embed1(folder), EMBEDDING_MODELS["cosmos-embed1-224p"])


def rates(model: LoadedModel, *, num_clips: int, repetitions: int) -> dict[int, float]:
    """Clips a CPU second, by how many are taken at once."""
    clips = np.random.default_rng(0).integers(0, 256, (num_clips, *model.frame_shape), dtype=np.uint8)
    model.video_vectors(clips[:1])

    def run(at_once: int) -> Callable[[], object]:
        return lambda: [model.video_vectors(clips[k : k + at_once]) for k in range(0, num_clips, at_once)]

    spent = interleaved_cpu_s({str(number): run(number) for number in AT_ONCE}, repetitions=repetitions)
    return {int(number): num_clips / max(cpu_s, 1e-9) for number, cpu_s in spent.items()}


def main() -> int:
    is_tiny = parse_size(__doc__) == "tiny"
    missing = [name for name in ("torch", "transformers", "pytest") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}: nothing is measured")
        return verdict("embed_batch", 0.0, GOAL, at_most=False)
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    num_clips, num_tiny_clips, repetitions = (8, 64, 1) if is_tiny else (32, 1024, 5)
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "efficientnet-lite0": rates(demo(), num_clips=num_clips, repetitions=repetitions),
            "tiny Cosmos-Embed1": rates(tiny_cosmos(Path(folder)), num_clips=num_tiny_clips, repetitions=repetitions),
        }
    for name, by_number in found.items():
        print(f"{name}: " + ", ".join(f"{number} at once {rate:.2f} clips/CPU-s" for number, rate in by_number.items()))
    of_demo = found["efficientnet-lite0"]
    return verdict("embed_batch", of_demo[CPU_CLIPS] / of_demo[1], GOAL, at_most=False)


if __name__ == "__main__":
    sys.exit(main())
