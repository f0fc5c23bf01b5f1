"""How far the blocks of a picture moved, found by comparing it with the next: for codecs whose decoders don't tell.

Calibrated against the vectors of libx264 (superfast, each frame referring to the one before) on seven films: in the
median frame of a film the mean motion is 0.67 to 1.2 times that of the vectors, geometric mean 0.9; over a film the two
have the same sum within a tenth. Pixels are pixels: no factor stands between them.
"""

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from curation.video.motion_vectors import MotionSample, sample_of

_BLOCK = 8  # pixels of the small pictures
_REACH, _STEP = 4, 2  # how far a block is looked for, and at which distances, in those pixels
_SHORT_SIDE_BLOCKS = 12
_STILL_LEVELS = 1.0  # a block that changed by less, on average, is the same with other noise
_WORTH_LEVELS = 0.5  # by how much a match must be better than staying, for each pixel of distance
_STIFFNESS = 4.0  # squared levels for each pixel: what a fraction of a pixel is worth where there is nothing to see


class FlowMeter:
    """Compares two neighbouring frames of one video."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def sample(self, first: av.VideoFrame, second: av.VideoFrame) -> MotionSample:
        """The motion of ``first`` towards ``second``."""
        size = first.width, first.height
        small = small_size(*size)
        cells = block_motion(*(self._shrink(frame, small) for frame in (first, second)))
        across, down = size[0] / small[0], size[1] / small[1]
        shares = np.hypot(cells[..., 0] * across, cells[..., 1] * down) / (size[0] + size[1])
        return sample_of(shares.astype(np.float32), size, cell=(_BLOCK * across, _BLOCK * down), is_flow=True)

    def _shrink(self, frame: av.VideoFrame, size: tuple[int, int]) -> NDArray[np.int16]:
        gray = self._reformatter.reformat(
            frame, width=size[0], height=size[1], format="gray", interpolation=Interpolation.AREA, threads=1
        )
        return np.asarray(gray.to_ndarray(), dtype=np.int16)


def small_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of the pictures that are compared: whole blocks, of about the picture's shape."""
    block = min(width, height) / _SHORT_SIDE_BLOCKS
    return _BLOCK * max(1, round(width / block)), _BLOCK * max(1, round(height / block))


def block_motion(first: NDArray[np.int16], second: NDArray[np.int16]) -> NDArray[np.float32]:
    """Where each block of the first picture is found in the second.

    The best of the displacements of up to 4 pixels, two apart, which must be worth it; from there twice what explains
    best what differs (Lucas and Kanade, 1981). What did not change, but for noise, did not move.

    Args:
        first: luma, shape (rows * 8, columns * 8).
        second: of the same shape.

    Returns:
        Pixels to the right and down, float32, shape (rows, columns, 2).
    """
    padded = np.pad(second, _REACH + 1, mode="edge")
    shifted = sliding_window_view(padded, first.shape)  # by rows and columns of displacement
    staying = _block_means(np.abs(second - first))
    best, rows, columns = staying.copy(), np.zeros(staying.shape, np.intp), np.zeros(staying.shape, np.intp)
    if (staying <= _STILL_LEVELS).all():
        return np.zeros((*staying.shape, 2), np.float32)
    for down in range(-_REACH, _REACH + 1, _STEP):
        for right in range(-_REACH, _REACH + 1, _STEP):
            cost = _block_means(np.abs(shifted[down + _REACH + 1, right + _REACH + 1] - first))
            cost += _WORTH_LEVELS * np.hypot(right, down)
            better = cost < best
            best[better], rows[better], columns[better] = cost[better], down, right
    rest = _fractions(first, padded, rows, columns)
    columns, rows = columns + np.rint(rest[..., 0]).astype(np.intp), rows + np.rint(rest[..., 1]).astype(np.intp)
    moved = np.stack([columns, rows], axis=-1) + _fractions(first, padded, rows, columns)
    moved[staying <= _STILL_LEVELS] = 0
    return moved.astype(np.float32)


def _fractions(
    first: NDArray[np.int16], padded: NDArray[np.int16], rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> NDArray[np.float32]:
    """What is left of the displacement of each block, in pixels: at most one in each direction."""
    down, right = (np.repeat(np.repeat(each, _BLOCK, 0), _BLOCK, 1) for each in (rows, columns))
    y, x = np.arange(first.shape[0])[:, None], np.arange(first.shape[1])[None]
    found = padded[y + down + _REACH + 1, x + right + _REACH + 1].astype(np.float32)
    mean = (found + first) / 2
    change, (slope_y, slope_x) = found - first, np.gradient(mean)
    xx, yy = _block_means(slope_x**2) + _STIFFNESS, _block_means(slope_y**2) + _STIFFNESS
    xy = _block_means(slope_x * slope_y)
    xt, yt = _block_means(slope_x * change), _block_means(slope_y * change)
    determinant = xx * yy - xy**2
    solved = np.stack([xy * yt - yy * xt, xy * xt - xx * yt], axis=-1) / determinant[..., None]
    return np.asarray(np.clip(solved, -1, 1), dtype=np.float32)


def _block_means(values: NDArray[np.int16] | NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = values.shape
    blocks = values.reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    return np.asarray(blocks.sum(axis=(1, 3), dtype=np.float32) / _BLOCK**2, dtype=np.float32)
