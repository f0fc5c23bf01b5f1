"""Time and memory of planning a training dataset of ten million windows, from lists of clips to the tasks' files.

The lists come as the JSON bytes that a split run writes, 32 clips each with their metas and captions; they are made
while they are planned, by filling new ids into ready documents, and parsed as the aggregation does (orjson). What that
costs by itself is printed, too. Clips last 2 to 60 s (log-normal around 6), have 30 frames a second, 2 Mbit/s, windows
of 256 frames or more, and a meta of some 1,300 bytes. Everything is written that several tasks need to pack. Memory is
the largest that the process held; the temporary file of metas and the tasks' files are on the disk beside it.
"""

import hashlib
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import orjson
from numpy.typing import NDArray

from curation import layout
from curation.clip_ids import characters
from curation.dataset import DatasetSettings, plan_dataset
from curation.documents import content_of, to_json
from curation.storage import storage_for
from curation.timeline import caption_windows
from tests.benchmarks.harness import parse_size, verdict

SECONDS_GOAL, GB_GOAL = 120.0, 4.0
NUM_TASKS = 64
CLIPS_PER_LIST = 32
NUM_TEMPLATES = 64
LISTS_AT_ONCE = 32
CAPTION = (
    "A man in a dark jacket walks along a wet street at night, past lit shop windows. The camera follows him from "
    "behind at a steady pace; a red car passes from left to right and its lights are reflected in the puddles. "
)


@dataclass(frozen=True)
class Template:
    """A list of clips with ids to be filled in.

    Attributes:
        content: its bytes, uint8.
        places: of each clip, where its id stands; shape (num_clips, num_places).
        sums: where the first 36 characters of each clip's sha256 stand.
    """

    content: NDArray[np.uint8]
    places: NDArray[np.int64]
    sums: NDArray[np.int64]
    num_windows: int


def template(seed: int) -> Template:
    """A list of clips of one shape of video."""
    chance = np.random.default_rng(seed)
    seconds = np.clip(chance.lognormal(np.log(6), 0.8, CLIPS_PER_LIST), 2, 60)
    width, height = [(1920, 1080), (1280, 720), (854, 480), (1080, 1920)][seed % 4]
    video = f"web-videos/{seed:03d}/{seed * 7919:016x}/original-upload.mp4"
    entries = [entry(number, float(length), width, height, video) for number, length in enumerate(seconds)]
    totals = {"num_filtered_by_motion": 0, "num_passed": CLIPS_PER_LIST}
    document = {"schema_version": 1, "video_id": video, "clip_chunk_index": 0, "num_clips": len(entries)}
    content = to_json({**document, "clip_stats": totals, "clips": entries, "filtered_clips": []})
    places = [_places(content, str(UUID(int=number)).encode()) for number in range(CLIPS_PER_LIST)]
    sums = [content.index(sum_of(number).encode()) for number in range(CLIPS_PER_LIST)]
    num_windows = sum(len(each["windows"]) for each in entries)
    return Template(np.frombuffer(content, np.uint8).copy(), np.array(places), np.array(sums), num_windows)


