"""Which of several texts fits a clip best."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SHARPNESS = 100.0  # of the softmax (docs/rules.md, Embeddings)


class TextMatch:
    """Compares clips with texts whose vectors are made once."""

    def __init__(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Take the texts.

        Args:
            vectors: float32, shape (num_texts, dimensions), of the model that embeds the clips; of any length but 0.

        Raises:
            ValueError: there is no text, or not one usable vector for each.
        """
        if not texts or len(texts) != len(vectors):
            raise ValueError(f"need a vector for each of at least one text, got {len(texts)} and {len(vectors)}")
        units = unit_vectors(vectors)
        useless = [text for text, unit in zip(texts, units, strict=True) if unit is None]
        if useless:
            raise ValueError(f"no usable vector for the text {useless[0]!r}")
        self._texts = list(texts)
        self._vectors = np.stack([unit for unit in units if unit is not None]).astype(np.float64)

    def best(self, vector: NDArray[np.float32]) -> tuple[str, float]:
        """The text with the highest probability, and that; of two alike the first.

        Args:
            vector: float32, shape (dimensions,), of length 1.

        Source:
            NeMo Curator's ``evaluate``: the softmax over the texts of 100 times the cosine.
        """
        logits = _SHARPNESS * (self._vectors @ vector.astype(np.float64))
        odds = np.exp(logits - logits.max())
        place = int(odds.argmax())
        return self._texts[place], float(odds[place] / odds.sum())


def unit_vectors(rows: NDArray[np.floating]) -> list[NDArray[np.float32] | None]:
    """Each row made 1 long, float32, shape (dimensions,); None for one that has no direction, or numbers that are none.

    Args:
        rows: shape (num_rows, dimensions).
    """
    wide = np.asarray(rows, dtype=np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    return [
        np.asarray(row / length, dtype=np.float32) if np.isfinite(length) and length > 0 else None
        for row, length in zip(wide, lengths, strict=True)
    ]
