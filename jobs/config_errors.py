"""Mistakes in a config, in plain words: where it stands, which key, what would be right and what was found."""

import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from jobs.setting_words import choices_of, expected, group_model, inner, kinds, unit
from jobs.settings import SECRET_INPUT

_SHOWN_CHARACTERS = 80  # of a value that was found
_SECRET_GROUPS = {("slurm", "environment")}  # tokens are handed to jobs that way
_OWN_WORDS = {"value_error", SECRET_INPUT}  # what our own checks say stays as it is

_SECONDS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hour", "hours"), 3600),
}
_FACTORS = {
    "seconds": _SECONDS,
    "hours": {"h": 1, "hour": 1, "hours": 1, "d": 24, "days": 24},
    "GB": {"gb": 1, "g": 1, "tb": 1000},
    "GiB": {"gib": 1, "gb": 1, "g": 1},
    "MiB": {"mib": 1, "mb": 1, "m": 1, "gib": 1024, "gb": 1024},
    "frames per second": {"fps": 1, "hz": 1},
}
"""How many of a key's unit one of another is."""

Location = tuple[str, ...]
"""A key, part by part."""


class ConfigError(ValueError):
    """A config with mistakes; ``problems`` holds one line for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Source:
    """What settings were read from.

    ``places`` has FILE:LINE of each key, or the ``--set`` that gave it.
    """

    path: Path
    places: dict[Location, str]

    def place(self, location: Location) -> str:
        """Of a key, else of the group that it stands in, else of what stands in it."""
        for depth in range(len(location), 0, -1):
            if location[:depth] in self.places:
                return self.places[location[:depth]]
        below = (place for key, place in self.places.items() if key[: len(location)] == location)
        return next(below, str(self.path)) if location else str(self.path)


def described(error: ValidationError, model: type[BaseModel], source: Source) -> list[str]:
    """A line for each mistake; a value that may be of two kinds has one mistake, not one for each kind."""
    lines: dict[Location, str] = {}
    for problem in error.errors(include_url=False):
        found = _field(model, problem["loc"])
        key = found.location if problem["type"] not in _OWN_WORDS else (*found.location, problem["msg"])
        lines.setdefault(key, _line(problem, found, model, source))
    return sorted(lines.values(), key=lambda line: _line_number(line, source.path))


def _line_number(line: str, path: Path) -> float:
    """Where in the file a mistake stands; last what is not in it."""
    number = re.match(r":(\d+): ", line.removeprefix(str(path)))
    return int(number[1]) if number else math.inf


@dataclass(frozen=True)
class _Found:
    """Where a mistake is: the model and the field that its location leads to, and the key as it is written."""

    model: type[BaseModel]
    field: FieldInfo | None
    kind: Any
    location: Location


def _field(model: type[BaseModel], parts: Sequence[int | str]) -> _Found:
    for depth, part in enumerate(parts):
        field = model.model_fields.get(str(part))
        below = group_model(field)
        if below is None or depth + 1 == len(parts):
            location, kind = [str(each) for each in parts[: depth + 1]], None if field is None else field.annotation
            is_name = parts[-1] == "[key]"
            for item in parts[depth + 1 :]:  # an item of a list or mapping; the kinds of a choice are not written
                if item != "[key]" and inner(kind, item) is not kind:
                    kind = inner(kind, item, is_key=is_name)
                    location.append(str(item))
            return _Found(model, field, kind, tuple(location))
        model = below
    return _Found(model, None, None, ())


def _line(problem: ErrorDetails, found: _Found, model: type[BaseModel], source: Source) -> str:
    where, key = source.place(found.location), ".".join(found.location)
    begin = f"{where}: {key}: " if key else f"{where}: "
    kind, value = problem["type"], problem.get("input")
    if kind == "missing":
        meaning = found.field.description if found.field is not None else ""
        return f"{begin}this key is needed: {meaning}"
    if kind == "extra_forbidden":
        return f"{begin}unknown key{_nearest_key(found, model)}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if kind == SECRET_INPUT:  # what was found may hold a password
        return begin + message
    if kind in _OWN_WORDS and not _is_no_choice(found, value):
        is_told = value is None or isinstance(value, dict | list | BaseModel) or repr(value) in message
        return begin + message + ("" if is_told else f", found {shown(value)}")
    if group_model(found.field) is not None:
        return f"{begin}expected a group of settings, indented below it, found {shown(value)}"
    if found.field is None:
        return f"{begin}a key is a text, found {shown(value)}" if kind == "invalid_key" else f"{begin}{message}"
    return f"{begin}expected {_expected(found)}, {_found_value(found, value)}"


def _is_no_choice(found: _Found, value: object) -> bool:
    """Whether a text had to be one of a few and is none of them."""
    choices = choices_of(found.kind, found.field.metadata if found.field is not None else [])
    return bool(choices) and value not in choices


def _expected(found: _Found) -> str:
    assert found.field is not None
    is_item = found.kind is not found.field.annotation
    metadata = [] if is_item else found.field.metadata
    return expected(found.kind, metadata, unit=unit(found.location[-1]))


def _found_value(found: _Found, value: object) -> str:
    """What was found, and what its writer may have meant."""
    is_secret = any(found.location[: len(group)] == group for group in _SECRET_GROUPS)
    if is_secret and value != found.location[-1]:
        return "found a value that is not shown: it may be a secret"
    assert found.field is not None
    possible = set(kinds(found.kind))
    text = f"found {shown(value)}"
    if isinstance(value, str):
        if any(getattr(each, "__origin__", None) is list for each in possible):
            return f"{text}; write [{value}]"
        near = difflib.get_close_matches(value, choices_of(found.kind, found.field.metadata), n=1)
        if near:
            return f"{text}; did you mean {near[0]!r}?"
        if possible & {int, float} and (number := _number_alone(value, found.location[-1])) is not None:
            return f"{text}; write the number alone: {number}"
    if isinstance(value, bool) and str in possible:
        return f"{text}; a text that reads like {str(value).lower()} needs quotes"
    return text


def _number_alone(text: str, key: str) -> str | None:
    """What ``2 min`` or ``20GB`` is in the key's own unit; None where that is not clear."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    factor = _FACTORS.get(unit(key), {}).get(match[2].lower()) if match else None
    return f"{float(match[1]) * factor:g}" if match and factor else None


