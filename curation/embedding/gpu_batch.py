"""How many clips a model takes at once: as many as the memory that it was given holds."""

from collections.abc import Callable

from curation.embedding.errors import EmbeddingStartError
from curation.gpu import GB, rounded_up_gb

CPU_CLIPS = 8
"""At once on a CPU, where more of them are not faster."""

MOST_CLIPS = 128
"""At once on a GPU: it is busy with fewer."""


def clips_that_fit(
    gpu_memory_gb: float, peak_bytes: Callable[[int], int | None], *, name: str, most: int = MOST_CLIPS
) -> int:
    """The largest number of clips whose peak stays within the bound, found with a few dry runs.

    Memory grows by the same amount with each clip, but for what the allocator rounds: so what a straight line through
    one and two clips says is tried, and made smaller while it takes too much.

    Args:
        peak_bytes: what the model takes at most while it works on so many clips, its weights included; None where the
            GPU has less than that to give.
        name: of the model.

    Raises:
        EmbeddingStartError: one clip does not fit; the message says what would.
    """
    bound = int(gpu_memory_gb * GB)
    one = peak_bytes(1)
    if one is None:
        raise EmbeddingStartError(f"{name}: the GPU has too little free memory for one clip; gpu_memory_gb is no help")
    if one > bound:
        raise EmbeddingStartError(
            f"{name}: its weights and one clip take {one / GB:.2f} GB of the GPU, gpu_memory_gb is {gpu_memory_gb:g}; "
            f"{rounded_up_gb(one):g} would do"
        )
    two = peak_bytes(2) if most > 1 else None
    if two is None or two > bound:
        return 1
    number = clips_on_the_line(bound, one, two, most=most)
    while number > 2 and not _fits(peak_bytes(number), bound):
        number = max(2, number * 3 // 4)
    return number


def clips_on_the_line(bound: int, one: int, two: int, *, most: int) -> int:
    """The largest number within a bound where one clip takes ``one``, two take ``two``, and each more as much again."""
    step = two - one
    return most if step <= 0 else min(most, 1 + (bound - one) // step)


def _fits(peak: int | None, bound: int) -> bool:
    return peak is not None and peak <= bound
