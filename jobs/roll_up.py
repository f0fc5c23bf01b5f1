"""The ends of all videos, from the logs of all shards: kept in one table, and only what is new is read."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from curation.storage.files import replacing
from jobs.captions import EngineWork, add_engine_work
from jobs.ledger import events_of
from jobs.rundir import RunDir

_FORMAT = "2"  # of the kept table; another one is not read
_LOOKERS = 16  # looking at a file on a network file system is waiting, mostly
_BYTES_AT_ONCE = 64 * 2**20
_LAST_BYTES = 2**16  # at the end of a log, in which to look for its last event
_MARK_BYTES = 64
_WORTH_KEEPING = 256 * 2**10  # bytes of new events: reading fewer again is cheaper than writing the table again
_OF_VIDEO = re.compile(
    rb'\{"event": "(begin|done|failed|released)", "time": [0-9.]+, (?:.*?, )??"video": ("(?:[^"\\]|\\.)*")'
)
_BEGIN_LINE = re.compile(rb'\{"event": "begin"[^\n]*\n')
_END_LINE = re.compile(rb'\{"event": "end"[^\n]*')  # in a text of an event the quotes are escaped
_START = re.compile(rb'^\{"event": "start"', re.MULTILINE)
_TIME = re.compile(rb'^\{"event": "[^"]*", "time": ([0-9.]+)', re.MULTILINE)
_IS_END = (b'{"event": "done"', b'{"event": "failed"')
COLUMNS = pa.schema(
    {
        "shard": pa.int32(),
        "time": pa.float64(),
        "event": pa.string(),
        "video": pa.string(),
        "reason": pa.string(),
        "message": pa.string(),
        "clips": pa.int32(),
        "clip_s": pa.float64(),
    }
)


@dataclass
class LogState:
    """What one shard's log told, up to a byte of it.

    Attributes:
        inode: of the file: whether it is still the same one.
        num_bytes: up to the end of the last whole line; a log only grows.
        mark: the last of these bytes, a character each.
        last: the last event; empty before the first.
        begun: videos begun in the present life of the worker, and neither ended nor released; none after its end.
        engines: what the engines did, by key of captions.
        num_windows: whose captions were written by workers that came to their end.
        lives: times of the first and the last event of each worker that was at this shard.
    """

    inode: int = 0
    num_bytes: int = 0
    mark: str = ""
    last: str = ""
    begun: set[str] = field(default_factory=set)
    engines: dict[str, EngineWork] = field(default_factory=dict)
    num_windows: int = 0
    lives: list[list[float]] = field(default_factory=list)


@dataclass
class RollUp:
    """All logs of a run by file name, and a row for each end of a video: one that ended twice has two."""

    logs: dict[str, LogState]
    ends: pa.Table


def roll_up(run: RunDir) -> RollUp:
    """Read what the logs of all shards hold beyond the kept table; keep the table anew if that was much.

    Where the run folder may not be written to, everything is read each time.
    """
    kept = _kept(run)
    found = _log_files(run)
    logs, changed = {}, []
    for name, (inode, size) in found.items():
        known = kept.logs.get(name)
        if known is not None and known.inode == inode and _goes_on(run.state_path / name, known, size):
            logs[name] = known
        else:
            logs[name] = LogState(inode)
            changed += [name] if known is not None else []
    gone = [*changed, *(kept.logs.keys() - found.keys())]
    new = {name: size - logs[name].num_bytes for name, (_, size) in found.items() if size > logs[name].num_bytes}
    rolled = RollUp(logs, pa.concat_tables([_without(kept.ends, gone), *_read_tails(run, logs, new)]))
    if gone or sum(new.values()) >= max(_WORTH_KEEPING, kept.ends.nbytes // 10):
        with suppress(OSError):
            _keep(run, rolled)
    return rolled


def shard_of_log(name: str) -> int:
    """Which shard's log a file is."""
    return int(name.removesuffix(".jsonl").removeprefix("shard-"))


def _log_files(run: RunDir) -> dict[str, tuple[int, int]]:
    """Inode and size of each log, by name."""
    try:
        names = sorted(name for name in os.listdir(run.state_path) if name.startswith("shard-"))
    except FileNotFoundError:
        return {}
    with ThreadPoolExecutor(_LOOKERS) as pool:
        looks = list(pool.map(lambda name: os.stat(run.state_path / name), names))
    return {name: (look.st_ino, look.st_size) for name, look in zip(names, looks, strict=True)}


def _goes_on(path: Path, known: LogState, size: int) -> bool:
    """Whether a log still begins with what is known of it; numbers of inodes are given again."""
    if known.num_bytes >= size:
        return known.num_bytes == size
    with path.open("rb") as file:
        file.seek(known.num_bytes - len(known.mark))
        return file.read(len(known.mark)) == known.mark.encode("latin-1")


def _without(ends: pa.Table, names: Iterable[str]) -> pa.Table:
    """The rows of other logs than these, which are read anew."""
    shards = [shard_of_log(name) for name in names]
    return ends.filter(pc.invert(pc.is_in(ends["shard"], pa.array(shards, pa.int32())))) if shards else ends


