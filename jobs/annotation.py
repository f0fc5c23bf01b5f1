"""Annotation runs (docs/rules.md, Annotation versions): which clips they look at, what they make and where it goes."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from curation import layout
from curation.storage import S3Options, Storage, storage_for
from curation.writing.earlier import Annotations
from jobs.chunk_lists import summary_videos
from jobs.clip_settings import WindowSettings
from jobs.config import RunConfig

_BYTES_PER_CLIP_S = 10**6  # what a second of clips counts as when videos are spread over shards


class UnfinishedError(ValueError):
    """An output whose clips were never summed up can't be annotated."""


def source_s3(config: RunConfig) -> S3Options:
    """How what the manifest names is reached, where it is S3."""
    return config.output_s3 if is_annotation(config) else config.input_s3


def made_version(config: RunConfig) -> str:
    """The annotation version that a run writes; a split run writes the first."""
    return config.annotate.annotation_version or layout.FIRST_VERSION


def is_annotation(config: RunConfig) -> bool:
    """Whether a run annotates clips that are there."""
    return config.annotate.annotation_version is not None


def clips_storage(config: RunConfig) -> Storage:
    """The output with the clips themselves."""
    return storage_for(config.output_clip_path, config.output_s3)


def output_storage(config: RunConfig) -> Storage:
    """Where records, lists, summary and tables of the run's version are: for v0 the output itself."""
    return storage_for(versioned_root(config, made_version(config)), config.output_s3)


def versioned_root(config: RunConfig, version: str) -> str:
    """The folder of an annotation version of the output."""
    return config.output_clip_path if version == layout.FIRST_VERSION else f"{config.output_clip_path}/{version}"


def annotations_of(config: RunConfig) -> Annotations:
    """What an annotation run makes anew."""
    captions, filters = config.captions, config.filters
    is_made = {
        "captions": captions.generate_captions,
        "enhancement": enhances(config),
        "t5": config.t5.generate_t5,
        "previews": config.previews.generate_previews,
        "embeddings": config.embeddings.generate_embeddings,
        "motion": filters.motion_filter != "disable",
        "aesthetic": filters.aesthetic_threshold is not None,
    }
    windows = config.windows
    return Annotations(
        from_version=config.annotate.from_annotation_version,
        made=frozenset(kind for kind, made in is_made.items() if made),
        windows=(windows.window_size, windows.remainder_threshold) if config.annotate.rewindow else None,
    )


def enhances(config: RunConfig) -> bool:
    """Whether captions are told anew: those that the run makes, or those that are there."""
    return config.captions.enhance_captions and (config.captions.generate_captions or is_annotation(config))


def annotation_problems(config: RunConfig) -> list[str]:
    """What an annotation run can't do, in words."""
    if not is_annotation(config):
        return []
    problems = []
    if not annotations_of(config).made:
        groups = "captions, t5, previews, embeddings or filters"
        problems.append(f"annotate: there is nothing to make anew: write at least one of the groups {groups}")
    if config.filters.motion_filter == "enable":
        problems.append("filters.motion_filter: clips that are there are only measured: expected score-only")
    if config.windows != WindowSettings() and not config.annotate.rewindow:
        problems.append("windows: the clips keep theirs; annotate.rewindow: true makes them anew")
    if config.dataset.annotation_version not in (None, made_version(config)):
        problems.append(f"dataset.annotation_version: this run packs what it makes, {made_version(config)}")
    if config.limit_clips:
        problems.append("limit_clips: all clips of a video are annotated; limit takes fewer videos")
    return problems


@contextmanager
def listed_videos(config: RunConfig) -> Iterator[str]:
    """The path of a list of the videos whose clips are there, while the block lasts; their clips' length is their cost.

    Raises:
        UnfinishedError: the version to start from is not finished.
        StorageError: it can't be read.
    """
    root = versioned_root(config, config.annotate.from_annotation_version)
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        try:
            for video in summary_videos(storage_for(root, config.output_s3)):
                if video.status == "done":
                    cost = max(1, round(video.clip_s * _BYTES_PER_CLIP_S))
                    row = {"id": video.video_id, "path": f"{root}/{layout.record(video.video_id)}", "size_bytes": cost}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
        except ValueError as error:
            raise UnfinishedError(str(error)) from error
        file.flush()
        yield file.name
