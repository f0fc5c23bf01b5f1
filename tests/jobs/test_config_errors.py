"""Mistakes in settings, in plain words: each names line, key, what was found and what would be right."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jobs.config import ConfigError, RunConfig, load_config
from jobs.setting_words import kinds

HEAD = ["run_dir: /runs/a", "input_video_path: /videos", "output_clip_path: /clips"]
PYDANTIC = ("Input should", "valid ", "unable to parse", "type=", "Value error", "validation")
TEXTS = {
    "captions.captioning_algorithm": "one of qwen, ",
    "captions.captioning_prompt_variant": "one of default, av, av-surveillance",
    "captions.enhance_captions_algorithm": "one of qwen_lm",
    "captions.enhance_captions_prompt_variant": "one of default, av, av-surveillance",
    "embeddings.embedding_algorithm": "one of cosmos-embed1-224p, ",
    "t5.model": "one of google-t5/t5-11b",
    "slurm.time": "04:00:00",
    "slurm.aggregate_time": "04:00:00",
    "aggregate.time": "04:00:00",
    "s3.endpoint_url": "https://s3.example.org",
    "annotate.annotation_version": "such as v1",
    "annotate.from_annotation_version": "such as v1",
    "dataset.annotation_version": "such as v1",
}
"""What is right where not every text is."""


def problems_of(folder: Path, text: str, *overrides: str, name: str = "run.yaml") -> list[str]:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return [problem.replace(str(path), "FILE") for problem in caught.value.problems]


def all_settings() -> Iterator[tuple[str, FieldInfo]]:
    for name, field in RunConfig.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for key, inner in kind.model_fields.items():
                yield f"{name}.{key}", inner
        else:
            yield name, field


def wrong_values(key: str, field: FieldInfo) -> Iterator[tuple[object, str]]:
    """Values that a setting can't have, each with what the message must hold of what would be right."""
    possible = list(kinds(field.annotation))
    if {int, float} & set(possible):
        yield from wrong_numbers(field, possible)
    if bool in possible:
        yield "maybe", "true or false"
    if str in possible:
        yield ["a"], TEXTS.get(key, "text")
    for each in possible:
        if get_origin(each) is Literal:
            yield "nonsense", str(get_args(each)[0])
        elif get_origin(each) is list:
            yield from (("alone", "a list of "), (3, "a list of "))
        elif get_origin(each) is dict:
            yield 3, "names with values"
    if key in TEXTS:
        yield "no such thing", TEXTS[key]


def wrong_numbers(field: FieldInfo, possible: list[Any]) -> Iterator[tuple[object, str]]:
    name = "whole number" if int in possible else "number"
    yield from (("many", name), (True, name), ([1], name))
    if int in possible:
        yield 1.5, name
    for bound, value in bounds_of(field):
        yield value, f"{bound:g}"


def bounds_of(field: FieldInfo) -> Iterator[tuple[float, float]]:
    """Each bound of a number, and a value beyond it."""
    remarks: list[object] = [field, *getattr(field.annotation, "__args__", ())]
    found = [each for remark in remarks for each in metadata_of(remark)]
    for each in [inner for one in found for inner in (one.metadata if isinstance(one, FieldInfo) else [one])]:
        for name, step in (("gt", 0), ("ge", -1), ("lt", 0), ("le", 1)):
            if (bound := getattr(each, name, None)) is not None:
                yield bound, bound + step


def metadata_of(remark: object) -> list[object]:
    return list(getattr(remark, "metadata", None) or getattr(remark, "__metadata__", None) or [])


CASES = [
    pytest.param(key, value, right, id=f"{key}={value!r}")
    for key, field in all_settings()
    for value, right in wrong_values(key, field)
]


def test_every_setting_is_tried() -> None:
    assert {case.values[0] for case in CASES} == {key for key, _ in all_settings()}


