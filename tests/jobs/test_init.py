"""The starters that `clipmill init` writes: valid as they are, and with every mark taken away."""

import json
import re
from pathlib import Path

import pytest
import yaml

from jobs import exits
from jobs.config import RunConfig, absolute, load_config, read_config
from jobs.setting_words import group_model
from jobs.starter import short_yaml
from tests.local_runs import make_videos
from tests.terminal import Terminal


def switched_on(lines: list[str], *wanted: int) -> str:
    """The short starter with the mark of these lines taken away."""
    return "\n".join(line[1:] if number in wanted else line for number, line in enumerate(lines)) + "\n"


def groups_that_are_off(lines: list[str]) -> list[list[int]]:
    """Lines that belong together: a group with its settings, or one setting alone."""
    groups: list[list[int]] = []
    for number, line in enumerate(lines):
        if re.match(r"#\w", line):
            groups.append([number])
        elif re.match(r"# +\w+:", line):
            is_below = groups and groups[-1][-1] == number - 1
            groups.append([*groups.pop(), number] if is_below else [number])
    return groups


LINES = short_yaml().splitlines()
GROUPS = groups_that_are_off(LINES)


def loaded(folder: Path, text: str) -> RunConfig:
    path = folder / "run.yaml"
    path.write_text(text)
    return load_config(path)


def test_the_short_starter_is_short_and_valid_as_it_is(tmp_path: Path) -> None:
    assert len([line for line in LINES if line and not line.startswith("##")]) <= 40
    assert max(map(len, LINES)) <= 120
    config = loaded(tmp_path, short_yaml())
    assert (config.cluster, config.output_dataset_path) == ("local", None)
    unset = {"run_dir": "r", "input_video_path": "v", "output_clip_path": "c"}
    written = config.model_dump(exclude={"run_dir", "input_video_path", "output_clip_path", "cluster"})
    assert written == absolute(RunConfig.model_validate(unset)).model_dump(exclude=set(unset) | {"cluster"})


@pytest.mark.parametrize("group", GROUPS, ids=[LINES[group[0]].split(":")[0].strip("# ") for group in GROUPS])
def test_what_is_off_can_be_switched_on(tmp_path: Path, group: list[int]) -> None:
    document = yaml.safe_load(switched_on(LINES, *group))
    before = yaml.safe_load(short_yaml())
    assert document != before
    config = loaded(tmp_path, switched_on(LINES, *group))
    turned_on = {"captions": "generate_captions", "embeddings": "generate_embeddings"}
    for name in set(document) - set(before):
        assert getattr(getattr(config, name), turned_on.get(name, ""), True)


def test_all_that_is_off_can_be_switched_on_together(tmp_path: Path) -> None:
    config = loaded(tmp_path, switched_on(LINES, *[number for group in GROUPS for number in group]))
    assert config.captions.generate_captions
    assert config.embeddings.generate_embeddings
    assert (config.slurm.time, config.filters.motion_filter) == ("04:00:00", "enable")


def test_init_writes_it_and_never_overwrites(terminal: Terminal, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    answer = terminal("init", path)
    assert answer.code == exits.DONE
    assert f"clipmill plan {path}" in answer.out
    assert path.read_text() == short_yaml("mine.yaml")
    assert "clipmill run mine.yaml" in path.read_text()
    path.write_text("mine")
    again = terminal("init", path)
    assert again.code == exits.USAGE
    assert str(path) in again.err
    assert path.read_text() == "mine"


def test_init_into_a_folder_that_is_not_there_says_so(terminal: Terminal, tmp_path: Path) -> None:
    answer = terminal("init", tmp_path / "none" / "run.yaml")
    assert answer.code == exits.FAILED
    assert "none/run.yaml" in answer.err


def test_a_starter_needs_nothing_but_its_input(terminal: Terminal, tmp_path: Path) -> None:
    raw = make_videos(tmp_path / "raw", 1)
    path = tmp_path / "run.yaml"
    terminal("init", path)
    outputs = ["--set", f"run_dir={tmp_path}/run", "--set", f"output_clip_path={tmp_path}/clips"]
    missing = terminal("plan", path, *outputs)
    assert missing.code == exits.USAGE
    assert missing.err.startswith("input_video_path: '/path/to/videos': ")
    answer = terminal("plan", path, *outputs, "--set", f"input_video_path={raw}")
    assert (answer.code, answer.err) == (exits.DONE, "")


def test_the_full_starter_has_every_setting(terminal: Terminal, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    assert terminal("init", path, "--full").code == exits.DONE
    assert load_config(path).cluster == "local"
    for name, field in RunConfig.model_fields.items():
        group = group_model(field)
        for key in group.model_fields if group is not None else [name]:
            assert f"{key}: " in path.read_text()


def test_the_json_of_a_split_pipeline_becomes_a_yaml_of_the_same_settings(terminal: Terminal, tmp_path: Path) -> None:
    arguments = {"input_video_path": "/v", "output_clip_path": "/c", "transnetv2_threshold": 0.3, "verbose": True}
    pipeline = tmp_path / "split.json"
    pipeline.write_text(json.dumps({"pipeline": "split", "args": arguments}))
    assert terminal("init", tmp_path / "run.yaml", "--from-json", pipeline).code == exits.DONE
    assert load_config(tmp_path / "run.yaml") == read_config(pipeline).config
    assert "args.verbose has no effect here" in (tmp_path / "run.yaml").read_text()
    pipeline.write_text(json.dumps({"pipeline": "split", "args": {**arguments, "transnetv2_threshold": 3}}))
    answer = terminal("init", tmp_path / "new.yaml", "--from-json", pipeline)
    assert answer.code == exits.USAGE
    assert "split.transnetv2_threshold: expected a number above 0 and below 1, found 3" in answer.err
    assert not (tmp_path / "new.yaml").exists()
