"""Which windows are packed and which bucket each is in, and why the others are left out; all windows at once. Pure."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curation import layout
from curation.dataset.assignment import EarlierTars, Samples
from curation.dataset.buckets import TRAIN, VAL, bucket_folder, duration_bins, split_of
from curation.dataset.earlier import EarlierDataset
from curation.dataset.names import Names
from curation.dataset.order import hash64
from curation.dataset.settings import DatasetSettings
from curation.dataset.windows import WANTED, Windows, find_clips

_LENGTH_BITS = 32


class Bucket(NamedTuple):
    """Samples that one training batch can hold together; ``folder`` is relative to the dataset's."""

    folder: str
    split: str


@dataclass(frozen=True, slots=True)
class Selection:
    """What becomes of each window.

    Attributes:
        chosen: of the windows that are packed, indexes into ``windows.windows``, ascending.
        samples: what is known of each chosen one, in this order.
        contents: of each chosen one, a hash of what its sample is made from; 0: not known.
        why: of each window, WANTED or the number of the reason for which it is left out.
        reasons: as texts.
    """

    windows: Windows
    with_t5: bool
    chosen: NDArray[np.int64]
    samples: Samples
    contents: NDArray[np.uint64]
    buckets: Sequence[Bucket]
    why: NDArray[np.int32]
    reasons: Sequence[str]


def select_windows(windows: Windows, settings: DatasetSettings) -> Selection:
    """Put each window of the clips that are wanted into its bucket.

    With T5 vectors, windows without any are left out; with ``drop_small_shards``, small buckets are.
    """
    reasons = Names(windows.reasons)
    why = windows.clips["reason"][windows.windows["clip"]]
    with_t5 = windows.has_t5 if settings.t5 is None else settings.t5
    if with_t5:
        why[(why == WANTED) & (windows.windows["t5_num"] == 0)] = reasons.number("no T5 vectors")
    chosen = np.flatnonzero(why == WANTED)
    numbers, buckets = _buckets(windows, chosen, settings)
    if settings.drop_small_shards:
        _leave_out_small(why, chosen, numbers, buckets, least=settings.min_clips_per_tar, reasons=reasons)
        is_chosen = why[chosen] == WANTED
        chosen, numbers = chosen[is_chosen], numbers[is_chosen]
    rows = windows.windows[chosen]
    ids = windows.clips["id"]
    ranks = hash64(ids[:, 0][rows["clip"]], ids[:, 1][rows["clip"]], rows["start"], seed=settings.shuffle_seed)
    return Selection(
        windows=windows,
        with_t5=with_t5,
        chosen=chosen,
        samples=Samples(numbers, ranks, _mp4_bytes(windows, rows)),
        contents=_contents(windows, rows, with_t5=with_t5),
        buckets=buckets,
        why=why,
        reasons=list(reasons),
    )


def _buckets(
    windows: Windows, chosen: NDArray[np.int64], settings: DatasetSettings
) -> tuple[NDArray[np.int32], list[Bucket]]:
    """The bucket of each chosen window, by number; buckets in the order of split, shape and length."""
    rows = windows.windows[chosen]
    if settings.bucket_axis == "frames":
        lengths = rows["start"].astype(np.int64) // layout.WINDOW_FRAMES
    else:
        frame_s = windows.clips["duration_s"] / windows.clips["num_frames"]
        lengths = duration_bins(
            frame_s[rows["clip"]] * (rows["end"] - rows["start"] + 1), bins=settings.duration_bins_s
        )
    shapes = sorted(windows.shapes)
    places = np.array([shapes.index(shape) for shape in windows.shapes], np.int64)
    is_val = _is_val(windows, settings.val_fraction)[windows.clips["video"]].astype(np.int64)
    groups = is_val * len(shapes) + np.append(places, 0)[windows.clips["shape"]]
    codes = (groups[rows["clip"]] << _LENGTH_BITS) | lengths
    found, numbers = np.unique(codes, return_inverse=True)
    buckets = []
    for code in found.tolist():
        split, shape = divmod(code >> _LENGTH_BITS, len(shapes))
        name = VAL if split else TRAIN
        resolution, aspect_ratio = shapes[shape]
        length = code & (2**_LENGTH_BITS - 1)
        buckets.append(Bucket(bucket_folder(name, resolution, aspect_ratio, length, settings), name))
    return numbers.astype(np.int32), buckets


def _is_val(windows: Windows, val_fraction: float) -> NDArray[np.bool_]:
    """Of each video, whether it goes to that split."""
    if not val_fraction:
        return np.zeros(len(windows.videos), np.bool_)
    return np.array([split_of(video, val_fraction) == VAL for video in _video_ids(windows)], np.bool_)


