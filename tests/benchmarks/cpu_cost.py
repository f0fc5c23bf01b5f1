"""CPU seconds of the whole CPU part, ours against the sequence of the peers, the same cuts of the same footage.

Whole processes with their imports and children, in turns. The detector's network is on neither side: ours replays what
it said before, the peers are told the cuts. Goals of copied shots are for clips that begin at an IDR (``snap_to_idr``);
the default, a crop, is shown beside them. The last line's value is the largest share of its goal that a case takes.
"""

import argparse
import inspect
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import imageio_ffmpeg

from curation.clipping.transcoding import ClipTranscodingStage
from curation.video.encode import EncoderSettings, encoder_options
from tests.benchmarks.cost_cases import CASES, TINY, Case, Paid, paid
from tests.benchmarks.harness import verdict
from tests.benchmarks.montage import FRAMES_PER_S, MONTAGES, keep_array, montage
from tests.benchmarks.replay import cuts_every, shot_probabilities
from tests.footage import cache_folder

GOAL: Final = 1.0
_SIDES: Final = ("ours", "peers")


@dataclass
class Measured:
    """What the runs of a case gave."""

    ours: list[Paid] = field(default_factory=list)
    peers: list[Paid] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Median of the paired ratios."""
        return statistics.median(a.cpu_s / b.cpu_s for a, b in zip(self.ours, self.peers, strict=True))


def our_job(case: Case) -> dict[str, Any]:
    """What a process of ours is told. Makes the footage and what the detector said of it at the first call."""
    recipe = MONTAGES[case.footage]
    probabilities: Path | None = None
    if case.cuts != "stride-10s":
        said = shot_probabilities(case.footage) if case.cuts == "shots" else cuts_every(20.0, recipe.num_frames)
        probabilities = cache_folder() / f"probabilities-{case.footage}-{case.cuts}.npy"
        keep_array(probabilities, said)
    return {
        "case": asdict(case),
        "path": str(montage(case.footage)),
        "size": (recipe.width, recipe.height),
        "probabilities": str(probabilities) if probabilities is not None else None,
    }


def run_ours(case: Case) -> Paid:
    """The real pipeline over the case's footage, in a process of its own."""
    return paid([sys.executable, "-m", "tests.benchmarks.whole_pipeline"], given=our_job(case))


def default_encoder() -> EncoderSettings:
    """What our clips are encoded with unless a user says otherwise, by libx264."""
    defaults = {name: each.default for name, each in inspect.signature(ClipTranscodingStage).parameters.items()}
    return EncoderSettings(encoder="libx264", preset=defaults["preset"], crf=defaults["crf"])


def run_peers(case: Case, spans: Sequence[tuple[int, int]], ffmpeg: str) -> Paid:
    """The sequence of the peers over the same clips. The import of torch, which their workers pay once, is left out."""
    options = encoder_options(default_encoder())
    encoding = ["-c:v", "libx264", *(part for name, value in options.items() for part in (f"-{name}", value))]
    job = {
        "ffmpeg": ffmpeg,
        "path": str(montage(case.footage)),
        "frames_per_s": float(FRAMES_PER_S),
        "spans": spans,
        "looks": case.cuts != "stride-10s",
        "encoding": encoding,
    }
    run = paid([sys.executable, "-m", "tests.benchmarks.peer_like"], given=job)
    return Paid(run.cpu_s - run.report["torch_import_s"], run.report)


def measure(cases: Sequence[Case], *, sides: Sequence[str], repetitions: int, ffmpeg: str) -> dict[str, Measured]:
    """Run all cases in turns. Cases with the same clips of the same footage share the run of the peers."""
    measured = {case.name: Measured() for case in cases}
    for case in cases:
        our_job(case)
    for _ in range(repetitions):
        shared: dict[str, Paid] = {}
        for case in cases:
            ours = run_ours(case)
            print(f"{case.name}: ours {ours.cpu_s:.1f} CPU s", file=sys.stderr, flush=True)
            spans = ours.report["spans"]
            key = json.dumps([case.footage, case.cuts == "stride-10s", spans])
            if "peers" in sides and key not in shared:
                shared[key] = run_peers(case, spans, ffmpeg)
                print(f"{case.name}: peers {shared[key].cpu_s:.1f} CPU s", file=sys.stderr, flush=True)
            measured[case.name].ours.append(ours)
            measured[case.name].peers += [shared[key]] if key in shared else []
    return measured


