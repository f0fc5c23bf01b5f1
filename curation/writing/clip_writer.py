"""Writes clips, previews, metas and, last, the record that says a video is done."""

import logging
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from curation import layout
from curation.documents import to_json
from curation.errors import Failure, VideoError
from curation.model import Clip, ClipStats, Video, VideoTask
from curation.pipeline import Stage
from curation.storage import storage_for
from curation.writing.captions import CaptionTotals, add_captions, count_captions
from curation.writing.clip_files import release, write_files, write_previews
from curation.writing.embeddings import embedding_entry, from_text
from curation.writing.records import chunk_document, clip_entry, clip_meta, record_document, text_match

logger = logging.getLogger(__name__)


@dataclass
class _Chunk:
    """What was written of a chunk of which more clips may come."""

    kept: list[dict[str, Any]] = field(default_factory=list)
    filtered: list[dict[str, Any]] = field(default_factory=list)
    stats: ClipStats = field(default_factory=ClipStats)
    captions: dict[str, CaptionTotals] = field(default_factory=dict)


@dataclass
class _Progress:
    """What was written of a video whose record is still to come."""

    stats: ClipStats = field(default_factory=ClipStats)
    captions: dict[str, CaptionTotals] = field(default_factory=dict)
    text_matches: Counter[str] = field(default_factory=Counter)
    paths: list[str] = field(default_factory=list)
    num_clips: int = 0
    chunk: _Chunk = field(default_factory=_Chunk)


class ClipWriterStage(Stage):
    """The last stage. What it wrote of a video that failed half-way is taken back."""

    name = "clip_writer"
    takes_failures = True

    def __init__(
        self,
        output_path: str,
        *,
        annotation_version: str = "v0",
        provenance: Mapping[str, Any] | None = None,
        before_record: Callable[[], None] | None = None,
        embedding_names: Mapping[str, str] = MappingProxyType({}),
        writes_pickles: bool = False,
        verbose: bool = False,
    ) -> None:
        """Where and how to write.

        Args:
            provenance: goes into every document: code version, config hash, model revisions.
            before_record: called before each record; raises StopRunError where this worker may not publish any more.
            embedding_names: fields of ``Clip`` whose vectors are written, and the folder of each.
            writes_pickles: a file of each vector by itself, too.
        """
        self._before_record = before_record
        self._storage = storage_for(output_path)
        self._version = annotation_version
        self._embedding_names, self._writes_pickles = dict(embedding_names), writes_pickles
        self._provenance = dict(provenance or {})
        self._verbose = verbose
        self._progress: dict[str, _Progress] = {}
        self._failed: dict[str, bool] = {}  # by video: whether the record that says so is ours

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
        video = task.data
        if video.id in self._failed:  # its record is written; what a stage before still sends of it is not wanted
            self._delete(_paths_written(video) if self._failed[video.id] else [])
            return
        progress = self._progress.setdefault(video.id, _Progress())
        progress.paths += _paths_written(video)
        if video.failure is None:
            try:
                self._write_part(video, progress)
            except VideoError as error:  # what we encoded can't be read back
                video.failure = Failure(error.reason, error.message)
        if video.failure is not None:
            self._take_back(video, progress)
        elif not video.num_clip_chunks:
            yield task
            return
        else:
            video.num_total_clips = progress.num_clips
        video.clip_stats = progress.stats
        is_ours = self._publish(video, progress)
        if video.failure is not None:
            self._failed[video.id] = is_ours
        del self._progress[video.id]
        yield task

    def _write_part(self, video: Video, progress: _Progress) -> None:
        chunk = progress.chunk
        chunk.stats.combine(ClipStats.of(video.clips, video.filtered_clips))
        add_captions(chunk.captions, count_captions([*video.clips, *video.filtered_clips]))
        progress.text_matches.update(clip_match[0] for clip in video.clips if (clip_match := text_match(clip)))
        chunk.kept += [self._write_clip(video, clip, progress) for clip in video.clips]
        chunk.filtered += [self._write_clip(video, clip, progress) for clip in video.filtered_clips]
        if video.clip_chunk_goes_on:
            return
        document = chunk_document(video, chunk.kept, chunk.filtered, chunk.stats, captions=chunk.captions)
        self._write(layout.clip_chunk(video.id, video.clip_chunk_index), to_json(document), progress)
        progress.stats.combine(chunk.stats)
        add_captions(progress.captions, chunk.captions)
        progress.num_clips += len(chunk.kept) + len(chunk.filtered)
        progress.chunk = _Chunk()

    def _write_clip(self, video: Video, clip: Clip, progress: _Progress) -> dict[str, Any]:
        if clip.buffer is not None:
            progress.paths += write_files(self._storage, clip).paths
        else:
            progress.paths += write_previews(self._storage, clip)
        meta = clip_meta(video, clip, provenance=self._provenance)
        entry = clip_entry(clip, meta, embeddings=embedding_entry(clip, self._embedding_names))
        for name, text in entry.get("embeddings", {}).items() if self._writes_pickles else ():
            self._write(layout.embedding_pickle(name, clip.uuid), pickle.dumps(from_text(text), protocol=5), progress)
        self._write(layout.meta(clip.uuid, self._version), to_json(meta), progress)
        if self._verbose:
            logger.info("event=clip video=%s clip=%s span=%s", video.id, clip.uuid, clip.span)
        release(clip)
        clip.written = None  # the documents say it now
        for window in clip.windows:
            window.qwen_llm_input = None
            window.x1_input = None
        return entry

    def _write(self, path: str, content: bytes, progress: _Progress) -> None:
        progress.paths.append(path)
        self._storage.write(path, content)

    def _take_back(self, video: Video, progress: _Progress) -> None:
        """Delete what was written of a video, unless another worker finished it: then the files are that one's."""
        done = self._storage.exists(layout.record(video.id))
        self._delete(progress.paths if not done else [])
        progress.stats, progress.captions = ClipStats(), {}

    def _delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._storage.delete(path)

    def _publish(self, video: Video, progress: _Progress) -> bool:
        """Write the record; False when another worker was first."""
        if self._before_record is not None:
            self._before_record()
        document = record_document(
            video,
            progress.stats,
            provenance=self._provenance,
            captions=progress.captions,
            text_matches=progress.text_matches,
        )
        is_ours = self._storage.create(layout.record(video.id), to_json(document))
        if not is_ours:
            logger.warning("event=already_recorded video=%s: another worker was first, with the same result", video.id)
        status = video.failure.reason if video.failure else "done"
        logger.info("event=video video=%s status=%s clips=%d", video.id, status, video.clip_stats.num_passed)
        return is_ours


def _paths_written(video: Video) -> list[str]:
    """What an earlier stage wrote of the clips that are here."""
    clips = (*video.clips, *video.filtered_clips)
    return [path for clip in clips if clip.written is not None for path in clip.written.paths]
