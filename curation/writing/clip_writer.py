"""Writes clips, previews, metas and, last, the record that says a video is done."""

import logging
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from curation import layout
from curation.documents import to_json
from curation.errors import Failure, FailureReason, VideoError
from curation.model import Clip, ClipStats, Video, VideoPart, VideoTask
from curation.pipeline import Stage
from curation.storage import S3Options, Storage, WritesAtOnce, storage_for
from curation.writing.annotated import annotated_meta, annotated_record
from curation.writing.captions import count_captions
from curation.writing.clip_files import release, write_files, write_previews
from curation.writing.clip_lines import ClipLine, LineTotals
from curation.writing.earlier import Annotations, carried_embeddings, carried_t5
from curation.writing.embeddings import embedding_entry, from_text
from curation.writing.parts import VideoParts
from curation.writing.records import (
    chunk_document,
    clip_entry,
    clip_meta,
    part_document,
)
from curation.writing.text_vectors import TextVectorsAside, set_aside

logger = logging.getLogger(__name__)


@dataclass
class _Progress:
    """What was written of a video, or of a part of one, whose record is still to come.

    Attributes:
        lines: of the clips of a chunk of which more may come, or of a part.
        totals: of the chunks before it.
        t5: vectors of these clips.
    """

    totals: LineTotals = field(default_factory=LineTotals.none)
    paths: list[str] = field(default_factory=list)
    lines: list[ClipLine] = field(default_factory=list)
    t5: TextVectorsAside = field(default_factory=TextVectorsAside)


