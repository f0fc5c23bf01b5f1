"""The config: what it reads, what it refuses and how it says so, and the starter that explains it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from curation.storage import S3Options
from jobs.config import ConfigError, RunConfig, absolute, load_config, read_config, to_yaml
from jobs.starter import full_yaml

NEEDED = {"run_dir": "/runs/a", "input_video_path": "/videos", "output_clip_path": "/clips"}
HEAD = "".join(f"{key}: {value}\n" for key, value in NEEDED.items())  # lines 1 to 3
GROUPS = [
    *["split", "clips", "limits", "windows", "filters", "previews", "models"],
    *["dataset", "plan", "worker", "local", "slurm", "s3"],
]
several_in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def config_file(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def loaded(folder: Path, text: str, *overrides: str) -> RunConfig:
    """The config of a file that begins with the keys that are needed."""
    return load_config(config_file(folder, HEAD + text), overrides)


def problems_of(folder: Path, text: str, *overrides: str) -> list[str]:
    """The problems of a file, with the file's own path cut off."""
    path = config_file(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return [problem.replace(str(path), "FILE") for problem in caught.value.problems]


def run_config(**groups: dict[str, object]) -> RunConfig:
    return absolute(RunConfig.model_validate(NEEDED | groups))


# What is read


def test_s3_is_spoken_to_as_the_config_says(tmp_path: Path) -> None:
    text = """\
input_s3_profile_name: lake
output_s3_profile_name: mill
s3: {endpoint_url: "https://s3.example.org:9000", region: eu-north-1, part_size_mb: 64, requests_at_once: 2}
"""
    lake = S3Options(
        profile_name="lake",
        endpoint_url="https://s3.example.org:9000",
        region="eu-north-1",
        part_size_bytes=64 * 2**20,
        requests_at_once=2,
    )
    config = loaded(tmp_path, text)
    assert config.input_s3 == lake
    assert config.output_s3 == replace(lake, profile_name="mill")
    assert loaded(tmp_path, "").input_s3 == S3Options()


def test_how_s3_is_spoken_to_changes_no_content(tmp_path: Path) -> None:
    assert loaded(tmp_path, "s3: {region: eu-north-1}").content_hash == loaded(tmp_path, "").content_hash


def test_a_password_in_an_endpoint_is_refused_and_not_shown(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, HEAD + "s3:\n  endpoint_url: https://me:hunter2@s3.example.org\n")
    assert problem.startswith("FILE:5: s3.endpoint_url: no user or password in the URL")
    assert "hunter2" not in problem


def test_a_file_with_the_needed_keys_has_every_default(tmp_path: Path) -> None:
    assert loaded(tmp_path, "") == run_config()


def test_the_defaults_are_those_of_the_contract() -> None:
    config = run_config()
    ours = {"transnetv2_batch_size", "transnetv2_model_dir", "transnetv2_skip_static", "transnetv2_snap_to_idr"}
    assert config.split.model_dump(exclude=ours) == {
        "splitting_algorithm": "transnetv2",
        "fixed_stride_split_duration": 10.0,
        "fixed_stride_min_clip_length_s": 2.0,
        "transnetv2_threshold": 0.4,
        "transnetv2_min_length_s": 2.0,
        "transnetv2_max_length_s": 60.0,
        "transnetv2_max_length_mode": "stride",
        "transnetv2_crop_s": 0.5,
    }
    assert config.windows.model_dump() == {"window_size": 256, "remainder_threshold": 128}
    assert config.previews.model_dump(exclude={"generate_previews"}) == {
        "target_fps": 1.0,
        "target_height": 240,
        "compression_level": 6,
        "quality": 50,
    }
    assert (config.limit, config.limit_clips) == (0, 0)
    assert (config.dataset.target_tar_size_mb, config.dataset.max_tars_per_part) == (500.0, 100)


@pytest.mark.parametrize("written", ["12:00:00", "2-12", "1-06:30:00", "90:00", "'90'", "12:00:00  # half a day"])
def test_a_wall_time_stays_the_text_that_was_written(tmp_path: Path, written: str) -> None:
    text = written.partition("  #")[0].strip("'")
    assert loaded(tmp_path, f"slurm:\n  time: {written}\n").slurm.time == text
    assert loaded(tmp_path, "", f"slurm.time={written}").slurm.time == text


@pytest.mark.parametrize(
    ("written", "number"),
    [("1e8", 1e8), ("1E+8", 1e8), ("2.5e-1", 0.25), (".5", 0.5), ("5.", 5.0), ("+3", 3.0), ("7", 7.0), ("1.5", 1.5)],
)
def test_numbers_are_read_however_they_are_written(tmp_path: Path, written: str, number: float) -> None:
    assert loaded(tmp_path, f"split: {{fixed_stride_split_duration: {written}}}\n").split == (
        run_config(split={"fixed_stride_split_duration": number}).split
    )


@pytest.mark.parametrize(("written", "number"), [("08", 8), ("010", 10), ("0", 0)])
def test_a_leading_zero_means_nothing(tmp_path: Path, written: str, number: int) -> None:
    assert loaded(tmp_path, f"limit: {written}\n").limit == number
    assert loaded(tmp_path, "", f"limit={written}").limit == number


@pytest.mark.parametrize("written", ["2026-01-31", "2026-13-45", "2026-01-31T10:00:00"])
def test_a_date_stays_the_text_that_was_written(tmp_path: Path, written: str) -> None:
    config = loaded(tmp_path, f"slurm:\n  additional_parameters:\n    begin: {written}\n")
    assert config.slurm.additional_parameters == {"begin": written}


def test_further_sbatch_options_keep_their_kind(tmp_path: Path) -> None:
    config = loaded(tmp_path, "slurm: {additional_parameters: {exclusive: true, nice: 100, constraint: a100}}\n")
    assert {key: (type(value), value) for key, value in config.slurm.additional_parameters.items()} == {
        "exclusive": (bool, True),
        "nice": (int, 100),
        "constraint": (str, "a100"),
    }


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_with_nothing_in_it_has_its_defaults(tmp_path: Path, group: str) -> None:
    assert loaded(tmp_path, f"{group}:\n") == run_config()


# Overrides


def test_an_override_wins_over_the_file_and_the_rest_stays(tmp_path: Path) -> None:
    config = loaded(
        tmp_path, "split: {transnetv2_crop_s: 0.25, transnetv2_threshold: 0.3}\n", "split.transnetv2_crop_s=1"
    )
    assert (config.split.transnetv2_crop_s, config.split.transnetv2_threshold) == (1.0, 0.3)


def test_overrides_make_groups_and_the_last_one_wins(tmp_path: Path) -> None:
    config = loaded(tmp_path, "clips:\n", "clips.crf=30", "clips.crf=31", "previews.quality=7", "cluster=local")
    assert (config.clips.crf, config.previews.quality, config.cluster) == (31, 7, "local")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("split.transnetv2_max_length_s=null", None),
        ("split.transnetv2_max_length_s=", None),
        ("split.transnetv2_max_length_s=1e2", 100.0),
    ],
)
def test_the_value_of_an_override_is_yaml(tmp_path: Path, override: str, expected: float | None) -> None:
    assert loaded(tmp_path, "", override).split.transnetv2_max_length_s == expected


