"""The manifest's videos: what a row must be like, and a video's line in the run's own copy."""

import json
import math
import os
import posixpath
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from curation.source_files import SCHEME, is_uri
from curation.storage import S3Options
from curation.storage.files import replacing
from jobs.manifest_rows import COLUMNS, JsonValue, ManifestError, Row
from jobs.manifest_s3 import fitting_id

VIDEO_EXTENSIONS = (
    *(".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts"),
    *(".flv", ".wmv", ".3gp", ".ogv", ".mxf", ".vob"),
)
EXPENSE_COLUMNS = ("size_bytes", "duration_s")  # known where they are given; the run's copy keeps them as they are
MAX_ID_BYTES = 900  # an S3 key holds 1024, and the output's prefix and the record's suffix are in it too
MAX_ID_SEGMENT_BYTES = 200  # a file name holds 255, and a record has a longer name while it is written aside

_SURROGATE = re.compile("[\ud800-\udfff]")  # what stands in a str for a byte or an escape that is no character
_PLAIN_ID = re.compile(r"(?:\w[\w. +-]{0,199}(?:/(?!\Z)|\Z))+", re.ASCII)  # what most ids are, and safe
_SUSPECT = re.compile(r"nan|inf|\\ud")  # in the repr of what JSON in UTF-8 may not hold, and of little else
_CANONICAL = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
# what it makes anew for each value, which takes longer than the value; None where Python has it not in C
_make_encoder = getattr(json.encoder, "c_make_encoder", None)
_encode = _make_encoder and _make_encoder(
    None, _CANONICAL.default, json.encoder.encode_basestring, None, ":", ",", True, False, False
)


@dataclass(frozen=True, slots=True)
class ManifestVideo:
    """One input video, or the part ``start_s <= t < end_s`` of it, counted from its first presented frame.

    ``id`` names its outputs, ``path`` is absolute or a URI, ``line`` is its place in the manifest (0 in a folder).
    """

    id: str
    path: str
    start_s: float | None = None
    end_s: float | None = None
    extra: Mapping[str, JsonValue] = field(default_factory=dict, hash=False)
    line: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if problems := _id_problems(self.id) + _path_problems(self.path) + _span_problems(self.start_s, self.end_s):
            raise ValueError("; ".join(problems))


def write_manifest(videos: Iterable[ManifestVideo], path: Path) -> None:
    """Write the run's own copy, one canonical JSON object a line: aside first, then renamed."""
    with replacing(path) as file:
        file.writelines(manifest_line(video) for video in videos)


def manifest_line(video: ManifestVideo) -> bytes:
    """A video's line in the run's own copy, newline included."""
    return f"{canonical_json(_record(video))}\n".encode()


def canonical_json(value: JsonValue) -> str:
    """A value as the run's own copy has it: keys in order, no blanks, no escapes that need not be.

    Raises:
        ValueError, RecursionError: JSON does not know the value.
    """
    return _CANONICAL.encode(value) if _encode is None else "".join(_encode(value, 0))


def read_run_manifest(path: Path) -> Iterator[ManifestVideo]:
    """Stream the copy that ``write_manifest`` made; a line that it does not write is a ManifestError."""
    with path.open("rb") as stream:
        for line, text in enumerate(stream, start=1):
            try:
                video = ManifestVideo(**json.loads(text), line=line)
            except (ValueError, TypeError) as error:
                raise ManifestError([f"{path}:{line}: not a line of a run's manifest: {error}"]) from error
            yield video


@dataclass(frozen=True, slots=True)
class RowReader:
    """From the row of a list to the video that it names.

    Attributes:
        base: what relative paths refer to: a folder or a URI.
        root: below it the path of a video is its id; None where there is no such place.
        s3: how objects are looked at whose size is not known; None: they are not.
    """

    base: str
    root: str | None
    s3: S3Options | None = None

    @classmethod
    def of(cls, source: str, input_root: str | None, s3: S3Options | None = None) -> "RowReader":
        """For a folder or a list; without an ``input_root`` the paths of a list refer to the list's own folder."""
        root = None if input_root is None else _locate(input_root, os.getcwd())
        own = source.rpartition("/")[0] if is_uri(source) else os.path.dirname(os.path.abspath(source))
        return cls(own if root is None else root, root, s3)

    def read(self, line: int, row: Row) -> tuple[str, ManifestVideo | None, list[str]]:
        """The id if that is a good one, else "", the video if all is well, and all that is wrong."""
        problems: list[str] = []
        written = _text("path", row.get("path") or "", _path_problems, problems)
        path = self.locate(written) if written else ""
        video_id = ""
        if row.get("id") is not None:
            video_id = _text("id", row["id"], _id_problems, problems)
        elif written:
            video_id = _text("id", self.default_id(path, written), _id_problems, problems)
        start_s = _seconds("start_s", row.get("start_s"), problems)
        end_s = _seconds("end_s", row.get("end_s"), problems)
        problems += _span_problems(start_s, end_s)
        extra = _extra(row, problems)
        problems += expense_problems(extra)
        video = None if problems else ManifestVideo(video_id, path, start_s, end_s, extra, line)
        return video_id, video, problems

    def locate(self, written: str) -> str:
        """A path as it stands in a row, made absolute."""
        return _locate(written, self.base)

    def default_id(self, path: str, written: str) -> str:
        """Name a video by its path below the root, elsewhere by its path as written, without a URI's scheme.

        Keys may be longer than ids, which name files: such an id is shortened.
        """
        video_id = _default_id(path, self.root, written)
        if not is_uri(path) or is_plain_id(video_id) or _SURROGATE.search(video_id):
            return video_id
        return fitting_id(video_id, max_bytes=MAX_ID_BYTES, max_segment_bytes=MAX_ID_SEGMENT_BYTES)


