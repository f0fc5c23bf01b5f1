"""Duplicates among a million clips: minutes and memory of ``clipmill dedup``, and whether all planted ones are found.

Vectors of 256 numbers around the directions of a thousand topics, that lie in some dozens of dimensions as those of
real models do. Of one in twenty there is a second one with a cosine of 0.9905, and of as many one with 0.9895, which is
none; at ``eps`` 0.01 the pairs must be exactly the planted ones. Beside it stands what comparing each with all costs,
in products alone: measured on a part.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tests.benchmarks.harness import parse_size, verdict
from tests.dedup.groups import at_cosine, units
from tests.search.tables import NAME, random_ids, write_table

MINUTES_GOAL = 15.0
DIMENSIONS = 256
ROWS_PER_TABLE = 65_536
NUM_TOPICS = 1000
PART, ROWS = 20_000, 1000
DEDUP = """
import resource, sys
from pathlib import Path
from curation.dedup import DedupSettings, find_duplicates
from curation.storage import storage_for
clips, output, scratch, name = sys.argv[1:]
report = find_duplicates(
    storage_for(clips), name, storage_for(output), DedupSettings(), device="cpu", scratch_folder=Path(scratch)
)
used = resource.getrusage(resource.RUSAGE_SELF)
print(report.num_clusters, used.ru_utime + used.ru_stime)
"""


class Found(NamedTuple):
    """What a search for duplicates took."""

    seconds: float
    cpu_s: float
    num_clusters: int
    own_gb: float
    mapped_gb: float


def vectors_of_clips(number: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Float32, shape (number, 256), of length 1: topics of unequal size, with variances that fall as 1 / rank."""
    chance = np.random.default_rng(seed)
    scale = (1 / np.sqrt(np.arange(1, DIMENSIONS + 1))).astype(np.float32)
    scale /= np.linalg.norm(scale)
    turn = np.linalg.qr(chance.standard_normal((DIMENSIONS, DIMENSIONS)))[0].astype(np.float32)
    topics = chance.standard_normal((NUM_TOPICS, DIMENSIONS), dtype=np.float32) * scale
    shares = 1 / np.arange(1, NUM_TOPICS + 1) ** 0.5
    found = np.empty((number, DIMENSIONS), np.float32)
    for begin in range(0, number, ROWS_PER_TABLE):
        rows = found[begin : begin + ROWS_PER_TABLE]
        chosen = chance.choice(NUM_TOPICS, len(rows), p=shares / shares.sum())
        noise = chance.standard_normal(rows.shape, dtype=np.float32) * scale
        rows[:] = units((topics[chosen] + 0.6 * noise) @ turn)
    return found


def write_clips(folder: Path, number: int) -> set[frozenset[str]]:
    """Tables of so many vectors; gives the pairs of ids that are alike."""
    planted = number // 20
    first = vectors_of_clips(number - 2 * planted)
    copies = at_cosine(first[:planted], 0.9905, seed=1)
    others = at_cosine(first[planted : 2 * planted], 0.9895, seed=2)
    ids = random_ids(number)
    vectors = np.concatenate([first, copies, others])
    order = np.random.default_rng(3).permutation(number)
    for begin in range(0, number, ROWS_PER_TABLE):
        rows = order[begin : begin + ROWS_PER_TABLE]
        write_table(folder, begin // ROWS_PER_TABLE, [ids[row] for row in rows], vectors[rows])
    return {frozenset((ids[row], ids[len(first) + row])) for row in range(planted)}


def dedup(folder: Path) -> Found:
    """Let a process of its own find the duplicates."""
    command = [sys.executable, "-c", DEDUP, str(folder), str(folder / "found"), str(folder), NAME]
    root = Path(__file__).parents[2]
    begun = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    peaks = {"RssAnon:": 0.0, "RssFile:": 0.0}
    watcher = threading.Thread(target=_watch, args=(process, peaks))
    watcher.start()
    printed = process.communicate()[0].split()
    watcher.join()
    assert process.returncode == 0, printed
    seconds = time.monotonic() - begun
    return Found(seconds, float(printed[1]), int(printed[0]), peaks["RssAnon:"], peaks["RssFile:"])


def _watch(process: "subprocess.Popen[str]", peaks: dict[str, float]) -> None:
    """Note the most memory, in GB, that is the process's own, and that are files mapped."""
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            return
        for name, kilobytes in (line.split()[:2] for line in lines if line.startswith("Rss")):
            peaks[name] = max(peaks.get(name, 0.0), int(kilobytes) * 1024 / 1e9)
        time.sleep(0.2)


def brute_force_s(number: int) -> float:
    """Seconds of the products of each with all before it, from the least disturbed of some of a part's."""
    part = vectors_of_clips(min(PART, number))
    spent = []
    for begin in range(0, len(part), ROWS):
        begun = time.monotonic()
        part[begin : begin + ROWS] @ part.T
        spent.append(time.monotonic() - begun)
    return min(spent) * (number / ROWS) * (number / len(part)) / 2


def main() -> int:
    number = 5_000 if parse_size(__doc__) == "tiny" else 10**6
    with tempfile.TemporaryDirectory() as folder:
        planted = write_clips(Path(folder), number)
        found = dedup(Path(folder))
        table = pq.read_table(Path(folder) / "found/duplicates.parquet")
    pairs = {frozenset(each) for each in zip(table["id"].to_pylist(), table["max_id"].to_pylist(), strict=True)}
    least, most = (table["cosine_sim_score"].to_numpy().min(), table["cosine_sim_score"].to_numpy().max())
    print(
        f"{number} vectors of {DIMENSIONS} in {found.num_clusters} clusters: {found.seconds:.0f} s, "
        f"{found.cpu_s:.0f} s of CPU; {found.own_gb:.2f} GB of memory and {found.mapped_gb:.2f} GB of mapped files at "
        f"most; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    print(f"each with all: {brute_force_s(number):.0f} s in products alone (from a part)")
    print(
        f"{len(pairs & planted)} of {len(planted)} planted pairs found, {len(pairs - planted)} others; "
        f"cosines {least:.4f} to {most:.4f}"
    )
    code = verdict("dedup_scale", found.seconds / 60, MINUTES_GOAL, at_most=True)
    return code if pairs == planted else 1


if __name__ == "__main__":
    sys.exit(main())