def test_the_value_of_an_override_may_hold_an_equals_sign(tmp_path: Path) -> None:
    config = loaded(tmp_path, "", "slurm.setup=[export A=b]", "slurm.additional_parameters.export=A=b")
    assert (config.slurm.setup, config.slurm.additional_parameters) == (["export A=b"], {"export": "A=b"})


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("limit", "--set limit: expected key=value, such as --set split.transnetv2_crop_s=0"),
        ("=3", "--set =3: expected key=value, such as --set split.transnetv2_crop_s=0"),
        ("a..b=3", "--set a..b=3: expected key=value, such as --set split.transnetv2_crop_s=0"),
        ("limit.a=3", "--set limit.a=3: limit is not a group of settings"),
        (
            "limit=[",
            "--set limit=[: the value can't be read: a [, a { or a quote is not closed, or the whole needs quotes",
        ),
    ],
)
def test_an_override_that_cannot_be_applied_is_a_problem(tmp_path: Path, override: str, problem: str) -> None:
    assert problems_of(tmp_path, HEAD + "limit: 1\n", override) == [problem]


def test_a_wrong_value_of_an_override_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, HEAD + "clips:\n  crf: 20\n", "clips.crf=99")
    assert re.fullmatch(r"--set clips\.crf=99: clips\.crf: .*63, found 99", problem)


# Mistakes