def shown(value: object) -> str:
    """A value as a message shows it: as YAML has it, without the password of a URL, and not all of a long one."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, dict):
        text = f"a group: {_json(value)}" if value else "an empty group"
    elif isinstance(value, list):
        text = f"a list: {_json(value)}"
    else:
        text = _json(value) if isinstance(value, bool) else repr(value)
    text = without_password(text)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def without_password(text: str) -> str:
    """A text with the user and password of its URLs left out."""
    return re.sub(r"://[^/@\s]*@", "://...@", text)


def _nearest_key(found: _Found, model: type[BaseModel]) -> str:
    """Which key may be meant: one of the same group, then one of another place."""
    *group, name = found.location
    known = list(found.model.model_fields)
    if near := difflib.get_close_matches(name, known, n=1):
        return f"; did you mean {near[0]!r}?"
    elsewhere = _all_keys(model)
    named = [key for key in elsewhere if key[-1] == name]
    if not named and (near := difflib.get_close_matches(name, {key[-1] for key in elsewhere}, n=1, cutoff=0.8)):
        named = [key for key in elsewhere if key[-1] == near[0]]
    if named:
        meant = " or ".join(".".join(key) for key in named[:3])
        at_top = " (at the top, not indented)" if len(named[0]) == 1 and group else ""
        return f"{f' in the group {group[0]}' if group else ' here'}; did you mean {meant}{at_top}?"
    if group:
        return f"; {'.'.join(group)} has: {', '.join(known)}"
    return "; `clipmill init --full` shows all that there are"


def _all_keys(model: type[BaseModel]) -> list[Location]:
    keys: list[Location] = []
    for name, field in model.model_fields.items():
        below = group_model(field)
        keys.append((name,))
        keys += [] if below is None else [(name, key) for key in below.model_fields]
    return keys


# Where keys stand


def key_lines(node: yaml.Node | None, prefix: Location = ()) -> Iterator[tuple[Location, int]]:
    """Each key in the file and each item of a list, as often as it stands there, and its line counted from 1."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*prefix, str(key.value))
            yield path, key.start_mark.line + 1
            yield from key_lines(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*prefix, str(index)), value.start_mark.line + 1


def places_of(path: Path, keys: Iterable[tuple[Location, int]]) -> tuple[dict[Location, str], list[str]]:
    """Where each key stands, and a problem for each that stands there again: YAML would take the last in silence."""
    places: dict[Location, str] = {}
    problems = []
    for key, line in keys:
        if key in places:
            problems.append(f"{path}:{line}: {'.'.join(key)}: stands in {places[key]} too; keep one of them")
        places[key] = f"{path}:{line}"
    return places, problems