class ClipWriterStage(Stage):
    """The last stage. What it wrote of a video that failed half-way is taken back."""

    name = "clip_writer"
    takes_failures = True

    def __init__(
        self,
        output_path: str,
        *,
        annotation_version: str = layout.FIRST_VERSION,
        annotations: Annotations | None = None,
        provenance: Mapping[str, Any] | None = None,
        before_record: Callable[[], None] | None = None,
        embedding_names: Mapping[str, str] = MappingProxyType({}),
        writes_pickles: bool = False,
        parts_path: str | None = None,
        num_clips_per_chunk: int = 32,
        verbose: bool = False,
        s3: S3Options | None = None,
    ) -> None:
        """Where and how to write.

        Args:
            annotation_version: of the documents, where they are written (``layout.versioned``).
            annotations: what is made anew of clips that an earlier version has; None where clips are new.
            provenance: goes into every document: code version, config hash, model revisions.
            before_record: called before each record; raises StopRunError where this worker may not publish any more.
            embedding_names: fields of ``Clip`` whose vectors are written, and the folder of each.
            writes_pickles: a file of each vector by itself, too.
            parts_path: where to write what became of parts of videos; None where there are none.
            num_clips_per_chunk: in the lists of a video that came in parts.
            s3: how ``output_path`` is reached where it is ``s3://bucket/prefix``.
        """
        self._before_record = before_record
        self._storage = storage_for(output_path, s3 or S3Options())
        self._writes = WritesAtOnce(self._storage)  # of artefacts: lists and records wait for all of them
        self._version, self._annotations = annotation_version, annotations or Annotations()
        self._embedding_names, self._writes_pickles = dict(embedding_names), writes_pickles
        self._provenance = dict(provenance or {})
        self._verbose = verbose
        self._parts = storage_for(parts_path) if parts_path is not None else None
        self._num_clips_per_chunk = num_clips_per_chunk
        self._progress: dict[str, _Progress] = {}  # by key of video
        self._failed: dict[str, bool] = {}  # by key of video: whether the record that says so is ours

    @staticmethod
    def get_output_path_clips(output_path: str, filtered: bool = False) -> str:
        """Folder of the clips' mp4 files."""
        return f"{output_path}/{'filtered_clips' if filtered else 'clips'}"

    @staticmethod
    def get_output_path_previews(output_path: str) -> str:
        """Folder of the windows' WebP previews."""
        return f"{output_path}/previews"

    @staticmethod
    def get_output_path_metas(output_path: str, version: str = "v0") -> str:
        """Folder of the clips' metadata in one annotation version."""
        return f"{output_path}/metas/{version}"

    @staticmethod
    def get_output_path_processed_videos(output_path: str) -> str:
        """Folder of the videos' records."""
        return f"{output_path}/processed_videos"

    @staticmethod
    def get_output_path_processed_clip_chunks(output_path: str) -> str:
        """Folder of the lists of clips."""
        return f"{output_path}/processed_clip_chunks"

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        """Write clips and, when a chunk is complete, its list; after a video's last chunk, or its failure, its record.

        Raises:
            StorageError: nothing was recorded, and the video will be done again.
        """
        video, key = task.data, task.data.key
        if key in self._failed:  # its record is written; what a stage before still sends of it is not wanted
            self._delete(_paths_written(video) if self._failed[key] else [])
            return
        progress = self._progress.setdefault(key, _Progress())
        progress.paths += _paths_written(video)
        if video.failure is None:
            try:
                self._write_clips(video, progress)
            except VideoError as error:  # what we encoded can't be read back
                video.failure = Failure(error.reason, error.message)
        if video.num_clip_chunks or video.failure is not None:
            self._writes.wait()
        if video.failure is None and not video.num_clip_chunks:
            yield task
            return
        if video.failure is not None:
            self._failed[key] = self._fail(video, progress)
        elif video.part is not None:
            self._finish_part(video, video.part, progress)
        else:
            video.num_total_clips, video.clip_stats = progress.totals.num_clips, progress.totals.stats
            self._publish(video, progress.totals)
        self._progress.pop(key).t5.close()
        yield task

    def _write_clips(self, video: Video, progress: _Progress) -> None:
        """Write the files of the clips that are here and, when their chunk is complete, its list."""
        for clips, is_kept in ((video.clips, True), (video.filtered_clips, False)):
            for clip in clips:
                progress.lines.append(self._write_clip(video, clip, progress, is_kept=is_kept))
        if video.clip_chunk_goes_on or video.part is not None:
            return
        document = chunk_document(video.id, video.clip_chunk_index, progress.lines)
        self._write_vectors(self._storage, self._t5_path(video), progress)
        self._writes.wait()
        self._write(self._own(layout.clip_chunk(video.id, video.clip_chunk_index)), to_json(document), progress)
        progress.totals.combine(LineTotals.of(progress.lines))
        progress.lines = []

    def _write_clip(self, video: Video, clip: Clip, progress: _Progress, *, is_kept: bool) -> ClipLine:
        stats = ClipStats.of([clip], []) if is_kept else ClipStats.of([], [clip])
        captions = count_captions([clip])
        earlier, num_before = clip.written.paths if clip.written is not None else (), len(progress.paths)
        if clip.buffer is not None:
            progress.paths += write_files(self._writes, clip, version=self._version).paths
        else:
            progress.paths += write_previews(self._writes, clip, version=self._version)
        meta = self._meta(video, clip)
        embeddings = embedding_entry(clip, self._embedding_names)
        t5 = set_aside(clip, progress.t5, self._t5_path(video)) if is_kept else {}
        if clip.earlier is not None:
            embeddings = {**carried_embeddings(clip.earlier, self._annotations), **embeddings}
            t5 = t5 or carried_t5(clip, self._annotations)
            stats.num_with_embeddings = int(is_kept and bool(embeddings))
        entry = clip_entry(clip, meta, version=self._version, embeddings=embeddings, t5=t5)
        for name, text in entry.get("embeddings", {}).items() if self._writes_pickles else ():
            path = self._own(layout.embedding_pickle(name, clip.uuid))
            self._write(path, pickle.dumps(from_text(text), protocol=5), progress)
        self._write(layout.meta(clip.uuid, self._version), to_json(meta), progress)
        if self._verbose:
            logger.info("event=clip video=%s clip=%s span=%s", video.id, clip.uuid, clip.span)
        release(clip)
        clip.written = clip.earlier = None  # the documents say it now
        for window in clip.windows:
            window.qwen_llm_input = None
            window.x1_input = None
        paths = (*earlier, *progress.paths[num_before:])
        match = meta.get("text_match", {}).get("text") if is_kept else None
        return ClipLine(entry, is_kept, stats, captions, match, paths)

    def _own(self, path: str) -> str:
        """Where a path of this version is."""
        return layout.versioned(path, self._version)

    def _meta(self, video: Video, clip: Clip) -> dict[str, Any]:
        if clip.earlier is None:
            return clip_meta(video, clip, provenance=self._provenance)
        return annotated_meta(clip, self._annotations, provenance=self._provenance)

    def _t5_path(self, video: Video) -> str:
        """Of the vectors of its captions: in the output, or of a part beside its other files."""
        if video.part is not None:
            return self._parts_of(video, video.part).vectors_path(video.part.index)
        return layout.t5_vectors(video.id, video.clip_chunk_index, self._version)

    def _write_vectors(self, storage: Storage, path: str, progress: _Progress) -> None:
        """Write the vectors of a chunk, or of a part, where there are any."""
        with progress.t5 as vectors:
            if len(vectors):
                progress.paths += [path] if storage is self._storage else []
                vectors.write(storage, path)
        progress.t5 = TextVectorsAside()

    def _write(self, path: str, content: bytes, progress: _Progress) -> None:
        progress.paths.append(path)
        self._writes.write(path, content)

    def _delete(self, paths: Iterable[str]) -> None:
        self._storage.delete_many(paths)

    def _fail(self, video: Video, progress: _Progress) -> bool:
        """Take back what was written, and say why in the record; False when another worker was first.

        Where the video was finished by another worker the files are that one's.
        """
        if not self._storage.exists(self._own(layout.record(video.id))):
            self._delete(progress.paths)
        assert video.failure is not None
        if video.part is not None and video.failure.reason is FailureReason.NOT_IN_PARTS:
            return True  # it is processed whole instead
        is_ours = self._publish(video, LineTotals.none())
        if video.part is not None:
            self._parts_of(video, video.part).clear()
        return is_ours

    def _finish_part(self, video: Video, part: VideoPart, progress: _Progress) -> None:
        """Write what became of a part; with the last one the video is done, and then it is no part any more."""
        video.num_total_clips = len(progress.lines)
        parts = self._parts_of(video, part)
        self._write_vectors(parts.files, parts.vectors_path(part.index), progress)
        parts.add(part.index, part_document(video, progress.lines, provenance=self._provenance))
        record = parts.joined(clips_per_chunk=self._num_clips_per_chunk, before_record=self._before_record)
        if record is not None and record["failure"] is None:
            video.part, video.clip_stats = None, ClipStats(**record["clip_stats"])

    def _parts_of(self, video: Video, part: VideoPart) -> VideoParts:
        if self._parts is None:
            raise ValueError(f"{video.key}: this writer was not told where parts are written")
        return VideoParts(self._storage, self._parts, video.id, part.count)

    def _publish(self, video: Video, totals: LineTotals) -> bool:
        """Write the record; False when another worker was first."""
        if self._before_record is not None:
            self._before_record()
        document = annotated_record(
            video,
            totals.stats,
            self._annotations,
            provenance=self._provenance,
            captions=totals.captions,
            text_matches=totals.text_matches,
        )
        is_ours = self._storage.create(self._own(layout.record(video.id)), to_json(document))
        if not is_ours:
            logger.warning("event=already_recorded video=%s: another worker was first, with the same result", video.id)
        status = video.failure.reason if video.failure else "done"
        logger.info("event=video video=%s status=%s clips=%d", video.id, status, totals.stats.num_passed)
        return is_ours


def _paths_written(video: Video) -> list[str]:
    """What an earlier stage wrote of the clips that are here."""
    clips = (*video.clips, *video.filtered_clips)
    return [path for clip in clips if clip.written is not None for path in clip.written.paths]