def test_all_mistakes_are_told_at_once_with_file_line_and_key(tmp_path: Path) -> None:
    text = HEAD + (
        "limt: 3\n"  # 4
        "split:\n"
        "  transnetv2_threshold: 1.5\n"  # 6
        "  # a comment\n"
        "  transnetv2_croop_s: 0.5\n"  # 8
        "clips: {crf: many,\n"  # 9
        "        preset: [3]}\n"  # 10
        "windows:\n"
        "  remainder_threshold: 257\n"  # 12
        "slurm:\n"
        "  time: soon\n"  # 14
        "  aggregate_time: later\n"  # 15
        "  additional_parameters:\n"
        "    gres: 1.5\n"  # 17
    )
    found = problems_of(tmp_path, text, "plan.num_shards=0", "nonsense")
    assert sorted(problem.split(": ")[0] + " " + problem.split(": ")[1] for problem in found) == sorted(
        [
            "FILE:4 limt",
            "FILE:6 split.transnetv2_threshold",
            "FILE:8 split.transnetv2_croop_s",
            "FILE:9 clips.crf",
            "FILE:10 clips.preset",
            "FILE:12 windows.remainder_threshold",
            "FILE:14 slurm.time",
            "FILE:15 slurm.aggregate_time",
            "FILE:17 slurm.additional_parameters.gres",
            "--set plan.num_shards=0 plan.num_shards",
            "--set nonsense expected key=value, such as --set split.transnetv2_crop_s=0",
        ]
    )


def test_a_wrong_value_is_shown(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, HEAD + "clips:\n  crf: 99\n")
    assert problem.startswith("FILE:5: clips.crf: ")
    assert problem.endswith(", found 99")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("limt: 3\n", "FILE:4: limt: unknown key; did you mean 'limit'?"),
        ("slrum: {}\n", "FILE:4: slrum: unknown key; did you mean 'slurm'?"),
        ("clips: {encodr: auto}\n", "FILE:4: clips.encodr: unknown key; did you mean 'encoder'?"),
        (
            "limits: {quux: 1}\n",
            "FILE:4: limits.quux: unknown key; limits has: max_pixels, max_duration_s, max_frames, max_streams",
        ),
        ("quux: 1\n", "FILE:4: quux: unknown key; `clipmill init --full` shows all that there are"),
        (
            "transnetv2_crop_s: 1\n",
            "FILE:4: transnetv2_crop_s: unknown key here; did you mean split.transnetv2_crop_s?",
        ),
        ("slurm: {crf: 1}\n", "FILE:4: slurm.crf: unknown key in the group slurm; did you mean clips.crf?"),
        (
            "split:\n  limit: 3\n",
            "FILE:5: split.limit: unknown key in the group split; did you mean limit (at the top, not indented)?",
        ),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_known_one(tmp_path: Path, text: str, problem: str) -> None:
    assert problems_of(tmp_path, HEAD + text) == [problem]


def test_missing_keys_are_told_by_name(tmp_path: Path) -> None:
    assert problems_of(tmp_path, "manifest: list.txt\n") == [
        "FILE: run_dir: this key is needed: folder of the run's state, on the file system that the nodes share",
        "FILE: output_clip_path: this key is needed: "
        "folder, or s3://bucket/prefix, of clips, metas, previews and records",
    ]


def test_an_input_that_is_missing_is_told_along_with_the_other_mistakes(tmp_path: Path) -> None:
    found = problems_of(tmp_path, "run_dir: a\noutput_clip_path: b\nlimit: -1\nlimt: 2\n")
    assert sorted(problem.split(": ")[1] for problem in found) == ["limit", "limt", "manifest"]
    assert "FILE: manifest: give input_video_path (a folder) or manifest (a list of videos)" in found


