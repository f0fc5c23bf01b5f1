"""What is published of a model."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder of the model hub.

    Attributes:
        revision: a commit, so that it never changes.
        model_type: what its config.json calls itself; empty where it has none.
        weights_gb: GB of all its files together.
        file: what must be there, where the hub's usual names don't say; empty otherwise.
    """

    repository: str
    revision: str
    model_type: str
    weights_gb: float
    file: str = ""
