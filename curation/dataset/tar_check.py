"""Whether a tar is what its index and the catalogue say, read once from front to back."""

import hashlib
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson

from curation.dataset.content import METAS, T5, VIDEO
from curation.dataset.t5_members import read_t5_member

_BLOCK_BYTES = 2**20
_SUFFIXES = {VIDEO: ".mp4", METAS: ".json", T5: ".pickle"}
_SHOWN = 5  # problems of one kind in one tar


@dataclass(frozen=True, slots=True)
class ExpectedTar:
    """What is known of a tar.

    Attributes:
        path: relative to the dataset's folder.
        keys: of its samples in order.
        places: of the samples' mp4: offset and size; None in other trees.
    """

    path: str
    tree: str
    num_bytes: int
    sha256: str
    keys: Sequence[str]
    places: Sequence[tuple[int, int]] | None


class _Counting:
    """A stream that keeps count of what is read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()
        self.num_bytes = 0

    def read(self, num_bytes: int) -> bytes:
        content = self._stream.read(num_bytes)
        self.sha256.update(content)
        self.num_bytes += len(content)
        return content


def tar_problems(stream: BinaryIO, expected: ExpectedTar) -> Iterator[str]:
    """What is wrong with a tar, a line each."""
    counting = _Counting(stream)
    keys: list[str] = []
    places: list[tuple[int, int]] = []
    wrong: list[str] = []
    try:
        with tarfile.open(fileobj=counting, mode="r|", bufsize=_BLOCK_BYTES) as tar:  # type: ignore[call-overload]
            for member in tar:
                key, problem = _member(tar, member, expected.tree)
                keys.append(key)
                places.append((member.offset_data, member.size))
                wrong += [problem] if problem else []
    except tarfile.TarError as error:
        wrong.append(f"can't be read as a tar: {error}")
    while counting.read(_BLOCK_BYTES):
        pass
    path = expected.path
    if counting.num_bytes != expected.num_bytes:
        yield f"{path}: {counting.num_bytes} bytes, its index says {expected.num_bytes}"
    if counting.sha256.hexdigest() != expected.sha256:
        yield f"{path}: sha256 {counting.sha256.hexdigest()}, its index says {expected.sha256}"
    yield from (f"{path}: {problem}" for problem in [*wrong[:_SHOWN], *_key_problems(keys, expected.keys)])
    if expected.places is not None and keys == list(expected.keys):
        yield from _place_problems(places, expected)


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo, tree: str) -> tuple[str, str | None]:
    """A member's key, and what is wrong with it."""
    key, dot, suffix = member.name.partition(".")
    if dot + suffix != _SUFFIXES[tree] or not member.isreg():
        return key, f"{member.name} is no member of the tree {tree}"
    check = _CHECKS.get(tree)
    if check is None:
        return key, None if member.size else f"{member.name} is empty"
    file = tar.extractfile(member)
    return key, check(member.name, key, file.read() if file is not None else b"")


def _meta_problem(name: str, key: str, content: bytes) -> str | None:
    try:
        meta: Any = orjson.loads(content)
    except ValueError as error:
        return f"{name} is not JSON: {error}"
    found = meta.get("key") if isinstance(meta, dict) else None
    return None if found == key else f"{name} is of the key {found!r}"


def _t5_problem(name: str, key: str, content: bytes) -> str | None:
    try:
        read_t5_member(content)
    except ValueError as error:
        return f"{name}: {error}"
    return None


_CHECKS: dict[str, Callable[[str, str, bytes], str | None]] = {METAS: _meta_problem, T5: _t5_problem}


def _key_problems(found: Sequence[str], expected: Sequence[str]) -> Iterator[str]:
    if len(found) != len(expected):
        yield f"{len(found)} samples, the catalogue has {len(expected)}"
    differs = ((a, b) for a, b in zip(found, expected, strict=False) if a != b)
    if (first := next(differs, None)) is not None:
        yield f"sample {first[0]} is where the catalogue has {first[1]}"


def _place_problems(found: Sequence[tuple[int, int]], expected: ExpectedTar) -> Iterator[str]:
    rows = zip(expected.keys, found, expected.places or (), strict=True)
    wrong = [(key, is_at, listed) for key, is_at, listed in rows if is_at != listed]
    for key, is_at, listed in wrong[:_SHOWN]:
        yield f"{expected.path}: {key}.mp4 has offset and size {is_at}, the catalogue says {listed}"
