"""Runs whose outputs are at the S3 server, and what is there afterwards."""

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

from curation.storage import S3Options, storage_for
from tests.local_runs import write_config
from tests.s3.server import BUCKET, S3Server


def new_root() -> str:
    """A prefix that nothing has."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:8]}"


def s3_config(folder: Path, raw: Path, server: S3Server, root: str, **settings: Any) -> Path:
    """A run with clips and dataset below ``root``, and its state in ``folder``."""
    outputs = {"output_clip_path": f"{root}/out", "output_dataset_path": f"{root}/dataset"}
    s3 = {"endpoint_url": server.endpoint_url, **settings.pop("s3", {})}
    return write_config(folder, raw, **{**outputs, "s3": s3, **settings})


def stored(root: str, server: S3Server) -> dict[str, str]:
    """sha256 of every object below a root, as ``tests.local_runs.digests`` has it of files."""
    storage, found = storage_for(root, S3Options(endpoint_url=server.endpoint_url)), {}
    for path, _ in storage.list():
        if ".clipmill/" in path:  # clipmill's own, no output
            continue
        content = storage.read(path)
        if path.rpartition("/")[2] == "summary.json":
            document = json.loads(content)
            assert document.pop("pipeline_run_time") >= 0  # the one measured value
            content = json.dumps(document).encode()
        found[path] = hashlib.sha256(content).hexdigest()
    return found
