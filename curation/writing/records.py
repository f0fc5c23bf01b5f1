"""The JSON documents of a split run: clip metas, chunk lists, video records (docs/rules.md, Records). Pure."""

from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from curation import layout
from curation.model import Clip, ClipStats, Video
from curation.writing.captions import CaptionTotals, totals_document, window_captions

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
        **_scores(clip),
        "errors": clip.errors,
        "windows": [
            {"start_frame": w.start_frame, "end_frame": w.end_frame, **window_captions(w)} for w in clip.windows
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


def _scores(clip: Clip) -> dict[str, Any]:
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
    clip: Clip, meta: Mapping[str, Any], *, embeddings: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """What a chunk says of a clip, so that no meta has to be read for packing, or to collect captions and vectors."""
    captions = [window_captions(window) for window in clip.windows]
    return {
        "uuid": str(clip.uuid),
        "span": list(clip.span),
        "width": meta["width"],
        "height": meta["height"],
        "num_frames": meta["num_frames"],
        "num_bytes": meta["num_bytes"],
        "sha256": clip.written.sha256 if clip.written else None,
        "windows": [[w.start_frame, w.end_frame] for w in clip.windows],
        **({"captions": captions} if any(captions) else {}),  # one of each window
        **({"embeddings": dict(embeddings)} if embeddings else {}),  # by folder: base64 of little-endian float32
        "valid": meta["valid"],
        "valid_reason": meta["valid_reason"],
    }


def chunk_document(
    video: Video,
    kept: list[dict[str, Any]],
    filtered: list[dict[str, Any]],
    stats: ClipStats,
    *,
    captions: Mapping[str, CaptionTotals],
) -> dict[str, Any]:
    """One chunk of a video's clips."""
    return {
        "schema_version": SCHEMA_VERSION,
        "video_id": video.id,
        "clip_chunk_index": video.clip_chunk_index,
        "num_clips": len(kept),
        "num_filtered_clips": len(filtered),
        "clip_stats": asdict(stats),
        "captions": totals_document(captions),
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
