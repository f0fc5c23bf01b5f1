"""Output files of a run's earlier settings: listed before they are made anew, and named when they no longer belong."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from curation import layout
from curation.storage import Storage
from curation.storage.files import replacing
from jobs.annotation import clips_storage, made_version
from jobs.config import RunConfig
from jobs.rundir import RunDir

_READERS = 32  # records are small: reading them is waiting, mostly
_AT_ONCE = 32 * _READERS


def list_files(run: RunDir, config: RunConfig, attempt: int) -> None:
    """Keep in the attempt's folder which files each video has now, before its record is taken away."""
    path = _list_path(run, attempt)
    if path.exists():
        return
    storage, version = clips_storage(config), made_version(config)
    ids = (entry.id for _, entry in run.manifest_entries())
    with replacing(path) as file, ThreadPoolExecutor(_READERS) as pool:
        while batch := list(islice(ids, _AT_ONCE)):
            found = pool.map(lambda each: _files_of(storage, each, version), batch)
            for video, files in zip(batch, found, strict=True):
                if files:
                    file.write(f"{json.dumps({'video': video, 'files': sorted(files)})}\n".encode())


def leftovers(run: RunDir) -> Iterator[str]:
    """Paths below ``output_clip_path`` of files that only earlier settings made, of the videos that are done since."""
    config = run.load_config()
    storage, version = clips_storage(config), made_version(config)

    def no_longer(old: Mapping[str, Any]) -> list[str]:
        now = _files_of(storage, old["video"], version)
        gone = () if now is None else (file for file in old["files"] if file not in now)
        return [file for file in gone if storage.exists(file)]

    for path in (_list_path(run, attempt) for attempt in run.attempts()):
        if not path.is_file():
            continue
        with path.open(encoding="utf-8") as lines, ThreadPoolExecutor(_READERS) as pool:
            while batch := [json.loads(line) for line in islice(lines, _AT_ONCE)]:
                for files in pool.map(no_longer, batch):
                    yield from files


def _files_of(storage: Storage, video: str, version: str) -> set[str] | None:
    """All files of an annotation version of a video by its record and its lists; None while it has no record."""
    try:
        record = json.loads(storage.read(layout.versioned(layout.record(video), version)))
    except FileNotFoundError:
        return None
    found: set[str] = set()
    for index in range(record["num_clip_chunks"]):
        path = layout.versioned(layout.clip_chunk(video, index), version)
        found.add(path)
        chunk = json.loads(storage.read(path))
        for entry in chunk["clips"]:
            found |= _files_of_clip(entry, version, is_filtered=False)
        for entry in chunk["filtered_clips"]:
            found |= _files_of_clip(entry, version, is_filtered=True)
    return found


def _files_of_clip(entry: Mapping[str, Any], version: str, *, is_filtered: bool) -> set[str]:
    uuid = UUID(entry["uuid"])
    previews = [layout.preview(uuid, start, end) for start, end in entry["windows"]]
    pickles = [layout.embedding_pickle(name, uuid) for name in entry.get("embeddings", ())]
    vectors = {place["path"] for place in entry.get("t5", {}).values()}
    of_first = {layout.clip(uuid, filtered=is_filtered)} if version == layout.FIRST_VERSION else set()
    own = {layout.versioned(path, version) for path in (*previews, *pickles)}
    return of_first | own | {layout.meta(uuid, version)} | {path for path in vectors if f"/{version}/" in f"/{path}"}


def _list_path(run: RunDir, attempt: int) -> Path:
    return run.attempt_path(attempt) / "old_files.jsonl"
