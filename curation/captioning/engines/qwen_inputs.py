"""What Qwen2.5-VL and Qwen3-VL are given of a video: patches of its pictures, and the words and positions around them.

For engines that have no processor of the model's authors at hand.

Source:
    ``Qwen2VLVideoProcessor``, ``Qwen3VLVideoProcessor`` and their processors in transformers, ``fetch_video`` of the
    authors' qwen-vl-utils. The sizes of the pictures are ``curation.captioning.frames``'s matter.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curation.captioning.requests import RequestRefusedError

if TYPE_CHECKING:
    import torch

VIDEO_TOKEN: Final = "<|video_pad|>"
CLOCK_HZ: Final = 1_000_000
_VIDEO_KIND: Final = 2  # in mm_token_type_ids: 0 is text, 1 an image


class Grid(NamedTuple):
    """Patches of a video along time, height and width."""

    t: int
    h: int
    w: int


@dataclass(frozen=True, slots=True)
class PatchRules:
    """How a family cuts videos into patches.

    Attributes:
        patch: pixels of a side.
        mean, std: of each channel, of values in 0..1.
        writes_times: each picture stands behind its time, as text; otherwise the positions say how far they are apart.
        merge: so many patches, along both sides, become one token.
        tubelet: so many pictures after each other are in one patch.
    """

    patch: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    writes_times: bool
    merge: int = 2
    tubelet: int = 2

    def grid(self, num_frames: int, height: int, width: int) -> Grid:
        """The patches of pictures whose sides are ``height`` and ``width`` pixels.

        Raises:
            RequestRefusedError: there is no picture, or a side is no multiple of the size of a token.
        """
        token = self.patch * self.merge
        if not num_frames or not height or not width or height % token or width % token:
            found = f"{num_frames} frames of {width}x{height} pixels"
            raise RequestRefusedError(f"frames need sides that are multiples of {token} pixels, got {found}")
        return Grid(-(-num_frames // self.tubelet), height // self.patch, width // self.patch)

    def num_tokens(self, grid: Grid) -> int:
        """Tokens that the pictures of one step in time become."""
        return grid.h * grid.w // self.merge**2


PATCH_RULES: Final[Mapping[str, PatchRules]] = MappingProxyType(
    {
        "qwen2.5-vl": PatchRules(
            14, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), writes_times=False
        ),
        "qwen3-vl": PatchRules(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), writes_times=True),
    }
)


def resized(frames: "torch.Tensor", width: int, height: int) -> "torch.Tensor":
    """Pictures of another size, by the authors' filter: bicubic and antialiased.

    Args:
        frames: uint8 RGB, shape (num_frames, height, width, 3); so is what is given.
    """
    import torch

    channels_first = frames.permute(0, 3, 1, 2).float()
    scaled = torch.nn.functional.interpolate(channels_first, (height, width), mode="bicubic", antialias=True)
    return scaled.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def patches(frames: "torch.Tensor", rules: PatchRules, dtype: "torch.dtype") -> "torch.Tensor":
    """Normalised pixels in the order in which the vision tower takes them; an odd number of pictures repeats the last.

    Args:
        frames: uint8 RGB, shape (num_frames, height, width, 3), both sides multiples of a token's.
        rules: the family's.
        dtype: in which it is computed and given.

    Returns:
        Shape (t * h * w, 3 * tubelet * patch * patch) of the grid's t, h and w.
    """
    import torch

    mean, std = (255 * torch.tensor(values, device=frames.device) for values in (rules.mean, rules.std))
    x = frames.to(dtype).sub_(mean.to(dtype)).div_(std.to(dtype))
    if missing := -len(x) % rules.tubelet:
        x = torch.cat([x, x[-1:].expand(missing, -1, -1, -1)])
    t, h, w = rules.grid(*x.shape[:3])
    merge, patch = rules.merge, rules.patch
    x = x.permute(0, 3, 1, 2).reshape(t, rules.tubelet, 3, h // merge, merge, patch, w // merge, merge, patch)
    return x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(t * h * w, -1)


def video_words(grid: Grid, times_s: NDArray[np.float64], rules: PatchRules) -> str:
    """What stands in the prompt in the place of ``VIDEO_TOKEN``: that token for each part of the pictures."""
    step = VIDEO_TOKEN * rules.num_tokens(grid)
    if not rules.writes_times:
        return step * grid.t
    times = grid_times_s(times_s, rules)
    return "".join(f"<{time_s:.1f} seconds><|vision_start|>{step}<|vision_end|>" for time_s in times)


def grid_times_s(times_s: NDArray[np.float64], rules: PatchRules) -> list[float]:
    """When the pictures of each step in time are shown: halfway between the first and the last of them, in seconds.

    Times are whole ticks of ``CLOCK_HZ``, as vLLM has to be told them: both round half a tenth of a second alike.
    """
    ticks = np.round(times_s * CLOCK_HZ)
    padded = np.pad(ticks, (0, -len(times_s) % rules.tubelet), mode="edge").reshape(-1, rules.tubelet)
    return [float(first / CLOCK_HZ + last / CLOCK_HZ) / 2 for first, last in padded[:, [0, -1]]]


def grid_seconds(times_s: NDArray[np.float64], rules: PatchRules) -> float:
    """Seconds from one step in time to the next, on the average; a float32, as the authors' processor has it."""
    lasts_s = float(times_s[-1] - times_s[0])
    rate_hz = (len(times_s) - 1) / lasts_s if lasts_s else 1.0  # of a single step any will do: there is no next one
    return float(np.float32(rules.tubelet / rate_hz))