def _read_tails(run: RunDir, logs: Mapping[str, LogState], new: Mapping[str, int]) -> Iterator[pa.Table]:
    """Rows of what stands in these logs beyond what is known of them, which is brought up to date."""
    lines: list[bytes] = []
    counts: list[tuple[int, int]] = []
    num_bytes = 0
    for name, size in new.items():
        with (run.state_path / name).open("rb") as file:
            file.seek(logs[name].num_bytes)
            tail = file.read(size)
        tail = tail[: tail.rfind(b"\n") + 1]  # the rest is being written
        logs[name].num_bytes += len(tail)
        logs[name].mark = tail[-_MARK_BYTES:].decode("latin-1") or logs[name].mark
        _follow(logs[name], tail)
        ends = [line for line in _BEGIN_LINE.sub(b"", tail).split(b"\n") if line.startswith(_IS_END)]
        lines += ends
        counts.append((shard_of_log(name), len(ends)))
        num_bytes += sum(map(len, ends))
        if num_bytes > _BYTES_AT_ONCE:
            yield _table(lines, counts)
            lines, counts, num_bytes = [], [], 0
    yield _table(lines, counts)


def _follow(state: LogState, tail: bytes) -> None:
    """Bring what is known of a log up to date with what stands there next."""
    for line in reversed(tail[-_LAST_BYTES:].split(b"\n")):
        if last := next(events_of([line]), None):
            state.last = last["event"]
            break
    for event in events_of(_END_LINE.findall(tail)):
        add_engine_work(state.engines, event)
        state.num_windows += event.get("num_windows", 0)
    _follow_lives(state, tail)
    if state.last == "end":
        state.begun = set()
        return
    first = tail.rfind(b'{"event": "start"')
    begun = {json.dumps(video, ensure_ascii=False).encode() for video in state.begun} if first < 0 else set()
    for event, video in _OF_VIDEO.findall(tail, max(first, 0)):
        begun.add(video) if event == b"begin" else begun.discard(video)
    state.begun = {json.loads(video) for video in begun}


def _follow_lives(state: LogState, tail: bytes) -> None:
    """Bring up to date when workers were at a shard."""
    starts = [found.start() for found in _START.finditer(tail)]
    for begin, end in pairwise([0, *starts, len(tail)]):
        first = _TIME.search(tail, begin, end)
        if first is None:
            continue
        last = _TIME.search(tail, max(begin, tail.rfind(b'{"event": "', begin, end))) or first
        if begin in starts or not state.lives:
            state.lives.append([float(first[1]), float(last[1])])
        else:
            state.lives[-1][1] = float(last[1])


def _table(lines: list[bytes], counts: list[tuple[int, int]]) -> pa.Table:
    """Rows of end events, ``counts`` of them from each log."""
    table = _parsed(lines)
    if len(table) < len(lines):  # a torn line among them
        is_whole = [len(_parsed([line])) for line in lines]
        each = iter(is_whole)
        counts = [(shard, sum(islice(each, count))) for shard, count in counts]
    shards = np.repeat([shard for shard, _ in counts], [count for _, count in counts]).astype(np.int32)
    return table.set_column(0, "shard", pa.array(shards))


def _parsed(lines: list[bytes]) -> pa.Table:
    if not lines:
        return COLUMNS.empty_table()
    options = pa_json.ParseOptions(explicit_schema=COLUMNS, unexpected_field_behavior="ignore")
    try:
        table = pa_json.read_json(
            pa.BufferReader(b"\n".join(lines)),
            parse_options=options,
            read_options=pa_json.ReadOptions(block_size=2**24),
        )
        return table.select(COLUMNS.names)
    except pa.ArrowInvalid:
        events = [{name: event.get(name) for name in COLUMNS.names} for event in events_of(lines)]
        return pa.Table.from_pylist(events, schema=COLUMNS)


def _kept_path(run: RunDir) -> Path:
    return run.state_path / "roll-up.arrow"


def _kept(run: RunDir) -> RollUp:
    """The table as it was kept; an empty one where there is none that can be read."""
    try:
        with pa.memory_map(str(_kept_path(run))) as file, pa.ipc.open_file(file) as reader:
            table = reader.read_all()
        known = json.loads(table.schema.metadata[b"logs"])
        if table.schema.metadata[b"format"] == _FORMAT.encode():
            return RollUp({name: _log_state(values) for name, values in known.items()}, table.replace_schema_metadata())
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError):
        pass
    return RollUp({}, COLUMNS.empty_table())


def _log_state(values: Mapping[str, Any]) -> LogState:
    engines = {key: EngineWork(**work) for key, work in values["engines"].items()}
    return LogState(**{**values, "begun": set(values["begun"]), "engines": engines})


def _keep(run: RunDir, rolled: RollUp) -> None:
    logs = {name: {**asdict(state), "begun": sorted(state.begun)} for name, state in rolled.logs.items()}
    table = rolled.ends.replace_schema_metadata({"format": _FORMAT, "logs": json.dumps(logs)})
    with replacing(_kept_path(run)) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2**20)
