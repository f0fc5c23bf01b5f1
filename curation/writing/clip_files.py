"""Writes clips and previews, so that their bytes need not wait in memory for what is still to come."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from curation import layout
from curation.model import Clip, VideoTask
from curation.pipeline import Stage
from curation.storage import S3Options, Writes, WritesAtOnce, storage_for
from curation.written import WrittenFiles


class ClipFilesStage(Stage):
    """Writes the files of clips before ``ClipWriterStage``, which says of them what it would say had it written them.

    What comes between the two finds neither bytes nor frames on the clips, and rejects none of them. The writer deletes
    what was written of a video that fails.
    """

    name = "clip_files"

    def __init__(
        self, output_path: str, *, annotation_version: str = layout.FIRST_VERSION, s3: S3Options | None = None
    ) -> None:
        """Where to write: the same place and version as the writer's."""
        self._writes = WritesAtOnce(storage_for(output_path, s3 or S3Options()))
        self._version = annotation_version

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        """Write what there is of each clip.

        Raises:
            VideoError: a clip is not a readable video.
            StorageError: the storage failed.
        """
        try:
            for clip in (*task.data.clips, *task.data.filtered_clips):
                if clip.buffer is not None:
                    write_files(self._writes, clip, version=self._version)
                    release(clip)
        finally:
            self._writes.wait()  # whoever comes after may say that they are there, or deletes them
        yield task


def write_files(storage: Writes, clip: Clip, *, version: str = layout.FIRST_VERSION) -> WrittenFiles:
    """Write a clip's mp4, unless an earlier version has it, and previews; what is known of them is on the clip, too.

    Raises:
        VideoError: the clip is not a readable video; nothing is written.
        StorageError: the storage failed.
    """
    if clip.written is not None:  # it is there, and only annotated anew
        previews = write_previews(storage, clip, version=version)
        paths, num_previews = (*clip.written.paths, *previews), clip.written.num_previews + len(previews)
        clip.written = replace(clip.written, paths=paths, num_previews=num_previews)
        return clip.written
    metadata = clip.extract_metadata()
    assert clip.buffer is not None
    assert metadata is not None
    path = layout.clip(clip.uuid, filtered=clip.rejection is not None)
    storage.write(path, clip.buffer)
    previews = write_previews(storage, clip, version=version)
    clip.written = WrittenFiles(
        metadata=metadata,
        sha256=hashlib.sha256(clip.buffer).hexdigest(),
        paths=(path, *previews),
        num_previews=len(previews),
    )
    return clip.written


def write_previews(storage: Writes, clip: Clip, *, version: str = layout.FIRST_VERSION) -> list[str]:
    """Write the previews of a clip; gives their paths."""
    previews = {
        layout.versioned(layout.preview(clip.uuid, window.start_frame, window.end_frame), version): window.webp_bytes
        for window in clip.windows
        if window.webp_bytes is not None
    }
    for path, webp in previews.items():
        storage.write(path, webp)
    return list(previews)


def release(clip: Clip) -> None:
    """What is on disk need not stay in memory, nor what it was made with."""
    clip.buffer = None
    clip.frame_times_s = None
    clip.extracted_frames.clear()
    for window in clip.windows:
        window.webp_bytes = None
        window.mp4_bytes = None
