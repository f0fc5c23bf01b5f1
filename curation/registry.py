"""Names in the YAML -> classes, imported on use: a new splitter is one file and one line here."""

import importlib
from collections.abc import Callable, Mapping

from curation.pipeline import Stage

SPLITTERS: Mapping[str, str] = {
    "fixed-stride": "curation.clipping.fixed_stride:FixedStrideExtractorStage",
    "transnetv2": "curation.clipping.transnetv2:TransNetV2ClipExtractionStage",
}

_COSMOS = "curation.embedding.cosmos_embed1:CosmosEmbed1"
_INTERNVIDEO2 = "curation.embedding.internvideo2:InternVideo2"
_EFFICIENTNET = "curation.embedding.efficientnet_lite:EfficientNetLite"
_EMBEDDERS = {
    "cosmos-embed1-224p": _COSMOS,
    "cosmos-embed1-336p": _COSMOS,
    "cosmos-embed1-448p": _COSMOS,
    "internvideo2": _INTERNVIDEO2,
    "efficientnet-lite0": _EFFICIENTNET,
}
# an embedder is two stages: one chooses frames, the other has the model
EMBEDDING_FRAMES: Mapping[str, str] = {name: f"{stage}FrameCreationStage" for name, stage in _EMBEDDERS.items()}
EMBEDDERS: Mapping[str, str] = {name: f"{stage}EmbeddingStage" for name, stage in _EMBEDDERS.items()}

TEXT_ENCODERS: Mapping[str, str] = {"google-t5/t5-11b": "curation.text.t5:T5EncodingStage"}


def load_stage(registry: Mapping[str, str], name: str) -> Callable[..., Stage]:
    """The class behind a name.

    Raises:
        ValueError: the name is not known; says which are.
    """
    if name not in registry:
        raise ValueError(f"unknown stage {name!r}; known: {', '.join(registry)}")
    module, _, attribute = registry[name].partition(":")
    stage: Callable[..., Stage] = getattr(importlib.import_module(module), attribute)
    return stage
