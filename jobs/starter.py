"""What `clipmill init` writes: a short YAML to begin with, one with every setting, or one made of a pipeline's JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from jobs.config import ConfigError, RunConfig, read_config
from jobs.setting_words import group_model
from jobs.split_json import is_split_pipeline, split_settings
from jobs.yaml_text import Dumper

SHORT = """\
## A clipmill run. Check it:  clipmill plan {name}     What this machine lacks:  clipmill doctor {name}
## Do it here:  clipmill run {name}     On Slurm:  clipmill submit {name}
## A line that begins with one '#' is off: take the '#' away to switch it on, a group with all its lines.
## Every setting there is, with its default:  clipmill init --full

input_video_path: /path/to/videos    # where the videos are: a folder with all below it, or s3://bucket/prefix
#manifest: videos.txt                # or a list of them: .txt, .json, .jsonl or .csv (relative paths: of the folder)
run_dir: runs/first                  # the run's state and logs; on Slurm a folder that all nodes see
output_clip_path: processed/v0       # clips, metadata and previews go here; a folder or s3://bucket/prefix
#output_dataset_path: webdataset     # also pack training tars there; a folder or s3://bucket/prefix
cluster: local                       # local: this machine; slurm: jobs of `clipmill submit`; debug: one process
#limit: 10                           # for a first try: only so many videos

split:
  splitting_algorithm: transnetv2    # a clip for each shot (PyTorch); fixed-stride: cuts at regular times, no model
  transnetv2_min_length_s: 2.0       # a shorter clip is left out
  transnetv2_max_length_s: 60.0      # a longer shot is cut into clips of this length
#  fixed_stride_split_duration: 10.0 # seconds of a clip, with fixed-stride

previews:
  generate_previews: true            # an animated WebP of each window (256 frames) of a clip; false: none

## Captions by a vision-language model. First fetch its weights: clipmill models pull {name}
#captions:
#  captioning_algorithm: qwen        # Qwen2.5-VL-7B, 17 GB; nemotron: 26 GB; qwen3-vl-2b: 4 GB, for a first try
#  captioning_prompt_variant: av     # default, av (driving) or av-surveillance; or captioning_prompt_text: your own

## Vectors of clips, for clipmill search and clipmill dedup
#embeddings:
#  embedding_algorithm: cosmos-embed1-224p   # internvideo2: another; efficientnet-lite0: small, fine without a GPU

## Clips to leave out; they are kept apart, with the reason
#filters:
#  motion_filter: enable             # those in which nothing moves; score-only: measure, leave out none
#  aesthetic_threshold: 3.5          # those that look worse than this, 0 to 10; needs weights

## Where the weights of captions, embeddings and the aesthetic filter lie
#models:
#  model_dir: /shared/models

## What a worker gets on Slurm
#slurm:
#  partition: gpu                    # as `sinfo` names it; account, qos: likewise
#  time: 04:00:00                    # wall time; what is unfinished then: clipmill resume
#  gpus_per_task: 1                  # 0 on a cluster without GPUs
#  cpus_per_task: 8                  # one video is decoded on each
#  mem_gb: 32                        # GiB
#  array_parallelism: 64             # workers at once
"""


def short_yaml(name: str = "run.yaml") -> str:
    """The few settings that people change, for a file of this name; what is off begins with one '#'."""
    return SHORT.format(name=name)


def full_yaml() -> str:
    """Every setting with its default and what it means."""
    lines = [
        "# A clipmill run. Lines that begin with '# ' before a key show its default: take the mark away to change it."
    ]
    for name, each in RunConfig.model_fields.items():
        group = group_model(each)
        if group is not None:
            lines += ["", f"# {name}:  # {' '.join((group.__doc__ or '').split())}"]
            lines += [
                f"#   {key}: {yaml_value(getattr(each.default, key))}  # {f.description}"
                for key, f in group.model_fields.items()
            ]
        else:
            value = _STARTER[name] if name in _STARTER else yaml_value(each.default)
            mark = "" if name in _STARTER else "# "
            lines.append(f"{mark}{name}: {value}  # {each.description}")
    return "\n".join(lines) + "\n"


_STARTER = {
    "run_dir": "runs/first",
    "input_video_path": "/path/to/videos",
    "output_clip_path": "processed/v0",
    "output_dataset_path": "webdataset",
    "cluster": "local",
}


def yaml_value(value: object) -> str:
    """A value on one line, as any reader of YAML takes it."""
    if isinstance(value, str | float):  # not in JSON's way: other readers of YAML take 1e-06 for a text
        return str(yaml.safe_dump(value, width=1000)).splitlines()[0]
    return json.dumps(value)


def yaml_of_pipeline(path: Path) -> str:
    """The settings that the JSON of a split pipeline asks for, as a YAML; what has no effect here stands on top.

    Raises:
        ConfigError: it is none, or asks for what is not known.
    """
    found = read_config(path)
    if found.problems:
        raise ConfigError(found.problems)
    document: Any = json.loads(path.read_text(encoding="utf-8")) if path.suffix.lower() == ".json" else None
    if not is_split_pipeline(document):
        raise ConfigError([f'{path}: expected the JSON of a split pipeline: {{"pipeline": "split", "args": {{...}}}}'])
    settings, _, notes = split_settings(document, path)
    text = str(yaml.dump(settings, Dumper=Dumper, sort_keys=False, allow_unicode=True))
    return "\n".join([f"## The settings of {path}, for clipmill", *_remarks(notes), text])


def _remarks(notes: Sequence[str]) -> list[str]:
    return [f"## {note}" for note in notes]
