"""Videos that are done again although they have a record: noted first, then planned, then their records are taken away.

``attempts/NNN/again.jsonl`` is the note: from the moment it is there the old records of its videos count no more, and
what is left of these steps is done by the next launch, whenever a launcher dies. ``again.done`` beside it says that the
old records are gone.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from curation import layout
from curation.storage.files import replace_file, replacing
from jobs.annotation import output_storage
from jobs.config import RunConfig
from jobs.ledger import live_leases
from jobs.leftovers import list_files
from jobs.rundir import RunDir, RunDirError

_WRITERS = 32  # each of them waits for the storage, mostly
_AT_ONCE = 32 * _WRITERS


@dataclass(frozen=True)
class AgainVideo:
    """A video with a record that is done again, and what that record said."""

    video: str
    reason: str
    message: str


@dataclass(frozen=True)
class Again:
    """What an attempt does again.

    Attributes:
        why: in words.
        videos: those that failed, and are tried again.
        everything: every video, whatever its record says.
    """

    why: str = ""
    videos: Sequence[AgainVideo] = ()
    everything: bool = False

    def __bool__(self) -> bool:
        return bool(self.videos) or self.everything


@dataclass
class Voids:
    """Which events of videos count no more, because the videos are done again.

    ``by_video`` and ``everything`` hold the first shard whose events count.
    """

    by_video: dict[str, int] = field(default_factory=dict)
    everything: int = 0

    def first_shard(self, video: str) -> int:
        """The first shard whose events of a video count, or of a part of it."""
        return max(self.everything, self.by_video.get(video.partition("//")[0], 0))

    def counts(self, video: str, shard: int) -> bool:
        """Whether what this shard said of a video still holds."""
        return shard >= self.first_shard(video)

    def of_shard(self, events: Iterable[dict[str, Any]], shard: int) -> Iterator[dict[str, Any]]:
        """The events of a shard without those that count no more."""
        return (event for event in events if "video" not in event or self.counts(event["video"], shard))


def read_voids(run: RunDir) -> Voids:
    """What the notes of all attempts say."""
    voids = Voids()
    for path in _notes(run):
        head, videos = _read(path)
        if head["everything"]:
            voids.everything = max(voids.everything, head["first_shard"])
        for each in videos:
            voids.by_video[each.video] = max(voids.by_video.get(each.video, 0), head["first_shard"])
    return voids


def note_again(run: RunDir, attempt: int, again: Again, *, first_shard: int, settings: str | None = None) -> None:
    """Write down durably what this attempt does again; what a dead launcher noted for the same attempt stays noted.

    Args:
        first_shard: events of the shards before it count no more.
        settings: the run's YAML from now on, where it changes.
    """
    path = run.attempt_path(attempt) / "again.jsonl"
    before = _as_again(path) if path.is_file() else Again()
    videos = {each.video: each for each in (*before.videos, *again.videos)}
    if not (videos or again.everything or before.everything):
        return
    if settings is None and path.is_file():
        settings = _read(path)[0]["settings"]
    why = "; ".join(dict.fromkeys(filter(None, (before.why, again.why))))
    everything = again.everything or before.everything
    head = {"first_shard": first_shard, "why": why, "everything": everything, "settings": settings}
    with replacing(path) as file:
        for line in (head, *map(asdict, videos.values())):
            file.write(f"{json.dumps(line, ensure_ascii=False)}\n".encode())


def is_noted(run: RunDir, attempt: int) -> bool:
    """Whether an attempt, planned or not, does something again."""
    return (run.attempt_path(attempt) / "again.jsonl").is_file()


def unsettled(run: RunDir) -> set[str] | None:
    """Videos whose old records may still be there, though they count no more; None: it may be any video's."""
    found: set[str] = set()
    for path in _notes(run):
        if not _done_path(path).exists():
            again = _as_again(path)
            if again.everything:
                return None
            found |= {each.video for each in again.videos}
    return found


def set_aside(run: RunDir, config: RunConfig) -> None:
    """Take away the old records of what is done again; goes on where a dead launcher stopped.

    Nothing of the attempts concerned may have been submitted yet: a record found is an old one.

    Raises:
        StorageError: some are still there; the next launch goes on with them.
        RunDirError: a worker is still writing records of old settings.
    """
    storage = output_storage(config)
    for path in _notes(run):
        if _done_path(path).exists():
            continue
        again = _as_again(path)
        if again.everything:
            _wait_for_workers(run, config)
            list_files(run, config, int(path.parent.name))
        ids = (entry.id for _, entry in run.manifest_entries()) if again.everything else (v.video for v in again.videos)
        with ThreadPoolExecutor(_WRITERS) as pool:
            while batch := [video for video, _ in zip(ids, range(_AT_ONCE), strict=False)]:
                records = [layout.record(video) for video in batch]
                list(pool.map(storage.delete_many, (records[start::_WRITERS] for start in range(_WRITERS))))
        replace_file(_done_path(path), b"")


def unsettled_settings(run: RunDir) -> str | None:
    """The YAML that a dead launcher was about to give the run."""
    found = [_read(path)[0]["settings"] for path in _notes(run) if not _done_path(path).exists()]
    return next((settings for settings in reversed(found) if settings is not None), None)


def _wait_for_workers(run: RunDir, config: RunConfig) -> None:
    """Until nobody works with old settings: who began just before ends, since newer shards have their videos."""
    deadline = time.monotonic() + 2 * config.worker.lease_timeout_s
    while live := live_leases(run, timeout_s=config.worker.lease_timeout_s):
        if time.monotonic() > deadline:
            raise RunDirError(
                f"{len(live)} workers are still at it with old settings: clipmill cancel {run.root}, then resume again"
            )
        time.sleep(0.5)


def notes(run: RunDir) -> dict[int, Again]:
    """What each attempt did again."""
    return {int(path.parent.name): _as_again(path) for path in _notes(run)}


def _notes(run: RunDir) -> list[Path]:
    return sorted(run.attempts_path.glob("[0-9]*/again.jsonl"))


def _done_path(note: Path) -> Path:
    return note.with_name("again.done")


def _as_again(path: Path) -> Again:
    head, videos = _read(path)
    return Again(head["why"], videos, head["everything"])


def _read(path: Path) -> tuple[Mapping[str, Any], list[AgainVideo]]:
    with path.open(encoding="utf-8") as lines:
        head = json.loads(next(lines))
        return head, [AgainVideo(**json.loads(line)) for line in lines]
