"""How a document becomes bytes. Pure."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def to_json(document: Mapping[str, Any]) -> bytes:
    """The one way a document becomes bytes: the same document, the same bytes."""
    return (json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()


def content_of(written: bytes) -> str:
    """Names what a document says: 16 hexadecimal digits of the SHA-256 of its bytes."""
    return hashlib.sha256(written).hexdigest()[:16]
