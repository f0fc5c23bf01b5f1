"""Where a model's weights lie, and whether they are whole."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from curation.weights.marker import file_size, read_marker

_END_BYTES = 65_536


def find_weights_folder(
    model_dir: str | Path,
    repository: str,
    *,
    revision: str | None = None,
    model_type: str | None = None,
    file: str = "",
) -> Path:
    """The folder of a model's weights.

    It is ``{model_dir}/{organisation}/{name}``, or ``{model_dir}/{name}``, or ``model_dir`` itself. One that ``pull``
    filled must have all its files in their sizes. One that was filled by hand must have config.json and every file
    that an index names, and no safetensors file may be shorter or longer than it says itself.

    Args:
        repository: ``organisation/name`` on the hub.
        revision: the commit that a pulled folder must be of.
        model_type: what config.json must say, for ``model_dir`` itself to be taken: its name says nothing.
        file: that a folder must have instead of the hub's usual ones.

    Raises:
        FileNotFoundError: what was looked for and what it lacks, with the command that mends it.
    """
    model_dir = Path(model_dir)
    shortcomings = []
    for folder in (model_dir / repository, model_dir / repository.rpartition("/")[2], model_dir):
        if not (folder / (file or "config.json")).is_file() and read_marker(folder) is None:
            shortcomings.append(f"no {file or 'config.json'} in {folder}")
        elif file and read_marker(folder) is None:
            return folder
        elif lack := _shortcoming(folder, repository, revision, model_type if folder == model_dir else None):
            shortcomings.append(lack)
        else:
            return folder
    raise FileNotFoundError(
        f"the weights of {repository} are missing ({'; '.join(shortcomings)}); get them with: "
        f"clipmill models pull --model {repository} --model-dir {model_dir}"
    )


def _shortcoming(folder: Path, repository: str, revision: str | None, model_type: str | None) -> str:
    """Why a folder is not taken; empty where it is."""
    marker = read_marker(folder)
    if marker is None:
        found_type = _read_json(folder / "config.json").get("model_type")
        if model_type is not None and found_type != model_type:
            return f"{folder} holds a model of the type {found_type}, not {model_type}"
        return _unmarked_shortcoming(folder)
    if not marker.is_of(repository, revision):
        return f"{folder} holds {marker.repository} at revision {marker.revision}, not {repository} at {revision}"
    if missing := marker.missing(folder):
        return f"{folder} lacks {_few(missing)}, or not in its full size"
    return ""


def _unmarked_shortcoming(folder: Path) -> str:
    """What a folder that was filled by hand lacks; empty where it is whole, as far as that can be seen."""
    indexes = [*folder.glob("*.safetensors.index.json"), *folder.glob("*.bin.index.json")]
    named = {str(name) for index in indexes for name in _read_json(index).get("weight_map", {}).values()}
    if missing := sorted(name for name in named if not (folder / name).is_file()):
        return f"{folder} lacks {_few(missing)}"
    if not named and not any(file for kind in ("*.safetensors", "*.bin") for file in folder.glob(kind)):
        return f"{folder} has neither *.safetensors nor *.bin"
    for file in sorted(folder.glob("*.safetensors")):
        expected, found = _safetensors_bytes(file), file_size(file)
        if expected != found:
            return f"{file} has {found} bytes instead of {expected}"
    return ""


def weights_revision(folder: Path) -> str:
    """What provenance says of a folder: the commit, or ``local:`` and a hash of what it holds.

    Of a folder that was filled by hand the hash is over the names and sizes of all files and over both ends of each,
    which takes no time, and tells a model that was trained further from the one that it was.
    """
    marker = read_marker(folder)
    return marker.revision if marker else f"local:{_content_hash(folder)}"


def weights_key(folder: Path) -> str:
    """A name for a copy: two folders have the same one if they hold the same."""
    marker = read_marker(folder)
    content = f"{marker.repository}@{marker.revision}" if marker else _content_hash(folder)
    return f"{folder.resolve().name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def weights_files(folder: Path) -> dict[str, int]:
    """Bytes of each file that belongs to the weights, by its path in the folder; without what tools hide there."""
    marker = read_marker(folder)
    if marker is not None:
        return {name: mark.size for name, mark in marker.files.items()}
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {
        path.as_posix(): (folder / path).stat().st_size
        for path in paths
        if not any(part.startswith(".") for part in path.parts)
    }


def weights_bytes(folder: Path) -> int:
    """Bytes of all files together."""
    return sum(weights_files(folder).values())


def _content_hash(folder: Path) -> str:
    files = weights_files(folder)
    digest = hashlib.sha256(json.dumps(files).encode())
    for name, size in files.items():
        with (folder / name).open("rb") as file:
            digest.update(file.read(_END_BYTES))
            file.seek(max(0, size - _END_BYTES))
            digest.update(file.read(_END_BYTES))
    return digest.hexdigest()


def _safetensors_bytes(path: Path) -> int | None:
    """The size that a file must have by its own header; None where that can't be read.

    Source:
        The safetensors format: 8 bytes with the header's length, a JSON header, then the tensors without gaps.
    """
    with path.open("rb") as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > 100_000_000:  # the format's own limit
                return None
            header = json.loads(file.read(length))
            ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        except (struct.error, ValueError, KeyError, TypeError, AttributeError):
            return None
    return 8 + int(length) + max(ends, default=0)


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where it can't be read as one."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
