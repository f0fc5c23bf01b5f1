"""What is kept of the logs is what the logs say, however they grow, tear, vanish or are replaced between two looks."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from jobs.ledger import ShardLog, read_events
from jobs.roll_up import RollUp, roll_up
from jobs.rundir import RunDir

NUM_SHARDS = 4


def rolled(run: RunDir) -> dict[str, Any]:
    """The roll-up as plain values."""
    found: RollUp = roll_up(run)
    ends = sorted(
        (row["shard"], row["video"], row["event"], row["reason"], row["clips"]) for row in found.ends.to_pylist()
    )
    logs = {
        name: (log.last, sorted(log.begun), {key: work.output_tokens for key, work in log.engines.items()})
        for name, log in found.logs.items()
    }
    return {"ends": ends, "logs": logs}


def told(run: RunDir) -> dict[str, Any]:
    """The same from the logs, line by line, as simply as it can be said."""
    ends: list[tuple[Any, ...]] = []
    logs = {}
    for path in sorted(run.state_path.glob("shard-*.jsonl")):
        last, begun, tokens = "", set(), 0
        for line in path.read_text().split("\n")[:-1]:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            last, video = event["event"], event.get("video")
            if last == "begin":
                begun.add(video)
            elif last in {"start", "end"}:
                begun = set()
            else:
                begun.discard(video)
            if last in {"done", "failed"}:
                ends.append((int(path.stem[-5:]), video, last, event.get("reason"), event.get("clips")))
            if last == "end":
                tokens += event.get("captions", {}).get("qwen", {}).get("output_tokens", 0)
        logs[path.name] = (last, sorted(begun), {"qwen": tokens} if tokens else {})
    return {"ends": sorted(ends), "logs": logs}


def append(run: RunDir, shard: int, chance: random.Random) -> None:
    """What a worker may write next, with names and texts that look like the log itself; sometimes a torn line."""
    log = ShardLog(run.shard_state_path(shard))
    video = f'{chance.randrange(30)} "é\\ {{"event": "end"}}, "video": "x".mp4'
    events = list(read_events(run.shard_state_path(shard)))
    has_ended = bool(events) and events[-1]["event"] == "end"
    step = (
        "start"
        if has_ended
        else chance.choice(["start", "begin", "begin", "begin", "done", "done", "failed", "released", "end", "torn"])
    )
    work = {"engine_s": 1.0, "prompt_tokens": 2, "output_tokens": 3, "num_restarts": 0}
    values: dict[str, dict[str, Any]] = {
        "done": {"video": video, "clips": chance.randrange(9), "clip_s": 1.5},
        "failed": {"video": video, "reason": "crashed", "message": 'a\n{"event": "done", "video": "no"}'},
        "end": {"code": 0, "stages": {"reader": {"busy_s": 1}}, "captions": {"qwen": work}},
        "start": {"attempt": 1, "host": "n1"},
    }
    if step == "torn":
        with run.shard_state_path(shard).open("ab") as file:
            file.write(b'{"event": "done", "time": 17.5, "vid'[: chance.randrange(1, 36)])
    else:
        log.append(step, **values.get(step, {"video": video}))
    log.close()


@pytest.mark.parametrize("seed", range(6))
def test_the_kept_table_and_what_came_since_are_what_the_logs_say(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.roll_up._WORTH_KEEPING", 0)  # small logs are kept, too
    run, chance = RunDir(tmp_path), random.Random(seed)
    run.state_path.mkdir()
    for _ in range(60):
        for _ in range(chance.randrange(6)):
            append(run, chance.randrange(NUM_SHARDS), chance)
        assert rolled(run) == told(run)
    assert (run.state_path / "roll-up.arrow").is_file()


def replace_log(path: Path) -> None:
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace('"clips": 1', '"clips": 7') + '{"event": "end", "time": 9.0, "code": 3}\n')


@pytest.mark.parametrize(
    "happens",
    [
        pytest.param(Path.unlink, id="a log that is gone"),
        pytest.param(replace_log, id="a log that was replaced"),
        pytest.param(lambda path: os.truncate(path, 60), id="a log that was cut"),
        pytest.param(lambda path: (path.parent / "roll-up.arrow").write_bytes(b"junk"), id="a table that is none"),
        pytest.param(lambda path: os.truncate(path.parent / "roll-up.arrow", 700), id="a table that was cut"),
    ],
)
def test_a_table_that_no_longer_fits_is_made_anew(
    tmp_path: Path, happens: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.roll_up._WORTH_KEEPING", 0)
    run = RunDir(tmp_path)
    for shard in range(2):
        log = ShardLog(run.shard_state_path(shard))
        for k in range(20):
            log.append("begin", video=f"{k}.mp4")
            log.append("done", video=f"{k}.mp4", clips=1, clip_s=1.0)
        log.close()
    assert rolled(run) == told(run)
    happens(run.shard_state_path(0))
    assert rolled(run) == told(run)


def test_a_run_folder_that_may_only_be_read_is_read(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    log = ShardLog(run.shard_state_path(0))
    log.append("done", video="a.mp4", clips=1, clip_s=1.0)
    log.close()
    (run.state_path / "roll-up.arrow").mkdir()  # root may write anywhere, but not over a folder
    assert len(roll_up(run).ends) == 1
