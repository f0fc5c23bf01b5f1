"""What a run costs with clips and dataset on S3: requests for each clip, and wall time beside the same run on disk.

Real footage in clips of a second, with previews, and packed into a dataset. Every run is planned, split and aggregated
by processes of its own. Wall times are taken in turns (disk, S3, disk, S3 ...) at a server on loopback, whose CPU time
counts in; requests are counted on their way to the server, by what they are for, as S3 charges for them: PUT has POST
and LIST with it, GET has HEAD.

Goal: at most 4 PUT and 1 GET for a clip of one window. Three PUT are a clip's files, and one GET is reading it to be
packed; all others are shared by the clips of a video, of a tar or of the run.
"""

import itertools
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import yaml

from tests.benchmarks.harness import parse_size, verdict
from tests.footage import MEDIA
from tests.s3.outputs import new_root
from tests.s3.proxy import Proxy
from tests.s3.server import BUCKET, S3Server, require_program

PUT_GOAL, GET_GOAL = 4.0, 1.0
WHAT = {
    "clips": r"/out/clips/",
    "previews": r"/out/previews/",
    "metas": r"/out/metas/",
    "lists of clips": r"/out/processed_clip_chunks/",
    "records": r"/out/processed_videos/",
    "dataset": r"/dataset/",
}


def footage(folder: Path, *, num_videos: int, length_s: int) -> Path:
    """Films of 320x180 out of real ones, which repeat."""
    folder.mkdir()
    frames: list[av.VideoFrame] = []
    for name in ("big_buck_bunny_1.mp4", "big_buck_bunny_2.mp4"):
        with av.open(MEDIA / name) as container:
            num_missing = 24 * length_s + 31 * num_videos - len(frames)
            decoded = itertools.islice(container.decode(video=0), max(0, num_missing))
            frames += [frame.reformat(320, 180, "yuv420p") for frame in decoded]
    for index in range(num_videos):
        with av.open(folder / f"film {index}.mp4", "w") as container:
            video = container.add_stream("libx264", rate=24, options={"preset": "veryfast", "crf": "28"})
            video.width, video.height, video.pix_fmt = 320, 180, "yuv420p"
            for tick in range(24 * length_s):
                frame = frames[(tick + 31 * index) % len(frames)]
                frame.pts, frame.time_base, frame.pict_type = tick, Fraction(1, 24), av.video.frame.PictureType.NONE
                container.mux(video.encode(frame))
            container.mux(video.encode())
    return folder


def run(folder: Path, raw: Path, root: str, endpoint_url: str | None) -> tuple[float, int]:
    """Run everything; gives wall seconds, and how many clips there are."""
    folder.mkdir()
    config: dict[str, Any] = {
        "run_dir": str(folder / "run"),
        "input_video_path": str(raw),
        "output_clip_path": f"{root}/out",
        "output_dataset_path": f"{root}/dataset",
        "cluster": "local",
        "split": {"splitting_algorithm": "fixed-stride", "fixed_stride_split_duration": 1.0},
        "previews": {"target_height": 180},
        "plan": {"num_shards": 1},
        "s3": {"endpoint_url": endpoint_url},
    }
    config["split"]["fixed_stride_min_clip_length_s"] = 0.5
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "run", str(path)], capture_output=True, text=True, check=False
    )
    took_s = time.monotonic() - begun
    found = re.search(r"missing; (\d+) clips of", done.stdout)
    if done.returncode or found is None:
        raise RuntimeError(done.stdout + done.stderr)
    return took_s, int(found[1])


def requests_of(lines: list[str]) -> dict[str, Counter[str]]:
    """Requests by class and by what they are for."""
    counts: dict[str, Counter[str]] = {"PUT": Counter(), "GET": Counter()}
    for line in lines:
        method, _, target = line.partition(" ")
        if method == "DELETE" or "?delete" in target:  # for nothing
            continue
        is_listing = method == "GET" and target.startswith(f"/{BUCKET}?")
        kind = "PUT" if method in {"PUT", "POST"} or is_listing else "GET"
        what = next((name for name, pattern in WHAT.items() if re.search(pattern, target)), "else")
        counts[kind][what] += 1
    return counts


def show(kind: str, counts: Counter[str], num_clips: int, goal: float) -> float:
    """Print the requests of a class for each clip; gives their sum."""
    total = counts.total() / num_clips
    each = ", ".join(f"{what} {count / num_clips:.3f}" for what, count in counts.most_common())
    print(f"{kind} per clip: {total:.2f} (goal <= {goal:g}): {each}")
    return total


def main() -> int:
    is_tiny = parse_size(__doc__) == "tiny"
    num_videos, length_s, repetitions = (1, 2, 1) if is_tiny else (4, 120, 3)
    with tempfile.TemporaryDirectory() as name, S3Server(require_program()) as server:
        folder = Path(name)
        os.environ.update(server.environment)
        raw = footage(folder / "raw", num_videos=num_videos, length_s=length_s)
        spent: dict[str, list[float]] = {"disk": [], "S3": []}
        for turn in range(repetitions):
            spent["disk"].append(run(folder / f"disk{turn}", raw, str(folder / f"disk{turn}"), None)[0])
            spent["S3"].append(run(folder / f"s3-{turn}", raw, new_root(), server.endpoint_url)[0])
        with Proxy(server.port) as proxy:
            _, num_clips = run(folder / "counted", raw, new_root(), proxy.endpoint_url)
            counts = requests_of(list(proxy.seen))
    for name, choose in (("median", statistics.median), ("least", min)):
        disk_s, s3_s = choose(spent["disk"]), choose(spent["S3"])
        print(f"wall, {name} of {repetitions}: {disk_s:.1f} s on disk, {s3_s:.1f} s on S3 ({s3_s / disk_s:.2f} x)")
    print(f"{num_videos} videos, {num_clips} clips of one window, each with a preview, in a dataset")
    put = show("PUT", counts["PUT"], num_clips, PUT_GOAL)
    get = show("GET", counts["GET"], num_clips, GET_GOAL)
    return verdict("s3_cost", put + get, PUT_GOAL + GET_GOAL, at_most=True)


if __name__ == "__main__":
    sys.exit(main())