def _leave_out_small(
    why: NDArray[np.int32],
    chosen: NDArray[np.int64],
    numbers: NDArray[np.int32],
    buckets: Sequence[Bucket],
    *,
    least: int,
    reasons: Names[str],
) -> None:
    """Note the reason of each chosen window whose bucket has fewer than ``least``."""
    for bucket, count in enumerate(np.bincount(numbers, minlength=len(buckets)).tolist()):
        if count < least:
            reason = f"bucket {buckets[bucket].folder} has {count} samples, fewer than {least}"
            why[chosen[numbers == bucket]] = reasons.number(reason)


def _mp4_bytes(windows: Windows, rows: NDArray[Any]) -> NDArray[np.int64]:
    """Estimated size of each window's mp4: its share of the clip's frames; that of a whole clip is the clip."""
    num_frames = rows["end"].astype(np.int64) - rows["start"] + 1
    sizes = windows.clips["num_bytes"][rows["clip"]]
    shares = np.rint(sizes * (num_frames / windows.clips["num_frames"][rows["clip"]])).astype(np.int64)
    is_whole = num_frames == windows.clips["num_frames"][rows["clip"]]
    num_bytes: NDArray[np.int64] = np.where(is_whole, sizes, shares)
    return num_bytes


def _contents(windows: Windows, rows: NDArray[Any], *, with_t5: bool) -> NDArray[np.uint64]:
    clips = windows.clips
    sums = np.ascontiguousarray(clips["sha256"][:, :8]).view(">u8").ravel()
    of_clips = hash64(sums, clips["content"])[rows["clip"]]
    columns = [of_clips, rows["start"], rows["end"]]
    if with_t5:
        paths = text_hashes(windows.t5_paths)
        columns += [paths[clips["t5_path"][rows["clip"]]], rows["t5_first"], rows["t5_num"]]
    is_known = clips["content"][rows["clip"]] != 0
    return np.where(is_known, hash64(*columns), np.uint64(0))


def text_hashes(texts: Iterable[str]) -> NDArray[np.uint64]:
    """A hash of each text."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def selection_id(selection: Selection, settings: DatasetSettings) -> str:
    """The same for the same settings, clips, windows and reasons, in whatever order they came."""
    found = hashlib.sha256(json.dumps([settings.to_document(), selection.with_t5, *selection.buckets]).encode())
    for column in _identifying(selection):
        found.update(np.ascontiguousarray(column).data)
    return found.hexdigest()


def _identifying(selection: Selection) -> Iterator[NDArray[Any]]:
    """Columns that say all of a selection; what is a number in some other list, as a hash of what it stands for."""
    windows = selection.windows
    clips, rows = windows.clips, windows.windows
    yield from (clips[name] for name in ("id", "sha256", "num_bytes", "num_frames", "content"))
    yield text_hashes(_video_ids(windows))[clips["video"]]
    yield np.append(text_hashes(windows.t5_paths), np.uint64(0))[clips["t5_path"]]
    yield from (rows[name] for name in ("clip", "start", "end", "t5_first", "t5_num"))
    reasons = text_hashes(selection.reasons)
    yield reasons[clips["reason"]]
    yield reasons[selection.why]
    yield windows.kept_ids
    yield selection.samples.buckets


def _video_ids(windows: Windows) -> Iterator[str]:
    return (video.as_py() for video in windows.videos)


def matched(selection: Selection, earlier: EarlierDataset) -> EarlierTars:
    """Which chosen windows the tars of an earlier dataset have, and which of these tars are still right."""
    windows, buckets = selection.windows, {bucket.folder: n for n, bucket in enumerate(selection.buckets)}
    if not earlier.tars or not len(selection.chosen):
        return EarlierTars.none(len(selection.chosen))
    tar_buckets = np.array([buckets.get(tar.bucket, -1) for tar in earlier.tars], np.int32)
    tars = earlier.samples["tar"]
    places = _sample_places(windows, selection.chosen, earlier.samples)
    is_there = (places >= 0) & (selection.samples.buckets[places] == tar_buckets[tars])
    contents = earlier.samples["content"]
    is_same = is_there & (contents != 0) & (selection.contents[places] == contents)
    changed = np.bincount(tars[~is_same], minlength=len(earlier.tars))
    tar_of = np.full(len(selection.chosen), -1, np.int32)
    tar_of[places[is_there]] = tars[is_there]
    return EarlierTars(
        buckets=tar_buckets,
        numbers=np.array([tar.number for tar in earlier.tars], np.int32),
        is_whole=changed == 0,
        tar_of=tar_of,
    )


def _sample_places(windows: Windows, chosen: NDArray[np.int64], packed: NDArray[Any]) -> NDArray[np.int64]:
    """Where each sample of an earlier dataset stands among the chosen windows; -1: it does not."""
    rows = windows.windows[chosen]
    clips = find_clips(windows.clips, packed["id"])
    keys = (rows["clip"].astype(np.int64) << 32) | rows["start"]
    wanted = (clips << 32) | packed["start"]
    places = np.searchsorted(keys, wanted)
    places[places == len(keys)] = -1
    is_found = (clips >= 0) & (places >= 0)
    is_found &= (keys[places] == wanted) & (rows["end"][places] == packed["end"])
    return np.where(is_found, places, -1)
