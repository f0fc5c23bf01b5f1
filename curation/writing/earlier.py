"""Annotation versions: clips as an earlier one describes them, and what the next says of them (docs/rules.md). Pure."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from uuid import UUID

from curation.model import CaptionOutcome, Clip, Rejection, Window
from curation.timeline import FrameSpan, caption_windows
from curation.written import WrittenFiles

REPLACES: Mapping[str, Set[str]] = MappingProxyType(
    {
        "captions": {"captions", "enhancement", "t5"},
        "enhancement": {"enhancement", "t5"},
        "t5": {"t5"},
        "previews": {"previews"},
        "embeddings": {"embeddings"},
        "motion": {"motion"},
        "aesthetic": {"aesthetic"},
    }
)
"""What each kind of annotation takes the place of: what was made from what it makes anew is gone with it."""

READ_ERROR = "clip_reader"
"""Under which a clip's errors say that its mp4 could not be had for what is made anew."""

_ERRORS = {
    "captions": ("caption_preparation",),
    "previews": ("preview",),
    "embeddings": ("cosmos_embed1", "intern_video_2", "efficientnet_lite0", "frame_extraction"),
    "motion": ("motion",),
    "aesthetic": ("aesthetic",),
    "t5": ("t5_xxl",),
}  # how their keys begin in ``errors`` and ``notes`` of a clip
_PRODUCED = ("width", "height", "framerate", "num_frames", "video_codec", "num_bytes")


@dataclass(frozen=True)
class Annotations:
    """What an annotation run makes anew; everything else is carried from the version that it starts from.

    Attributes:
        from_version: that version.
        made: keys of ``REPLACES``.
        windows: size and remainder threshold of caption windows; None: those that the clips have.
    """

    from_version: str = "v0"
    made: frozenset[str] = frozenset()
    windows: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if unknown := self.made - REPLACES.keys():
            raise ValueError(f"unknown annotations {sorted(unknown)}; known: {', '.join(REPLACES)}")

    @property
    def replaced(self) -> frozenset[str]:
        """Kinds of annotation of the earlier version that are not carried."""
        return frozenset().union(*(REPLACES[kind] for kind in self.made))

    def keeps_message(self, key: str) -> bool:
        """Whether an entry of ``errors`` or ``notes`` still tells of something that the clip has."""
        return key != READ_ERROR and not any(key.startswith(_ERRORS.get(kind, ())) for kind in self.replaced)


def restored_clip(entry: Mapping[str, Any], annotations: Annotations) -> Clip:
    """A clip as a chunk's list describes it, without its bytes, and without what is made anew."""
    meta = entry["metas"][annotations.from_version]
    gone = annotations.replaced
    motion = meta.get("motion_score", {}) if "motion" not in gone else {}
    clip = Clip(
        uuid=UUID(entry["uuid"]),
        source_video=meta["source_video"],
        span=(entry["span"][0], entry["span"][1]),
        motion_score_global_mean=motion.get("global_mean"),
        motion_score_per_patch_min_256=motion.get("per_patch_min_256"),
        aesthetic_score=meta.get("aesthetic_score") if "aesthetic" not in gone else None,
        windows=_restored_windows(meta, annotations),
        errors={key: text for key, text in meta["errors"].items() if annotations.keeps_message(key)},
        frame_span=FrameSpan(*meta["frame_span_source"]) if meta["frame_span_source"] else None,
        encoder=meta["provenance"]["encoder"],
        notes={key: text for key, text in meta["notes"].items() if annotations.keeps_message(key)},
        rejection=Rejection(**meta["rejection"]) if meta["rejection"] else None,
    )
    if [[window.start_frame, window.end_frame] for window in clip.windows] != entry["windows"]:
        clip.notes["windows"] = "made anew"  # so that key frames need not be where they begin
    if entry["sha256"] is not None:
        num_previews = entry["num_previews"] if "previews" not in gone else 0
        clip.written = WrittenFiles({key: meta[key] for key in _PRODUCED}, entry["sha256"], (), num_previews)
    clip.earlier = entry
    return clip


def _restored_windows(meta: Mapping[str, Any], annotations: Annotations) -> list[Window]:
    """The windows of a clip that has any, with the captions that are carried: of other spans there are none."""
    before = [restored_window(window, annotations.replaced) for window in meta["windows"]]
    if annotations.windows is None or not before:
        return before
    size, remainder_threshold = annotations.windows
    spans = caption_windows(meta["num_frames"], size=size, remainder_threshold=remainder_threshold)
    known = {window.span: window for window in before}
    return [known.get(span, Window(span.start, span.end - 1)) for span in spans]


def restored_window(document: Mapping[str, Any], gone: Set[str] = frozenset()) -> Window:
    """A window as a meta describes it: what ``window_captions`` makes a document of.

    Args:
        gone: kinds of annotation to leave out.
    """
    window = Window(document["start_frame"], document["end_frame"])
    for name, value in document.items():
        if name.endswith("_enhanced_caption") and "enhancement" not in gone:
            window.enhanced_caption[name.removesuffix("_enhanced_caption")] = value
        elif name.endswith("_caption") and not name.endswith("_enhanced_caption") and "captions" not in gone:
            window.caption[name.removesuffix("_caption")] = value
    for key in [name.removesuffix("_status") for name in document if name.endswith("_status")]:
        kind = "enhancement" if key.endswith("_lm") else "captions"
        if kind not in gone:
            window.caption_outcomes[key] = _restored_outcome(document, key)
    return window


def _restored_outcome(document: Mapping[str, Any], key: str) -> CaptionOutcome:
    return CaptionOutcome(
        status=document[f"{key}_status"],
        reason=document.get(f"{key}_reason", ""),
        prompt_tokens=document[f"{key}_prompt_tokens"],
        output_tokens=document[f"{key}_output_tokens"],
        flags=tuple(document.get(f"{key}_flags", ())),
    )


def carried_embeddings(entry: Mapping[str, Any], annotations: Annotations) -> dict[str, str]:
    """The vectors of the earlier version that hold for the next, by folder."""
    return {} if "embeddings" in annotations.replaced else dict(entry.get("embeddings", {}))


def carried_t5(clip: Clip, annotations: Annotations) -> dict[str, Any]:
    """Where the earlier version's T5 vectors of these windows are; nothing where windows are others, or made anew."""
    assert clip.earlier is not None
    before = clip.earlier.get("t5", {}).get(annotations.from_version)
    same = clip.earlier["windows"] == [[window.start_frame, window.end_frame] for window in clip.windows]
    return dict(before) if before is not None and same and "t5" not in annotations.replaced else {}


def annotated_provenance(
    earlier: Mapping[str, Any], own: Mapping[str, Any], annotations: Annotations
) -> dict[str, Any]:
    """Who made what: the split run everything, but for each kind of annotation the run in ``annotations``.

    Args:
        earlier: the provenance of the version before.
        own: this run's.
    """
    gone = annotations.replaced
    before = {kind: made for kind, made in earlier.get("annotations", {}).items() if kind not in gone}
    # what it was asked with was for captions that are no longer there
    rest = {key: value for key, value in earlier.items() if key != "prompts" or "captions" not in gone}
    made: dict[str, Any] = {**before, **{kind: dict(own) for kind in sorted(annotations.made)}}
    return {**rest, "annotations": made}
