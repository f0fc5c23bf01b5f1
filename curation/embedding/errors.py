"""Why a model can't be used at all."""

from curation.errors import StopRunError


class EmbeddingStartError(StopRunError):
    """No model can be loaded, or it does not fit the GPU, for which no video is to blame."""
