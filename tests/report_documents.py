"""Report documents for tests of the page: every field has something, previews are of real footage."""

import base64
import uuid
from itertools import islice
from pathlib import Path
from typing import Any, Final

import av
import numpy as np

from curation.preview.webp import encode_webp
from tests.footage import MEDIA

CAPTIONS: Final = (
    "A large grey rabbit steps out of its burrow and stretches in the morning light. Behind it a grassy meadow slopes "
    "down to a line of trees, and the camera holds still while the animal looks about.",
    "Close-up of the rabbit's face as it smells a flower; petals and grass sway in the foreground. The camera moves "
    "slowly to the left, and the background stays out of focus.",
    "Three small rodents hide behind a tree trunk. One of them laughs and nudges the flying squirrel beside it.",
    "A butterfly crosses the frame from right to left above tall grass. The sky is clear and pale blue.",
    "An apple falls from a branch and rolls through the grass towards the rabbit, which bends down to pick it up.",
    "The rabbit walks through a sunlit forest path, seen from behind at a low angle, with the camera following.",
)
SECOND_CAPTIONS: Final = (
    "Wide shot, static camera: a rabbit in front of its burrow at dawn, facing the viewer.",
    "Macro shot, slow pan left: a rabbit's nose touches a pink flower.",
)


def previews(num: int, *, num_pictures: int = 5) -> list[str]:
    """Animated WebPs of the footage in ``tests/media``, each of other frames, as data addresses."""
    pictures: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
    for path in sorted(MEDIA.glob("*.mp4")):
        pictures += _pictures(path, num * num_pictures // 2 + num_pictures)
    chosen = (pictures[index * num_pictures : (index + 1) * num_pictures] for index in range(num))
    webps = (encode_webp(np.stack(each), [200] * len(each), quality=50, compression_level=1) for each in chosen)
    return ["data:image/webp;base64," + base64.b64encode(webp).decode("ascii") for webp in webps]


def _pictures(path: Path, num: int) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """So many from its begin on, 240 lines high, as packed yuv420p."""
    with av.open(path, "r") as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        step = max(1, min(3, stream.frames // num))
        frames = islice(container.decode(stream), 0, None, step)
        return [
            frame.reformat(width=426, height=240, format="yuv420p").to_ndarray().astype(np.uint8, copy=False)
            for frame in islice(frames, num)
        ]


def window(preview: str | None, *texts: str, start_frame: int = 0) -> dict[str, Any]:
    """One with a caption for each text: v0, v1 and so on."""
    captions = {f"v{version}": {"qwen": text} for version, text in enumerate(texts)}
    return {"start_frame": start_frame, "end_frame": start_frame + 127, "preview": preview, "captions": captions}


def clip(number: int, windows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """The clip of a number: longer, with more motion and less beauty than the one before."""
    name = f"holiday/big_buck_bunny_{number % 7}.mp4"
    start_s = 12.48 * number
    return {
        "uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, str(number))),
        "source": f"/data/raw/{name}",
        "video_id": name,
        "span": [start_s, start_s + 2 + number / 4],
        "width": 1280 if number % 3 else 1920,
        "height": 720 if number % 3 else 1080,
        "duration_s": 2 + number / 4,
        "status": "kept",
        "rejection": None,
        "errors": {},
        "scores": {"motion_global": 0.0021 * (number + 1), "aesthetic": round(6 - number / 20, 2)},
        "text_match": None,
        "clip_href": f"clips/{number}.mp4",
        "windows": windows,
        **changes,
    }


def clips(num: int, shown: list[str]) -> list[dict[str, Any]]:
    """Most are kept; of every twelve, two are rejected and one has an error."""
    made = []
    for number in range(num):
        first, second = (shown[(number + more) % len(shown)] if shown else None for more in (0, 1))
        texts = [CAPTIONS[number % len(CAPTIONS)], *([SECOND_CAPTIONS[number // 4 % 2]] if number % 4 == 1 else [])]
        windows = [window(first, *texts)]
        if number % 3 == 1:
            windows.append(window(second, CAPTIONS[(number + 1) % len(CAPTIONS)], *texts[1:], start_frame=128))
        made.append(clip(number, windows, **_fate(number)))
    return made


def _fate(number: int) -> dict[str, Any]:
    if number % 12 == 5:
        return {"status": "rejected", "rejection": {"filter": "motion", "measure": 0.00093, "limit": 0.002}}
    if number % 12 == 8:
        return {"status": "rejected", "rejection": {"filter": "aesthetic", "measure": 3.11, "limit": 3.5}}
    if number % 12 == 11:
        return {"status": "error", "errors": {"qwen_caption": "the engine gave no text after 3 tries"}}
    if number % 12 == 2:
        return {"text_match": {"text": "an animal outdoors", "probability": 0.873}}
    return {}


def failures(num: int) -> list[dict[str, Any]]:
    """Of three reasons, with their logs."""
    reasons = (
        ("no_video_stream", "no video stream (streams: audio)"),
        ("truncated", "ends in the middle of a packet at 4,194,304 bytes; is the copy complete?"),
        ("crashed", "the decoding child ended with signal 11, twice"),
    )
    made = []
    for number in range(num):
        reason, message = reasons[number % 3]
        log = f"logs/attempt-001/shard-{number % 40:05d}.log"
        made.append(
            {
                "video_id": f"holiday/part {number % 9}/clip_{number:04d}.mp4",
                "reason": reason,
                "message": message,
                "log": log,
                "log_href": log,
                "line": 17 + number,
                "retry": "clipmill resume runs/traffic-v0 --retry-failed",
            }
        )
    return made


def plots() -> list[dict[str, Any]]:
    """Bars, lines and stacks as reports have them."""
    ranges = ["0-1", "1-2", "2-3", "3-4", "4-5", "5-7", "7-10", "10-15", "15-20", "20-30"]
    names = ["video_reader", "one_pass", "models", "qwen_preparation", "qwen_generation", "preview", "clip_writer"]
    kept, rejected = [3, 14, 60, 122, 141, 167, 131, 92, 54, 12], [1, 4, 9, 12, 8, 7, 2, 1, 0, 0]
    hours = [round(0.25 * step, 2) for step in range(41)]
    done = [round(812 * (1 - (1 - step / 40) ** 1.4)) for step in range(41)]

    def plot(
        name: str, title: str, x_label: str, y_label: str, labels: list[Any], **series: list[Any]
    ) -> dict[str, Any]:
        made = [{"name": each, "values": values} for each, values in series.items()]
        axes = {"x_label": x_label, "y_label": y_label, "labels": labels}
        return {"id": name, "title": title, "kind": "bars", **axes, "series": made, "note": None}

    stages = {
        "busy": [120.0, 2900.0, 3100.0, 800.0, 5400.0, 210.0, 160.0],
        "starved": [0.0, 900.0, 400.0, 2600.0, 350.0, 5000.0, 5200.0],
        "blocked": [4900.0, 1800.0, 2100.0, 1900.0, 0.0, 40.0, 0.0],
    }
    motion = ["0.001-0.002", "0.002-0.005", "0.005-0.01", "0.01-0.02", "0.02-0.05", "0.05-0.1"]
    reasons = ["no_video_stream", "truncated", "crashed"]
    return [
        plot(
            "progress",
            "Progress",
            "h",
            "videos",
            [str(each) for each in hours],
            done=done,
            failed=[n // 60 for n in done],
        )
        | {"kind": "line"},
        plot("clip_duration", "Clip duration", "s", "clips", ranges, kept=kept, rejected=rejected),
        plot("stage_time", "Time of stages", "stage", "s", names, **stages)
        | {"kind": "stacked", "note": "starved: waiting for tasks; blocked: waiting for room behind it"},
        plot(
            "resolution",
            "Resolution",
            "lines",
            "clips",
            ["480", "720", "1080", "2160 or more"],
            kept=[40, 512, 221, 23],
        ),
        plot(
            "motion",
            "Motion",
            "global mean",
            "clips",
            motion,
            kept=[0, 60, 230, 310, 160, 36],
            rejected=[44, 0, 0, 0, 0, 0],
        )
        | {"note": "limit 0.002"},
        plot(
            "caption_words",
            "Caption length",
            "words",
            "windows",
            ["20-29", "30-39", "40-49", "50-74"],
            qwen=[90, 400, 310, 120],
        ),
        plot("failures", "Failures", "reason", "videos", reasons, videos=[9, 3, 1]),
    ]


FIGURES: Final[dict[str, Any]] = {
    "num_videos": 830,
    "num_done": 812,
    "num_failed": 13,
    "num_missing": 5,
    "num_clips": 796,
    "num_rejected": {"motion": 31, "aesthetic": 13},
    "num_windows": 920,
    "num_packed": 905,
    "num_left_out": 15,
    "source_s": 411_230.0,
    "clip_s": 301_912.5,
    "source_bytes": 912_345_678_901,
    "clip_bytes": 401_345_678_901,
    "num_files": 4210,
    "wall_s": 36_120.0,
    "worker_s": 281_000.0,
    "gpu_s": 280_400.0,
    "source_s_per_gpu_s": 1.4666,
    "source_s_per_worker_s": 1.4634,
    "caption_tokens_per_s": {"qwen": 1873.4},
    "cpu_busy": 0.614,
    "gpu_busy": 0.883,
    "video_p50_s": 41.2,
    "video_p99_s": 388.0,
    "num_retries": 4,
    "decoded_per_source_frame": 1.003,
}


def document(**changes: Any) -> dict[str, Any]:
    """A whole one, without clips and failures unless they are given."""
    return {
        "title": "traffic-v0",
        "run": {
            "run_dir": "/lustre/team/runs/traffic-v0",
            "clips_path": "s3://lake/traffic/processed/v0",
            "dataset_path": "s3://lake/traffic/webdataset",
            "cluster": "slurm",
            "annotation_version": "v0",
            "code_version": "0.1.0",
            "config_hash": "a2710817bccba801",
            "started": 1_790_000_000.0,
            "ended": 1_790_036_120.0,
            "made": 1_790_036_150.0,
            "state": "incomplete",
        },
        "figures": FIGURES,
        "plots": plots(),
        "clips": [],
        "num_clips_sampled_from": 840,
        "failures": [],
        "first_errors": [],
        **changes,
    }