def sum_of(number: int) -> str:
    """What stands for the sha256 of a clip in a template."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def entry(number: int, length_s: float, width: int, height: int, video: str) -> dict[str, Any]:
    """A clip as a list has it."""
    uuid, num_frames = UUID(int=number), round(length_s * 30)
    spans = caption_windows(num_frames, size=256, remainder_threshold=128)
    captions = [{"qwen_caption": CAPTION, "qwen_status": "success"} for _ in spans]
    num_bytes = round(length_s * 250_000)
    windows = [[span.start, span.end - 1] for span in spans]
    meta = {
        "span_uuid": str(uuid),
        "source_video": f"/lustre/raw/{video}",
        "duration_span": [12.345, 12.345 + length_s],
        "width_source": width,
        "height_source": height,
        "framerate_source": 29.97002997002997,
        "clip_location": layout.clip(uuid),
        "width": width,
        "height": height,
        "framerate": 29.97002997002997,
        "num_frames": num_frames,
        "video_codec": "h264",
        "num_bytes": num_bytes,
        "motion_score": {"global_mean": 0.0123456789, "per_patch_min_256": 0.000123456789},
        "aesthetic_score": 4.56789,
        "errors": {},
        "windows": [
            {"start_frame": start, "end_frame": end, **caption}
            for (start, end), caption in zip(windows, captions, strict=True)
        ],
        "valid": True,
        "schema_version": 1,
        "valid_reason": None,
        "video_id": video,
        "frame_span_source": [370, 370 + num_frames],
        "rejection": None,
        "notes": {},
        "extra": {},
        "provenance": {
            "code_version": "0.1.0",
            "config_hash": "5f1d7a84db00d2fce00b31a7fc73224f",
            "models": {"qwen": "Qwen/Qwen2.5-VL-7B-Instruct@cc594898137f460bfe9f0759e9844b3ce807cfb5"},
            "prompts": {"qwen": "0f343b0931126a20f133d67c2b018a3b"},
            "encoder": {"name": "libx264", "preset": "superfast", "crf": 23},
        },
    }
    return {
        "uuid": str(uuid),
        "span": meta["duration_span"],
        "width": width,
        "height": height,
        "num_frames": num_frames,
        "num_bytes": num_bytes,
        "sha256": sum_of(number),
        "windows": windows,
        "captions": captions,
        "valid": True,
        "valid_reason": None,
        "metas": {"v0": meta},
        "content": {"v0": content_of(to_json(meta))},
    }


def _places(content: bytes, text: bytes) -> list[int]:
    found, start = [], content.find(text)
    while start >= 0:
        found.append(start)
        start = content.find(text, start + 1)
    return found


class Lists:
    """So many windows in lists of clips, as bytes; counts what it gives."""

    def __init__(self, num_windows: int) -> None:
        self._wanted, self._templates = num_windows, [template(seed) for seed in range(NUM_TEMPLATES)]
        self.num_windows = self.num_clips = self.num_bytes = 0

    def __iter__(self) -> Iterator[memoryview]:
        chance = np.random.default_rng(7)
        for turn in range(self._wanted):
            made = self._templates[turn % NUM_TEMPLATES]
            for content in filled(made, chance):
                if self.num_windows >= self._wanted:
                    return
                self.num_windows += made.num_windows
                self.num_clips += CLIPS_PER_LIST
                self.num_bytes += len(content)
                yield content


def filled(made: Template, chance: np.random.Generator) -> Iterator[memoryview]:
    """Some lists of a template with random ids and sums, each there until the next is."""
    ids = chance.integers(0, 2**64, (LISTS_AT_ONCE * CLIPS_PER_LIST, 2), np.uint64)
    texts = characters(ids).reshape(LISTS_AT_ONCE, CLIPS_PER_LIST, 1, -1)
    digits = np.where(texts == ord("-"), ord("0"), texts)
    columns = np.arange(texts.shape[3])
    places, sums = made.places[:, :, None] + columns, made.sums[:, None, None] + columns
    for number in range(LISTS_AT_ONCE):
        made.content[places] = texts[number]
        made.content[sums] = digits[number]
        yield made.content.data


def reading_s(num_windows: int) -> float:
    """CPU seconds of making and parsing the lists alone."""
    begun = time.process_time()
    lists = Lists(num_windows)
    for content in lists:
        orjson.loads(content)
    spent = time.process_time() - begun
    print(
        f"{lists.num_windows} windows of {lists.num_clips} clips in lists of {lists.num_bytes / 1e9:.2f} GB: making "
        f"and parsing them alone takes {spent:.1f} s of CPU"
    )
    return spent


def plan(folder: Path, num_windows: int) -> tuple[float, float]:
    """Plan so many windows; gives wall seconds and GB."""
    lists, storage = Lists(num_windows), storage_for(str(folder))
    begun, begun_cpu = time.monotonic(), time.process_time()
    found = plan_dataset(
        map(orjson.loads, lists), clips=storage, output=storage, settings=DatasetSettings(), num_tasks=NUM_TASKS
    )
    seconds, cpu = time.monotonic() - begun, time.process_time() - begun_cpu
    assert found.counts.num_planned == lists.num_windows, found.counts
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(
        f"{lists.num_windows} windows planned into {len(found.tars)} tars in {seconds:.1f} s (goal <= "
        f"{SECONDS_GOAL:.0f}), {cpu:.1f} s of CPU; {peak:.2f} GB (goal <= {GB_GOAL:.0f}); {written / 1e9:.2f} GB "
        f"written for {NUM_TASKS} tasks; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    return seconds, peak


def main() -> int:
    num_windows = 20_000 if parse_size(__doc__) == "tiny" else 10**7
    with tempfile.TemporaryDirectory() as folder:
        seconds, gigabytes = plan(Path(folder), num_windows)
    reading_s(num_windows)
    return max(0 if gigabytes <= GB_GOAL else 1, verdict("pack_scale", seconds, SECONDS_GOAL, at_most=True))


if __name__ == "__main__":
    sys.exit(main())
