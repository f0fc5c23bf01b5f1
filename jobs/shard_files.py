"""The file of an attempt's shards, one JSON object a line, and the index that finds a shard in it.

``shards.jsonl`` is the truth; ``shards.index.json`` beside it spares readers the lists of videos.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curation.storage.files import replace_file, replacing
from jobs.planner import PlannedVideo, PlannedVideos, Shard


@dataclass(frozen=True, slots=True)
class ShardPlace:
    """Where a shard stands in its file: the byte at which its line begins."""

    shard: int
    offset: int
    num_videos: int
    cost: int


def write_shards(path: Path, shards: Iterable[Shard]) -> None:
    """Write shards and their index; each file appears in one step, the index first."""
    places = []
    with replacing(path) as file:
        for shard in shards:
            places.append(ShardPlace(shard.index, file.tell(), shard.num_videos, shard.cost))
            file.write(_line(shard))
        document = {"shards_bytes": file.tell(), "shards": [astuple(place) for place in places]}
        replace_file(index_path(path), json.dumps(document).encode())


def index_path(path: Path) -> Path:
    """The index of a file of shards."""
    return path.with_suffix(".index.json")


def read_shards(path: Path) -> Iterator[Shard]:
    """All shards in order, one at a time."""
    with path.open("rb") as lines:
        for line in lines:
            yield _shard(json.loads(line))


def read_shard(path: Path, place: ShardPlace) -> Shard:
    """The shard of which the index tells the place."""
    with path.open("rb") as file:
        file.seek(place.offset)
        return _shard(json.loads(file.readline()))


def read_index(path: Path) -> list[ShardPlace]:
    """Where each shard stands; without an index that fits the file, from the file itself."""
    try:
        document = json.loads(index_path(path).read_bytes())
    except (OSError, ValueError):
        document = {}
    if document.get("shards_bytes") == path.stat().st_size:
        return [ShardPlace(*each) for each in document["shards"]]
    places, offset = [], 0
    with path.open("rb") as lines:
        for line in lines:
            shard = _shard(json.loads(line))
            places.append(ShardPlace(shard.index, offset, shard.num_videos, shard.cost))
            offset += len(line)
    return places


def _line(shard: Shard) -> bytes:
    videos = PlannedVideos.of(shard.videos)
    rows = list(map("[%d, %d, 0]".__mod__, zip(videos.offsets.tolist(), videos.costs.tolist(), strict=True)))
    for place, video in videos.special.items():
        rows[place] = json.dumps(astuple(video))
    return f'{{"shard": {shard.index}, "cost": {shard.cost}, "videos": [{", ".join(rows)}]}}\n'.encode()


def _shard(entry: dict[str, Any]) -> Shard:
    rows: Sequence[Sequence[Any]] = entry["videos"]
    offsets = np.fromiter((row[0] for row in rows), np.int64, len(rows))
    costs = np.fromiter((row[1] for row in rows), np.int64, len(rows))
    special = {place: PlannedVideo(*row) for place, row in enumerate(rows) if any(row[2:])}
    return Shard(entry["shard"], PlannedVideos(offsets, costs, special))