def spawn_ms(ffmpeg: str) -> float:
    """CPU milliseconds of an ffmpeg that starts, and ends without work."""
    return statistics.median(1000 * paid([ffmpeg, "-hide_banner", "-version"]).cpu_s for _ in range(10))


def describe_ffmpeg(ffmpeg: str) -> str:
    """Which one the peers are given, and what starting it costs; beside it the one that the machine has."""
    said = subprocess.run([ffmpeg, "-hide_banner", "-version"], capture_output=True, text=True, check=True).stdout
    size_mb = os.path.getsize(ffmpeg) / 1e6
    words = f"peers' ffmpeg: {said.split()[2]}, {size_mb:.0f} MB, {spawn_ms(ffmpeg):.1f} CPU ms a start"
    installed = shutil.which("ffmpeg")
    return f"{words}; {installed}: {spawn_ms(installed):.1f} ms" if installed is not None else words


def print_table(cases: Sequence[Case], measured: dict[str, Measured]) -> None:
    """CPU seconds per minute of source, medians."""
    print(f"{'case':30} {'ours':>6} {'peers':>6} {'ratio':>6} {'goal':>5}          decoded encoded  peers start, files")
    for case in cases:
        found, minutes = measured[case.name], MONTAGES[case.footage].duration_s / 60
        ours, did = statistics.median(run.cpu_s for run in found.ours) / minutes, found.ours[0].report
        decoded = did["num_decoded_frames"] / did["num_source_frames"]
        encoded = did["num_encoded_frames"] / did["num_clip_frames"]
        line = f"{case.name:30} {ours:6.2f} "
        if found.peers:
            theirs, peers = statistics.median(run.cpu_s for run in found.peers) / minutes, found.peers[0].report
            goal = f"{case.goal:5.2f} {'met' if found.ratio <= case.goal else 'MISSED':6}" if case.goal else " " * 12
            line += f"{theirs:6.2f} {found.ratio:6.3f} {goal}    {decoded:4.2f}    {encoded:4.0%}"
            line += f"   {peers['num_processes']:4d} {peers['num_temp_files']:4d}"
        print(line)


def print_phases(measured: dict[str, Measured]) -> None:
    """Where the CPU seconds of the peers went, and whether both sides made the same."""
    for name, found in measured.items():
        if found.peers:
            ours, peers = found.ours[0].report, found.peers[0].report
            phases = ", ".join(f"{phase} {spent_s:.1f}" for phase, spent_s in peers["phases_s"].items())
            print(f"{name}: peers' CPU s: {phases}")
            both = [f"{key} {ours[key]} and {peers[key]}" for key in peers if key in ours]
            print(f"  ours and peers: {', '.join(both)}")


def chosen_cases(names: Sequence[str], size: str) -> list[Case]:
    """Those named, else all."""
    return [TINY] if size == "tiny" else [CASES[name] for name in names or CASES]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("tiny", "full"), default="full")
    parser.add_argument("--case", action="append", default=[], choices=CASES, help="default: all")
    parser.add_argument("--side", action="append", default=[], choices=_SIDES, help="default: both")
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    cases, started = chosen_cases(arguments.case, arguments.size), time.monotonic()
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    print(describe_ffmpeg(ffmpeg), flush=True)
    repetitions = 1 if arguments.size == "tiny" else arguments.repetitions
    measured = measure(cases, sides=arguments.side or _SIDES, repetitions=repetitions, ffmpeg=ffmpeg)
    print(f"CPU s per minute of source, medians of {repetitions}; {time.monotonic() - started:.0f} s in all")
    print_table(cases, measured)
    print_phases(measured)
    shares = [measured[case.name].ratio / case.goal for case in cases if case.goal and measured[case.name].peers]
    return verdict("cpu_cost", max(shares, default=0.0), GOAL, at_most=True)


if __name__ == "__main__":
    sys.exit(main())
