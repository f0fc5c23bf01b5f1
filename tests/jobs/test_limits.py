"""The limits of a run: from its config to its reader, and what changing them means."""

from pathlib import Path

import pytest

from curation.errors import FailureReason, VideoError
from curation.video.probe import DEFAULT_LIMITS, SourceLimits
from jobs.clip_settings import LimitSettings
from jobs.rundir import RunDir, RunDirError
from jobs.stages import build_pipeline
from tests.local_runs import config_of
from tests.splitting import task_of
from tests.synthetic import make_video


def test_without_a_word_a_run_has_the_limits_of_the_library() -> None:
    assert SourceLimits(**LimitSettings().model_dump()) == DEFAULT_LIMITS


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_frames": 9}, "more than 9 frames"),
        ({"max_duration_s": 0.25}, "lasts 0.33"),
        ({"max_pixels": 6143}, "96x64"),
        ({"max_streams": 1}, "2 streams"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_each_limit_of_the_config_reaches_the_reader(tmp_path: Path, limits: dict[str, float], words: str) -> None:
    path = make_video(tmp_path / "v.mp4", num_frames=10, width=96, height=64, audio="clicks")
    reader = build_pipeline(config_of(tmp_path, tmp_path, limits=limits)).stages[0]
    with pytest.raises(VideoError, match=words) as caught:
        list(reader.process(task_of(path)))
    assert caught.value.reason == FailureReason.LIMITS


def test_other_limits_make_other_failures_but_the_same_clips(tmp_path: Path) -> None:
    """So a run folder keeps to its limits, and what a clip says of its settings does not name them."""
    run = RunDir(tmp_path / "run")
    before, after = (config_of(tmp_path, tmp_path, limits={"max_frames": count}) for count in (10, 11))
    assert before.content_hash == after.content_hash
    run.claim(before)
    run.claim(before)
    with pytest.raises(RunDirError, match=r"limits\.max_frames: 10 -> 11"):
        run.claim(after)
