"""What all live workers of a run tell together: how far they are, and what each stage waits for. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from jobs.progress import ShardProgress, StageSeconds

SOURCE = "videos"
"""What the first stage waits for: videos that are read from where they lie, or the end of the shard."""


@dataclass
class StageShares:
    """Where the time of a stage's threads went lately, all live workers together.

    Attributes:
        busy, starved, blocked: at work, without a task, without room behind it; shares that add up to 1.
        num_queued: tasks that wait before it.
        inside: shares of what it did in decode children, by name.
        waits_for: the stage that holds it up, where it mostly waits; ``videos`` where it waits for these.
    """

    busy: float
    starved: float
    blocked: float
    num_queued: int
    inside: dict[str, float] = field(default_factory=dict)
    waits_for: str | None = None

    @property
    def waits(self) -> float:
        """The share in which it waits for ``waits_for``."""
        return max(self.starved, self.blocked)


@dataclass
class LiveWork:
    """What live workers told last.

    Attributes:
        num_workers: that told anything.
        num_clips: written of videos that are under way.
        num_windows: whose captions these workers wrote since they started.
        output_tokens_per_s: of all their engines, in the last minute; 0 where nothing is captioned.
        stages: by name, in the order in which tasks go through them.
    """

    num_workers: int = 0
    num_clips: int = 0
    num_windows: int = 0
    output_tokens_per_s: float = 0.0
    stages: dict[str, StageShares] = field(default_factory=dict)


def live_work(told: Iterable[ShardProgress]) -> LiveWork:
    """Sum up what workers tell."""
    live = LiveWork()
    seconds: dict[str, StageSeconds] = {}
    for one in told:
        live.num_workers += 1
        live.num_clips += one.clips_under_way
        live.num_windows += one.so_far.windows
        live.output_tokens_per_s += one.lately.output_tokens / one.lately.s if one.lately.s > 0 else 0.0
        for name, spent in one.lately.stages.items():
            seconds.setdefault(name, StageSeconds()).add(spent)
    live.stages = {name: _shares(spent) for name, spent in seconds.items()}
    names = list(live.stages)
    for place, stage in enumerate(live.stages.values()):
        stage.waits_for = _waits_for(names, list(live.stages.values()), place)
    return live


def _shares(spent: StageSeconds) -> StageShares:
    total = spent.busy_s + spent.starved_s + spent.blocked_s or 1.0
    in_children = sum(spent.inside.values()) or 1.0
    inside = {name: s / in_children for name, s in sorted(spent.inside.items(), key=lambda item: -item[1])}
    return StageShares(spent.busy_s / total, spent.starved_s / total, spent.blocked_s / total, spent.num_queued, inside)


def _waits_for(names: Sequence[str], stages: Sequence[StageShares], place: int) -> str | None:
    """The nearest stage that does not itself wait in the same direction."""
    waits = _mostly(stages[place])
    if waits == "busy":
        return None
    step = -1 if waits == "starved" else 1
    at = place + step
    while 0 <= at < len(stages) and _mostly(stages[at]) == waits:
        at += step
    if at < 0:
        return SOURCE
    if at == len(stages):
        return None
    return next(iter(stages[at].inside), names[at])


def _mostly(stage: StageShares) -> str:
    return max(("busy", "starved", "blocked"), key=lambda doing: getattr(stage, doing))