@pytest.mark.parametrize(("key", "value", "right"), CASES)
def test_a_wrong_value_is_told_with_line_key_what_is_right_and_what_was_found(
    tmp_path: Path, key: str, value: object, right: str
) -> None:
    group, _, name = key.rpartition(".")
    head = [line for line in HEAD if not line.startswith(f"{key}:")]
    written = f"{name}: {json.dumps(value)}"
    lines = [*head, "# a remark", f"{group}:", f"  {written}"] if group else [*head, "# a remark", written]
    problems = problems_of(tmp_path, "\n".join(lines) + "\n")
    (problem,) = [each for each in problems if f" {key}" in each]
    assert problem.startswith(f"FILE:{len(lines)}: {key}")
    assert "expected " in problem
    assert right in problem
    assert ", found " in problem or key == "s3.endpoint_url"  # a text there may hold a password
    assert not any(words in problem for words in PYDANTIC)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("slurm: 3", "FILE:4: slurm: expected a group of settings, indented below it, found 3"),
        ("clips: [a]", 'FILE:4: clips: expected a group of settings, indented below it, found a list: ["a"]'),
        ("limit:", "FILE:4: limit: expected a whole number of at least 0, found nothing (null)"),
        ("limit: {a: 1}", 'FILE:4: limit: expected a whole number of at least 0, found a group: {"a": 1}'),
        ("3: a", "FILE:4: 3: a key is a text, found 3"),
        ("slurm: {partition: yes}", "found true; a text that reads like true needs quotes"),
        ("slurm: {modules: cuda}", "expected a list of texts, such as [a, b], found 'cuda'; write [cuda]"),
        ("slurm: {setup: [a,\n  [b]]}", 'FILE:5: slurm.setup.1: expected a text, found a list: ["b"]'),
        ("slurm: {requeue: ture}", "expected true or false, found 'ture'; did you mean 'true'?"),
        (
            "slurm: {time: soon}",
            "expected a Slurm wall time such as 90 (minutes), 04:00:00 or 1-12 (days-hours), found 'soon'",
        ),
        (
            "slurm: {container_runtime: apptaner}",
            "one of pyxis, apptainer, found 'apptaner'; did you mean 'apptainer'?",
        ),
        ("slurm: {environment: {A-B: c}}", "slurm.environment.A-B: expected a name of letters, digits and _"),
        (
            "worker: {stall_timeout_s: 2 min}",
            "expected a number of seconds above 0, found '2 min'; write the number alone: 120",
        ),
        ("plan: {target_shard_gb: 20GB}", "expected a number of GB above 0, found '20GB'; write the number alone: 20"),
        ("slurm: {mem_gb: lots}", "slurm.mem_gb: expected a number of GiB above 0, found 'lots'"),
        ("plan: {max_part_gb: all}", "plan.max_part_gb: expected a number of GB above 0, shard or null, found 'all'"),
        (
            "windows: {remainder_threshold: 300}",
            "windows.remainder_threshold: expected at most window_size (256), found 300",
        ),
    ],
)
def test_what_was_meant_is_told_where_it_is_clear(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = problems_of(tmp_path, "\n".join([*HEAD, text, ""]))
    assert problem in found


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        pytest.param(["split:", "\ttransnetv2_crop_s: 1"], r"FILE:5: .*a tab .*", id="a tab"),
        pytest.param(["limit 3", "cluster: local"], r"FILE:4: .*a colon is missing: .*write limit: 3", id="no colon"),
        pytest.param(["limit:3", "cluster: local"], r"FILE:4: .*a space is missing .*write limit: 3", id="no space"),
        pytest.param(["split", "  transnetv2_crop_s: 1"], r"FILE:4: .*colon is missing: 'split'.*", id="group without"),
        pytest.param(["split:", "  crf: 1", " limit: 2"], r"FILE:6: .*indented unlike.*", id="less indented"),
        pytest.param(["split:", "  crf: 1", "    limit: 2"], r"FILE:6: .*indented unlike.*", id="more indented"),
        pytest.param(["manifest: a: b"], r"FILE:4: .*needs quotes.*", id="a colon in a value"),
        pytest.param(["manifest: @a"], r"FILE:4: .*begins with @ needs quotes.*", id="an at sign"),
        pytest.param(["manifest: *a"], r"FILE:4: .*begins with \* needs quotes.*", id="a star"),
        pytest.param(["slurm: {setup: [a, b}", "limit: 3"], r"FILE:4: .*bracket .* not closed.*", id="a bracket"),
        pytest.param(["manifest: 'a", "limit: 3"], r"FILE:4: .*quote .* not closed", id="a quote"),
        pytest.param(["---", "limit: 3"], r"FILE:4: .*second document.*", id="two documents"),
        pytest.param(["manifest: a\x01b"], r"FILE:4: .*can't be printed.*", id="a control character"),
    ],
)
def test_a_file_that_is_not_yaml_is_told_with_the_line_to_mend(tmp_path: Path, lines: list[str], problem: str) -> None:
    (found,) = problems_of(tmp_path, "\n".join([*HEAD, *lines, ""]))
    assert re.fullmatch(problem, found), found


