"""Output files of a run's earlier settings: listed before they are made anew, and named when they no longer belong."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from curation import layout
from curation.storage import Storage, storage_for
from curation.storage.files import replacing
from jobs.config import RunConfig
from jobs.rundir import RunDir

_READERS = 32  # records are small: reading them is waiting, mostly
_AT_ONCE = 32 * _READERS


def list_files(run: RunDir, config: RunConfig, attempt: int) -> None:
    """Keep in the attempt's folder which files each video has now, before its record is taken away."""
    path = _list_path(run, attempt)
    if path.exists():
        return
    storage = storage_for(config.output_clip_path, config.output_s3)
    ids = (entry.id for _, entry in run.manifest_entries())
    with replacing(path) as file, ThreadPoolExecutor(_READERS) as pool:
        while batch := list(islice(ids, _AT_ONCE)):
            for video, files in zip(batch, pool.map(lambda each: _files_of(storage, each), batch), strict=True):
                if files:
                    file.write(f"{json.dumps({'video': video, 'files': sorted(files)})}\n".encode())


def leftovers(run: RunDir) -> Iterator[str]:
    """Paths below ``output_clip_path`` of files that only earlier settings made, of the videos that are done since."""
    config = run.load_config()
    storage = storage_for(config.output_clip_path, config.output_s3)

    def no_longer(old: Mapping[str, Any]) -> list[str]:
        now = _files_of(storage, old["video"])
        gone = () if now is None else (file for file in old["files"] if file not in now)
        return [file for file in gone if storage.exists(file)]

    for path in (_list_path(run, attempt) for attempt in run.attempts()):
        if not path.is_file():
            continue
        with path.open(encoding="utf-8") as lines, ThreadPoolExecutor(_READERS) as pool:
            while batch := [json.loads(line) for line in islice(lines, _AT_ONCE)]:
                for files in pool.map(no_longer, batch):
                    yield from files


def _files_of(storage: Storage, video: str) -> set[str] | None:
    """All files of a video by its record and its lists of clips; None while it has no record."""
    try:
        record = json.loads(storage.read(layout.record(video)))
    except FileNotFoundError:
        return None
    found: set[str] = set()
    for index in range(record["num_clip_chunks"]):
        path = layout.clip_chunk(video, index)
        found.add(path)
        chunk = json.loads(storage.read(path))
        for entry in chunk["clips"]:
            found |= _files_of_clip(entry, is_filtered=False)
        for entry in chunk["filtered_clips"]:
            found |= _files_of_clip(entry, is_filtered=True)
    return found


def _files_of_clip(entry: Mapping[str, Any], *, is_filtered: bool) -> set[str]:
    uuid = UUID(entry["uuid"])
    previews = {layout.preview(uuid, start, end) for start, end in entry["windows"]}
    pickles = {layout.embedding_pickle(name, uuid) for name in entry.get("embeddings", ())}
    return {layout.clip(uuid, filtered=is_filtered), layout.meta(uuid, "v0"), *previews, *pickles}


def _list_path(run: RunDir, attempt: int) -> Path:
    return run.attempt_path(attempt) / "old_files.jsonl"
