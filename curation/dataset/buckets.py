"""Which bucket a window belongs to: (split) x resolution x aspect ratio x frame window or duration. Pure."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from curation import layout
from curation.dataset.settings import DatasetSettings

TRAIN, VAL = "train", "val"


def resolution_name(width: int, height: int, *, bins: Sequence[int]) -> str:
    """The highest of ``bins`` (falling) that the shorter side reaches, or ``lt_`` and the lowest.

    Source:
        docs/rules.md, Training dataset.
    """
    reached = (limit for limit in bins if min(width, height) >= limit)
    return str(next(reached, f"lt_{bins[-1]}"))


def aspect_ratio_name(width: int, height: int, *, bins: Sequence[tuple[str, float | None]]) -> str:
    """The first of ``bins`` (name, upper bound; rising) up to and with whose bound width / height goes.

    Source:
        docs/rules.md, Training dataset.
    """
    return next(name for name, bound in bins if bound is None or width / height <= bound)


def duration_bins(durations_s: npt.ArrayLike, *, bins: Sequence[float]) -> npt.NDArray[np.int64]:
    """Which bin of the duration axis each duration is in: 0 is below ``bins[0]``, k begins at ``bins[k - 1]``.

    A bin goes up to and with its end, but for bin 0, and is the first that a duration fits in: with 5, 10 and 30
    seconds, 5 and 10 s are in bin 1, 30 s in bin 2. Durations count in whole milliseconds: 300 frames at 30 per second
    are 10 s.

    Source:
        docs/rules.md, Training dataset; the bounds of Cosmos-Curate's bins 5_10, 10_30 and 30_inf.
    """
    milliseconds = np.rint(np.asarray(durations_s, np.float64) * 1000)
    starts = np.rint(np.asarray(bins, np.float64) * 1000)
    return np.where(milliseconds < starts[0], 0, np.maximum(np.searchsorted(starts, milliseconds, side="left"), 1))


def split_of(video_id: str, val_fraction: float) -> str:
    """The split that all windows of a video go to: of its id alone, so that no video is in both.

    The first 64 bits of the id's SHA-256, as a fraction of 2^64, are below ``val_fraction`` where it is ``val``.
    """
    first = int.from_bytes(hashlib.sha256(video_id.encode()).digest()[:8])
    return VAL if first < val_fraction * 2**64 else TRAIN


def bucket_folder(split: str, resolution: str, aspect_ratio: str, length: int, settings: DatasetSettings) -> str:
    """The folder of a bucket, relative to the version's.

    Args:
        length: place on the third axis: start frame // 256, or as ``duration_bins`` gives it.
    """
    if settings.bucket_axis == "frames":
        name = layout.frame_window(length * layout.WINDOW_FRAMES)
    else:
        bounds = [0.0, *settings.duration_bins_s, None]
        start_s = bounds[length]
        assert start_s is not None
        name = layout.duration_bin(start_s, bounds[length + 1])
    return layout.bucket(resolution, aspect_ratio, name, split=split if settings.val_fraction else None)
