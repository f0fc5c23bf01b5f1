"""Captions of a whole run: one document of all of them, and how fast the engines made them."""

import json
from collections.abc import Generator, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

from curation import layout
from curation.storage import Storage
from curation.writing.captions import CaptionTotals, model_caption, totals_document


@dataclass
class EngineWork:
    """What the engines behind one key of captions did, all workers together.

    Attributes:
        engine_s: seconds at work, each engine's counted by itself.
        output_tokens: in these seconds, whatever became of their video.
        num_restarts: engines that died and were started again.
    """

    engine_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    num_restarts: int = 0

    @property
    def output_tokens_per_s(self) -> float | None:
        """Of one engine; None before it was at work."""
        return self.output_tokens / self.engine_s if self.engine_s > 0 else None

    def add(self, other: "EngineWork") -> None:
        """Add what other engines did."""
        self.engine_s += other.engine_s
        self.prompt_tokens += other.prompt_tokens
        self.output_tokens += other.output_tokens
        self.num_restarts += other.num_restarts

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {**asdict(self), "output_tokens_per_s": self.output_tokens_per_s}


def add_engine_work(work: dict[str, EngineWork], event: Mapping[str, Any]) -> None:
    """Add what an event of a worker says of its engines, by key of captions."""
    for key, done in event.get("captions", {}).items():
        names = ("engine_s", "prompt_tokens", "output_tokens", "num_restarts")
        work.setdefault(key, EngineWork()).add(EngineWork(**{name: done[name] for name in names}))


def caption_report(totals: Mapping[str, CaptionTotals], work: Mapping[str, EngineWork]) -> dict[str, dict[str, Any]]:
    """What the records count, and what the engines did; None for these where no worker lived to tell."""
    counted = totals_document(totals)
    return {
        key: {
            **counted.get(key, asdict(CaptionTotals())),
            "engine": work[key].to_json() if key in work else None,
        }
        for key in sorted({*counted, *work})
    }


class AllCaptions:
    """Writes the captions of all windows: video -> clip -> ``{start}_{end}`` -> caption.

    Every kept clip of every video is there, and each of its windows with the caption of the model that saw its frames.
    What an enhancement made of it is in the clip's meta.

    Source:
        Cosmos-Curate's document of the same name has this shape and this choice.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._video: str | None = None
        self._has_clips = False

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Append a chunk document; those of a video come one after the other."""
        if chunk["video_id"] != self._video:
            self._stream.write(b"{" if self._video is None else b"\n },")
            self._stream.write(f"\n {_json(chunk['video_id'])}: {{".encode())
            self._video, self._has_clips = chunk["video_id"], False
        for entry in chunk["clips"]:
            separator = "," if self._has_clips else ""
            self._stream.write(f"{separator}\n  {_json(entry['uuid'])}: {_json(_captions_of(entry))}".encode())
            self._has_clips = True

    def finish(self) -> None:
        """Close what is open."""
        self._stream.write(b"{}\n" if self._video is None else b"\n }\n}\n")


def captions_collected(
    chunks: Iterable[dict[str, Any]], storage: Storage, *, version: str = "v0"
) -> Generator[dict[str, Any], None, None]:
    """The same chunk documents; once the last was taken, the document of all captions is there."""
    with storage.writing(layout.all_window_captions(version)) as stream:
        captions = AllCaptions(stream)
        for chunk in chunks:
            captions.add(chunk)
            yield chunk
        captions.finish()


def _captions_of(entry: Mapping[str, Any]) -> dict[str, str]:
    found = {
        f"{start}_{end}": model_caption(captions)
        for (start, end), captions in zip(entry["windows"], entry.get("captions", ()), strict=False)
    }
    return {window: caption for window, caption in found.items() if caption is not None}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
