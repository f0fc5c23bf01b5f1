"""What is known of files that are no longer in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class WrittenFiles:
    """A clip's mp4 and previews, which are in the output.

    Attributes:
        metadata: of the mp4, as ``Clip.extract_metadata`` gives it, its size among them.
        sha256: of the mp4.
        paths: of all the files, relative to the output's root.
        num_previews: how many of the clip's windows have one.
    """

    metadata: Mapping[str, Any]
    sha256: str
    paths: tuple[str, ...]
    num_previews: int
