"""Reads back what a run wrote of its videos' clips, for stages that annotate them anew."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from curation import layout
from curation.errors import FailureReason, VideoError
from curation.model import Clip, VideoMetadata, VideoTask
from curation.pipeline import Stage
from curation.pipeline.chunks import MAX_PART_BYTES, part_task
from curation.storage import S3Options, storage_for
from curation.video.frames import FrameRequest, sample_clip
from curation.video.progress import alive
from curation.writing.earlier import READ_ERROR, Annotations, restored_clip


class ClipReaderStage(Stage):
    """The first stage of an annotation run: the clips of each video with their mp4, and the frames that stages ask for.

    They come in the chunks that they were written in. Each clip is read once, and decoded once where any stage looks
    at it. A clip whose mp4 is not there, or not the one that was written, has the reason in ``errors``.
    """

    name = "clip_reader"
    serves_frames = True
    in_child = True

    def __init__(
        self, clip_path: str, *, annotations: Annotations, reads_clips: bool = True, s3: S3Options | None = None
    ) -> None:
        """Where the clips are.

        Args:
            clip_path: the output of a split run.
            annotations: from which version on, and what is made anew.
            reads_clips: whether any stage needs more than what is written of the clips.
        """
        self._storage = storage_for(clip_path, s3 or S3Options())
        self._annotations, self._reads_clips = annotations, reads_clips
        self._requests: list[FrameRequest] = []

    def request_frames(self, requests: Sequence[FrameRequest]) -> None:
        """Remember what the stages after this one want to find on each clip."""
        self._requests = list(requests)

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        """Give the video in chunks of clips.

        Raises:
            VideoError: NOT_FOUND: the version that it starts from does not have the video.
            StorageError: the storage failed.
        """
        video, version = task.data, self._annotations.from_version
        record = self._read(layout.record(video.id))
        if record is None or record["status"] != "done":
            why = "has no record" if record is None else f"failed: {record['failure']['reason']}"
            raise VideoError(FailureReason.NOT_FOUND, f"{video.id} {why} in {version}: there are no clips to annotate")
        video.earlier, video.extra = record, record["extra"]
        video.metadata = VideoMetadata(**{each.name: record[each.name] for each in fields(VideoMetadata)})
        for index in range(record["num_clip_chunks"]):
            chunk = self._read(layout.clip_chunk(video.id, index))
            if chunk is None:
                raise VideoError(FailureReason.NOT_FOUND, f"{video.id}: list {index} of its clips is not in {version}")
            is_last = index == record["num_clip_chunks"] - 1
            yield from self._tasks(task, chunk, num_chunks=index + 1 if is_last else 0)

    def _tasks(self, task: VideoTask, chunk: Mapping[str, Any], *, num_chunks: int) -> Iterator[VideoTask]:
        """The clips of a chunk in parts, the last of which has the rejected ones."""
        part: list[Clip] = []
        num_bytes, index = 0, chunk["clip_chunk_index"]
        for entry in chunk["clips"]:
            if num_bytes >= MAX_PART_BYTES:
                yield part_task(task, part, index=index, goes_on=True)
                part, num_bytes = [], 0
            part.append(self._clip(entry, task))
            num_bytes += part[-1].get_major_size()
        last = part_task(task, part, index=index, goes_on=False)
        carried = Annotations(self._annotations.from_version)  # nobody looks at rejected clips again
        last.data.filtered_clips = [restored_clip(entry, carried) for entry in chunk["filtered_clips"]]
        last.data.num_clip_chunks = num_chunks
        yield last

    def _clip(self, entry: Mapping[str, Any], task: VideoTask) -> Clip:
        clip = restored_clip(entry, self._annotations)
        if self._reads_clips and clip.written is not None:
            alive()
            try:
                clip.buffer = self._mp4(clip, entry["sha256"])
                if self._requests:
                    sample_clip(clip, self._requests)
                    task.data.decode_count.num_frames += entry["num_frames"]
            except VideoError as error:
                clip.errors[READ_ERROR] = f"{error.reason}: {error.message}"
        return clip

    def _mp4(self, clip: Clip, sha256: str) -> bytes:
        path = layout.clip(clip.uuid)
        try:
            mp4 = self._storage.read(path)
        except FileNotFoundError:
            raise VideoError(FailureReason.NOT_FOUND, f"no clip {path}") from None
        found = hashlib.sha256(mp4).hexdigest()
        if found != sha256:
            raise VideoError(FailureReason.UNREADABLE, f"{path} has sha256 {found}, its list says {sha256}")
        return mp4

    def _read(self, path: str) -> Any:
        """A document of the earlier version; None where there is none."""
        try:
            return json.loads(self._storage.read(layout.versioned(path, self._annotations.from_version)))
        except FileNotFoundError:
            return None
