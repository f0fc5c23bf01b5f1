"""From a folder, a list or a table to the rows of a manifest, each with its line, or with what is wrong with it."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
Row: TypeAlias = Mapping[str, JsonValue]
Rows: TypeAlias = Iterable[tuple[int, Row | str]]  # with line numbers; a string says why a line is not a row

LIST_SUFFIXES = (".txt", ".json", ".jsonl", ".csv")
MAX_PRINTED_PROBLEMS = 50
COLUMNS = frozenset({"id", "path", "start_s", "end_s"})


class ManifestError(ValueError):
    """A manifest that cannot be used: ``problems`` holds all that is wrong with it, the message the first of them."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__(self.problems)

    @property
    def shown(self) -> list[str]:
        """The first problems, and how many more there are."""
        shown, hidden = self.problems[:MAX_PRINTED_PROBLEMS], self.problems[MAX_PRINTED_PROBLEMS:]
        return [*shown, f"... and {len(hidden)} more"] if hidden else shown

    def __str__(self) -> str:
        return "\n".join(self.shown)


def folder_rows(folder: str, suffixes: tuple[str, ...]) -> Rows:
    """Walk a folder as ``find -L`` does: links are followed, but not into a folder that they stand in."""
    video_ids: list[str] = []
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        relative, above = pending.pop()
        try:
            status = os.stat(os.path.join(folder, relative))
            here = (status.st_dev, status.st_ino)
            videos, folders = ([], []) if here in above else _visible_entries(folder, relative, suffixes)
        except OSError as error:
            yield 0, f"{error.filename!r}: {error.strerror}"
            continue
        video_ids += videos
        pending += ((f"{inner}/", above | {here}) for inner in folders)
    yield from ((0, {"id": video_id, "path": video_id}) for video_id in sorted(video_ids))


def _visible_entries(folder: str, relative: str, suffixes: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Name the videos and the folders in one folder. A link to nothing is listed, for ``missing_files`` to report."""
    with os.scandir(os.path.join(folder, relative)) as entries:
        visible = [(relative + entry.name, _is_folder(entry)) for entry in entries if not entry.name.startswith(".")]
    videos = [path for path, is_folder in visible if not is_folder and path.lower().endswith(suffixes)]
    return videos, [path for path, is_folder in visible if is_folder]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, for example
        return False


def check_list(source: str) -> str:
    """The kind of a list by its name's end, such as ".jsonl".

    Raises:
        ManifestError: it is no list that can be read.
    """
    kind = os.path.splitext(source)[1].lower()
    try:
        with open(source, "rb"):
            pass
    except OSError as error:
        raise ManifestError([f"manifest: {source!r}: {error.strerror}"]) from error
    if kind not in LIST_SUFFIXES:
        raise ManifestError([f"manifest: {source!r}: expected a folder or a .txt, .json, .jsonl or .csv file"])
    return kind


def table_rows(source: str, kind: str) -> Rows:
    """The rows of a .json or .csv list: it can't be cut at any line, as a .jsonl or .txt list can."""
    if kind == ".csv":
        # what is not UTF-8 is refused field by field; csv has its own mind about the ends of lines
        with open(source, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:
            yield from _csv_rows(lines)
    else:
        yield from _array_rows(decoded(Path(source).read_bytes(), is_first=True))


def decoded(content: bytes, *, is_first: bool) -> str:
    """The text of a piece of a list; what is not UTF-8 is refused field by field, a mark before the first is not."""
    return content.decode("utf-8-sig" if is_first else "utf-8", errors="surrogateescape")


def line_row(entry: str, kind: str) -> Row | str:
    """The row that a line of a .txt or .jsonl list is, or why it is none."""
    if not entry.strip():
        return "empty line"
    if kind == ".txt":
        return {"path": entry.removesuffix("\r")}
    try:
        return _entry_row(json.loads(entry))
    except (ValueError, RecursionError) as error:
        return _json_problem(error)


def lines_of(text: str) -> list[str]:
    """The lines of a piece of a list; nothing but a line feed ends one, and behind the last there is none."""
    return text.removesuffix("\n").split("\n") if text else []


def _array_rows(text: str) -> Rows:
    """Read a JSON array whose entries are as the lines of a JSONL file, each with the line where it starts."""
    try:
        entries = json.loads(text)
        if not isinstance(entries, list):
            raise ValueError(f"expected an array of videos, got {entries!r:.60}")
    except (ValueError, RecursionError) as error:
        yield error.lineno if isinstance(error, json.JSONDecodeError) else 1, _json_problem(error)
        return
    decoder = json.JSONDecoder()
    line, counted, end = 1, 0, text.index("[") + 1
    for _ in entries:
        start = end
        while text[start] in " \t\r\n,":
            start += 1
        line, counted = line + text.count("\n", counted, start), start
        entry, end = decoder.raw_decode(text, start)
        yield line, _entry_row(entry)


def _entry_row(entry: JsonValue) -> Row | str:
    if isinstance(entry, dict):
        return entry
    return {"path": entry} if isinstance(entry, str) else f"expected an object or a path, got {entry!r:.60}"


def _json_problem(error: Exception) -> str:
    where = f"{error.msg} (column {error.colno})" if isinstance(error, json.JSONDecodeError) else error
    return f"not valid JSON: {where}"


def _csv_rows(lines: Iterable[str]) -> Rows:
    records = _csv_records(lines)
    header_line, header = next(records, (1, []))
    problems = [header] if isinstance(header, str) else _header_problems(header)
    if problems:  # without a header nothing below it has a meaning
        yield from ((header_line, problem) for problem in problems)
        return
    for line, fields in records:
        if isinstance(fields, str):
            yield line, fields
        elif len(fields) != len(header):
            yield line, f"{len(fields)} fields where the header has {len(header)}" if fields else "empty line"
        else:
            yield line, {name: _csv_value(name, text) for name, text in zip(header, fields, strict=True)}


def _csv_records(lines: Iterable[str]) -> Iterator[tuple[int, list[str] | str]]:
    """Give the fields of each record, or its problem, with the line where it starts; a quoted field may span lines."""
    reader = csv.reader(lines, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            yield line, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, f"not valid CSV: {error}"


def _header_problems(header: list[str]) -> list[str]:
    problems = [f"column {name!r} stands twice" for name in dict.fromkeys(header) if header.count(name) > 1]
    problems += ["a column has no name"] if "" in header else []
    return problems + ([] if "path" in header else [f"no column 'path' (columns: {header})"])


def _csv_value(name: str, text: str) -> JsonValue:
    if name not in COLUMNS:
        return text
    try:
        return float(text) if name in ("start_s", "end_s") else text or None
    except ValueError:
        return text or None
