"""The whole main job on real footage, on this machine: ``python -m tests.demo`` (``make demo``)."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from pyarrow.dataset import dataset

from tests.footage import copy_demo

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"

CONFIG = """\
# What `make demo` runs. The footage has short shots, so shorter clips are kept than by default.
run_dir: demo/run
input_video_path: demo/raw
output_clip_path: demo/processed/v0
output_dataset_path: demo/webdataset
cluster: local
split: {splitting_algorithm: transnetv2, transnetv2_min_length_s: 1.0, transnetv2_crop_s: 0.1}
filters: {motion_filter: score-only}
embeddings: {embedding_algorithm: efficientnet-lite0}
"""


def main() -> int:
    """Run the demo and say in six lines what came out; gives the exit code of ``clipmill run``."""
    started = time.monotonic()
    videos = copy_demo(DEMO / "raw")
    config = DEMO / "run.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    print(f"clipmill run demo/run.yaml: {len(videos)} videos; the shot detector takes about a minute on two cores")
    command = [sys.executable, "-m", "jobs.cli", "run", str(config.relative_to(ROOT))]
    code = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode
    if code:
        print(f"the demo failed with exit code {code}; see the logs in demo/run/logs")
        return code
    for line in describe(time.monotonic() - started):
        print(line)
    return 0


def describe(wall_s: float) -> list[str]:
    """Six lines: what came out and where to look."""
    summary = json.loads((DEMO / "processed/v0/summary.json").read_text())
    packed = json.loads((DEMO / "webdataset/v0/report.json").read_text())
    tars = sorted((DEMO / "webdataset/v0").glob("resolution_*/aspect_ratio_*/frames_*/video/part_*/*.tar"))
    done, clips = summary["num_processed_videos"], summary["total_num_clips_passed"]
    source_s, clip_s = summary["total_video_duration"], summary["total_clip_duration"]
    return [
        f"1. {done} of {summary['num_input_videos']} videos ({source_s:.1f} s) are done; this call took {wall_s:.0f} s",
        f"2. {clips} clips ({clip_s:.1f} s): demo/processed/v0/clips, their metas in metas/v0",
        "3. previews to open in a browser: demo/processed/v0/previews/*/*.webp",
        f"4. {packed['num_packed']} training samples in {len(tars)} video tars: demo/webdataset/v0",
        f"5. embeddings: demo/processed/v0/enl0_embd_parquet; {most_alike(DEMO / 'processed/v0/enl0_embd_parquet')}",
        "6. what came out, as a page: demo/run/report.html; totals: demo/processed/v0/summary.json",
    ]


def most_alike(folder: Path) -> str:
    """Which two clips have vectors that are nearest to each other."""
    table = dataset(folder).to_table()
    vectors = np.stack(table["embedding"].to_numpy())
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1.0)
    first, second = np.unravel_index(int(cosines.argmax()), cosines.shape)
    ids = table["id"].to_pylist()
    return f"most alike are clips {ids[first][:8]} and {ids[second][:8]} (cosine {cosines.max():.2f})"


if __name__ == "__main__":
    sys.exit(main())
