"""Every setting decides a stage, and what a change asks for is what the hash of the output's settings says."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.changes import DATASET, FOLLOWS, LIMITS, PLACE, RUN, changes_between, consequence, decides, flat_settings
from jobs.config import ConfigError, RunConfig, load_config
from jobs.rundir import RunDir, RunDirError
from tests.local_runs import clipmill_here, config_of, digests, make_videos, run_here, write_config

SWITCHES = {"captions.generate_captions", "captions.enhance_captions", "embeddings.generate_embeddings"}
SWITCHES |= {"previews.generate_previews", "t5.generate_t5"}  # with these off there is nothing of the stage to be made
ALL_ON: dict[str, Any] = {
    "captions": {"enhance_captions": True},
    "t5": {"generate_t5": True},
    "embeddings": {"embedding_algorithm": "efficientnet-lite0"},
    "filters": {"motion_filter": "enable"},
    "output_dataset_path": "/tmp/dataset",
}


def config_with(folder: Path, **settings: Any) -> RunConfig:
    return config_of(folder, folder / "raw", **settings)


def another(value: Any) -> Any:
    """A value of the same kind that differs."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, "more"]
    if isinstance(value, dict):
        return {**value, "more": 1}
    return f"{value or ''}x"


def changed(config: RunConfig, key: str) -> RunConfig:
    """The config with another value of one setting, valid or not."""
    group, _, name = key.partition(".")
    if not name:
        return config.model_copy(update={key: another(getattr(config, key))})
    settings = getattr(config, group)
    return config.model_copy(update={group: settings.model_copy(update={name: another(getattr(settings, name))})})


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_every_setting_asks_for_what_the_hash_of_the_output_says(tmp_path: Path) -> None:
    config = config_with(tmp_path, **ALL_ON)
    keys = list(flat_settings(config))
    assert len(keys) > 100
    for key in keys:
        other = changed(config, key)
        assert [change.key for change in changes_between(config, other)] == [key]
        assert decides(key) in {RUN, PLACE, DATASET, LIMITS, *FOLLOWS}, key
        if decides(key) == RUN:  # another run, of another kind perhaps
            continue
        found = consequence(config, other)
        assert found.everything == (config.content_hash != other.content_hash), key
        assert found.everything == (decides(key) in FOLLOWS), key
        assert decides(key) not in FOLLOWS or key in SWITCHES or found.stages[0] == decides(key), key


def test_what_follows_a_stage_follows_all_that_comes_before_it() -> None:
    for stage, later in FOLLOWS.items():
        assert DATASET in later
        for each in later:
            assert set(FOLLOWS.get(each, ())) < set(later), (stage, each)


@pytest.mark.parametrize(
    ("before", "now", "stages"),
    [
        pytest.param(
            {"captions": {"captioning_prompt_text": "a"}},
            {"captions": {"captioning_prompt_text": "b"}},
            ["captions"],
            id="a prompt",
        ),
        pytest.param(
            {"captions": {"enhance_captions": True}, "output_dataset_path": "/tmp/d"},
            {"captions": {"enhance_captions": True, "captioning_prompt_text": "b"}, "output_dataset_path": "/tmp/d"},
            ["captions", "enhancement", "dataset"],
            id="a prompt, and what is made of its captions",
        ),
        pytest.param(
            {},
            {"split": {"splitting_algorithm": "transnetv2"}},
            ["splitting", "clips", "windows", "previews"],
            id="the splitter",
        ),
        pytest.param({"captions": {"generate_captions": False}}, {}, [], id="captions that were and are off"),
        pytest.param({}, {"captions": {"generate_captions": True}}, ["captions"], id="captions turned on"),
        pytest.param({"previews": {"quality": 50}}, {"previews": {"quality": 60}}, ["previews"], id="previews"),
    ],
)
def test_only_stages_that_the_run_has_are_made_anew(
    tmp_path: Path, before: dict[str, Any], now: dict[str, Any], stages: list[str]
) -> None:
    found = consequence(config_with(tmp_path, **before), config_with(tmp_path, **now))
    assert (list(found.stages), found.everything) == (stages, bool(stages))


def test_larger_limits_concern_what_was_too_large_and_smaller_ones_everything(tmp_path: Path) -> None:
    config = config_with(tmp_path)
    larger, smaller = (config_with(tmp_path, limits={"max_streams": n}) for n in (65, 63))
    raised, lowered = consequence(config, larger), consequence(config, smaller)
    assert (raised.limits, raised.everything) == (True, False)
    assert lowered.everything


def run_of(folder: Path, raw: Path, **settings: Any) -> Path:
    config = write_config(folder, raw, **settings)
    assert run_here("run", str(config)).returncode == 0
    return config


