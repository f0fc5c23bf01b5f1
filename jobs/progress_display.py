"""How a run stands on a terminal: a few lines that are redrawn; and elsewhere: a line now and then."""

import logging
import sys
import time
from collections.abc import Callable
from typing import Protocol

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from jobs.status import RunStatus
from jobs.status_text import clips_in_words, clock, packing_in_words, progress_line, rate_in_words, stages_in_words

LINE_EVERY_S = 30.0


class Display(Protocol):
    """Shows how a run stands."""

    def show(self, status: RunStatus) -> None:
        """Now."""

    def close(self, status: RunStatus | None) -> None:
        """For the last time; None where nothing more is to be shown."""


class Bars:
    """Redraws a few lines of a terminal; what is logged or printed meanwhile appears above them."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._live.start()
        console.show_cursor(True)  # whatever ends this process, the terminal is as it was
        self._handlers = [
            (handler, handler.setStream(sys.stderr))
            for handler in logging.getLogger().handlers
            if type(handler) is logging.StreamHandler
        ]

    def show(self, status: RunStatus) -> None:
        self._show(status, is_last=False)

    def _show(self, status: RunStatus, *, is_last: bool) -> None:
        self._live.update(_Fitted(picture(status, is_last=is_last)), refresh=True)

    def close(self, status: RunStatus | None) -> None:
        """Leave the last picture there, or nothing."""
        if status is not None:
            self._show(status, is_last=True)
        else:
            self._live.transient = True
        for handler, stream in self._handlers:
            if stream is not None:
                handler.setStream(stream)
        self._live.stop()


class Lines:
    """Writes a line now and then."""

    def __init__(
        self, write: Callable[[str], object], in_words: Callable[[RunStatus], str], *, every_s: float, first_s: float
    ) -> None:
        self._write, self._in_words, self._every_s = write, in_words, every_s
        self._due = time.monotonic() + first_s

    def show(self, status: RunStatus) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._every_s
            self._write(self._in_words(status))

    def close(self, status: RunStatus | None) -> None:
        if status is not None:
            self._write(self._in_words(status))


class _Fitted:
    """Lines that are cut off at the terminal's edge: a line that goes on in the next is drawn over half only."""

    def __init__(self, inside: RenderableType) -> None:
        self._inside = inside

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        fitting = options.update(no_wrap=True, overflow="ellipsis")
        for line in console.render_lines(self._inside, fitting, pad=False):
            yield from line
            yield Segment.line()


def picture(status: RunStatus, *, is_last: bool = False) -> RenderableType:
    """The lines of a terminal; the last ones stay there."""
    num_ended = status.num_done + status.num_failed
    bar = Table.grid(padding=(0, 1))
    share = num_ended / status.num_videos if status.num_videos else 0.0
    bar.add_row(
        "videos",
        ProgressBar(total=max(1, status.num_videos), completed=num_ended, width=30),
        f"{num_ended}/{status.num_videos}",
        f"{share:.0%}",
        Text(f"{status.num_failed} failed", style="red") if status.num_failed else "",
        ", ".join(rate_in_words(status)),
    )
    lines: list[RenderableType] = [bar, Text(clips_in_words(status))]
    lines += [] if is_last else [Text(_work_in_words(status))]
    stages = Table.grid(padding=(0, 1))
    for name, words in stages_in_words(status.live):
        stages.add_row(Text(f"  {name}", style="cyan"), Text(words))
    lines += [stages] if stages.row_count else []
    if status.jobs:
        lines.append(Text("Slurm: " + ", ".join(f"{count} {state}" for state, count in sorted(status.jobs.items()))))
    for reason, count in () if is_last and status.is_complete else status.failures.items():  # the report names them
        lines.append(Text(f"failed ({reason}): {count}, such as {status.first_failures[reason]}", style="red"))
    return Group(*lines)


def _work_in_words(status: RunStatus) -> str:
    if status.packing is not None:
        return packing_in_words(status.packing)
    if status.is_complete:
        return "all videos have ended; what they gave is summed up"
    num_left = status.num_shards - status.num_shards_ended
    if not status.num_shards_running:
        return f"no worker is at work; shards left: {num_left}"
    return (
        f"workers: {status.num_shards_running}, shards left: {num_left}, videos under way: {status.num_running}, "
        f"at work for {clock(status.worked_s)}"
    )


def display_on(console: Console, *, every_s: float = LINE_EVERY_S, first_s: float = LINE_EVERY_S) -> Display:
    """Bars on a terminal, else lines; a file never gets a terminal's codes."""
    if is_terminal(console):
        return Bars(console)
    return Lines(console.print, progress_line, every_s=every_s, first_s=first_s)


def is_terminal(console: Console) -> bool:
    """Whether lines can be redrawn there; what FORCE_COLOR says of files does not count."""
    return console.file.isatty() and console.is_terminal and not console.is_dumb_terminal
