"""What is known of the parts of a long video until they are joined, in files beside the run's state."""

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from curation import layout
from curation.documents import to_json
from curation.storage import Storage
from curation.writing.records import joined_documents
from curation.writing.text_vectors import join_chunk

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoParts:
    """The parts of one video.

    A part that is done has a file; who finds all of them there joins them. Where a part can't be done by itself, the
    video is processed whole, by who found that out first.

    Attributes:
        clips: where clips, chunks and records are.
        files: where the files of parts are.
    """

    clips: Storage
    files: Storage
    video_id: str
    count: int

    def has(self, index: int) -> bool:
        """Whether a part is done."""
        return self.files.exists(self._path(index))

    def add(self, index: int, document: Mapping[str, Any]) -> None:
        """A part is done; a second time it is done the same."""
        self.files.create(self._path(index), to_json(document))

    def leave_to(self, index: int) -> bool:
        """Have the video processed whole by who has this part; False where another part said so before."""
        self.files.create(self._whole_path, to_json({"part": index}))
        return self.whole_by() == index

    def whole_by(self) -> int | None:
        """The part whose worker processes the video whole; None where it is done in parts."""
        found = _read(self.files, self._whole_path)
        return None if found is None else int(found["part"])

    def joined(self, *, clips_per_chunk: int, before_record: Callable[[], None] | None) -> dict[str, Any] | None:
        """Write the chunks and the record when all parts are done; gives the record, None while there is none.

        Raises:
            StorageError: the video is not done.
        """
        if (record := self._record()) is None:
            documents = list(self._documents())
            if len(documents) < self.count or self.whole_by() is not None:
                return None
            chunks, record = joined_documents(documents, clips_per_chunk=clips_per_chunk)
            for index, chunk in enumerate(chunks):
                path_of = functools.partial(layout.t5_vectors, self.video_id, index)
                chunk["clips"] = join_chunk(chunk["clips"], self.files, self.clips, path_of)
                self.clips.write(layout.clip_chunk(self.video_id, index), to_json(chunk))
            if before_record is not None:
                before_record()
            self.clips.create(layout.record(self.video_id), to_json(record))
            logger.info("event=joined video=%s parts=%d clips=%d", self.video_id, self.count, record["num_total_clips"])
        self.clear()
        return record

    def clear(self) -> None:
        """After the record: files of clips that it does not name go, and then those of the parts."""
        named: set[str] | None = None
        for document in self._documents():
            named = set(self._named()) if named is None else named
            for line in document["lines"]:
                for path in line["paths"] if line["entry"]["uuid"] not in named else ():
                    self.clips.delete(path)
        for index in range(self.count):
            self.files.delete(self._path(index))
            self.files.delete(self.vectors_path(index))
        self.files.delete(self._whole_path)

    def _named(self) -> Iterator[str]:
        record = self._record()
        for index in range(record["num_clip_chunks"] if record is not None else 0):
            chunk = _read(self.clips, layout.clip_chunk(self.video_id, index)) or {"clips": [], "filtered_clips": []}
            yield from (entry["uuid"] for entry in [*chunk["clips"], *chunk["filtered_clips"]])

    def _record(self) -> dict[str, Any] | None:
        return _read(self.clips, layout.record(self.video_id))

    def _documents(self) -> Iterable[dict[str, Any]]:
        found = (_read(self.files, self._path(index)) for index in range(self.count))
        return [document for document in found if document is not None]

    def vectors_path(self, index: int) -> str:
        """Where the T5 vectors of a part's captions are, among ``files``; written before the part is added."""
        return f"{self._stem}/{index}of{self.count}.npy"

    def _path(self, index: int) -> str:
        return f"{self._stem}/{index}of{self.count}.json"

    @property
    def _whole_path(self) -> str:
        return f"{self._stem}/whole.json"

    @property
    def _stem(self) -> str:
        name = hashlib.sha256(self.video_id.encode()).hexdigest()  # ids can be long, and folders of one another
        return f"{name[:2]}/{name[:32]}"


def _read(storage: Storage, path: str) -> dict[str, Any] | None:
    try:
        document: dict[str, Any] = json.loads(storage.read(path))
    except FileNotFoundError:
        return None
    return document
