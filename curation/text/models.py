"""The models that encode captions: a new one is one entry here."""

from collections.abc import Mapping
from types import MappingProxyType

from curation.weights import Checkpoint

T5_11B = "google-t5/t5-11b"

TEXT_ENCODERS: Mapping[str, Checkpoint] = MappingProxyType(
    {T5_11B: Checkpoint(T5_11B, "90f37703b3334dfe9d2b009bfcbfbf1ac9d28ea3", "t5", weights_gb=45.2)}
)
"""By the name that a config gives them."""


def text_encoder(name: str) -> Checkpoint:
    """A model that encodes captions.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in TEXT_ENCODERS:
        raise ValueError(f"unknown model that encodes captions: {name!r}; known: {', '.join(TEXT_ENCODERS)}")
    return TEXT_ENCODERS[name]
