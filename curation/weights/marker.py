"""The file that says that a folder of weights is whole."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

MARKER_NAME = ".clipmill-weights.json"


@dataclass(frozen=True, slots=True)
class FileMark:
    """What a file must be."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Marker:
    """Written last, once each file was checked.

    Attributes:
        revision: the commit.
        files: by their path in the folder.
    """

    repository: str
    revision: str
    files: Mapping[str, FileMark]

    def is_of(self, repository: str, revision: str | None) -> bool:
        """Whether this is what is wanted; a commit may be shortened, and None takes any."""
        return self.repository == repository and (revision is None or self.revision.startswith(revision))

    def missing(self, folder: Path) -> list[str]:
        """Files that are not there in their size."""
        return [name for name, mark in self.files.items() if file_size(folder / name) != mark.size]

    def damaged(self, folder: Path) -> list[str]:
        """Files whose bytes are not what they were; reads all of them."""
        return [
            name
            for name, mark in self.files.items()
            if file_size(folder / name) != mark.size or sha256_of(folder / name) != mark.sha256
        ]


def read_marker(folder: Path) -> Marker | None:
    """A folder's marker; None where there is none.

    Raises:
        FileNotFoundError: it can't be read as one.
    """
    path = folder / MARKER_NAME
    try:
        document = json.loads(path.read_bytes())
        files = {name: FileMark(**mark) for name, mark in document["files"].items()}
        return Marker(document["repository"], document["revision"], files)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileNotFoundError(f"{path} is damaged: remove it and pull the weights again") from error


def write_marker(folder: Path, marker: Marker) -> None:
    """Put the marker there at once, after everything else."""
    text = json.dumps(asdict(marker), indent=1, sort_keys=True) + "\n"
    number, name = tempfile.mkstemp(prefix=f"{MARKER_NAME}.", dir=folder)
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            os.fchmod(number, 0o644)  # mkstemp's own mode would keep it from colleagues who share the weights
            file.write(text)
            file.flush()
            os.fsync(number)
        os.replace(name, folder / MARKER_NAME)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def file_size(path: Path) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
