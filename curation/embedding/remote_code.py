"""Checkpoints that bring their own code, loaded from their folder and from nowhere else.

Such code is often written for transformers 4. Under transformers 5 it finds names gone, is built without memory for its
weights, and its own ways of loading them are passed by. So the model is built in the plain way here, and gets back what
it expects of transformers.
"""

import hashlib
import importlib.machinery
import importlib.util
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from curation.embedding.errors import EmbeddingStartError
from curation.loading import loading_alone

logger = logging.getLogger(__name__)

_AUTO_MAPS = {
    "AutoConfig": ("config.json",),
    "AutoModel": ("config.json",),
    "AutoProcessor": ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json", "config.json"),
}
_OTHER_PEOPLES_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    AssertionError,
    ImportError,
    RuntimeError,
    SyntaxError,
)


def load_remote_model(folder: Path, *, device: str, dtype: str) -> Any:
    """The model of a folder, on its device, ready to answer.

    Weights that the folder lacks are NaN: what depends on one is no number, and can't be mistaken for an answer.

    Args:
        dtype: torch's name of the type of its weights.

    Raises:
        EmbeddingStartError: it can't be loaded.
    """
    try:
        with loading_alone():
            import torch
            from transformers.initialization import no_init_weights
    except ImportError as error:
        raise EmbeddingStartError(f"torch and transformers 5 are needed for {folder}: {error}") from error
    try:
        with loading_alone(), _as_transformers_4():
            config = _remote_class(folder, "AutoConfig").from_pretrained(folder, local_files_only=True)
            with no_init_weights():
                model = _remote_class(folder, "AutoModel")(config)
        _load_weights(model, folder)
        _give_methods_back(model)
        return model.to(device=device, dtype=getattr(torch, dtype)).eval().requires_grad_(False)
    except _OTHER_PEOPLES_ERRORS as error:
        raise EmbeddingStartError(f"{folder}: the model can't be loaded: {type(error).__name__}: {error}") from error


def load_remote_processor(folder: Path) -> Any:
    """What makes a model's inputs of frames and texts.

    Raises:
        EmbeddingStartError: it can't be loaded.
    """
    try:
        with loading_alone(), _as_transformers_4():
            kind = _remote_class(folder, "AutoProcessor")
            return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=True)
    except _OTHER_PEOPLES_ERRORS as error:
        raise EmbeddingStartError(
            f"{folder}: the processor can't be loaded: {type(error).__name__}: {error}"
        ) from error


def _remote_class(folder: Path, name: str) -> Any:
    """A class out of the folder's code, even where its name says that it is to come from the hub."""
    for file in _AUTO_MAPS[name]:
        path = folder / file
        reference = json.loads(path.read_text()).get("auto_map", {}).get(name) if path.is_file() else None
        if reference:
            module, _, kind = reference.rpartition("--")[2].rpartition(".")
            return getattr(_imported(folder, module), kind)
    raise EmbeddingStartError(f"{folder}: no code is named for {name} in {', '.join(_AUTO_MAPS[name])}")


def _imported(folder: Path, name: str) -> Any:
    """A module of the folder, which is made a package for it.

    Transformers would copy the code to the user's home first, where the tasks of a cluster meet, and so half a file.
    """
    package = f"checkpoint_{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]}"
    if package not in sys.modules:
        parent = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(package, None, is_package=True))
        parent.__path__ = [str(folder.resolve())]
        sys.modules[package] = parent
    writes_nothing, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the folder may be hashed
    try:
        return importlib.import_module(f"{package}.{name}")
    finally:
        sys.dont_write_bytecode = writes_nothing


def _load_weights(model: Any, folder: Path) -> None:
    """Fill the model with the folder's safetensors, all at once: the code's own hooks see each name."""
    import torch
    from safetensors.torch import load_file

    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    weights = {name: tensor for file in names for name, tensor in load_file(folder / file).items()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name not in weights and parameter.is_floating_point():
                parameter.fill_(torch.nan)
        found = model.load_state_dict(weights, strict=False)
    for kind, keys in (("missing", found.missing_keys), ("unexpected", found.unexpected_keys)):
        if keys:
            logger.warning("event=weights_%s folder=%s names=%s", kind, folder, ",".join(sorted(keys)[:8]))


@contextmanager
def _as_transformers_4() -> Iterator[None]:
    """Names where transformers 4 had them, and the configuration of a plain BERT without asking the hub for it."""
    from transformers import BertConfig, modeling_utils, pytorch_utils

    with ExitStack() as undo:
        for name in ("apply_chunking_to_forward", "prune_linear_layer", "find_pruneable_heads_and_indices"):
            if not hasattr(modeling_utils, name):
                setattr(modeling_utils, name, getattr(pytorch_utils, name, _never_pruned))
                undo.callback(delattr, modeling_utils, name)
        original = BertConfig.from_pretrained

        def from_pretrained(cls: Any, name: str, *args: Any, **options: Any) -> Any:
            """Its defaults are those of bert-base-uncased."""
            if str(name) in ("bert-base-uncased", "google-bert/bert-base-uncased"):
                return cls(**{key: value for key, value in options.items() if key != "local_files_only"})
            return original.__func__(cls, name, *args, **options)

        BertConfig.from_pretrained = classmethod(from_pretrained)
        undo.callback(delattr, BertConfig, "from_pretrained")
        yield


def _never_pruned(*_: Any) -> None:
    raise NotImplementedError("heads are not pruned")


def _give_methods_back(model: Any) -> None:
    """Those that transformers 5 took from every model."""
    from transformers import PreTrainedModel

    methods = {
        "get_head_mask": _head_mask,
        "get_extended_attention_mask": _extended_mask,
        "invert_attention_mask": _inverted_mask,
    }
    for kind in {type(module) for module in model.modules() if isinstance(module, PreTrainedModel)}:
        for name, method in methods.items():
            if not hasattr(kind, name):
                setattr(kind, name, method)


def _head_mask(self: Any, head_mask: Any, num_hidden_layers: int, is_attention_chunked: bool = False) -> list[None]:
    """No head of any layer is left out."""
    del self, is_attention_chunked
    if head_mask is not None:
        raise NotImplementedError("no head is left out of an embedding")
    return [None] * num_hidden_layers


def _extended_mask(self: Any, attention_mask: Any, *_: Any, **__: Any) -> Any:
    return _inverted_mask(self, attention_mask)


def _inverted_mask(self: Any, attention_mask: Any) -> Any:
    """What is added to attention scores: 0 where the mask is 1, the smallest number where it is 0.

    Args:
        attention_mask: shape (batch, to) or (batch, from, to).
    """
    import torch

    mask = attention_mask[:, None, :, :] if attention_mask.dim() == 3 else attention_mask[:, None, None, :]
    return (1.0 - mask.to(self.dtype)) * torch.finfo(self.dtype).min