def _text(name: str, value: JsonValue, check: Callable[[str], list[str]], problems: list[str]) -> str:
    """Give the value if it is a good text, else add what is wrong with it and give an empty one."""
    wrong = check(value) if isinstance(value, str) else [f"{name} must be a string, got {value!r:.60}"]
    problems += wrong
    return value if isinstance(value, str) and not wrong else ""


def _seconds(name: str, value: JsonValue, problems: list[str]) -> float | None:
    if value is None or isinstance(value, float):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) <= sys.float_info.max else math.inf
    problems.append(f"{name} must be a number, got {value!r:.60}")
    return None


def _extra(row: Row, problems: list[str]) -> dict[str, JsonValue]:
    extra = {} if COLUMNS.issuperset(row) else {name: row[name] for name in row if name not in COLUMNS}
    nested = extra.get("extra")
    if isinstance(nested, dict):  # as in a run's own manifest, which is a manifest too
        del extra["extra"]
        problems += [f"column {name!r} stands in 'extra' too" for name in extra if name in nested]
        extra |= nested
    try:
        if extra and _SUSPECT.search(repr(extra)):
            _CANONICAL.encode(extra).encode()
    except (ValueError, RecursionError) as error:
        problems.append(f"a further column is not JSON in UTF-8: {error}")
    return extra


def expense_problems(extra: Mapping[str, JsonValue]) -> list[str]:
    """What is wrong with the columns that tell how much work a video is; empty cells and null say nothing."""
    values = ((name, extra.get(name)) for name in EXPENSE_COLUMNS)
    return [
        f"{name} must be a finite number >= 0, or empty where it is not known, got {value!r:.60}"
        for name, value in values
        if value is not None and value != "" and expense(value) is None
    ]


def expense(value: JsonValue) -> float | None:
    """A size or duration of a row as a number, None where it is none; tables (CSV) hold it as a text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < math.inf else None


def _id_problems(video_id: str) -> list[str]:
    if is_plain_id(video_id):
        return []
    segments = video_id.split("/")
    num_bytes = [len(segment.encode(errors="replace")) for segment in segments]
    faults = {
        "has an empty segment": "" in segments,
        "has a segment '.' or '..'": "." in segments or ".." in segments,
        "holds a NUL": "\0" in video_id,
        "is not UTF-8": _SURROGATE.search(video_id) is not None,
        f"is longer than {MAX_ID_BYTES} bytes": sum(num_bytes) + len(segments) - 1 > MAX_ID_BYTES,
        f"has a segment longer than {MAX_ID_SEGMENT_BYTES} bytes": max(num_bytes) > MAX_ID_SEGMENT_BYTES,
    }
    return [f"id {video_id!r:.200} {fault}" for fault, is_so in faults.items() if is_so]


def _path_problems(path: str) -> list[str]:
    if not path.strip():
        return ["no path"]
    if path.isprintable():
        return []
    faults = {"holds a NUL": "\0" in path, "is not UTF-8": _SURROGATE.search(path) is not None}
    return [f"path {path!r:.200} {fault}" for fault, is_so in faults.items() if is_so]


def _span_problems(start_s: float | None, end_s: float | None) -> list[str]:
    first_s = 0.0 if start_s is None else start_s
    problems = [] if math.isfinite(first_s) and first_s >= 0 else [f"start_s must be finite and >= 0, got {start_s}"]
    if end_s is not None and not (math.isfinite(end_s) and end_s > first_s):
        problems.append(f"end_s must be finite and after start_s, got [{first_s}, {end_s})")
    return problems


def _locate(written: str, base: str) -> str:
    if is_uri(written) or (is_uri(base) and not written.startswith("/")):
        return written if is_uri(written) else f"{base.rstrip('/')}/{written}"
    return posixpath.normpath(posixpath.join(base, written))


def is_plain_id(video_id: str) -> bool:
    """Whether an id is good at first sight, as most are; the others want a closer look."""
    return len(video_id) <= MAX_ID_BYTES and _PLAIN_ID.fullmatch(video_id) is not None


def _default_id(path: str, root: str | None, written: str) -> str:
    """Name a video by its path below ``root``, elsewhere by its path as written, without a URI's scheme."""
    prefix = "" if root is None else root.rstrip("/") + "/"
    below = path[len(prefix) :] if prefix and path.startswith(prefix) else SCHEME.sub("", written)
    return posixpath.normpath(below).lstrip("/")


def ids_in_the_way(video_id: str) -> list[str]:
    """Name the ids whose record ``ID.json`` or clip chunk ``ID_7.json`` is where this one needs a folder."""
    stems = [video_id[: match.start()] for match in re.finditer(r"\.json/", video_id)]
    return list(dict.fromkeys([*stems, *(re.sub(r"_[0-9]+\Z", "", stem) for stem in stems)]))


def _record(video: ManifestVideo) -> dict[str, JsonValue]:
    optional = {"start_s": video.start_s, "end_s": video.end_s, "extra": dict(video.extra) or None}
    return {"id": video.id, "path": video.path} | {name: value for name, value in optional.items() if value is not None}
