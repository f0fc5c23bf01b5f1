"""Which texts go through a model together: those of like length. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_STEP_TOKENS = 64  # on average half of it is padded; finer steps would leave more batches half empty


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Texts that a model takes at once.

    Attributes:
        places: of the texts, in the list that was cut into batches.
        num_rows: of the padded batch, at least as many as there are texts.
        num_tokens: of each padded row.
    """

    places: tuple[int, ...]
    num_rows: int
    num_tokens: int


def padded_batches(lengths: Sequence[int], *, tokens_per_batch: int) -> Iterator[TextBatch]:
    """Batches of few shapes: what a text is padded to depends on its own length alone.

    So its vectors are made by the same sums in the same order, whichever texts were there at the same time.

    Args:
        lengths: tokens of each text, at least 1.
        tokens_per_batch: of a padded batch, at most; a text that is longer alone is a batch by itself.
    """
    places_by_length: dict[int, list[int]] = {}
    for place, length in enumerate(lengths):
        places_by_length.setdefault(-(-length // _STEP_TOKENS) * _STEP_TOKENS, []).append(place)
    for padded, places in sorted(places_by_length.items()):
        num_rows = max(1, tokens_per_batch // padded)
        for start in range(0, len(places), num_rows):
            yield TextBatch(tuple(places[start : start + num_rows]), num_rows, padded)


def single_batches(lengths: Sequence[int]) -> Iterator[TextBatch]:
    """Each text by itself, without padding: on a CPU that is not slower, and the vectors depend on nothing else."""
    for place, length in enumerate(lengths):
        yield TextBatch((place,), 1, length)
