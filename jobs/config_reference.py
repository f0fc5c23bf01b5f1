"""The page of all settings, read off their models: ``python -m jobs.config_reference > docs/config.md``."""

import sys
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jobs.config import RunConfig
from jobs.setting_words import expected, group_model, unit
from jobs.starter import yaml_value

MEND = "python -m jobs.config_reference > docs/config.md"

_INTRO = """\
# Settings of a run

A run is described by one YAML file. `clipmill init` writes a short one to begin with, `clipmill init --full` one with
every setting. Only `run_dir`, `output_clip_path` and one of `input_video_path` and `manifest` are needed; everything
else has a default. `clipmill plan run.yaml` checks a file and tells all mistakes at once, with line and key.

This page is made from the code by `python -m jobs.config_reference > docs/config.md`.

## Where settings come from

1. The defaults below.
2. The YAML file. An unknown key is a mistake, and so is one that stands there twice. Numbers are decimal (`08` is 8),
   `1e8` is a number, and `04:00:00` and `2026-01-31` are texts. `null` means that a setting is not there.
3. `--set KEY=VALUE` on the command line, as often as needed; the last one wins. The key is written with its group, the
   value as in YAML: `--set split.transnetv2_crop_s=0 --set "slurm.modules=[cuda, ffmpeg]"
   --set split.transnetv2_max_length_s=null`.

Relative paths count from the folder in which the command is given; the run folder keeps them absolute. A file that ends
in `.json` is read as JSON; one with `{"pipeline": "split", "args": {...}}` is that of a Cosmos-Curate split pipeline
(`clipmill init --from-json FILE` makes a YAML of it).

The resolved settings stand in `run.yaml` of the run folder. Another run with other settings in the same folder is
refused, unless only places and resources differ; `clipmill resume RUN --config NEW.yaml` (or `--set`) changes them and
does again what they decide.

## Environment

| variable | what it does |
|---|---|
| `AWS_PROFILE`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, ... | credentials for `s3://` \
paths, found by boto3 in its own order; never written anywhere |
| `HF_TOKEN`, `HF_ENDPOINT` | for `clipmill models pull`: access to gated models, another model hub |
| `CUDA_VISIBLE_DEVICES` | the GPUs that `cluster: local` shares out, unless `local.gpus` names them |
| `SLURM_TMPDIR`, `TMPDIR` | where temporary files go, unless `worker.scratch_dir` names a folder |
| `XDG_CACHE_HOME` | where `clipmill search` keeps its index, if it can't be beside the output |
| `CLIPMILL_LOG_LEVEL` | of workers' logs: `DEBUG`, `INFO` (default), `WARNING` |

Variables for jobs on Slurm stand in `slurm.environment`.

## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | failed; the message says why |
| 2 | wrong usage or config; nothing was begun |
| 3 | published, but videos are missing: `clipmill resume` goes on |
| 4 | refused: the aggregation would publish something wrong |

## At the top of the file

The groups follow below. In the tables, *takes* is what `clipmill plan` accepts, and *default* is what holds where the
file says nothing.
"""


def reference() -> str:
    """The page, as Markdown."""
    settings = {name: each for name, each in RunConfig.model_fields.items() if group_model(each) is None}
    lines = [_INTRO, *_table(settings, None), ""]
    for name, each in RunConfig.model_fields.items():
        group = group_model(each)
        if group is not None:
            lines += [f"## {name}", "", " ".join((group.__doc__ or "").split()), ""]
            lines += [*_table(group.model_fields, each.default), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(fields: dict[str, FieldInfo], defaults: BaseModel | None) -> Iterator[str]:
    """One row for each setting.

    Args:
        defaults: the group as it is without being written; None for settings at the top.
    """
    yield "| key | takes | unit | default | meaning |"
    yield "|---|---|---|---|---|"
    for key, field in fields.items():
        default = "needed" if field.is_required() else f"`{yaml_value(field.get_default(call_default_factory=True))}`"
        unwritten = getattr(defaults, key, field.default)
        if defaults is not None and unwritten != field.default:
            default += f" (without the group: `{yaml_value(unwritten)}`)"
        takes = expected(field.annotation, field.metadata)
        yield f"| `{key}` | {_cell(takes)} | {unit(key)} | {default} | {_cell(field.description or '')} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main() -> None:
    """Print the page."""
    sys.stdout.write(reference())


if __name__ == "__main__":
    main()
