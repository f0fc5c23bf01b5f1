"""What ``cpu_cost`` compares: sources, cuts, how clips are made, and the goal of each; and what a process cost."""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

CAPTION_FPS: Final = 2.0
EMBEDDING_FRAMES: Final = 8
EMBEDDING_SIDE: Final = 224
_MAX_CAPTION_PIXELS: Final = 602_112  # 768 patches of 28x28 pixels: what Qwen2.5-VL is given of a frame
_PATCH: Final = 28


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table.

    Attributes:
        cuts: shots as the detector found them; forced ones every 20 s; or every 10 s without a look at the pictures.
        goal: CPU seconds, ours for each of the peers', at most; None where a row is only shown.
        snaps: whether a clip begins with its shot's IDR instead of the crop, which leaves little to encode. Goals of
            shots that are copied are for this setting; the crop is shown beside it.
    """

    name: str
    footage: str
    cuts: Literal["shots", "every-20s", "stride-10s"]
    clip_encoding: Literal["transcode", "smart-copy"]
    goal: float | None
    crop_s: float = 0.5
    min_length_s: float = 2.0
    snaps: bool = False


CASES: Final = {
    case.name: case
    for case in (
        Case("transcode-shots-720p", "720p", "shots", "transcode", 0.45),
        Case("copy-20s-720p", "720p", "every-20s", "smart-copy", 0.15, crop_s=0.0),
        Case("copy-shots-720p-snap", "720p", "shots", "smart-copy", 0.22, snaps=True),
        Case("copy-shots-720p-crop", "720p", "shots", "smart-copy", None),
        Case("copy-shots-1080p-gop30-snap", "1080p-gop30", "shots", "smart-copy", 0.24, snaps=True),
        Case("copy-shots-1080p-gop30-crop", "1080p-gop30", "shots", "smart-copy", None),
        Case("copy-shots-1080p-snap", "1080p", "shots", "smart-copy", 0.40, snaps=True),
        Case("copy-shots-1080p-crop", "1080p", "shots", "smart-copy", None),
        Case("copy-stride-720p", "720p", "stride-10s", "smart-copy", 0.10),
    )
}
TINY: Final = Case("tiny", "tiny", "shots", "smart-copy", 1.0, crop_s=0.1, min_length_s=0.5)


def caption_size(width: int, height: int) -> tuple[int, int]:
    """Width and height that the captioning model is given of a frame."""
    shrink = max(1.0, (width * height / _MAX_CAPTION_PIXELS) ** 0.5)
    return int(width / shrink) // _PATCH * _PATCH, int(height / shrink) // _PATCH * _PATCH


@dataclass(frozen=True, slots=True)
class Paid:
    """What a process cost, its own ended processes included, and what it told."""

    cpu_s: float
    report: dict[str, Any]


def paid(command: Sequence[str], *, given: object = None) -> Paid:
    """Run a command that reads JSON and prints JSON.

    Raises:
        RuntimeError: it failed; what it said stands in the standard error already.
    """
    with tempfile.TemporaryFile() as told:
        told.write(json.dumps(given).encode())
        told.seek(0)
        process = subprocess.Popen(command, stdin=told, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode} of {' '.join(command)}")
    return Paid(usage.ru_utime + usage.ru_stime, json.loads(said) if given is not None else {})
