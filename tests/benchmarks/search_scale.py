"""Seconds of a search among a million vectors of 256 numbers on a disk, and whether it finds what brute force finds.

VALUE is the median wall time of looking at the tables, mapping the index and finding the ten nearest clips, in a
process that has its modules, with the index in the page cache. Beside it: the same right after the index was put out of
the page cache; making the index of the tables; a whole ``clipmill search --like`` as a command; and brute force with
all vectors in memory, one product with numpy and a sort. Memory is that of a process that does nothing else, without
and with the pages of the mapped file, which the system takes back when it needs them.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from curation.search import cache_folders, nearest, open_index
from curation.storage.local import LocalStorage
from tests.benchmarks.harness import parse_size, verdict
from tests.local_runs import ROOT
from tests.search.tables import NAME, write_table

GOAL = 1.0
DIMENSIONS, TOP = 256, 10
ROWS_PER_TABLE = 65_536  # as runs write them
CLIPS_PER_CLUSTER = 100
SEARCH = """
import re, sys, time
from pathlib import Path
from uuid import UUID
from curation.search import cache_folders, nearest, open_index
from curation.storage.local import LocalStorage
storage = LocalStorage(sys.argv[1])
begun = time.perf_counter()
index = open_index(storage, sys.argv[2], cache_folders(storage))
row = index.row_of(UUID(sys.argv[3]))
found = nearest(index, index.vectors[row], top=int(sys.argv[4]), without=row)
spent = time.perf_counter() - begun
status = Path("/proc/self/status").read_text()
memory = [int(re.search(name + r":\\s+(\\d+)", status)[1]) / 1e6 for name in ("RssAnon", "RssFile")]
print(spent, *memory, *(each.clip for each in found))
"""


def make_tables(out: Path, num_clips: int) -> list[str]:
    """Tables of vectors around random centres, as the shots of a place are; gives the ids."""
    chance = np.random.default_rng(0)
    centres = chance.standard_normal((max(1, num_clips // CLIPS_PER_CLUSTER), DIMENSIONS), dtype=np.float32)
    ids = []
    for number, first in enumerate(range(0, num_clips, ROWS_PER_TABLE)):
        rows = min(ROWS_PER_TABLE, num_clips - first)
        vectors = centres[chance.integers(0, len(centres), rows)]
        vectors = vectors + 0.7 * chance.standard_normal((rows, DIMENSIONS), dtype=np.float32)
        vectors /= np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        content = chance.bytes(16 * rows)
        names = [str(UUID(bytes=content[16 * k : 16 * k + 16])) for k in range(rows)]
        write_table(out, number, names, vectors.astype(np.float32))
        ids += names
    return ids


def in_a_process(out: Path, clip: str) -> tuple[list[float], list[str]]:
    """Search in a new process; gives its seconds and GB, and the clips."""
    command = [sys.executable, "-c", SEARCH, str(out), NAME, clip, str(TOP)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    spent, anonymous, mapped, *found = done.stdout.split()
    return [float(spent), float(anonymous), float(mapped)], found


def put_out(file: Path) -> None:
    """Out of the page cache."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def searched(out: Path, clip: str) -> list[str]:
    """What the library finds, from the look at the tables on."""
    storage = LocalStorage(str(out))
    index = open_index(storage, NAME, cache_folders(storage))
    row = index.row_of(UUID(clip))
    assert row is not None
    return [str(each.clip) for each in nearest(index, index.vectors[row], top=TOP, without=row)]


def brute_force(vectors: NDArray[np.float32], ids: list[str], row: int) -> list[str]:
    """One product and a sort; those that are as near as the last are told apart in float64."""
    cosines = vectors @ vectors[row]
    first = np.argsort(-cosines)[: TOP + 100]
    exact = vectors[first].astype(np.float64) @ vectors[row].astype(np.float64)
    assert exact.min() < np.sort(exact)[-TOP - 1] - 1e-5, "too many are as near as the last"
    return [ids[k] for k in first[np.argsort(-exact)] if k != row][:TOP]


def command_s(out: Path, clip: str) -> float:
    """Wall seconds of the command, its start included."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "jobs.cli", "search", str(out), "--like", clip, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert len(json.loads(done.stdout)["results"]) == TOP
    return time.perf_counter() - begun


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> int:
    is_tiny = parse_size(__doc__) == "tiny"
    num_clips, repetitions = (5_000, 2) if is_tiny else (10**6, 9)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        ids = make_tables(out, num_clips)
        asked = [ids[k] for k in np.random.default_rng(1).integers(0, num_clips, repetitions)]
        (made_s, made_anonymous, _), _ = in_a_process(out, asked[0])
        (file,) = (out / ".clipmill/search").iterdir()
        cold = []
        for clip in asked[:3]:
            put_out(file)
            cold.append(in_a_process(out, clip)[0][0])
        (_, anonymous, mapped), _ = in_a_process(out, asked[0])
        warm = [seconds(lambda clip=clip: searched(out, clip)) for clip in asked]  # type: ignore[misc]
        commands = [command_s(out, clip) for clip in asked[:3]]
        vectors = np.array(open_index(LocalStorage(str(out)), NAME, [file.parent]).vectors)
        places = {clip: row for row, clip in enumerate(ids)}
        brute = []
        for clip in asked:
            begun = time.perf_counter()
            expected = brute_force(vectors, ids, places[clip])
            brute.append(time.perf_counter() - begun)
            assert searched(out, clip) == expected
        size = file.stat().st_size
    print(
        f"{num_clips} vectors of {DIMENSIONS} numbers, an index of {size / 1e9:.2f} GB; load "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {repetitions} searches, each as brute force has it"
    )
    print(f"index made of the tables, and the first search: {made_s:.1f} s, {made_anonymous:.2f} GB")
    print(f"out of the page cache: {statistics.median(cold):.2f} s")
    print(f"as usual: {statistics.median(warm):.3f} s, {anonymous:.2f} GB, with mapped pages {anonymous + mapped:.2f}")
    print(f"as a command, its start included: {statistics.median(commands):.2f} s")
    print(f"brute force with all in memory: {statistics.median(brute):.3f} s")
    return verdict("search_scale", statistics.median(warm), GOAL, at_most=True)


if __name__ == "__main__":
    sys.exit(main())