def test_a_manifest_alone_is_an_input(tmp_path: Path) -> None:
    config = load_config(config_file(tmp_path, "run_dir: /a\nmanifest: /list.csv\noutput_clip_path: /b\n"))
    assert (config.manifest, config.input_video_path) == ("/list.csv", None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("limit: 3\nlimit: 4\n", "FILE:5: limit: stands in FILE:4 too; keep one of them"),
        (
            "clips: {crf: 3}\nsplit: {}\nclips: {preset: slow}\n",
            "FILE:6: clips: stands in FILE:4 too; keep one of them",
        ),
        ("clips:\n  crf: 3\n  crf: 4\n", "FILE:6: clips.crf: stands in FILE:5 too; keep one of them"),
    ],
)
def test_a_key_that_is_given_twice_is_a_mistake(tmp_path: Path, text: str, problem: str) -> None:
    assert problems_of(tmp_path, HEAD + text) == [problem]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("", r"FILE: the file is empty; .*", id="empty"),
        pytest.param("# only a remark\n", r"FILE: the file is empty; .*", id="only a remark"),
        pytest.param("- a\n- b\n", r"FILE: expected keys with values, .*, found a list: .*", id="a list"),
        pytest.param("limit: !!int many\n", r"FILE: not YAML: .*", id="a number that is none"),
        pytest.param("a: !!python/name:os.system\n", r"FILE:1: not YAML: tags are not known here.*", id="an object"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = problems_of(tmp_path, text)
    assert re.fullmatch(problem, found, re.DOTALL)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"run_dir: \xff\xfe")
    with pytest.raises(ConfigError, match="not a text in UTF-8"):
        load_config(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml: No such file or directory"):
        load_config(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "windows: {window_size: 3, remainder_threshold: 1}",
        "windows: {window_size: 100, remainder_threshold: 101}",
        "split: {fixed_stride_split_duration: 0}",
        "split: {fixed_stride_split_duration: .inf}",
        "split: {transnetv2_max_length_s: -1}",
        "split: {splitting_algorithm: magic}",
        "previews: {compression_level: 7}",
        "dataset: {annotation_version: v.1}",
        "limit: -1",
        "limit: 1.5",
        "cluster: kubernetes",
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, text: str) -> None:
    (problem,) = problems_of(tmp_path, HEAD + text)
    assert problem.startswith("FILE:4: ")


# Paths


def test_relative_paths_count_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    config = load_config(
        config_file(
            tmp_path,
            "run_dir: runs/a\ninput_video_path: ~/videos\nmanifest: ../list.txt\noutput_clip_path: /out/./clips\n"
            "output_dataset_path: s3://bucket/sets\nsplit: {transnetv2_model_dir: weights}\n",
        )
    )
    assert config.run_dir == str(tmp_path / "runs/a")
    assert config.input_video_path == "/home/someone/videos"
    assert config.manifest == str(tmp_path.parent / "list.txt")
    assert config.output_clip_path == "/out/clips"
    assert config.output_dataset_path == "s3://bucket/sets"
    assert config.split.transnetv2_model_dir == str(tmp_path / "weights")


def test_an_absolute_config_stays_as_it_is(tmp_path: Path) -> None:
    config = loaded(tmp_path, "split: {transnetv2_model_dir: weights}\n")
    assert absolute(config) == config


# The hash of the settings that decide the content

DECIDING: list[tuple[str, str, object]] = [
    ("split", "splitting_algorithm", "fixed-stride"),
    ("split", "fixed_stride_split_duration", 11.0),
    ("split", "fixed_stride_min_clip_length_s", 1.0),
    ("split", "transnetv2_threshold", 0.5),
    ("split", "transnetv2_min_length_s", 1.0),
    ("split", "transnetv2_max_length_s", None),
    ("split", "transnetv2_max_length_mode", "truncate"),
    ("split", "transnetv2_crop_s", 0.0),
    ("clips", "encoder", "libx264"),
    ("clips", "preset", "slow"),
    ("clips", "crf", 20),
    ("clips", "keep_audio", False),
    ("clips", "allow_truncated", True),
    ("windows", "window_size", 512),
    ("windows", "remainder_threshold", 64),
    ("previews", "generate_previews", False),
    ("previews", "target_fps", 2.0),
    ("previews", "target_height", 120),
    ("previews", "compression_level", 3),
    ("previews", "quality", 70),
]
NOT_DECIDING: list[dict[str, Any]] = [
    {"run_dir": "/runs/b"},
    {"input_video_path": "/elsewhere"},
    {"manifest": "/list.txt"},
    {"output_clip_path": "s3://bucket/clips"},
    {"output_dataset_path": "/sets"},
    {"cluster": "local"},
    {"split": {"transnetv2_model_dir": "/weights"}},
    {"slurm": {"partition": "gpu", "time": "12:00:00", "gpus_per_task": 0}},
    {"local": {"parallel_shards": 4}},
    {"plan": {"num_shards": 7}},
    {"worker": {"max_attempts": 1}},
]


@pytest.mark.parametrize(("group", "key", "value"), DECIDING, ids=[key for _, key, _ in DECIDING])
def test_the_content_hash_changes_with_what_decides_the_content(group: str, key: str, value: object) -> None:
    assert run_config(**{group: {key: value}}).content_hash != run_config().content_hash


@pytest.mark.parametrize("change", NOT_DECIDING, ids=["-".join(change) for change in NOT_DECIDING])
def test_the_content_hash_stays_where_only_places_and_resources_change(change: dict[str, Any]) -> None:
    assert RunConfig.model_validate(NEEDED | change).content_hash == run_config().content_hash


def test_the_content_hash_does_not_depend_on_how_a_number_is_written(tmp_path: Path) -> None:
    hashes = {
        loaded(tmp_path, f"split: {{fixed_stride_split_duration: {written}}}\n").content_hash
        for written in ("20", "20.0", "2e1")
    }
    assert len(hashes) == 1


# The starter and the resolved config


def group_of(name: str) -> type[BaseModel] | None:
    annotation = RunConfig.model_fields[name].annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def uncommented(text: str) -> str:
    """Every setting of the starter without its mark, and not the sentence at the top."""
    return "\n".join(re.sub("^# ", "", line) for line in text.splitlines()[1:]) + "\n"


def test_the_starter_loads_and_has_every_default(tmp_path: Path) -> None:
    config = load_config(config_file(tmp_path, full_yaml()))
    assert [getattr(config, group) for group in GROUPS] == [getattr(run_config(), group) for group in GROUPS]


def test_the_starter_without_its_marks_is_the_same_config(tmp_path: Path) -> None:
    marked = load_config(config_file(tmp_path, full_yaml()))
    assert load_config(config_file(tmp_path, uncommented(full_yaml()))) == marked


def test_the_starter_names_every_setting_with_its_default_and_its_meaning() -> None:
    document = yaml.safe_load(uncommented(full_yaml()))
    assert list(document) == list(RunConfig.model_fields)
    for name in RunConfig.model_fields:
        group = group_of(name)
        if group is not None:
            assert document[name] == RunConfig.model_fields[name].default.model_dump(mode="json")
            assert all(f"  # {each.description}\n" in full_yaml() for each in group.model_fields.values())


def test_captions_are_made_where_their_group_is_written(tmp_path: Path) -> None:
    assert not loaded(tmp_path, "").captions.generate_captions
    assert loaded(tmp_path, "captions: {captioning_prompt_variant: av}\n").captions.generate_captions
    assert not loaded(tmp_path, "captions: {generate_captions: false}\n").captions.generate_captions


def test_the_text_of_a_prompt_file_is_kept_in_the_run(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Describe the traffic.\n")
    config = loaded(tmp_path, f"captions: {{captioning_prompt_file: {tmp_path}/prompt.txt}}\n")
    assert config.captions.prompt == "Describe the traffic."
    (tmp_path / "prompt.txt").write_text("Something else.")
    assert load_config(config_file(tmp_path, to_yaml(config))) == config


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        pytest.param("captioning_algorithm: blip", "one of qwen, nemotron", id="unknown model"),
        pytest.param("captioning_prompt_variant: poem", "one of default, av, av-surveillance", id="unknown prompt"),
        pytest.param("captioning_prompt_file: /nowhere", "can't be read", id="no prompt file"),
        pytest.param("enhance_captions_algorithm: gpt", "one of qwen_lm", id="unknown text model"),
    ],
)
def test_what_captions_can_not_be_made_of_is_said_with_what_is_known(
    tmp_path: Path, setting: str, problem: str
) -> None:
    (found,) = problems_of(tmp_path, HEAD + f"captions:\n  {setting}\n")
    assert problem in found
    assert "FILE:5" in found


