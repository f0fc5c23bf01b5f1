"""Where a run stands, in words for people: the answer of ``clipmill status``, and the lines of live progress."""

from collections.abc import Iterator
from datetime import timedelta

from rich.console import Console
from rich.table import Table

from jobs.live_work import LiveWork, StageShares
from jobs.status import RunStatus


def print_status(found: RunStatus, out: Console) -> None:
    """Print everything that is known of a run now."""
    table = Table(title=f"{found.run_dir} (attempt {found.num_attempts})", title_justify="left")
    for column in ("", "done", "failed", "running", "waiting", "all"):
        table.add_column(column, justify="right")
    counts = (found.num_done, found.num_failed, found.num_running, found.num_waiting, found.num_videos)
    table.add_row("videos", *map(str, counts))
    waiting = found.num_shards - found.num_shards_ended - found.num_shards_running
    shards = (found.num_shards_ended, "", found.num_shards_running, max(0, waiting), found.num_shards)
    table.add_row("shards", *map(str, shards))
    out.print(table)
    out.print(f"{clips_in_words(found)}; {', '.join(rate_in_words(found))}")
    for line in _of_jobs(found):
        out.print(line)
    for key, work in sorted(found.captions.items()):
        speed = f"{work.output_tokens_per_s:.0f} output tokens/s" if work.output_tokens_per_s else "no speed yet"
        out.print(f"captions {key}: {work.prompt_tokens} prompt and {work.output_tokens} output tokens, {speed}")
    for name, words in stages_in_words(found.live):
        out.print(f"stage {name}: {words}")
    for reason, count in found.failures.items():
        out.print(f"failed ({reason}): {count}, such as {found.first_failures[reason]}")
        out.print(f"  try them again: {found.retry_commands[reason]}")
    for bad in found.bad_nodes:
        out.print(f"bad node {bad['node']} ({bad['check']}): {bad['message']}")


def _of_jobs(found: RunStatus) -> Iterator[str]:
    if found.packing is not None:
        yield packing_in_words(found.packing)
    if found.jobs:
        yield "Slurm: " + ", ".join(f"{count} {state}" for state, count in sorted(found.jobs.items()))
    elif found.cluster == "slurm" and found.jobs is None:
        yield "Slurm does not answer; the counts above come from the run's own files"


def packing_in_words(packing: dict[str, int]) -> str:
    """How far the tasks are that pack the dataset."""
    return (
        f"packing the dataset: {packing['num_ended']} of {packing['num_tasks']} tasks have ended, "
        f"{packing['num_running']} are at work"
    )


def clips_in_words(found: RunStatus) -> str:
    """Clips, those of videos under way apart, and captions where there are some."""
    words = [f"{found.num_clips} clips of {clock(found.clip_s)}"]
    if found.live is not None and found.live.num_clips:
        words.append(f"{found.live.num_clips} more of videos under way")
    if found.num_windows:
        words.append(f"{found.num_windows} windows captioned")
    if found.live is not None and found.live.output_tokens_per_s:
        words.append(f"{found.live.output_tokens_per_s:.0f} tokens/s now")
    return ", ".join(words)


def rate_in_words(found: RunStatus) -> list[str]:
    """How fast the run goes, and how long it will take."""
    words = [f"{found.videos_per_hour:.0f} videos/h" if found.videos_per_hour else "no rate yet"]
    if found.eta_s and not found.is_complete:
        words.append(f"{clock(found.eta_s)} to go")
    return words


def stages_in_words(live: LiveWork | None) -> Iterator[tuple[str, str]]:
    """Each stage of the live workers, and what it is at."""
    for name, stage in live.stages.items() if live is not None else ():
        yield name, _stage_in_words(stage)


def _stage_in_words(stage: StageShares) -> str:
    inside = ", ".join(f"{name} {share:.0%}" for name, share in stage.inside.items() if share >= 0.005)
    if stage.waits_for is not None:
        return f"waits for {stage.waits_for} {stage.waits:.0%}"
    return f"busy {stage.busy:.0%}" + (f" ({inside})" if inside else "")


def progress_line(found: RunStatus) -> str:
    """One line for a log."""
    num_under_way = found.live.num_clips if found.live is not None else 0
    values = {
        "videos": f"{found.num_done + found.num_failed}/{found.num_videos}",
        "failed": found.num_failed,
        "clips": found.num_clips + num_under_way,
        "captions": found.num_windows,
        "workers": found.num_shards_running,
        "videos_per_hour": f"{found.videos_per_hour:.0f}" if found.videos_per_hour else "unknown",
        "eta": "unknown" if found.eta_s is None else clock(found.eta_s),
    }
    return "progress " + " ".join(f"{name}={value}" for name, value in values.items())


def clock(s: float) -> str:
    """As 0:01:30, or with days in front."""
    return str(timedelta(seconds=round(s)))
