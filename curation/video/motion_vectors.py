"""How far the blocks of a picture moved, as the decoder of its codec tells it."""

from dataclasses import dataclass

import av
import numpy as np
from av.sidedata.motionvectors import MotionVectors
from numpy.typing import NDArray

CELL = 8
"""Pixels: no decoder tells of smaller blocks, and all blocks begin at multiples of it."""

PATCH = 256
"""Pixels: of the square in which something must move."""


@dataclass(frozen=True, slots=True)
class MotionSample:
    """How far a picture moved from one frame to the next, as a share of its width + height.

    Attributes:
        mean: over all pixels.
        patches: in the middle of each square of 256 pixels, float32, shape (rows, columns).
        is_flow: it was found by comparing pictures; otherwise the decoder told it.
    """

    mean: float
    patches: NDArray[np.float32]
    is_flow: bool


def vectors_of(frame: av.VideoFrame) -> NDArray[np.void] | None:
    """The motion vectors that came with a decoded picture; None where its codec, or an intra picture, has none."""
    found = frame.side_data.get("MOTION_VECTORS")
    return found.to_ndarray() if isinstance(found, MotionVectors) else None


def sample_vectors(vectors: NDArray[np.void], size: tuple[int, int], *, distance: int) -> MotionSample:
    """The motion of a picture from its vectors; what has none (intra blocks) does not move.

    Where several vectors tell of one block, the last one counts.

    Args:
        vectors: as FFmpeg's AVMotionVector: blocks of ``w`` x ``h`` pixels around ``dst_x``, ``dst_y`` that moved by
            ``motion_x``, ``motion_y`` / ``motion_scale`` pixels.
        size: width and height of the picture.
        distance: frames between it and the one that it refers to.
    """
    width, height = size
    cells = np.zeros((-(-height // CELL), -(-width // CELL)), np.float32)
    scale = vectors["motion_scale"].astype(np.float32) * (distance * (width + height))
    lengths = np.hypot(vectors["motion_x"], vectors["motion_y"]).astype(np.float32) / scale
    for down in (0, 1):
        for right in (0, 1):  # blocks of up to 16 pixels cover up to four cells
            inside = (vectors["h"] > CELL * down) & (vectors["w"] > CELL * right)
            top = vectors["dst_y"][inside].astype(np.int32) - vectors["h"][inside] // 2
            left = vectors["dst_x"][inside].astype(np.int32) - vectors["w"][inside] // 2
            rows, columns = top // CELL + down, left // CELL + right
            seen = (rows >= 0) & (rows < cells.shape[0]) & (columns >= 0) & (columns < cells.shape[1])
            cells[rows[seen], columns[seen]] = lengths[inside][seen]
    return sample_of(cells, size, cell=(float(CELL), float(CELL)), is_flow=False)


def sample_of(
    cells: NDArray[np.float32], size: tuple[int, int], *, cell: tuple[float, float], is_flow: bool
) -> MotionSample:
    """Reduce the motion of all cells of a picture.

    Args:
        cells: motion of each, shape (rows, columns), as a share of width + height.
        size: width and height of the picture; cells may stand out at the right and below.
        cell: width and height of a cell in pixels.
    """
    columns, rows = (
        _visible(length, part, count) for length, part, count in zip(size, cell, cells.shape[::-1], strict=True)
    )
    mean = float(rows @ cells.astype(np.float64) @ columns) / (size[0] * size[1])
    x, y = (
        np.minimum((_middles(length) / part).astype(np.int64), count - 1)
        for length, part, count in zip(size, cell, cells.shape[::-1], strict=True)
    )
    patches = cells[y[:, :, None, None], x[None, None]].mean(axis=(1, 3), dtype=np.float32)
    return MotionSample(mean, patches, is_flow)


def _visible(length: int, part: float, count: int) -> NDArray[np.float64]:
    """How many pixels of each cell lie inside the picture, along one side."""
    return np.clip(length - part * np.arange(count), 0, part)


def _middles(length: int) -> NDArray[np.int64]:
    """The two pixels in the middle of each patch along a side, shape (patches, 2).

    A side has as many patches as fit, rounded to the nearest (halves to even), one at least; what is shorter than a
    patch is one, as long as the side.
    """
    count, patch = max(1, round(length / PATCH)), min(length, PATCH)
    first = (2 * np.arange(count) + 1) * patch // 2 - 1
    return np.minimum(np.stack([first, first + 1], axis=1), length - 1)