def test_settings_that_only_decide_how_fast_captions_come_do_not_change_what_the_output_is_called() -> None:
    on = run_config(captions={}).content_hash
    assert run_config(captions={"windows_in_engine": 5, "engine": "transformers"}).content_hash == on
    assert run_config(captions={"captioning_prompt_text": "other"}).content_hash != on
    assert run_config(captions={"generate_captions": False}).content_hash == run_config().content_hash != on


def test_each_setting_of_the_starter_can_be_uncommented_alone(tmp_path: Path) -> None:
    lines = full_yaml().splitlines()
    expected = load_config(config_file(tmp_path, full_yaml()))
    group = None
    for number, line in enumerate(lines[1:], start=1):
        if match := re.match(r"# ( *)\w+:", line):
            group = number if not match[1] else group
            wanted = {number} | ({group} if match[1] else set())
            text = "\n".join(re.sub("^# ", "", each) if k in wanted else each for k, each in enumerate(lines))
            found = load_config(config_file(tmp_path, text))
            for name in ("captions", "embeddings"):
                if lines[group or 0].startswith(f"# {name}:") and f"generate_{name}" not in line:
                    assert getattr(found, name) == type(getattr(found, name))(), "writing the group turns it on"
                    found = found.model_copy(update={name: getattr(expected, name)})
            assert found == expected, line


