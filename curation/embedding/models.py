"""The models that embed clips: a new one is one entry here."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from curation.weights import Checkpoint


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """A published model and what it takes and gives.

    Attributes:
        checkpoint: with the weights.
        folder_name: of its vectors in an output, before ``_parquet``.
        num_frames: of a clip.
        height, width: pixels of a frame, where the checkpoint does not say otherwise.
        dimensions: of a vector.
        text_checkpoint: what its text side needs besides; None where it needs nothing.
    """

    checkpoint: Checkpoint
    folder_name: str
    num_frames: int
    height: int
    width: int
    dimensions: int
    text_checkpoint: Checkpoint | None = None


def _cosmos_embed1(side: int, *, dimensions: int, revision: str) -> EmbeddingModel:
    return EmbeddingModel(
        checkpoint=Checkpoint(f"nvidia/Cosmos-Embed1-{side}p", revision, "cosmos-embed1", weights_gb=4.7),
        folder_name=f"ce1_embd_{side}p",
        num_frames=8,
        height=side,
        width=side,
        dimensions=dimensions,
    )


EMBEDDING_MODELS: Mapping[str, EmbeddingModel] = MappingProxyType(
    {
        "cosmos-embed1-224p": _cosmos_embed1(224, dimensions=256, revision="787e0b996f5260a71ad474a283c90539a2e12986"),
        "cosmos-embed1-336p": _cosmos_embed1(336, dimensions=768, revision="0e8a28f7bf370f2dcb3b9b61d23e167d0d6b0e6f"),
        "cosmos-embed1-448p": _cosmos_embed1(448, dimensions=768, revision="f60ec73636eb7c9cc25267367713b7b1b0cffaf3"),
        "internvideo2": EmbeddingModel(
            checkpoint=Checkpoint(
                "OpenGVLab/InternVideo2-Stage2_1B-224p-f4",
                "4362e1f88a992e7edbfd7696f7f78b7f79426dfd",
                "",
                weights_gb=2.8,
                file="InternVideo2-stage2_1b-224p-f4.pt",
            ),
            folder_name="iv2_embd",
            num_frames=4,
            height=224,
            width=224,
            dimensions=512,
            text_checkpoint=Checkpoint(
                "google-bert/bert-large-uncased", "6da4b6a26a1877e173fca3225479512db81a5e5b", "bert", 1.3, "vocab.txt"
            ),
        ),
    }
)
"""By the name that a config gives them."""


def embedding_model(name: str) -> EmbeddingModel:
    """A model that embeds clips.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in EMBEDDING_MODELS:
        raise ValueError(f"unknown model that embeds: {name!r}; known: {', '.join(EMBEDDING_MODELS)}")
    return EMBEDDING_MODELS[name]