def test_mistakes_in_json_have_lines_too(tmp_path: Path) -> None:
    head = '{"run_dir": "/r", "input_video_path": "/v", "output_clip_path": "/c",\n'
    assert problems_of(tmp_path, head + '\t"limit": -1}', name="run.json") == [
        "FILE:2: limit: expected a whole number of at least 0, found -1"
    ]
    assert problems_of(tmp_path, head + '"limit": 1 "cluster": "local"}', name="run.json") == [
        "FILE:2: not JSON: Expecting ',' delimiter (column 12)"
    ]
    pipeline: dict[str, Any] = {"input_video_path": "/v", "output_clip_path": "/c", "transnetv2_threshold": 7}
    text = json.dumps({"pipeline": "split", "args": pipeline}, indent=1)
    (found,) = problems_of(tmp_path, text, name="split.json")
    line = next(n for n, each in enumerate(text.splitlines(), start=1) if "threshold" in each)
    assert found == f"FILE:{line}: split.transnetv2_threshold: expected a number above 0 and below 1, found 7"


def test_mistakes_are_told_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = problems_of(tmp_path, "\n".join([*HEAD, "slurm: {mem_gb: 0}", "limit: -1", "clips: {crf: 99}", ""]))
    assert [problem.split(":")[1] for problem in found] == ["4", "5", "6"]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("splt.transnetv2_crop_s=0", "--set splt.transnetv2_crop_s=0: splt: unknown key; did you mean 'split'?"),
        ("split=3", "--set split=3: split: expected a group of settings, indented below it, found 3"),
        ("slurm.modules=[[1]]", "--set slurm.modules=[[1]]: slurm.modules.0: expected a text, found a list: [1]"),
    ],
)
def test_a_mistake_of_an_override_names_the_override(tmp_path: Path, override: str, problem: str) -> None:
    assert problems_of(tmp_path, "\n".join([*HEAD, "slurm: {modules: [a]}", ""]), override) == [problem]


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("s3: {endpoint_url: 'https://me:hunter2@s3.example.org'}", []),
        ("s3: {endpoint_url: ['https://me:hunter2@s3.example.org']}", []),
        ("s3: {region: ['https://me:hunter2@s3.example.org']}", []),
        ("slurm: {environment: {TOKEN: [hunter2]}}", []),
        ("slurm: {environment: [hunter2]}", []),
        ("", ["s3.endpoint_url=https://me:hunter2@s3.example.org"]),
        ("", ["slurm.environment.TOKEN=[hunter2]"]),
    ],
)
def test_a_secret_is_not_shown(tmp_path: Path, text: str, overrides: list[str]) -> None:
    (problem,) = problems_of(tmp_path, "\n".join([*HEAD, text, ""]), *overrides)
    assert "hunter2" not in problem
