"""The JSON documents of a split run: clip metas, chunk lists, video records (docs/rules.md, Records). Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from curation import layout
from curation.documents import content_of, to_json
from curation.model import Clip, ClipStats, Video
from curation.writing.captions import CaptionTotals, totals_document, window_captions
from curation.writing.clip_lines import ClipLine, LineTotals
from curation.writing.text_vectors import described

SCHEMA_VERSION = 1

_PRODUCED = ("width", "height", "framerate", "num_frames", "video_codec", "num_bytes")


def clip_meta(video: Video, clip: Clip, *, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """A clip's metadata; the keys of Cosmos-Curate first, clipmill's own after them. Its mp4 is in ``clip.written``."""
    reason = _why_invalid(clip)
    return {
        "span_uuid": str(clip.uuid),
        "source_video": clip.source_video,
        "duration_span": list(clip.span),
        "width_source": video.metadata.width,
        "height_source": video.metadata.height,
        "framerate_source": video.metadata.framerate,
        "clip_location": layout.clip(clip.uuid, filtered=clip.rejection is not None),
        **(clip.written.metadata if clip.written else dict.fromkeys(_PRODUCED)),
        **scores(clip),
        "errors": clip.errors,
        "windows": [
            {"start_frame": w.start_frame, "end_frame": w.end_frame, **window_captions(w), **described(w)}
            for w in clip.windows
        ],
        "valid": reason is None,
        "schema_version": SCHEMA_VERSION,
        "valid_reason": reason,
        "video_id": video.id,
        "frame_span_source": [clip.frame_span.start, clip.frame_span.end] if clip.frame_span else None,
        "rejection": asdict(clip.rejection) if clip.rejection else None,
        "notes": clip.notes,
        "extra": dict(video.extra),
        "provenance": {**provenance, "encoder": clip.encoder},
    }


def scores(clip: Clip) -> dict[str, Any]:
    """Only what was measured: a score that nobody computed has no key."""
    scores: dict[str, Any] = {}
    if clip.motion_score_global_mean is not None:
        scores["motion_score"] = {
            "global_mean": clip.motion_score_global_mean,
            "per_patch_min_256": clip.motion_score_per_patch_min_256,
        }
    if clip.aesthetic_score is not None:
        scores["aesthetic_score"] = clip.aesthetic_score
    if (match := text_match(clip)) is not None:
        scores["text_match"] = {"text": match[0], "probability": match[1]}
    return scores


def text_match(clip: Clip) -> tuple[str, float] | None:
    """Which of the texts to verify fits a clip best, and its probability among them."""
    return clip.cosmos_embed1_text_match or clip.intern_video_2_text_match


def _why_invalid(clip: Clip) -> str | None:
    if clip.written is None:
        return clip.errors.get("transcode", "not transcoded")
    if clip.rejection is not None:
        return f"rejected by {clip.rejection.filter}"
    return None


def clip_entry(
    clip: Clip,
    meta: Mapping[str, Any],
    *,
    version: str = "v0",
    embeddings: Mapping[str, str] = MappingProxyType({}),
    t5: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """What a chunk says of a clip: its meta, too, so that none has to be read for packing or to collect captions.

    Args:
        version: the annotation version of the meta.
        embeddings: as ``embedding_entry`` gives them.
        t5: as ``set_aside`` gives it.
    """
    captions = [window_captions(window) for window in clip.windows]
    return {
        "uuid": str(clip.uuid),
        "span": list(clip.span),
        "width": meta["width"],
        "height": meta["height"],
        "num_frames": meta["num_frames"],
        "num_bytes": meta["num_bytes"],
        "sha256": clip.written.sha256 if clip.written else None,
        "num_previews": clip.written.num_previews if clip.written else 0,
        "windows": [[w.start_frame, w.end_frame] for w in clip.windows],
        **({"captions": captions} if any(captions) else {}),  # one of each window
        **({"embeddings": dict(embeddings)} if embeddings else {}),  # by folder: base64 of little-endian float32
        **({"t5": {version: dict(t5)}} if t5 else {}),  # where the vectors of each window are
        "valid": meta["valid"],
        "valid_reason": meta["valid_reason"],
        "metas": {version: dict(meta)},
        "content": {version: content_of(to_json(meta))},
    }


def chunk_document(video_id: str, index: int, lines: Sequence[ClipLine]) -> dict[str, Any]:
    """One chunk of a video's clips."""
    totals = LineTotals.of(lines)
    kept, filtered = ([line.entry for line in lines if line.is_kept is is_kept] for is_kept in (True, False))
    return {
        "schema_version": SCHEMA_VERSION,
        "video_id": video_id,
        "clip_chunk_index": index,
        "num_clips": len(kept),
        "num_filtered_clips": len(filtered),
        "clip_stats": asdict(totals.stats),
        "captions": totals_document(totals.captions),
        "clips": kept,
        "filtered_clips": filtered,
    }


