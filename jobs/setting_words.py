"""A setting in plain words: what it takes and in which unit, read off its type; for messages and the reference."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_SUFFIXES = {"_s": "seconds", "_hours": "hours", "_mb": "MiB", "_fps": "frames per second", "_gb": "GB"}
_UNITS = {
    "fixed_stride_split_duration": "seconds",
    "window_size": "frames",
    "remainder_threshold": "frames",
    "target_height": "pixels",
    "resolution_bins": "pixels",
    "max_pixels": "pixels",
    **dict.fromkeys(("mem_gb", "aggregate_mem_gb", "child_memory_gb", "max_held_gb"), "GiB"),
}


@dataclass(frozen=True, slots=True)
class Expected:
    """Metadata of a setting: what it takes, where its type does not say. ``choices``: near misses are told of."""

    words: str
    choices: tuple[str, ...] = ()


def one_of(choices: Sequence[str]) -> Expected:
    """A text that is one of a few."""
    return Expected(f"one of {', '.join(choices)}", tuple(choices))


def unit(key: str) -> str:
    """Of the number that a key takes; empty where it counts or is a share."""
    return _UNITS.get(key) or next((name for end, name in _SUFFIXES.items() if key.endswith(end)), "")


def group_model(field: FieldInfo | None) -> type[BaseModel] | None:
    """The model of a group of settings; None for a setting."""
    kind = field.annotation if field is not None else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def expected(kind: Any, metadata: Sequence[object] = (), *, unit: str = "") -> str:
    """What a value of a type has to be, as in "expected ...".

    Args:
        kind: the type, as a field or a part of one has it.
        metadata: its bounds and other remarks.
        unit: of its numbers.
    """
    kind, metadata = _bare(kind, metadata)
    for remark in metadata:
        if isinstance(remark, Expected):
            return remark.words
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        parts = [expected(each, unit=unit) for each in get_args(kind) if each is not NoneType]
        parts += ["null"] if NoneType in get_args(kind) else []
        return f"{', '.join(parts[:-1])}{',' if ', ' in parts[0] else ''} or {parts[-1]}"
    if origin is Literal:
        choices = get_args(kind)
        return f"one of {', '.join(map(str, choices))}" if len(choices) > 1 else str(choices[0])
    if kind in (int, float):
        return f"a {_numbers(kind, metadata, unit)}"
    if origin is list or origin is dict:
        return _several(kind)
    return {bool: "true or false", str: "a text"}.get(kind, "a value")


def choices_of(kind: Any, metadata: Sequence[object] = ()) -> list[str]:
    """The texts that a setting can be, where they are few."""
    kind, metadata = _bare(kind, metadata)
    for remark in metadata:
        if isinstance(remark, Expected):
            return list(remark.choices)
    if get_origin(kind) is Literal:
        return [str(each) for each in get_args(kind)]
    if get_origin(kind) in (Union, UnionType):
        return [choice for each in get_args(kind) for choice in choices_of(each)]
    return ["true", "false"] if kind is bool else []


def kinds(kind: Any) -> Iterator[Any]:
    """A type without its remarks, or those that it is a choice of."""
    kind, _ = _bare(kind, ())
    if get_origin(kind) in (Union, UnionType):
        for each in get_args(kind):
            yield from kinds(each)
    else:
        yield kind


def inner(kind: Any, part: object, *, is_key: bool = False) -> Any:
    """The type of an item of a list, or of a value or a key of a mapping; the type itself where it is neither."""
    for each in kinds(kind):
        if get_origin(each) is list and isinstance(part, int):
            return get_args(each)[0]
        if get_origin(each) is dict:
            return get_args(each)[0 if is_key else 1]
    return kind


def _bare(kind: Any, metadata: Sequence[object]) -> tuple[Any, list[object]]:
    """A type and the remarks on it, those of ``Annotated`` among them."""
    remarks = list(metadata)
    while get_origin(kind) is Annotated:
        kind, *more = get_args(kind)
        remarks += more
    flat: list[object] = []
    for each in remarks:
        flat += each.metadata if isinstance(each, FieldInfo) else [each]
    return kind, flat


def _numbers(kind: Any, metadata: Sequence[object], unit: str, *, plural: bool = False) -> str:
    bounds = {name: value for name in ("gt", "ge", "lt", "le") if (value := _bound(metadata, name)) is not None}
    name = ("whole number" if kind is int else "number") + ("s" if plural else "")
    name += f" of {unit}" if unit else ""
    low, high = bounds.get("ge"), bounds.get("le")
    if low is not None and high is not None:
        return f"{name} from {low:g} to {high:g}"
    words = [f"above {bounds['gt']:g}"] if "gt" in bounds else []
    words += [f"at least {low:g}"] if low is not None else []
    words += [f"below {bounds['lt']:g}"] if "lt" in bounds else []
    words += [f"at most {high:g}"] if high is not None else []
    if not words:
        return name
    begins = " " if "gt" in bounds else (", " if unit else " of ")
    return f"{name}{begins}{' and '.join(words)}"


def _bound(metadata: Sequence[object], name: str) -> float | None:
    return next((value for each in metadata if (value := getattr(each, name, None)) is not None), None)


def _several(kind: Any) -> str:
    """A list or a mapping."""
    if get_origin(kind) is dict:
        value = get_args(kind)[1]
        return f"names with values (name: value), each {expected(value)}" if value is not Any else "names with values"
    item, metadata = _bare(get_args(kind)[0], ())
    if item in (int, float):
        return f"a list of {_numbers(item, metadata, '', plural=True)}, such as [3, 2, 1]"
    return "a list of texts, such as [a, b]"
