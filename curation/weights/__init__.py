"""A model's weights: found and checked, fetched from the model hub, copied to a node's own disk."""

from curation.weights.checkpoint import Checkpoint
from curation.weights.folder import find_weights_folder, weights_bytes, weights_revision
from curation.weights.hub import PullError, pull
from curation.weights.node_copy import copy_node_locally
from curation.weights.packaged import find_packaged_weights, load_published

__all__ = [
    "Checkpoint",
    "PullError",
    "copy_node_locally",
    "find_packaged_weights",
    "find_weights_folder",
    "load_published",
    "pull",
    "weights_bytes",
    "weights_revision",
]
