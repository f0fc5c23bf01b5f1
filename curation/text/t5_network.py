"""The encoder of a T5 checkpoint on its device. It imports torch: only the ``setup`` of a stage imports it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from curation.gpu import is_on_gpu
from curation.text.legacy_checkpoint import is_legacy, read_tensors


class _EncoderAlone(T5EncoderModel):  # type: ignore[misc]  # transformers has no types
    _keys_to_ignore_on_load_unexpected = (r"^decoder\.", r"^lm_head\.")


class T5Network:
    """Encoder and tokenizer; the decoder of the checkpoint is not loaded.

    Attributes:
        dimensions: of the vector of a token.
        takes_batches: whether several texts at once are faster.
    """

    def __init__(self, folder: Path) -> None:
        """Load it: on a GPU in bfloat16, without one in float32.

        Raises:
            OSError, RuntimeError, ValueError: it is no whole checkpoint of a T5.
        """
        self.takes_batches = is_on_gpu()
        self._device = "cuda" if is_on_gpu() else "cpu"
        dtype = torch.bfloat16 if is_on_gpu() else torch.float32
        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self._model = _encoder(folder, dtype).to(self._device).eval().requires_grad_(False)
        self.dimensions = int(self._model.config.d_model)

    def token_ids(self, texts: Sequence[str], *, max_tokens: int) -> list[tuple[list[int], bool]]:
        """The tokens of each text, with the one that ends it, and whether it had more than ``max_tokens``."""
        rows: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=True, verbose=False)["input_ids"]
        return [(self._cut(row, max_tokens), len(row) > max_tokens) for row in rows]

    def _cut(self, row: list[int], max_tokens: int) -> list[int]:
        return row if len(row) <= max_tokens else [*row[: max_tokens - 1], row[-1]]

    def vectors(self, rows: Sequence[Sequence[int]], *, num_rows: int, num_tokens: int) -> list[NDArray[np.float16]]:
        """The vectors of each text's tokens, float16, shape (tokens of the text, dimensions).

        Args:
            rows: token ids.
            num_rows: of the batch that the model gets; rows that no text needs hold one token of padding.
            num_tokens: of each of its rows; what is padded, no text sees.
        """
        ids = torch.full((num_rows, num_tokens), int(self._tokenizer.pad_token_id), dtype=torch.long)
        mask = torch.zeros((num_rows, num_tokens), dtype=torch.long)
        mask[:, 0] = 1  # a row that sees nothing at all would be no number
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        with torch.inference_mode():
            output = self._model(input_ids=ids.to(self._device), attention_mask=mask.to(self._device))
            found = output.last_hidden_state[: len(rows)].to(torch.float16).cpu().numpy()
        return [np.array(found[place, : len(row)]) for place, row in enumerate(rows)]


def _encoder(folder: Path, dtype: torch.dtype) -> Any:
    """The encoder alone, from one file of an old format or from whatever else transformers reads.

    Raises:
        ValueError: the checkpoint lacks some of it.
    """
    place: dict[str, Any] = {"pretrained_model_name_or_path": str(folder), "local_files_only": True}
    single = folder / "pytorch_model.bin"
    if not any(folder.glob("*.safetensors")) and is_legacy(single):
        place = {
            "pretrained_model_name_or_path": None,
            "config": T5Config.from_pretrained(str(folder), local_files_only=True),
            "state_dict": {name: tensor.to(dtype) for name, tensor in read_tensors(single, wanted=_is_of_encoder)},
        }
    model, said = _EncoderAlone.from_pretrained(**place, dtype=dtype, output_loading_info=True)
    if said["missing_keys"]:
        raise ValueError(f"it lacks {', '.join(sorted(said['missing_keys'])[:3])}")
    return model


def _is_of_encoder(name: str) -> bool:
    return name == "shared.weight" or name.startswith("encoder.")
