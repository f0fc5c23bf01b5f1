"""Why a resume does each class of videos again or not, and what happened to one video."""

import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow.compute as pc

from curation import layout
from curation.errors import FailureReason
from jobs.again import notes, read_voids
from jobs.annotation import output_storage
from jobs.config import RunConfig
from jobs.ends import video_ends
from jobs.ledger import read_events
from jobs.parts import video_of
from jobs.resuming import Request
from jobs.rundir import RunDir, RunDirError
from jobs.unfinished import Standing, standings

_EXAMPLES = 3
_MENDED_BY = {
    FailureReason.TRUNCATED: "clips.allow_truncated uses what is left",
    FailureReason.LIMITS: "larger limits take it",
    FailureReason.STALLED: "worker.stall_timeout_s",
    FailureReason.TIMEOUT: "worker.video_timeout_s",
    FailureReason.MEMORY: "worker.child_memory_gb",
    FailureReason.CRASHED: "quarantined: it ended its process each time it was tried",
}


@dataclass
class _Class:
    """Videos of which the same is to be said."""

    verdict: str
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, video: str) -> None:
        self.count += 1
        self.examples += [video] if len(self.examples) < _EXAMPLES else []


def explain(run: RunDir, request: Request) -> list[str]:
    """A line for each class of videos: how many, whether they are done again and why, and some of them; writes nothing.

    Raises:
        RunDirError: the run was never planned to the end.
    """
    if not run.plan_path.is_file():
        raise RunDirError(f"{run.root} has no plan: run or submit its config again")
    reasons = _reasons(run)
    chosen = {each.video for each in request.again.videos}
    classes: dict[str, _Class] = {}
    for each in standings(run, request.config):
        name, verdict = _judged(run, request, each, reasons.get(each.video, ""), is_chosen=each.video in chosen)
        classes.setdefault(name, _Class(verdict)).add(each.video)
    lines = [*request.in_words, *_superseded(run)]
    for name, found in sorted(classes.items()):
        more = ", ..." if found.count > len(found.examples) else ""
        lines.append(f"{name}: {found.count} videos, {found.verdict}; {', '.join(found.examples)}{more}")
    return lines


def explain_video(run: RunDir, request: Request, video: str) -> list[str]:
    """What is said of one video's class, and all that happened to it; writes nothing.

    Raises:
        RunDirError: no video of the run has this id.
    """
    found = next((each for each in standings(run, request.config) if each.video == video), None)
    if found is None:
        raise RunDirError(f"no video of {run.root} has the id {video!r}")
    chosen = any(each.video == video for each in request.again.videos)
    name, verdict = _judged(run, request, found, _reasons(run).get(video, ""), is_chosen=chosen)
    return [f"{video}: {name}, {verdict}", *_history(run, request.config, found)]


def _judged(run: RunDir, request: Request, each: Standing, reason: str, *, is_chosen: bool) -> tuple[str, str]:
    """The class of a video, and what a resume does with it."""
    max_attempts = request.config.worker.max_attempts
    if request.again.everything:
        return "changed settings", "to be done again, whatever became of them"
    if each.is_again:
        return "noted to be done again", "to be done again: a launcher died before it had submitted them"
    if each.has_record and not reason:
        return "done", "not done again: their records say so"
    if each.has_record:
        if is_chosen:
            return f"failed: {reason}", "to be tried again, as asked for"
        how = f"clipmill resume {shlex.quote(str(run.root))} --failed {reason}"
        hint = f" ({_MENDED_BY[FailureReason(reason)]})" if reason in _MENDED_BY else ""
        return f"failed: {reason}", f"not tried again{hint}; to try them again: {how}"
    if each.live_shard is not None:
        return f"left to shard {each.live_shard}", "not taken: its worker is alive and has them"
    if each.num_begun >= max_attempts:
        return (
            f"begun {each.num_begun} times",
            f"to be recorded as crashed by the next worker: they ended one worker.max_attempts = {max_attempts} times",
        )
    if each.num_begun:
        alone = ", each alone" if each.num_begun >= max_attempts - 1 else ""
        return f"begun {each.num_begun} times", f"to be done{alone}: they have no record"
    return "never begun", "to be done: they have no record"


def _superseded(run: RunDir) -> Iterator[str]:
    newer = run.attempts()[1:]
    num_videos = len({video.offset for attempt in newer for shard in run.shards(attempt) for video in shard.videos})
    if num_videos:
        yield f"superseded: {num_videos} videos are in newer attempts' shards; what is queued of older ones skips them"


def _reasons(run: RunDir) -> dict[str, str]:
    """Why each video failed that did, by the logs."""
    ends = video_ends(run)
    failed = ends.filter(pc.equal(ends["event"], "failed"))
    return dict(zip(failed["video"].to_pylist(), failed["reason"].to_pylist(), strict=True))


def _history(run: RunDir, config: RunConfig, standing: Standing) -> Iterator[str]:
    """Everything that the run folder and the record know of a video."""
    for attempt in run.attempts():
        for shard in run.shards(attempt):
            if any(video.offset == standing.offset for video in shard.videos):
                yield f"  attempt {attempt}: planned in shard {shard.index}"
    for attempt, again in notes(run).items():
        mine = [each for each in again.videos if each.video == standing.video]
        before = "".join(f"; it had failed: {each.reason}: {each.message}" for each in mine)
        if before or again.everything:
            yield f"  attempt {attempt}: done again ({again.why}){before}"
    yield from _events(run, standing.video)
    try:
        record = json.loads(output_storage(config).read(layout.record(standing.video)))
    except FileNotFoundError:
        yield "  no record"
        return
    yield f"  record: {record['status']}{_what((record['failure'] or {}).get('message'))}"


def _events(run: RunDir, video: str) -> Iterator[str]:
    """What the logs of all shards say of a video."""
    voids = read_voids(run)
    for shard, path in run.state_paths():
        old = "" if voids.counts(video, shard) else "; counts no more"
        for event in read_events(path):
            if video_of(event.get("video", "")) == video:
                part = event["video"].removeprefix(video).replace("//", " part ")
                what = f"{event['event']}{part}{_what(event.get('message'))}{old}"
                yield f"  {_when(event['time'])} shard {shard}: {what}"


def _what(message: str | None) -> str:
    return f": {message}" if message else ""


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
