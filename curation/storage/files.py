"""Files that appear whole or not at all."""

import os
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_ASIDE = re.compile(r"\.[0-9a-f]{32}\.tmp")


@contextmanager
def written_aside(target: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A file beside ``target`` to write to, and its path; it is gone at the end unless it was renamed.

    The name is its own for each writer (two may write the same target at once) and short (names have limits).
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        with aside.open("xb") as file:
            yield file, aside
    finally:
        aside.unlink(missing_ok=True)


def is_aside(name: str) -> bool:
    """Whether a file's name is one of those that ``written_aside`` gives: no object yet."""
    return _ASIDE.fullmatch(name) is not None


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of ``target`` in one step when the block ends without an exception."""
    with written_aside(target) as (file, aside):
        yield file
        settle(file)
        os.replace(aside, target)


def replace_file(target: Path, content: bytes) -> None:
    """Replace a file in one step: nobody ever reads half of it."""
    with replacing(target) as file:
        file.write(content)


def settle(file: BinaryIO) -> None:
    """Make the bytes durable before the name is: after a crash of the node there is no empty file under it."""
    file.flush()
    os.fsync(file.fileno())


def files_below(
    root: str, folder: str = "", beginning: str = "", above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[str, os.stat_result]]:
    """The files in a folder and below, relative to ``root``, in the order of their paths' bytes.

    Links are followed, but not into a folder that they stand in (``above``: device and inode). What goes away
    meanwhile is not there. The names of one folder at each depth are in memory.

    Args:
        folder: relative, and ends with a slash unless it is the root itself.
        beginning: of the names in ``folder``; others are left out.

    Raises:
        OSError: a folder can't be read.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        status = os.stat(os.path.join(root, folder))
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        with os.scandir(os.path.join(root, folder)) as entries:
            # a folder's slash takes part in the order: "a-b" comes before "a/b"
            names = sorted(
                (
                    f"{entry.name}/" if entry.is_dir() else entry.name
                    for entry in entries
                    if entry.name.startswith(beginning)
                ),
                key=os.fsencode,
            )
        for name in names:
            if name.endswith("/"):
                yield from files_below(root, folder + name, above=above | {here})
            else:
                with suppress(FileNotFoundError, NotADirectoryError):
                    found = os.stat(os.path.join(root, folder + name))
                    if stat.S_ISREG(found.st_mode):
                        yield folder + name, found
