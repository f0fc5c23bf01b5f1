"""Clips embedded a second on a GPU, one at a time against as many as the stage chooses within ``gpu_memory_gb``.

Networks of the published sizes with random weights: a stand-in for Cosmos-Embed1 at 336p (its EVA ViT-g: 40 blocks of
1408, 16 heads, perceptrons of 6144, patches of 14 pixels, and a Q-Former of 12 blocks of 768 with 32 questions; its own
code comes with the checkpoint only), and our InternVideo2 Stage2 1B (40 blocks of 1408, perceptrons of 6144). Frames
are uint8 in the host's memory, as the stages get them. VALUE is the smaller of both gains. Without a GPU nothing is
measured: VALUE is 0 then, and ``--size tiny`` runs small ones on the CPU.
"""

import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from curation.embedding.errors import EmbeddingStartError
from curation.embedding.stages import ClipEmbeddingStage, LoadedModel
from curation.gpu import is_on_gpu
from tests.benchmarks.harness import parse_size, verdict

if TYPE_CHECKING:
    from curation.embedding.internvideo2_checkpoint import InternVideo2Sizes

GOAL: Final = 5.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a vision transformer with a head that asks it."""

    num_frames: int
    side: int
    width: int
    depth: int
    hidden: int
    heads: int
    asking_width: int
    asking_depth: int


COSMOS_336P: Final = Sizes(8, 336, 1408, 40, 6144, 16, 768, 12)
TINY: Final = Sizes(2, 28, 32, 2, 64, 2, 32, 2)
GPU_MEMORY_GB: Final = {"cosmos-embed1-336p": 20.0, "internvideo2": 10.0}


class StandIn:
    """A model of Cosmos-Embed1's size: each frame by itself, then questions to the tokens of all frames."""

    def __init__(self, sizes: Sizes) -> None:
        import torch
        from torch import nn

        self.frame_shape = (sizes.num_frames, sizes.side, sizes.side, 3)
        torch.backends.mha.set_fastpath_enabled(False)  # attention as models have it that are not PyTorch's own
        self._device = "cuda" if is_on_gpu() else "cpu"
        self._dtype = torch.bfloat16 if is_on_gpu() else torch.float32
        with torch.device(self._device):
            self._patches = nn.Conv2d(3, sizes.width, 14, 14).to(self._dtype)
            seeing: Any = nn.TransformerEncoderLayer(
                sizes.width, sizes.heads, sizes.hidden, 0.0, "gelu", batch_first=True, norm_first=True
            )
            asking: Any = nn.TransformerDecoderLayer(
                sizes.asking_width, sizes.heads // 2 or 1, 4 * sizes.asking_width, 0.0, "gelu", batch_first=True
            )
            self._seeing = nn.TransformerEncoder(seeing, sizes.depth, enable_nested_tensor=False).to(self._dtype).eval()
            self._asking = nn.TransformerDecoder(asking, sizes.asking_depth).to(self._dtype).eval()
            self._narrow = nn.Linear(sizes.width, sizes.asking_width).to(self._dtype)
            self._questions = torch.randn(1, 32, sizes.asking_width, dtype=self._dtype)

    def video_vectors(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As the checkpoint's processor and model: scaled on the host, embedded on the device."""
        import torch

        with torch.inference_mode():
            scaled = torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 1, 4, 2, 3))).float() / 255
            pixels = scaled.to(self._device, self._dtype)
            tokens = self._seeing(self._patches(pixels.flatten(0, 1)).flatten(2).transpose(1, 2))
            seen = self._narrow(tokens.unflatten(0, (len(frames), -1)).flatten(1, 2))
            rows = self._asking(self._questions.expand(len(frames), -1, -1), seen).mean(1)
            return np.asarray(rows.float().cpu().numpy(), dtype=np.float32)

    def text_vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """It reads none."""
        raise ValueError(f"{len(texts)} texts for a model that reads none")


