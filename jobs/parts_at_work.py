"""What a worker is to do, and what becomes of the parts of long videos that are among it."""

import logging
from collections.abc import Set
from dataclasses import dataclass

from curation.model import Video, VideoPart
from curation.writing.parts import VideoParts
from jobs.config import RunConfig
from jobs.ledger import Lease, ShardLog
from jobs.manifest import EXPENSE_COLUMNS, ManifestVideo, expense
from jobs.parts import video_parts
from jobs.planner import PlannedVideo
from jobs.rundir import RunDir
from jobs.staging import Wanted

logger = logging.getLogger(__name__)


@dataclass
class Todo:
    """A video, or a part of one, that this worker is to process, and how often that was begun and came to no end."""

    offset: int
    entry: ManifestVideo
    num_begun: int
    part: VideoPart | None = None
    size_bytes: int | None = None  # of its file, where the plan tells

    @property
    def wanted(self) -> Wanted:
        """Its source."""
        return Wanted(self.key, self.entry.path, self.size_bytes)

    @property
    def key(self) -> str:
        """Under which it stands in the log."""
        return to_video(self.entry, self.part).key


def known_size(planned: PlannedVideo, entry: ManifestVideo) -> int | None:
    """A file's bytes, where the manifest or what the video costs tells them (``manifest_copy.costs_of``)."""
    told, duration_s = (expense(entry.extra.get(name)) for name in EXPENSE_COLUMNS)
    if told:
        return int(told)
    is_size = not duration_s and entry.end_s is None and planned.num_parts == 1 and planned.cost > 1
    return planned.cost if is_size else None


def to_video(entry: ManifestVideo, part: VideoPart | None = None) -> Video:
    """The video that a line of the manifest names, or a part of it."""
    return Video(
        input_video=entry.path,
        id=entry.id,
        start_s=entry.start_s,
        end_s=entry.end_s,
        extra=dict(entry.extra),
        part=part,
    )


class PartsAtWork:
    """The parts that a worker has to do, by their keys."""

    def __init__(self, run: RunDir, config: RunConfig, lease: Lease, log: ShardLog) -> None:
        self._run, self._config, self._lease, self._log = run, config, lease, log
        self._items: dict[str, Todo] = {}

    def add(self, item: Todo) -> None:
        """Take note of what is to be done."""
        if item.part is not None:
            self._items[item.key] = item

    def are_among(self, keys: Set[str]) -> bool:
        """Whether something with one of these keys is a part."""
        return not self._items.keys().isdisjoint(keys)

    def to_do(self, item: Todo) -> Video | None:
        """What is to be processed: a whole video, a part, or nothing any more."""
        if item.part is None:
            return to_video(item.entry)
        parts = self._parts_of(item, item.part)
        whole_by = parts.whole_by()
        if whole_by is not None:
            return to_video(item.entry) if whole_by == item.part.index else None
        if not parts.has(item.part.index):
            return to_video(item.entry, item.part)
        # its worker died before it could join them
        record = parts.joined(clips_per_chunk=self._config.clips.num_clips_per_chunk, before_record=self._lease.check)
        if record is not None and record["failure"] is None:
            stats = record["clip_stats"]
            self._log.append(
                "done", video=item.entry.id, clips=stats["num_passed"], clip_s=stats["total_clip_duration"]
            )
        return None

    def end(self, video: Video, key: str) -> Todo | None:
        """A part came to its end, and its video did not; gives what is to be processed whole because of it."""
        item = self._items[key]
        assert item.part is not None
        if video.failure is None:
            return None
        logger.info("event=not_in_parts video=%s why=%s", video.id, video.failure.message)
        return item if self._parts_of(item, item.part).leave_to(item.part.index) else None

    def clear(self, key: str) -> None:
        """A video has a record: nothing of its parts is needed any more."""
        item = self._items.get(key)
        if item is not None and item.part is not None:
            self._parts_of(item, item.part).clear()

    def _parts_of(self, item: Todo, part: VideoPart) -> VideoParts:
        return video_parts(self._run, self._config, item.entry.id, part.count)
