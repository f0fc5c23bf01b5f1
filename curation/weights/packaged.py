"""Published weights of small models that a Python package carries: one file, known by its sha256."""

import hashlib
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import nn

_Network = TypeVar("_Network", bound="nn.Module")


def find_packaged_weights(
    model_dir: str | Path | None, name: str, *, title: str, folder: str, package: str, inside: str = "", mend: str
) -> Path:
    """The file: in ``model_dir`` or its ``folder``, or without one in the ``package`` (not imported), ``inside`` it.

    Raises:
        FileNotFoundError: with ``mend``, the command that gets it.
    """
    if model_dir is not None:
        candidates = [Path(model_dir) / name, Path(model_dir) / folder / name]
    else:
        installed = importlib.util.find_spec(package)
        folders = installed.submodule_search_locations if installed is not None else None
        candidates = [Path(each) / inside / name for each in folders or ()]
    for path in candidates:
        if path.is_file():
            return path
    looked = f" (looked in {', '.join(map(str, candidates))})" if candidates else ""
    raise FileNotFoundError(f"{title}'s weights {name} are missing{looked}; get them with: {mend}")


def load_published(make: Callable[[], _Network], weights: Path, *, title: str, sha256: str, device: str) -> _Network:
    """A network with the published checkpoint, ready for inference on ``device``.

    Changes nothing outside the returned network: no seed, no backend flag, no draw from the random generator.

    Raises:
        ValueError: ``weights`` is not the published file.
    """
    import torch

    content = weights.read_bytes()
    found_sha256 = hashlib.sha256(content).hexdigest()
    if found_sha256 != sha256:
        raise ValueError(f"{weights}: not {title}'s weights: sha256 {found_sha256}, expected {sha256}")
    with torch.device("meta"):  # random initial weights would cost time and draw from the process's generator
        network = make()
    # From the bytes that were checked: the file is not opened a second time.
    state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval().requires_grad_(False)