def test_with_changed_settings_a_run_becomes_what_a_new_one_would_be_and_names_what_is_left_over(
    tmp_path: Path,
) -> None:
    raw = make_videos(tmp_path / "raw", 3)
    (raw / "v0.mp4").write_text("no video")
    dataset = {"output_dataset_path": str(tmp_path / "run" / "dataset")}
    config = run_of(tmp_path / "run", raw, **dataset)
    other = write_config(tmp_path / "other", raw, **dataset, clips={"crf": 30}, previews={"generate_previews": False})
    document = json.loads(json.dumps(load_config(other).model_dump()))
    document |= {"run_dir": str(tmp_path / "run/run"), "output_clip_path": str(tmp_path / "run/out")}
    document["split"]["fixed_stride_split_duration"] = 0.7
    other.write_text(json.dumps(document))

    refused = clipmill_here("submit", str(other))
    assert refused.returncode == 2
    assert "clips.crf: 23 -> 30" in refused.stderr
    assert "--config" in refused.stderr
    resumed = run_here("resume", str(config), "--config", str(other))
    assert resumed.returncode == 0, resumed.stderr
    assert "split.fixed_stride_split_duration: 0.6 -> 0.7" in resumed.stdout

    fresh = run_of(
        tmp_path / "fresh", raw, clips={"crf": 30}, previews={"generate_previews": False}, split=document["split"]
    )
    assert load_config(fresh).content_hash == RunDir(tmp_path / "run/run").load_config().content_hash
    wanted = digests(tmp_path / "fresh" / "out")
    assert set(wanted) < set(digests(tmp_path / "run" / "out"))
    for path in clipmill_here("leftovers", str(config)).stdout.splitlines():
        Path(path).unlink()
    assert digests(tmp_path / "run" / "out") == wanted
    assert clipmill_here("leftovers", str(config)).stdout == ""


def test_unchanged_settings_change_nothing(tmp_path: Path) -> None:
    raw = make_videos(tmp_path / "raw", 2)
    config = run_of(tmp_path, raw)
    run = RunDir(tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.json") if p.name != "summary.json"}
    assert run_here("resume", str(config), "--config", str(config)).returncode == 0
    assert run_here("resume", str(config), "--set", "slurm.mem_gb=7", "--set", "worker.max_attempts=5").returncode == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert all(not list(run.shards(attempt)) for attempt in run.attempts()[1:])
    assert run.load_config().slurm.mem_gb == 7


def test_other_inputs_or_outputs_are_another_run(tmp_path: Path) -> None:
    raw = make_videos(tmp_path / "raw", 1, num_frames=3)
    config = run_of(tmp_path, raw)
    refused = clipmill_here("resume", str(config), "--set", f"output_clip_path={tmp_path}/elsewhere")
    assert refused.returncode == 2
    assert "another run_dir" in refused.stderr
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(ConfigError):
        config_of(tmp_path, raw, previews={"quality": 101})


def test_explain_says_why_and_writes_nothing(tmp_path: Path) -> None:
    raw = make_videos(tmp_path / "raw", 3, num_frames=3)
    (raw / "v0.mp4").write_text("no video")
    config = run_of(tmp_path, raw, split={"splitting_algorithm": "fixed-stride", "fixed_stride_min_clip_length_s": 0.0})
    before = {str(p): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != "roll-up.arrow"}

    def explained(*more: str) -> str:
        done = clipmill_here("resume", str(config), "--explain", *more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    plain = explained()
    assert "done: 2 videos, not done again" in plain
    assert f"failed: unreadable: 1 videos, not tried again; to try them again: clipmill resume {tmp_path}/run" in plain
    assert "failed: unreadable: 1 videos, to be tried again" in explained("--failed", "unreadable")
    assert "changed settings: 3 videos, to be done again" in explained("--set", "clips.crf=30")
    assert "clips.crf: 23 -> 30" in explained("--set", "clips.crf=30")
    one = explained("--video", "v0.mp4")
    assert "v0.mp4: failed: unreadable, not tried again" in one
    assert "shard 0: begin" in one
    assert clipmill_here("resume", str(config), "--explain", "--video", "v9.mp4").returncode == 2
    after = {str(p): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != "roll-up.arrow"}
    assert after == before


def test_a_run_at_work_is_not_given_other_settings(tmp_path: Path) -> None:
    from jobs.ledger import Lease
    from jobs.planning import plan_run
    from jobs.resuming import note, requested

    raw = make_videos(tmp_path / "raw", 1, num_frames=3)
    run = plan_run(config_of(tmp_path, raw)).run
    lease = Lease(run.lease_path(0), 60.0)
    assert lease.acquire()
    now = config_of(tmp_path, raw, clips={"crf": 30})
    with pytest.raises(RunDirError, match="workers are at it with the old settings"):
        note(run, requested(run, now, failed=[]))
    lease.release()
    assert run.load_config().clips.crf == 23
    note(run, requested(run, now, failed=[]))
    assert run.load_config().clips.crf == 30
