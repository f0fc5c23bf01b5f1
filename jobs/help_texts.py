"""The manual of each command: what it reads, writes and leaves when it is interrupted, examples, exit codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

SET_UP, RUN, WATCH, MEND, RESULTS = "Set up", "Run", "Watch", "Mend", "Results"

_CODES = {
    0: "done",
    1: "failed; the message says why",
    2: "wrong usage or config, told all at once; nothing was begun",
    3: "ended, but videos are missing: clipmill resume goes on",
    4: "refused: the aggregation would publish something wrong",
}
_LOOK = (0, 1, 2)
_WORK = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Manual:
    """What is said of a command beside its options. ``codes`` says otherwise what an exit code means there."""

    panel: str
    line: str
    text: Sequence[str] = ()
    examples: Sequence[str] = ()
    exits: Sequence[int] = _LOOK
    codes: Sequence[tuple[int, str]] = ()
    see: str = ""

    def in_words(self) -> str:
        """As the help shows it; lines are wrapped by the terminal."""
        parts = [self.line, *self.text]
        if self.examples:
            parts.append("Examples:\n" + "\n".join(f"  {each}" for each in self.examples))
        meanings = {code: _CODES[code] for code in self.exits} | dict(self.codes)
        parts.append("Exit codes:\n" + "\n".join(f"  {code}  {meanings[code]}" for code in sorted(meanings)))
        parts += [f"See also: {self.see}"] if self.see else []
        return escape("\n\n".join(parts))


_PIPELINE = "What is done is recorded video by video, so an interruption costs only what was in work."

MANUALS = {
    "init": Manual(
        SET_UP,
        "Write a starter YAML: the few settings that people change, each with what it does.",
        (
            "Writes one file and reads nothing. Lines and groups that begin with one '#' are off; take the '#' away to "
            "switch them on. It never overwrites a file.",
        ),
        (
            "clipmill init                          # run.yaml",
            "clipmill init --full all.yaml          # every setting there is",
            "clipmill init --from-json split.json   # what a Cosmos-Curate JSON asks for",
        ),
        codes=((2, "the file is there already, or the JSON asks for what is not known"),),
        see="clipmill plan, clipmill doctor, docs/config.md",
    ),
    "doctor": Manual(
        SET_UP,
        "Check this machine, and say how to mend what is missing.",
        (
            "Looks at Python and packages, CPUs, memory, disks, encoding and decoding, GPUs, weights, Slurm and S3. "
            "With a run or its YAML, what the config needs and is not there is a problem; what it does not need is "
            "only told. Writes nothing (on S3 an upload is begun and taken back), prints no credentials, and waits "
            "for nothing for more than a minute and a half.",
            "With a run it also names what killed processes left aside: uploads that nobody completed, and hidden "
            "files, from an age of --older-than-h hours on. Nothing reads them; --clean removes them, and does only "
            "that.",
        ),
        (
            "clipmill doctor",
            "clipmill doctor run.yaml --set cluster=slurm",
            "clipmill doctor runs/first --clean",
        ),
        codes=((0, "no problem; warnings do not count"), (1, "a problem was found, or --clean found somebody at work")),
        see="clipmill plan checks the config and the videos",
    ),
    "models": Manual(SET_UP, "Weights of models: which there are, and fetching them."),
    "models pull": Manual(
        SET_UP,
        "Fetch the weights that a config needs, or a model by name, and check every byte.",
        (
            "Reads the model hub (HF_ENDPOINT, HF_TOKEN) at pinned revisions and writes into models.model_dir, or "
            "--model-dir. Do it once where there is internet; nodes then need none. Given again after an "
            "interruption, it goes on where it was.",
        ),
        (
            "clipmill models pull run.yaml",
            "clipmill models pull --model qwen --model-dir /shared/models",
        ),
        see="clipmill models list, clipmill doctor run.yaml",
    ),
    "models list": Manual(
        SET_UP,
        "Show the models that a config can name, and with --model-dir which weights are there.",
        (),
        ("clipmill models list --model-dir /shared/models",),
        (0, 2),
    ),
    "plan": Manual(
        RUN,
        "Check everything that can be known beforehand, and show the shards.",
        (
            "Reads the config, lists the videos, and looks at encoder, weights, outputs and (for cluster: slurm) at "
            "what Slurm says to the jobs. All mistakes are told at once, with file, line and key. Writes and queues "
            "nothing.",
        ),
        ("clipmill plan run.yaml", "clipmill plan run.yaml --set limit=10 --set plan.num_shards=2"),
        see="clipmill run, clipmill submit --dry-run",
    ),
    "run": Manual(
        RUN,
        "Do the whole run on this machine, without Slurm.",
        (
            "Reads the videos; writes the run folder (run_dir), clips, metadata and previews (output_clip_path) and, "
            "where output_dataset_path is given, training tars. In the end it sums up and tells what came out. The "
            "config's cluster is taken as local. The JSON of a Cosmos-Curate pipeline is taken as well.",
            f"{_PIPELINE} Ctrl-C lets what is nearly done finish; the same command again goes on, or follows the run "
            "where it is still at work.",
        ),
        (
            "clipmill run run.yaml",
            "clipmill run run.yaml --set limit=10",
            "clipmill run run.yaml --detach",
        ),
        _WORK,
        see="clipmill status, clipmill resume, clipmill cancel",
    ),
    "submit": Manual(
        RUN,
        "Queue the run on Slurm: an array of workers, and the aggregation after them.",
        (
            "Writes the run folder, which must lie on a file system that all nodes see, and queues the jobs; it does "
            "not wait for them. With cluster: local it does what clipmill run does.",
            "A submit that was interrupted, or stopped by the site's limits, is given again: no shard is queued twice.",
        ),
        (
            "clipmill submit run.yaml",
            "clipmill submit run.yaml --dry-run   # what would be queued",
            "clipmill submit run.yaml --script    # scripts to submit by hand",
        ),
        _WORK,
        see="clipmill status --watch, clipmill resume, clipmill cancel",
    ),
    "annotate": Manual(
        RUN,
        "Describe clips anew that are there: captions, previews, embeddings.",
        (
            "Reads the clips of a finished run (output_clip_path) and writes a further version of what is said of them "
            "beside the first (annotate.annotation_version, such as v1); the clips stay untouched. It runs where the "
            "config's cluster says.",
            _PIPELINE,
        ),
        ("clipmill annotate v1.yaml", "clipmill annotate v1.yaml --set captions.captioning_prompt_variant=av"),
        _WORK,
        see="clipmill compare shows two versions side by side",
    ),
    "status": Manual(
        WATCH,
        "Show where a run stands, and what its workers wait for.",
        (
            "Reads the run's own files, so it works without sacct and squeue, and while the run is at work. Writes "
            "nothing. With --watch it goes on until the run is over; Ctrl-C ends the looking, not the run.",
        ),
        ("clipmill status run.yaml", "clipmill status runs/first --watch", "clipmill status runs/first --json"),
        _WORK,
        ((0, "told; with --watch: the run is complete"), (3, "with --watch: it is over and videos are missing")),
        see="clipmill logs, clipmill report",
    ),
    "logs": Manual(
        WATCH,
        "Show the first error of each class with its log file and line, and where the logs are.",
        ("Reads the logs in the run folder; writes nothing.",),
        ("clipmill logs runs/first", "clipmill logs runs/first --first-error --shard 3"),
        (0, 2),
        see="clipmill resume --explain --video ID: all that happened to a video",
    ),
    "report": Manual(
        WATCH,
        "Write one page that shows what became of a run, or how far it is.",
        (
            "Reads the run's records and samples its clips; writes report.html into the run folder, or to --html. The"
            " page needs no other file but the clips that it links to.",
        ),
        ("clipmill report runs/first --open", "clipmill report runs/first --html /tmp/first.html"),
        see="clipmill status",
    ),
    "resume": Manual(
        MEND,
        "Go on with a run: a new attempt over the videos that have no record yet.",
        (
            "Also over those that failed (--failed CLASS, or all), and over what other settings change (--config, "
            "--set). What is done stays; shards are cut and balanced anew; what is still at work is left alone. With "
            "--explain it says what it would do and why, and does nothing.",
            _PIPELINE,
        ),
        (
            "clipmill resume runs/first",
            "clipmill resume runs/first --failed timeout",
            "clipmill resume runs/first --config new.yaml --explain",
        ),
        _WORK,
        see="clipmill status, clipmill leftovers",
    ),
    "cancel": Manual(
        MEND,
        "End a run's Slurm jobs and local workers.",
        ("What is done stays done, and nothing is removed; clipmill resume goes on with the rest.",),
        ("clipmill cancel runs/first",),
    ),
    "aggregate": Manual(
        MEND,
        "Sum up a run now, by hand: summary, training dataset, report.",
        (
            "A run does this by itself when its workers have ended. Reads the records, writes summary, tables, tars "
            "and report.json; given again, it writes the same. It refuses while workers are at it, and when the "
            "numbers do not add up.",
        ),
        ("clipmill aggregate runs/first",),
        _WORK,
    ),
    "leftovers": Manual(
        MEND,
        "Name the output files that only earlier settings of a run made, one a line.",
        ("Nothing of the run needs them. Removes nothing.",),
        ("clipmill leftovers runs/first",),
        see="clipmill doctor RUN --clean, for what killed processes left aside",
    ),
    "dataset": Manual(RESULTS, "Training datasets of split outputs: building one, and whether one is whole."),
    "dataset build": Manual(
        RESULTS,
        "Build or extend the training dataset of a finished split output.",
        (
            "Reads clips and metadata, no run folder is needed; writes tars by resolution, aspect ratio and window, "
            "and a catalogue. Tars that are there stay as they are. Interrupted, the same command goes on.",
        ),
        (
            "clipmill dataset build processed/v0 webdataset --num-workers 4",
            "clipmill dataset build processed/v0 webdataset --set val_fraction=0.1",
        ),
        (0, 1, 2, 3),
    ),
    "dataset check": Manual(
        RESULTS,
        "Read a training dataset and compare it with its indexes and its catalogue.",
        ("Reads every tar; writes nothing.",),
        ("clipmill dataset check webdataset",),
        codes=((1, "it is not whole: the problems are told"),),
    ),
    "compare": Manual(
        RESULTS,
        "Show the captions of two annotation versions side by side, for a sample of clips.",
        ("Reads an output; writes nothing but the page of --html.",),
        (
            "clipmill compare run.yaml --versions v0 v1 --different",
            "clipmill compare processed/v0 --html captions.html",
        ),
        see="clipmill annotate",
    ),
    "dedup": Manual(
        RESULTS,
        "List the clips that show the same as a clip that is kept.",
        (
            "Reads the vectors of clips (group embeddings) and writes a table beside them; no clip is removed. "
            "dataset.duplicates leaves them out of a training dataset.",
        ),
        ("clipmill dedup run.yaml", "clipmill dedup run.yaml --eps 0.03"),
        see="clipmill dataset build",
    ),
    "search": Manual(
        RESULTS,
        "Find the clips nearest to a text, to a clip, or to a video file.",
        ("Reads the vectors of clips (group embeddings); keeps an index of them beside the output, or in ~/.cache.",),
        (
            'clipmill search run.yaml "a red car turns left"',
            "clipmill search run.yaml --like crash.mp4 --top 5 --open",
        ),
    ),
    "version": Manual(RESULTS, "Print the version.", exits=(0,)),
}

APP_HELP = escape(
    "Turns raw video into a training dataset on a Slurm cluster, with nothing but Slurm; or on this machine.\n\n"
    "The first five minutes:\n"
    "  clipmill init             # writes run.yaml: say where your videos are\n"
    "  clipmill doctor run.yaml  # what this machine lacks for it\n"
    "  clipmill plan run.yaml    # checks everything, begins nothing\n"
    "  clipmill run run.yaml     # here; on a cluster: clipmill submit run.yaml\n"
    "  clipmill status run.yaml  # how far it is\n\n"
    "Exit codes of every command: 0 done, 1 failed, 2 wrong usage or config, 3 incomplete, 4 refused. "
    "Every setting: docs/config.md, clipmill init --full."
)


class InOrderOfUse(TyperGroup):
    """Lists commands as a run meets them, not as modules register them."""

    def list_commands(self, ctx: Any) -> list[str]:  # click's context, from where typer's version has it
        order = list(MANUALS)
        return sorted(super().list_commands(ctx), key=lambda name: order.index(name) if name in order else len(order))


def describe(app: typer.Typer, *, group: str = "") -> None:
    """Give each command and group of an app its manual and its panel."""
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        if manual := MANUALS.get(f"{group}{name}"):
            command.help, command.short_help = manual.in_words(), manual.line
            command.rich_help_panel = manual.panel if not group else None
    for each in app.registered_groups:
        below = each.typer_instance
        assert below is not None
        name = str(below.info.name)
        each.help = each.short_help = MANUALS[name].line
        each.rich_help_panel = MANUALS[name].panel
        describe(below, group=f"{name} ")
