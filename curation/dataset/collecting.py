"""Reading chunk documents into columns: no Python object outlives the document that it came from."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from curation.clip_ids import parse_ids
from curation.dataset.buckets import aspect_ratio_name, resolution_name
from curation.dataset.metas import MetasAside
from curation.dataset.names import Names
from curation.dataset.order import hash64
from curation.dataset.settings import DatasetSettings
from curation.dataset.windows import CLIP, DUPLICATE, WANTED, WINDOW, Windows
from curation.documents import content_of, to_json
from curation.timeline import MIN_WINDOW_FRAMES

_ROWS_AT_ONCE = 2**15
_NO_SHA256, _NO_CONTENT = "0" * 64, "0" * 16
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def collect_windows(
    chunks: Iterable[Mapping[str, Any]], *, settings: DatasetSettings, duplicates: Mapping[str, str] | None = None
) -> Windows:
    """Read the chunk documents of a run once, in whatever order.

    Args:
        duplicates: clip -> the one that is kept in its stead.

    Raises:
        ValueError: a clip is listed twice, or a window of a clip is.
        StorageError: the disk has no room for the metas.
    """
    collector = _Collector(settings, duplicates or {})
    for chunk in chunks:
        if chunk["clips"]:
            collector.add(chunk["video_id"], chunk["clips"])
    return collector.finish()


class _Block:
    """What was read last, field by field in flat lists, until it becomes arrays."""

    def __init__(self) -> None:
        self.ids, self.sha256s, self.contents, self.kept_ids = list[str](), list[str](), list[str](), list[str]()
        self.num_bytes, self.num_frames, self.durations_s = list[int](), list[int](), list[float]()
        self.metas = list[bytes]()
        self.shapes, self.t5_paths, self.reasons = list[int](), list[int](), list[int]()
        self.num_windows, self.spans, self.t5_rows = list[int](), list[int](), list[int]()
        self.video_ids, self.num_clips = list[str](), list[int]()

    def clips(self, first_video: int) -> NDArray[Any]:
        """The clips, but for where their metas are."""
        clips = np.zeros(len(self.ids), CLIP)
        clips["id"] = parse_ids(self.ids)
        clips["sha256"] = np.frombuffer(bytes.fromhex("".join(self.sha256s)), np.uint8).reshape(-1, 32)
        clips["content"] = np.frombuffer(bytes.fromhex("".join(self.contents)), ">u8")
        clips["num_bytes"], clips["num_frames"] = self.num_bytes, self.num_frames
        clips["duration_s"], clips["meta_size"] = self.durations_s, list(map(len, self.metas))
        clips["video"] = np.repeat(np.arange(first_video, first_video + len(self.video_ids)), self.num_clips)
        clips["shape"], clips["t5_path"], clips["reason"] = self.shapes, self.t5_paths or -1, self.reasons
        return clips

    def windows(self, first_clip: int) -> NDArray[Any]:
        """The windows; ``first_clip``: the number of the first clip."""
        windows = np.zeros(len(self.spans) // 2, WINDOW)
        windows["clip"] = np.repeat(np.arange(first_clip, first_clip + len(self.ids)), self.num_windows)
        windows["start"], windows["end"] = np.array(self.spans, np.int64).reshape(-1, 2).T
        if self.t5_rows:
            windows["t5_first"], windows["t5_num"] = np.array(self.t5_rows, np.int64).reshape(-1, 2).T
        return windows


class _Shapes(dict[tuple[int | None, int | None], int]):
    """Width and height -> number of their resolution and aspect ratio; -1 for a clip without pixels."""

    def __init__(self, settings: DatasetSettings) -> None:
        super().__init__()
        self._settings, self._names = settings, Names[tuple[str, str]]()

    def __missing__(self, size: tuple[int | None, int | None]) -> int:
        width, height = size
        number = -1
        if width and height:
            resolution = resolution_name(width, height, bins=self._settings.resolution_bins)
            aspect_ratio = aspect_ratio_name(width, height, bins=self._settings.aspect_ratio_bins)
            number = self._names.number((resolution, aspect_ratio))
        self[size] = number
        return number

    def names(self) -> list[tuple[str, str]]:
        """Resolution and aspect ratio of each number."""
        return list(self._names)


class _Collector:
    """Takes lists of clips; a block of them becomes arrays at once."""

    def __init__(self, settings: DatasetSettings, duplicates: Mapping[str, str]) -> None:
        self._settings, self._version, self._duplicates = settings, settings.annotation_version, duplicates
        self._metas = MetasAside()
        self._meta_end = self._num_clips = self._num_videos = 0
        self._reasons, self._t5_paths = Names[str](["", "duplicate"]), Names[str]()
        self._shapes = _Shapes(settings)
        self._block = _Block()
        self._clips, self._windows, self._kept_ids = list[NDArray[Any]](), list[NDArray[Any]](), list[NDArray[Any]]()
        self._videos = list[pa.Array]()

    def add(self, video_id: str, entries: Sequence[Mapping[str, Any]]) -> None:
        """Take the kept clips of a chunk."""
        block = self._block
        reasons = [self._why_left_out(entry) for entry in entries]
        block.reasons += reasons
        block.ids += [entry["uuid"] for entry in entries]
        block.sha256s += [entry["sha256"] or _NO_SHA256 for entry in entries]
        block.num_bytes += [entry["num_bytes"] or 0 for entry in entries]
        block.num_frames += [entry["num_frames"] or 0 for entry in entries]
        block.durations_s += [entry["span"][1] - entry["span"][0] for entry in entries]
        block.video_ids.append(video_id)
        block.num_clips.append(len(entries))
        shapes = self._shapes
        block.shapes += [shapes[entry["width"], entry["height"]] for entry in entries]
        block.num_windows += [len(entry["windows"]) for entry in entries]
        block.spans += chain.from_iterable(chain.from_iterable([entry["windows"] for entry in entries]))
        if block.t5_paths or any("t5" in entry for entry in entries):
            self._add_t5(entries)
        self._add_metas(entries, reasons)
        if max(len(block.ids), len(block.spans)) >= _ROWS_AT_ONCE:
            self._settle()

    def _why_left_out(self, entry: Mapping[str, Any]) -> int:
        """The number of the reason; WANTED where there is none, DUPLICATE where only that it is one."""
        if not entry["valid"]:
            return self._reasons.number(str(entry["valid_reason"]))
        if not entry["windows"]:
            too_short = entry["num_frames"] < MIN_WINDOW_FRAMES
            return self._reasons.number(f"fewer than {MIN_WINDOW_FRAMES} frames" if too_short else "no caption window")
        kept = self._duplicates.get(entry["uuid"]) if self._duplicates else None
        if kept is None:
            return WANTED
        self._block.kept_ids.append(kept)
        return DUPLICATE

    def _add_metas(self, entries: Sequence[Mapping[str, Any]], reasons: Sequence[int]) -> None:
        """Keep the metas of this annotation version that a list has."""
        version, block, dumps = self._version, self._block, orjson.dumps
        for entry, reason in zip(entries, reasons, strict=True):
            meta = entry.get("metas", _NOTHING).get(version) if reason <= DUPLICATE else None
            if meta is None:
                block.contents.append(_NO_CONTENT)
                block.metas.append(b"")
            else:
                block.contents.append(entry.get("content", _NOTHING).get(version) or content_of(to_json(meta)))
                block.metas.append(dumps(meta))

    def _add_t5(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Where the T5 vectors of the windows are; from the first clip of a block on that has any, for all."""
        block = self._block
        block.t5_paths += [-1] * (len(block.ids) - len(entries) - len(block.t5_paths))
        num_before = sum(block.num_windows[: -len(entries)])
        block.t5_rows += [0] * (2 * num_before - len(block.t5_rows))
        for entry in entries:
            vectors = entry.get("t5", _NOTHING).get(self._version)
            block.t5_paths.append(-1 if vectors is None else self._t5_paths.number(vectors["path"]))
            rows = vectors["rows"] if vectors is not None else [None] * len(entry["windows"])
            block.t5_rows += chain.from_iterable(row or (0, 0) for row in rows)

    def _settle(self) -> None:
        """Make arrays of what was read; the metas are kept as near as can be to the order in which they are packed."""
        block = self._block
        clips, windows = block.clips(self._num_videos), block.windows(self._num_clips)
        ranks = hash64(clips["id"][:, 0], clips["id"][:, 1], np.zeros(len(clips)), seed=self._settings.shuffle_seed)
        order = np.lexsort((ranks, clips["shape"]))
        self._metas.add([block.metas[index] for index in order.tolist()])
        sizes = clips["meta_size"][order].astype(np.int64)
        clips["meta_place"][order] = np.where(sizes > 0, self._meta_end + np.cumsum(sizes) - sizes, -1)
        self._clips.append(clips)
        self._windows.append(windows)
        self._kept_ids.append(parse_ids(block.kept_ids))
        self._videos.append(pa.array(block.video_ids, pa.large_string()))
        self._num_clips += len(clips)
        self._num_videos += len(block.video_ids)
        self._meta_end += int(sizes.sum())
        self._block = _Block()

    def finish(self) -> Windows:
        """All that was read, in an order that is not that of the documents."""
        self._settle()
        self._metas.settle()
        return Windows.sorted(
            _joined(self._clips),
            _joined(self._windows),
            _joined(self._kept_ids),
            videos=pa.concat_arrays(self._videos),
            shapes=self._shapes.names(),
            t5_paths=list(self._t5_paths),
            reasons=list(self._reasons),
            metas=self._metas,
        )


def _joined(blocks: list[NDArray[Any]]) -> NDArray[Any]:
    """Blocks as one array; the blocks are given up."""
    joined: NDArray[Any] = np.concatenate(blocks)
    blocks.clear()
    return joined
