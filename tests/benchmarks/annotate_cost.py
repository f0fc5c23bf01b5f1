"""What it costs to caption clips anew, against the split run that made and captioned them.

Both are whole runs of the command line with processes of their own, on real footage: shots by TransNetV2, clips by
libx264, previews, captions by a tiny model of Qwen2.5-VL's architecture (transformers, on the CPU); then annotated with
another prompt. CPU seconds, user and system, of everything that either starts. On a CPU the model is most of the cost,
as tiny as it is: what annotating costs without one is printed, too.

Goal: at most 15 % of the split's.
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.harness import cpu_s, parse_size, verdict
from tests.benchmarks.s3_cost import footage as films
from tests.captioning.tiny_models import write_models
from tests.footage import footage

GOAL = 0.15


def clipmill(command: str, path: Path, config: dict[str, Any]) -> float:
    """Run a command of the config; gives its CPU seconds."""
    path.write_text(yaml.safe_dump(config))
    before = cpu_s()
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", command, str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return cpu_s() - before


def clips_of(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "out/clips").iterdir()}


def captions(prompt: str) -> dict[str, Any]:
    engine = {"engine": "transformers", "engine_arguments": {"dtype": "float32"}, "captioning_max_output_tokens": 16}
    return {"captioning_prompt_text": prompt, **engine}


def main() -> int:
    is_tiny = parse_size(__doc__) == "tiny"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if is_tiny:
            films(folder / "raw", num_videos=1, length_s=7)
        else:
            (folder / "raw").mkdir()
            (folder / "raw/bbb.mp4").symlink_to(footage("bbb.mp4"))
        write_models(folder / "models")
        common = {
            "output_clip_path": str(folder / "out"),
            "cluster": "local",
            "models": {"model_dir": str(folder / "models")},
            "slurm": {"gpus_per_task": 0},
            "plan": {"num_shards": 1},
        }
        first = {"run_dir": str(folder / "run-v0"), "input_video_path": str(folder / "raw"), **common}
        split_s = clipmill("run", folder / "v0.yaml", {**first, "captions": captions("What is there?")})
        clips = clips_of(folder)
        second = {"run_dir": str(folder / "run-v1"), "annotate": {"annotation_version": "v1"}, **common}
        annotate_s = clipmill("annotate", folder / "v1.yaml", {**second, "captions": captions("What happens?")})
        no_model = {"run_dir": str(folder / "run-v2"), "annotate": {"annotation_version": "v2"}, **common}
        no_model_s = 0.0 if is_tiny else clipmill("annotate", folder / "v2.yaml", {**no_model, "previews": {}})
        if clips_of(folder) != clips or not clips:
            raise RuntimeError("the clips are others than before")
    print(f"{len(clips)} clips, the same before and after: split {split_s:.1f} CPU s, annotate {annotate_s:.1f} CPU s")
    if not is_tiny:
        print(
            f"annotate without a model, previews alone: {no_model_s:.1f} CPU s, {no_model_s / split_s:.3f} of the split"
        )
    return verdict("annotate_cost", annotate_s / split_s, GOAL, at_most=True)


if __name__ == "__main__":
    sys.exit(main())