class Internvideo2Sized:
    """Our network with random weights."""

    def __init__(self, *, is_tiny: bool) -> None:
        import torch

        from curation.embedding.internvideo2_network import InternVideo2

        sizes = internvideo2_sizes(is_tiny=is_tiny)
        self.frame_shape = (sizes.num_frames, sizes.image_size, sizes.image_size, 3)
        self._device = "cuda" if is_on_gpu() else "cpu"
        with torch.device(self._device):
            network = InternVideo2(sizes)
        self._network = network.to(torch.bfloat16 if is_on_gpu() else torch.float32).eval()

    def video_vectors(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As the stage does it."""
        import torch

        with torch.inference_mode():
            rows = self._network.embed_clips(torch.from_numpy(frames).to(self._device))
        return np.asarray(rows.cpu().numpy(), dtype=np.float32)

    def text_vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """It is not asked to."""
        raise ValueError(f"{len(texts)} texts for a model that reads none")


class Measured(ClipEmbeddingStage):
    """A stage whose model is made here."""

    name = "measured"
    frames_field, vector_field, match_field = "cosmos_embed1_frames", "cosmos_embed1_embedding", "unused"

    def __init__(self, make: Callable[[], LoadedModel], measure: str) -> None:
        super().__init__(gpu_memory_gb=GPU_MEMORY_GB[measure])
        self._make = make
        self.measure = measure  # type: ignore[misc]  # a constant of other stages

    def load(self) -> LoadedModel:
        self.loaded = self._make()
        return self.loaded

    @property
    def clips_at_once(self) -> int:
        """As it chose."""
        return int(self.measures()["embeddings"][self.measure]["clips_at_once"])


def internvideo2_sizes(*, is_tiny: bool) -> "InternVideo2Sizes":
    """The published ones, or small ones."""
    from curation.embedding.internvideo2_checkpoint import InternVideo2Sizes

    if not is_tiny:
        return InternVideo2Sizes()
    text = {"text_width": 32, "text_depth": 1, "text_hidden": 64, "vocabulary": 30, "positions": 16}
    return InternVideo2Sizes(
        image_size=28, num_frames=2, width=32, depth=2, hidden=64, pooled=16, vector_size=8, **text
    )


def rate(model: LoadedModel, at_once: int, *, min_s: float) -> float:
    """Clips a second, over at least so long."""
    clips = np.random.default_rng(0).integers(0, 256, (at_once, *model.frame_shape), dtype=np.uint8)
    model.video_vectors(clips)  # loads all kernels
    began_s, number = time.perf_counter(), 0
    while time.perf_counter() - began_s < min_s:
        model.video_vectors(clips)  # ends when the vectors are in the host's memory
        number += at_once
    return number / (time.perf_counter() - began_s)


def gain(name: str, make: Callable[[], LoadedModel], *, min_s: float) -> float | None:
    """Print what a model does, and give what its batch gains; None where it does not run."""
    stage = Measured(make, name)
    try:
        stage.setup()
        one = rate(stage.loaded, 1, min_s=min_s)
        many = rate(stage.loaded, stage.clips_at_once, min_s=min_s)
    except (EmbeddingStartError, RuntimeError) as error:
        print(f"{name}: failed: {type(error).__name__}: {error}", flush=True)
        return None
    finally:
        stage.close()
    print(f"{name}: 1 clip at once {one:.2f} clips/s, {stage.clips_at_once} at once {many:.2f} clips/s", end="")
    print(f" within {stage.gpu_memory_gb:g} GB{_peak()}", flush=True)
    del stage.loaded
    return many / one


def _peak() -> str:
    import torch

    if not is_on_gpu():
        return ""
    peak = torch.cuda.max_memory_reserved() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return f" ({peak:.2f} GB at most)"


def main() -> int:
    is_tiny = parse_size(__doc__) == "tiny"
    if importlib.util.find_spec("torch") is None:
        print("not installed: torch: nothing is measured")
        return verdict("embed_gpu", 0.0, GOAL, at_most=False)
    gains: list[float | None] = []
    if is_on_gpu() or is_tiny:
        min_s = 0.2 if is_tiny else 10.0
        gains.append(gain("cosmos-embed1-336p", lambda: StandIn(TINY if is_tiny else COSMOS_336P), min_s=min_s))
        gains.append(gain("internvideo2", lambda: Internvideo2Sized(is_tiny=is_tiny), min_s=min_s))
    if not is_on_gpu():
        print("there is no GPU here: what batches gain on one is not measured")
        gains = []
    known = [each for each in gains if each is not None]
    return verdict("embed_gpu", min(known) if len(known) == 2 else 0.0, GOAL, at_most=False)


if __name__ == "__main__":
    sys.exit(main())
