"""MB/s of packing whole clips into tars, beside ``cp -r`` of the same clips and webdataset's ShardWriter.

Windows are whole clips of 100 KB to 5 MB (log-uniform, random bytes) on the local disk, in tars of 500 MiB. What is
measured ends when the bytes are on the disk: packing waits for each of its files, so the file system is synced after
``cp`` and after ShardWriter. Taken in turns, in both orders; medians. Packing compares the checksum of each clip, and
computes those of the tars; the others do neither.

Goals: 0.7 of ``cp``, and as fast as ShardWriter; the last line has the smaller share of its goal, times 0.7.
"""

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import webdataset as wds

from curation.dataset import pack_task
from curation.dataset.plan_files import PlannedSample
from curation.storage.local import LocalStorage
from tests.benchmarks.harness import cpu_s, parse_size, verdict
from tests.dataset.hand_plans import HandPlan, meta_of, put_clip

CP_GOAL, SHARD_WRITER_GOAL = 0.7, 1.0
TAR_BYTES = 500 * 2**20
SMALLEST_BYTES, RANGE = 100_000, 50
CAPTION = "A red car drives along a wet street at dusk, past shops whose lights are on. " * 12


class Clips:
    """The clips of a split run, and where each case writes."""

    def __init__(self, folder: Path, *, total_bytes: int) -> None:
        self.folder = folder
        self.storage = LocalStorage(str(folder / "run"))
        self.samples: list[PlannedSample] = []
        rng = random.Random(1)
        number = filled = 0
        while self.num_bytes < total_bytes:
            size = int(SMALLEST_BYTES * RANGE ** rng.random())
            if filled and filled + size > TAR_BYTES:
                number, filled = number + 1, 0
            filled += size
            sample = put_clip(self.storage, str(len(self.samples)), rng.randbytes(size), number=number)
            meta = meta_of(sample.clip_uuid)
            meta["windows"][0]["qwen_caption"] = CAPTION
            self.samples.append(sample._replace(meta=json.dumps(meta)))

    @property
    def num_bytes(self) -> int:
        return sum(sample.clip_bytes for sample in self.samples)

    def plan(self) -> LocalStorage:
        """A dataset that is planned, and nothing of it packed."""
        output = LocalStorage(str(self.folder / "dataset"))
        numbers = range(self.samples[-1].tar + 1)
        HandPlan([[each for each in self.samples if each.tar == number] for number in numbers]).write(output)
        return output

    def pack(self) -> None:
        output = LocalStorage(str(self.folder / "dataset"))
        pack_task(0, clips=self.storage, output=output, annotation_version="v0")

    def copy(self) -> None:
        subprocess.run(["cp", "-r", f"{self.storage.root}/clips", f"{self.folder}/copy"], check=True)
        self.sync()

    def write_shards(self) -> None:
        (self.folder / "shards").mkdir()
        pattern = f"{self.folder}/shards/%06d.tar"
        with wds.ShardWriter(pattern, maxsize=TAR_BYTES, maxcount=len(self.samples), verbose=0) as writer:
            for sample in self.samples:
                mp4 = self.storage.read(sample.clip_path)
                writer.write({"__key__": sample.key, "mp4": mp4, "json": (sample.meta or "").encode()})
        self.sync()

    def sync(self) -> None:
        subprocess.run(["sync", "-f", str(self.folder)], check=True)

    def clear(self) -> None:
        """As before the first case, with nothing left to be written by the system."""
        for name in ("dataset", "copy", "shards"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.plan()
        self.sync()


def main() -> int:
    is_tiny = parse_size(__doc__) == "tiny"
    total_bytes, repetitions = (20_000_000, 2) if is_tiny else (1_200_000_000, 6)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        clips = Clips(Path(name), total_bytes=total_bytes)
        cases: dict[str, Callable[[], None]] = {
            "pack": clips.pack,
            "cp -r": clips.copy,
            "ShardWriter": clips.write_shards,
        }
        speeds: dict[str, list[float]] = {case: [] for case in cases}
        spent: dict[str, list[float]] = {case: [] for case in cases}
        for turn in range(repetitions):
            for case in list(cases)[:: -1 if turn % 2 else 1]:
                clips.clear()
                cpu, begun = cpu_s(), time.monotonic()
                cases[case]()
                speeds[case].append(clips.num_bytes / 1e6 / (time.monotonic() - begun))
                spent[case].append((cpu_s() - cpu) * 1e9 / clips.num_bytes)
        num_clips, num_bytes = len(clips.samples), clips.num_bytes
    print(f"{num_clips} clips, {num_bytes / 1e6:.0f} MB; medians of {repetitions}, on the disk at the end")
    median = {case: statistics.median(values) for case, values in speeds.items()}
    for case, speed in median.items():
        print(f"{case}: {speed:.0f} MB/s, {statistics.median(spent[case]):.2f} CPU ms/MB")
    to_cp, to_shard_writer = median["pack"] / median["cp -r"], median["pack"] / median["ShardWriter"]
    print(f"pack / cp -r: {to_cp:.2f} (goal >= {CP_GOAL})")
    print(f"pack / ShardWriter: {to_shard_writer:.2f} (goal >= {SHARD_WRITER_GOAL})")
    return verdict("pack_speed", min(to_cp, to_shard_writer * CP_GOAL / SHARD_WRITER_GOAL), CP_GOAL, at_most=False)


if __name__ == "__main__":
    sys.exit(main())