def record_document(
    video: Video,
    stats: ClipStats,
    *,
    provenance: Mapping[str, Any],
    captions: Mapping[str, CaptionTotals] = MappingProxyType({}),
    text_matches: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Any]:
    """The record of a video: done, or failed with its reason."""
    metadata, profile, failure = video.metadata, video.profile, video.failure
    return {
        "schema_version": SCHEMA_VERSION,
        "video": video.input_path,
        "video_id": video.id,
        "status": "failed" if failure else "done",
        "failure": {"reason": str(failure.reason), "message": failure.message} if failure else None,
        **asdict(metadata),
        "is_vfr": video.is_vfr,
        "rotation": profile.rotation if profile else None,
        "mirrored": profile.mirrored if profile else None,
        "pixel_aspect": str(profile.pixel_aspect) if profile else None,
        "coded_size": list(profile.coded_size) if profile else None,
        "interlaced": profile.interlaced if profile else None,
        "hdr": profile.hdr.transfer if profile and profile.hdr else None,
        "start_s": video.start_s,
        "end_s": video.end_s,
        "num_decoded_frames": video.decode_count.num_frames,
        "num_total_clips": 0 if failure else video.num_total_clips,
        "num_clip_chunks": 0 if failure else video.num_clip_chunks,
        "clip_stats": asdict(stats),
        "captions": totals_document(captions),
        "text_matches": dict(sorted(text_matches.items())),  # clips that each text fits best
        "errors": video.errors,
        "extra": dict(video.extra),
        "provenance": dict(provenance),
    }


def part_document(video: Video, lines: Sequence[ClipLine], *, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What became of a part of a video, until its parts are joined."""
    return {
        "schema_version": SCHEMA_VERSION,
        "record": record_document(video, ClipStats(), provenance=provenance),
        "lines": [line.to_json() for line in lines],
    }


def joined_documents(
    parts: Sequence[Mapping[str, Any]], *, clips_per_chunk: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The chunks and the record of a video: those that it has when it is processed at once.

    The record's ``num_decoded_frames`` is what was decoded; where parts begin, that is some frames more.

    Args:
        parts: all of them in order, as ``part_document`` gives them.
    """
    records = [part["record"] for part in parts]
    lines = [ClipLine.from_json(line) for part in parts for line in part["lines"]]
    lines.sort(key=lambda line: line.entry["span"])  # within a part, rejected ones may stand behind others
    video_id, totals = records[0]["video_id"], LineTotals.none()
    num_chunks = max(1, -(-len(lines) // clips_per_chunk))
    chunks = []
    for index in range(num_chunks):
        inside = lines[index * clips_per_chunk : (index + 1) * clips_per_chunk]
        totals.combine(LineTotals.of(inside))
        chunks.append(chunk_document(video_id, index, inside))
    record = records[0] | {
        "num_decoded_frames": sum(record["num_decoded_frames"] for record in records),
        "num_total_clips": totals.num_clips,
        "num_clip_chunks": num_chunks,
        "clip_stats": asdict(totals.stats),
        "captions": totals_document(totals.captions),
        "text_matches": dict(sorted(totals.text_matches.items())),
        "errors": {name: text for record in records for name, text in record["errors"].items()},
    }
    return chunks, record
