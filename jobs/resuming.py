"""What a resume does beyond what is unfinished: failures that are tried again, and videos of changed settings."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pyarrow.compute as pc

from curation import layout
from curation.errors import FailureReason
from jobs.again import Again, AgainVideo, note_again, unsettled, unsettled_settings
from jobs.annotation import output_storage
from jobs.changes import RUN, Change, Consequence, changes_between, consequence
from jobs.config import RunConfig, to_yaml
from jobs.ends import video_ends
from jobs.launcher import only_launcher
from jobs.ledger import live_leases
from jobs.local_state import live_executor
from jobs.rundir import RunDir, RunDirError
from jobs.unfinished import next_shard

ALL = "all"
_READERS = 32  # records are small: reading them is waiting, mostly


@dataclass(frozen=True)
class Request:
    """What a resume is asked for beyond what is unfinished.

    Attributes:
        config: the run's settings from now on.
        consequence: what their change asks for.
        failures: of the videos that are tried again, by class.
        again: both together, as an attempt's note has it.
    """

    config: RunConfig
    consequence: Consequence
    failures: Counter[str] = field(default_factory=Counter)
    again: Again = field(default_factory=Again)

    @property
    def in_words(self) -> list[str]:
        """What is done again and why, a line each."""
        lines = [f"{count} videos that failed ({reason}) are tried again" for reason, count in self.failures.items()]
        if self.consequence.everything:
            lines.append(f"changed settings: {self.consequence.why}")
            stages = ", ".join(self.consequence.stages) or "which videos are too large"
            lines.append(
                f"they decide {stages}: every video is processed again; files that then "
                "belong to nothing any more: clipmill leftovers RUN"
            )
        return lines


def adopt_settings(run: RunDir) -> None:
    """Finish a change of settings that a dead launcher had noted."""
    if (settings := unsettled_settings(run)) is not None:
        run.write_settings(settings)


def check_reasons(reasons: Sequence[str]) -> None:
    """Raise RunDirError when a class of failure is none."""
    known = [ALL, *map(str, FailureReason)]
    for reason in reasons:
        if reason not in known:
            raise RunDirError(f"no class of failure is called {reason!r}; known: {', '.join(known)}")


def requested(run: RunDir, config: RunConfig, *, failed: Sequence[str]) -> Request:
    """What a resume with these settings and classes of failure does again; writes nothing.

    Raises:
        RunDirError: a class is unknown, or the settings are those of another run.
    """
    check_reasons(failed)
    before = run.load_config()
    others = [change for change in changes_between(before, config) if change.decides == RUN]
    if others:
        raise RunDirError(_other_run(run, others))
    found = consequence(before, config)
    if found.everything:
        return Request(config, found, again=Again(f"changed settings: {found.why}", everything=True))
    reasons = {*failed, *([str(FailureReason.LIMITS)] if found.limits else ())}
    videos = list(failed_videos(run, config, reasons)) if reasons else []
    failures = Counter(video.reason for video in videos)
    why = f"failed: {', '.join(sorted(reasons))}" if reasons else ""
    return Request(config, found, Counter(dict(sorted(failures.items()))), Again(why, videos))


def failed_videos(run: RunDir, config: RunConfig, reasons: set[str]) -> Iterator[AgainVideo]:
    """The videos whose records say that they failed for one of these reasons, in the manifest's order."""
    ends = video_ends(run)
    done = set(ends.filter(pc.equal(ends["event"], "done"))["video"].to_pylist())
    unsettled_videos = unsettled(run)
    if unsettled_videos is None:
        return
    storage = output_storage(config)

    def record_of(video: str) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads(storage.read(layout.record(video)))
        except FileNotFoundError:
            return None
        return record

    # what has no end in the logs may still have a record: its worker died between the two
    left = (e.id for _, e in run.manifest_entries() if e.id not in done and e.id not in unsettled_videos)
    with ThreadPoolExecutor(_READERS) as pool:
        while batch := list(islice(left, 64 * _READERS)):
            for video, record in zip(batch, pool.map(record_of, batch), strict=True):
                failure = record["failure"] if record is not None else None
                if failure is not None and (ALL in reasons or failure["reason"] in reasons):
                    yield AgainVideo(video, **failure)


def note(run: RunDir, request: Request) -> None:
    """Commit to what is asked for: from here on any launch does it, whatever happens to this process.

    Raises:
        RunDirError: workers with the old settings are at work.
    """
    config = request.config
    if not request.again:
        run.write_settings(to_yaml(config))
        return
    if holder := live_executor(run, timeout_s=config.worker.lease_timeout_s):
        raise RunDirError(
            f"the run is at work here (process {holder['pid']}): wait for it, or clipmill cancel {run.root}"
        )
    with only_launcher(run, config):
        live = live_leases(run, timeout_s=config.worker.lease_timeout_s)
        if request.again.everything and live:
            raise RunDirError(
                f"{len(live)} workers are at it with the old settings: wait for them, or clipmill cancel {run.root}"
            )
        settings = to_yaml(config) if config != run.load_config() else None
        note_again(run, run.attempts()[-1] + 1, request.again, first_shard=next_shard(run), settings=settings)
        adopt_settings(run)


def _other_run(run: RunDir, changes: Sequence[Change]) -> str:
    lines = "\n  ".join(map(str, changes))
    return f"other inputs or outputs are another run: take another run_dir for it than {run.root}\n  {lines}"
