"""A T5 of 0.4 million random weights and the true architecture: T5 v1.0, relu, 32 buckets, vectors of 1,024 numbers."""

import importlib.util
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from curation.text.models import T5_11B

REPOSITORY = T5_11B
Format = Literal["safetensors", "zip", "legacy"]

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'-"
_WORDS = ("▁a", "▁red", "▁car", "▁the", "▁dog", "▁runs", "▁street", "▁at", "▁night", "ing", "er", "▁camera")


def require_transformers() -> None:
    """Skip where torch or transformers is not installed."""
    missing = [name for name in ("torch", "transformers", "safetensors") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)} (pip install 'clipmill[models]')")


def write_t5(folder: Path, *, kind: Format = "safetensors", d_model: int = 1024, seed: int = 0) -> Path:
    """A folder as the hub gives it, decoder among the weights.

    Args:
        kind: of the weights' file; the published checkpoint has torch's format before 1.6.
    """
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    vocab_size = _write_tokenizer(folder)
    config = transformers.T5Config(
        vocab_size=vocab_size,
        d_model=d_model,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        relative_attention_num_buckets=32,
        feed_forward_proj="relu",
        decoder_start_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.T5ForConditionalGeneration(config)
    model.save_pretrained(folder)
    if kind != "safetensors":
        (folder / "model.safetensors").unlink()
        path = folder / "pytorch_model.bin"
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    return folder


def _write_tokenizer(folder: Path) -> int:
    """A unigram model as SentencePiece trains it, of words and single letters; gives how many pieces it has."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    pieces += [(word, -3.0 - len(word) / 100) for word in _WORDS] + [(letter, -6.0) for letter in _LETTERS]
    pieces += [(f"<extra_id_{number}>", 0.0) for number in reversed(range(100))]
    T5Tokenizer(vocab=pieces).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 512}))
    return len(pieces)


class Reference:
    """What plain transformers makes of one text at a time."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoTokenizer, T5EncoderModel

        self.tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
        self._model: Any = T5EncoderModel.from_pretrained(str(folder), dtype=torch.float32).eval()

    def vectors(self, text: str, *, max_tokens: int = 512) -> NDArray[np.float32]:
        """Float32, shape (tokens, dimensions)."""
        import torch

        inputs = self.tokenizer(text, return_tensors="pt", truncation=True, max_length=max_tokens)
        with torch.inference_mode():
            found = self._model(**inputs).last_hidden_state[0]
        return np.asarray(found.numpy())
