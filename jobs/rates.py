"""How fast a run goes: what ended, by the time in which anybody was at work. Pure."""

from collections.abc import Iterable, Sequence

_MIN_ENDED, _MIN_WORKED_S = 2, 1.0

Life = Sequence[float]
"""First and last moment of a worker, seconds since the epoch."""


def worked_s(lives: Iterable[Life], *, since: float = float("-inf")) -> float:
    """Seconds after ``since`` in which at least one worker was at work."""
    total, until = 0.0, since
    for first, last in sorted((life[0], life[-1]) for life in lives):
        total += max(0.0, last - max(first, until))
        until = max(until, last)
    return total


def per_hour(num_ended: int, at_work_s: float) -> float | None:
    """Videos an hour; None as long as there is too little to tell: fewer than two videos, or less than a second."""
    if num_ended < _MIN_ENDED or at_work_s < _MIN_WORKED_S:
        return None
    return num_ended / at_work_s * 3600