def repair_positions(model: Any) -> None:
    """Let text go on behind all positions of the video before it, in time too, as in the authors' own code.

    transformers from 5.0 to at least 5.19 goes on behind the height and the width only: the text after a clip that is
    longer than it is wide gets positions inside the clip, and captions get worse. Positions that are right stay as they
    are, so that a version with the fault mended is not changed.

    Args:
        model: a Qwen2.5-VL of transformers, which is changed; no other model of this class is.

    Source:
        ``get_rope_index`` of transformers 4 (written by the authors of Qwen2.5-VL): text begins at the largest position
        so far, plus one.
    """
    inner = model.model
    inner.get_rope_index = _behind_videos(inner.get_rope_index)


def _behind_videos(original: Callable[..., Any]) -> Callable[..., Any]:
    """``get_rope_index`` with what it gives put right."""
    import torch

    def get_rope_index(
        input_ids: "torch.Tensor",
        mm_token_type_ids: "torch.Tensor",
        *args: Any,
        attention_mask: "torch.Tensor | None" = None,
        **kwargs: Any,
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        positions, deltas = original(
            input_ids, mm_token_type_ids, *args, attention_mask=attention_mask, **kwargs
        )  # (3, batch, length) and (batch, 1)
        for row, kinds in enumerate(mm_token_type_ids):
            keep = torch.ones_like(kinds, dtype=torch.bool) if attention_mask is None else attention_mask[row].bool()
            right = text_behind_videos(positions[:, row, keep], kinds[keep])
            positions[:, row, keep] = right
            deltas[row] = right.max() + 1 - right.shape[1]
        return positions, deltas

    return get_rope_index


def text_behind_videos(positions: "torch.Tensor", kinds: "torch.Tensor") -> "torch.Tensor":
    """Positions of one prompt, those from the end of a video on moved so that they go on behind its largest.

    Args:
        positions: int64, shape (3, length): along time, height and width.
        kinds: what each token is part of, shape (length,): 0 text, 1 an image, 2 a video.
    """
    moved = positions.clone()
    is_video = (kinds == _VIDEO_KIND).int()
    for end in ((is_video[:-1] - is_video[1:]) == 1).nonzero().flatten().tolist():
        moved[:, end + 1 :] += moved[:, : end + 1].max() + 1 - moved[0, end + 1]
    return moved
