"""The documents of a further annotation version: what the one before says, and what was made anew. Pure."""

from collections.abc import Mapping
from typing import Any

from curation.model import Clip, ClipStats, Video
from curation.writing.captions import CaptionTotals, window_captions
from curation.writing.earlier import Annotations, annotated_provenance, carried_t5
from curation.writing.records import record_document, scores
from curation.writing.text_vectors import described

_SCORES = ("motion_score", "aesthetic_score", "text_match")
_OF_T5 = "t5_xxl_"  # how the keys of a window begin that tell of its vectors


def annotated_meta(clip: Clip, annotations: Annotations, *, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """A clip's metadata in the new version.

    Args:
        clip: restored from the earlier one (``restored_clip``).
        provenance: of what was made anew.
    """
    assert clip.earlier is not None
    before = clip.earlier["metas"][annotations.from_version]
    carried = {} if "embeddings" in annotations.replaced else {key: before[key] for key in _SCORES[2:] if key in before}
    of_t5 = _carried_of_t5(clip, before, annotations)
    return {
        **{key: value for key, value in before.items() if key not in _SCORES},
        **carried,
        **scores(clip),
        "errors": clip.errors,
        "windows": [
            {
                "start_frame": window.start_frame,
                "end_frame": window.end_frame,
                **window_captions(window),
                **of_t5.get(window.start_frame, {}),
                **described(window),
            }
            for window in clip.windows
        ],
        "notes": clip.notes,
        "provenance": annotated_provenance(before["provenance"], provenance, annotations),
    }


def _carried_of_t5(clip: Clip, before: Mapping[str, Any], annotations: Annotations) -> dict[int, dict[str, Any]]:
    """What is said of the vectors that are carried, by first frame of their window."""
    if not carried_t5(clip, annotations):
        return {}
    return {
        window["start_frame"]: {key: value for key, value in window.items() if key.startswith(_OF_T5)}
        for window in before["windows"]
    }


def annotated_record(
    video: Video,
    stats: ClipStats,
    annotations: Annotations,
    *,
    provenance: Mapping[str, Any],
    captions: Mapping[str, CaptionTotals],
    text_matches: Mapping[str, int],
) -> dict[str, Any]:
    """The record of a video in the new version: of its source it says what the earlier one does."""
    own = record_document(video, stats, provenance=provenance, captions=captions, text_matches=text_matches)
    if video.failure is not None or video.earlier is None:
        return own
    anew = ("num_decoded_frames", "clip_stats", "captions", "text_matches", "errors")
    provenance = annotated_provenance(video.earlier["provenance"], provenance, annotations)
    return {**video.earlier, **{key: own[key] for key in anew}, "provenance": provenance}