def override_place(override: str) -> str:
    """How a ``--set`` is called in messages."""
    key, _, _ = override.partition("=")
    is_secret = any(key.startswith(".".join(group)) for group in _SECRET_GROUPS)
    return f"--set {key}=..." if is_secret else f"--set {without_password(override)}"


# Files that are no config at all


def no_settings(path: Path, document: object, text: str) -> str:
    """Why a document that is not made of keys is no config."""
    if document is None:
        return f"{path}: the file is empty; `clipmill init` writes one to begin with"
    if isinstance(document, str):
        for number, line in enumerate(text.splitlines(), start=1):
            if fault := _colon_fault(line):
                return f"{path}:{number}: {fault}"
    return f"{path}: expected keys with values, such as run_dir: runs/first, found {shown(document)}"


def not_readable(path: Path, text: str, error: Exception) -> str:
    """What is wrong with a file that can't be read as YAML or JSON at all, and in which line."""
    if isinstance(error, UnicodeDecodeError):
        return f"{path}: not a text in UTF-8 (byte {error.start} is {error.object[error.start]:#04x})"
    if isinstance(error, json.JSONDecodeError):
        return f"{path}:{error.lineno}: not JSON: {error.msg} (column {error.colno})"
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"{path}:{line}: not YAML: a character that can't be printed stands here; take it out"
    if isinstance(error, yaml.MarkedYAMLError):
        number, fault = _yaml_fault(text.splitlines(), error)
        return f"{path}:{number + 1}: not YAML: {fault}"
    return f"{path}: not YAML: {error}"


def _yaml_fault(lines: Sequence[str], error: yaml.MarkedYAMLError) -> tuple[int, str]:
    """The line, counted from 0, and what is wrong with it; looked up in the text, since YAML's words say little."""
    mark, context = error.problem_mark or error.context_mark, error.context_mark
    number = min(mark.line, len(lines) - 1) if mark is not None else 0
    for tabbed, line in enumerate(lines[: number + 1]):
        if "\t" in line[: len(line) - len(line.lstrip())]:
            return tabbed, "a tab stands at the start of this line; indent with spaces"
    begun = str(error.context or "")
    if context is not None and "quoted" in begun:
        return context.line, "the quote that opens in this line is not closed"
    if context is not None and "flow" in begun:
        return context.line, "the bracket that opens in this line is not closed, or a comma is missing in it"
    for suspect in (context.line if context is not None else number, number, _line_above(lines, number)):
        if suspect < len(lines) and (fault := _colon_fault(lines[suspect])):
            return suspect, fault
    line = lines[number] if lines else ""
    if mark is not None and line[mark.column : mark.column + 1] in {"@", "`", "%", "*"}:
        return number, f"a value that begins with {line[mark.column]} needs quotes: {line.strip()!r}"
    if line.strip().startswith("---"):
        return number, "a second document begins here (---); a run is one document"
    if isinstance(error, yaml.constructor.ConstructorError):
        return number, f"tags are not known here: {line.strip()!r}"
    return number, _indentation_fault(lines, number) or f"{error.problem}: {line.strip()!r}"


def _colon_fault(line: str) -> str | None:
    bare = line.partition(" #")[0].strip()
    if not bare or bare[0] in "#-[]{}\"'&*!|>%@`?," or ": " in bare or bare.endswith(":"):
        return None
    if match := re.match(r"(\w+):(\S.*)", bare):
        return f"a space is missing after the colon: {bare!r}; write {match[1]}: {match[2]}"
    key, _, rest = bare.partition(" ")
    return f"a colon is missing: {bare!r}; write {key}: {rest}".rstrip()


def _line_above(lines: Sequence[str], number: int) -> int:
    above = (k for k in range(number - 1, -1, -1) if lines[k].strip() and not lines[k].lstrip().startswith("#"))
    return next(above, number)


def _indentation_fault(lines: Sequence[str], number: int) -> str | None:
    """Told of a line whose depth fits no line above it, or that is deeper than a line with a value of its own."""
    if number >= len(lines):
        return None
    line, above = lines[number], lines[_line_above(lines, number)]
    if re.search(r":\s[^#]*:\s", line):
        return f"a value that holds a colon and a space needs quotes: {line.strip()!r}"
    if line[:1].isspace() or above[:1].isspace():
        return f"this line is indented unlike those that it belongs to: {line.strip()!r}"
    return None
