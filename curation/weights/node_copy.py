"""A copy of the weights on a node's own disk, made once for all its tasks."""

import logging
import os
import shutil
import time
from pathlib import Path

from curation.weights.folder import weights_bytes, weights_files, weights_key
from curation.weights.locking import locked
from curation.weights.marker import MARKER_NAME, file_size

logger = logging.getLogger(__name__)


def copy_node_locally(folder: Path, copy_weights_to: str | Path) -> Path:
    """The folder's copy below ``copy_weights_to``, made now where it is missing.

    One process of a node copies while the others wait, and all get the same folder. It has its name only once it is
    whole; what a process leaves that is killed while it copies, the next one removes. Where a copy can't be had, for
    lack of room for example, a warning says so and the answer is ``folder`` itself.
    """
    root = Path(copy_weights_to)
    target = root / weights_key(folder)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / f".{target.name}.lock"):
            if not _is_copy(folder, target):
                _copy(folder, target)
    except OSError as error:
        logger.warning("weights are read from where they are folder=%s reason=%s", folder, error)
        return folder
    return target


def _is_copy(folder: Path, target: Path) -> bool:
    return target.is_dir() and all(file_size(target / name) == size for name, size in weights_files(folder).items())


def _copy(folder: Path, target: Path) -> None:
    """Copy aside, then rename; only the process that has the lock is here."""
    aside = target.with_name(f".{target.name}.partial")
    for rest in (aside, target):  # a target that is not whole lost files since it was made
        shutil.rmtree(rest, ignore_errors=True)
    wanted, free = weights_bytes(folder), shutil.disk_usage(target.parent).free
    if wanted > free:
        raise OSError(f"{target.parent} has {free / 1e9:.1f} GB free, the weights take {wanted / 1e9:.1f} GB")
    began = time.monotonic()
    names = [*weights_files(folder), *([MARKER_NAME] if (folder / MARKER_NAME).is_file() else [])]
    try:
        for name in names:
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, aside / name)
        if not _is_copy(folder, aside):
            raise OSError(f"{folder} changed while it was copied")
        os.rename(aside, target)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    logger.info("weights copied folder=%s gb=%.1f s=%.0f", target, wanted / 1e9, time.monotonic() - began)