@pytest.mark.parametrize(
    "text", ["08", "1e8", "12:00:00", "2026-01-31", "null", "yes", "0x1F", "- a", "a: b # c", "~", "ü", "\x85", "a\nb"]
)
def test_a_text_that_looks_like_something_else_stays_a_text(tmp_path: Path, text: str) -> None:
    config = run_config(slurm={"account": text, "setup": [text]})
    assert load_config(config_file(tmp_path, to_yaml(config))) == config


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.text("0123456789+-.:eE_", max_size=8),
    st.floats(1e-9, 1e12),
    st.booleans() | st.integers(),
)
@several_in_one_folder
def test_the_resolved_config_reads_back_the_same(
    tmp_path: Path, line: str, account: str, length_s: float, option: int
) -> None:
    config = run_config(
        slurm={"setup": [line], "account": account, "additional_parameters": {"x": option}},
        split={"fixed_stride_split_duration": length_s},
    )
    assert load_config(config_file(tmp_path, to_yaml(config))) == config


def test_the_resolved_config_says_the_same_to_any_yaml_reader() -> None:
    config = run_config(slurm={"time": "12:00:00", "account": "010"})
    assert yaml.safe_load(to_yaml(config)) == config.model_dump(mode="json")


# -- what is known in spite of mistakes


MISTAKES = [
    pytest.param(
        "split: {transnetv2_crop_s: -1, transnetv2_threshold: 0.3}\n", {"split.transnetv2_crop_s"}, id="value"
    ),
    pytest.param("split: {transnetv2_crop: 1, transnetv2_threshold: 0.3}\n", set(), id="unknown key"),
    pytest.param("captions: {captioning_algorithm: qwenn}\n", {"captions.captioning_algorithm"}, id="unknown name"),
    pytest.param("slurm: {time: soon, partition: [a]}\n", {"slurm.time", "slurm.partition"}, id="two"),
    pytest.param("slurm: {additional_parameters: {a: 1.5, b: 2}}\n", set(), id="one of several names"),
    pytest.param("slurm: 3\n", {"slurm"}, id="no group"),
    pytest.param("plan: {max_part_gb: {a: 1}}\n", {"plan.max_part_gb"}, id="a group where none is"),
    pytest.param("cluster: sulrm\n", {"cluster"}, id="choice"),
    pytest.param("embeddings: {texts_to_verify: [a, [b]]}\n", {"embeddings.texts_to_verify"}, id="list"),
]


@pytest.mark.parametrize(("text", "mistaken"), MISTAKES)
def test_with_a_mistake_the_rest_of_the_settings_is_known(tmp_path: Path, text: str, mistaken: set[str]) -> None:
    found = read_config(config_file(tmp_path, HEAD + text + "clips: {crf: 31}\n"))
    assert found.problems
    assert found.mistaken == mistaken
    assert found.config is not None
    assert found.config.clips.crf == 31
    if "transnetv2_threshold" in text:
        assert found.config.split.transnetv2_threshold == 0.3


def test_a_needed_key_that_is_missing_is_told_and_the_rest_is_known(tmp_path: Path) -> None:
    found = read_config(config_file(tmp_path, "run_dir: /r\nclips: {crf: 31}\n"))
    assert found.mistaken == {"manifest", "output_clip_path"}
    assert found.config is not None
    assert (found.config.run_dir, found.config.clips.crf) == ("/r", 31)


@pytest.mark.parametrize("text", ["- a\n", "a: [\n"])
def test_of_a_file_that_is_no_config_nothing_is_known(tmp_path: Path, text: str) -> None:
    found = read_config(config_file(tmp_path, text))
    assert found.config is None
    assert len(found.problems) == 1
