"""How far the blocks of a picture moved, as the decoder of its codec tells it."""

from dataclasses import dataclass

import av
import numpy as np
from av.sidedata.motionvectors import MotionVectors
from av.sidedata.sidedata import SideDataContainer
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


def has_vectors(frame: av.VideoFrame) -> bool:
    """Whether a decoded picture came with motion vectors."""
    return _side_data(frame) is not None


def vectors_of(frame: av.VideoFrame) -> NDArray[np.void] | None:
    """The motion vectors that came with a decoded picture; None where its codec, or an intra picture, has none."""
    found = _side_data(frame)
    return found.to_ndarray() if found is not None else None


def _side_data(frame: av.VideoFrame) -> MotionVectors | None:
    # what ``frame.side_data`` gives is kept by the frame and keeps it: its memory would wait for the garbage collector
    found = SideDataContainer(frame).get("MOTION_VECTORS")  # type: ignore[call-arg]  # its stub does not know of it
    return found if isinstance(found, MotionVectors) else None


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
    num_rows, num_columns = -(-height // CELL), -(-width // CELL)
    cells = np.zeros((num_rows + 1, num_columns + 1), np.float32)  # the last of each side takes what lies outside
    lengths = np.sqrt(vectors["motion_x"].astype(np.float32) ** 2 + vectors["motion_y"].astype(np.float32) ** 2)
    lengths /= vectors["motion_scale"].astype(np.float32) * (distance * (width + height))
    rows = (vectors["dst_y"].astype(np.intp) - vectors["h"] // 2) // CELL
    columns = (vectors["dst_x"].astype(np.intp) - vectors["w"] // 2) // CELL
    is_tall, is_wide = vectors["h"] > CELL, vectors["w"] > CELL
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):  # blocks of up to 16 pixels cover up to four cells
        inside = (is_tall | (not down)) & (is_wide | (not right))
        row, column = rows[inside] + down, columns[inside] + right
        row[(row < 0) | (row > num_rows)] = num_rows
        column[(column < 0) | (column > num_columns)] = num_columns
        cells[row, column] = lengths[inside]
    return sample_of(cells[:num_rows, :num_columns], size, cell=(float(CELL), float(CELL)), is_flow=False)


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

    A side has as many patches as fit, rounded to the nearest (halves to even). The last may stand out, also where it is
    the only one; where not even half of it fits there is one as long as the side.
    """
    count = round(length / PATCH)
    patch = PATCH if count else length
    count = max(1, count)
    first = (2 * np.arange(count) + 1) * patch // 2 - 1
    return np.minimum(np.stack([first, first + 1], axis=1), length - 1)
