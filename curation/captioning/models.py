"""The models that caption: a new one is one entry here."""

from collections.abc import Mapping
from dataclasses import dataclass

from curation.captioning.frames import FrameSizes
from curation.captioning.requests import SamplingRules


@dataclass(frozen=True, slots=True)
class CaptionModel:
    """A published checkpoint and how it is used.

    Attributes:
        caption_key: under which its captions stand on a window; variants of one model share it.
        repository, revision: on the model hub; the revision is a commit, so that it never changes.
        family: how frames become model inputs.
        sizes: the picture sizes that it takes; None for a text model.
        sampling: how tokens are drawn.
        system_text: a system message; empty for the chat template's own default.
        weights_gb: GB of its weights, all files together.
        trust_remote_code: whether the checkpoint brings code of its own.
    """

    caption_key: str
    repository: str
    revision: str
    family: str
    sizes: FrameSizes | None
    sampling: SamplingRules
    weights_gb: float
    system_text: str = ""
    trust_remote_code: bool = False
