"""Captions land on their own windows, whatever the engine does; and every window ends with a status."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from curation.captioning.engines.options import EngineOptions
from curation.captioning.enhancement import CaptionEnhancementStage
from curation.captioning.generation import CaptionGenerationStage
from curation.captioning.preparation import CaptionPreparationStage
from curation.captioning.queue import StartEngine
from curation.captioning.requests import CaptionReply, CaptionRequest, EngineDiedError
from curation.clipping.fixed_stride import FixedStrideExtractorStage
from curation.clipping.reader import VideoReaderStage
from curation.clipping.transcoding import ClipTranscodingStage
from curation.errors import FailureReason, StopRunError, VideoError
from curation.model import Clip, Video, VideoTask, Window
from curation.pipeline import Pipeline, Stage
from curation.writing.clip_files import ClipFilesStage
from curation.writing.clip_writer import ClipWriterStage
from tests.captioning.engines import ReadingEngine, ScriptedEngine, scripted
from tests.splitting import clips_of, task_of
from tests.synthetic import make_video

FRAMES_EACH = 160
WINDOW = 8


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ten videos whose frames are numbered from 0, 1000, 2000 ..."""
    folder = tmp_path_factory.mktemp("numbered")
    paths = [folder / f"v{k}.mp4" for k in range(10)]
    for k, path in enumerate(paths):
        make_video(path, num_frames=FRAMES_EACH, width=160, height=96, first_number=1000 * k)
    return paths


def captioner(start: StartEngine, *, in_engine: int = 16, **settings: object) -> CaptionGenerationStage:
    return CaptionGenerationStage(options=EngineOptions(start=start, max_in_engine=in_engine), **settings)  # type: ignore[arg-type]


def run(paths: list[Path], out: Path, *stages: Stage) -> list[VideoTask]:
    """Split into clips of 16 frames, each of two windows of 8; caption and write them."""
    pipeline = Pipeline("captions").add_stage(VideoReaderStage())
    pipeline.add_stage(FixedStrideExtractorStage(clip_len_s=16 / 30, min_clip_length_s=0.0))
    pipeline.add_stage(ClipTranscodingStage(window_size=WINDOW, remainder_threshold=WINDOW, keep_audio=False))
    pipeline.add_stage(CaptionPreparationStage(prompt_text="what is this?"))
    for stage in stages:
        pipeline.add_stage(stage)
    pipeline.add_stage(ClipWriterStage(str(out)))
    return pipeline.run(task_of(path, path.name) for path in paths)


def _video_with(clip: Clip) -> Video:
    return Video(Path("one.mp4"), clips=[clip], num_clip_chunks=1)


def windows_of(out: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """The number of each window's first frame on its source, and what the meta says of it."""
    for path in sorted((out / "metas/v0").glob("*.json")):
        meta = json.loads(path.read_text())
        first = 1000 * int(meta["video_id"].removeprefix("v").removesuffix(".mp4"))
        for window in meta["windows"]:
            yield first + meta["frame_span_source"][0] + window["start_frame"], window


def test_every_caption_lands_on_its_own_window(videos: list[Path], tmp_path: Path) -> None:
    """Numbers burnt into the pictures of 200 windows; answers come shuffled, late, and fail, and engines die."""
    seeds = iter(range(10**6))

    def start() -> ReadingEngine:
        return ReadingEngine(seed=next(seeds), error_rate=0.05, refuse_rate=0.05, death_rate=0.03)

    run(videos, tmp_path, captioner(start, in_engine=12))

    found = list(windows_of(tmp_path))
    assert len(found) == 200
    statuses = Counter(str(window["qwen_status"]) for _, window in found)
    assert statuses["success"] > 120
    assert statuses["error"] > 5
    for first, window in found:
        if window["qwen_status"] == "success":
            assert window["qwen_caption"] == f"{first} to {first + WINDOW - 1}: what is this?"
        else:
            assert "qwen_caption" not in window
            assert "chance" in str(window["qwen_reason"])


def test_a_second_stage_gets_the_same_frames_and_the_first_caption(videos: list[Path], tmp_path: Path) -> None:
    stage = captioner(ReadingEngine, generate_stage2_caption=True, stage2_prompt_text="say more")
    run(videos[:2], tmp_path, stage)
    for first, window in windows_of(tmp_path):
        seen = f"{first} to {first + WINDOW - 1}"
        assert window["qwen_caption"] == f"{seen}: say more\n\nFirst caption:\n{seen}: what is this?"
        assert window["qwen_prompt_tokens"] == 200
        assert window["qwen_output_tokens"] == 14


def test_where_the_second_stage_fails_the_first_caption_stays(videos: list[Path], tmp_path: Path) -> None:
    class NoSecond(ReadingEngine):
        def _reply(self, request: CaptionRequest) -> CaptionReply:
            if "First caption" in request.text:
                return CaptionReply.refused(request.id, "no more")
            return super()._reply(request)

    run(videos[:1], tmp_path, captioner(NoSecond, generate_stage2_caption=True))
    for first, window in windows_of(tmp_path):
        assert window["qwen_caption"] == f"{first} to {first + WINDOW - 1}: what is this?"
        assert window["qwen_status"] == "success"
        assert window["qwen_flags"] == ["stage2_failed"]


@pytest.mark.parametrize("shares_gpu", [True, False], ids=["in turns", "beside the captioner"])
def test_enhanced_captions_are_made_of_the_caption_of_their_window(
    videos: list[Path], tmp_path: Path, shares_gpu: bool
) -> None:
    stage = captioner(lambda: ReadingEngine(error_rate=0.1))
    enhancement = CaptionEnhancementStage(
        options=EngineOptions(start=lambda: ReadingEngine(seed=7, error_rate=0.1)),
        after=stage if shares_gpu else None,
        round_windows=30,
        model_batch_size=8,
    )
    run(videos, tmp_path, stage, ClipFilesStage(str(tmp_path)), enhancement)

    statuses: Counter[tuple[str, str]] = Counter()
    for first, window in windows_of(tmp_path):
        statuses[str(window["qwen_status"]), str(window["qwen_lm_status"])] += 1
        if window["qwen_lm_status"] == "success":
            seen = f"{first} to {first + WINDOW - 1}"
            assert window["qwen_lm_enhanced_caption"] == f"more of: {seen}: what is this?"
        elif window["qwen_status"] == "error":
            assert window["qwen_lm_reason"] == "it has no caption to enhance"
    assert statuses.total() == 200
    assert statuses["success", "success"] > 130
    assert statuses["success", "error"] > 3
    assert statuses["error", "success"] == 0


def test_a_captioner_and_an_enhancer_that_share_a_gpu_are_never_there_at_once(
    videos: list[Path], tmp_path: Path
) -> None:
    log: list[str] = []
    alive: set[str] = set()
    together: list[str] = []

    def engine(name: str) -> StartEngine:
        class Logged(ReadingEngine):
            def __init__(self) -> None:
                super().__init__()
                together.extend(alive)
                alive.add(name)
                log.append(name)

            def close(self) -> None:
                alive.discard(name)

        return Logged

    stage = captioner(engine("captioner"))
    enhancement = CaptionEnhancementStage(
        options=EngineOptions(start=engine("enhancer")), after=stage, round_windows=50, model_batch_size=8
    )
    run(videos, tmp_path, stage, ClipFilesStage(str(tmp_path)), enhancement)
    assert together == []
    assert log[0] == "captioner"
    assert log.count("enhancer") >= 3  # 200 windows in rounds of 50 and at most the windows of one task more


def test_a_video_that_fails_in_its_middle_leaves_nothing_behind(videos: list[Path], tmp_path: Path) -> None:
    class FailsLater(Stage):
        """Stands for a source that can't be decoded from some place on."""

        name = "fails_later"
        num_parts = 0

        def process(self, task: VideoTask) -> Iterator[VideoTask]:
            self.num_parts += task.data.id == "v0.mp4"
            if task.data.id == "v0.mp4" and self.num_parts == 2:
                raise VideoError(FailureReason.DECODE_ERROR, "a hole in the file")
            yield task

    stage = captioner(lambda: ReadingEngine(seed=1))
    enhancement = CaptionEnhancementStage(
        options=EngineOptions(start=ReadingEngine), after=stage, round_windows=10, model_batch_size=8
    )
    fails = FailsLater()
    done = run(videos[:3], tmp_path, fails, stage, ClipFilesStage(str(tmp_path)), enhancement)
    assert fails.num_parts > 2
    assert {task.data.id for task in done if task.data.failure is not None} == {"v0.mp4"}
    ids = {json.loads(path.read_text())["video_id"] for path in (tmp_path / "metas/v0").glob("*.json")}
    assert ids == {"v1.mp4", "v2.mp4"}
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 20


def test_the_engine_starts_while_the_first_video_is_being_read(videos: list[Path], tmp_path: Path) -> None:
    started = threading.Event()

    def start() -> ReadingEngine:
        started.set()
        return ReadingEngine()

    class Slow(Stage):
        """Stands for a long first decode."""

        name = "slow"

        def process(self, task: VideoTask) -> Iterator[VideoTask]:
            assert started.wait(20), "the engine waits for the first clip"
            yield task

    done = Pipeline("early").add_stage(Slow()).add_stage(captioner(start)).run([task_of(videos[0])])
    assert [task.data.failure for task in done] == [None]


def test_no_video_waits_for_another(videos: list[Path], tmp_path: Path) -> None:
    """One window that is never answered until all other videos are out of the captioner."""
    others_out = threading.Event()

    class HoldsOne(ReadingEngine):
        held: CaptionRequest | None = None

        def add(self, request: CaptionRequest) -> None:
            if self.held is None and not others_out.is_set():
                self.held = request
            else:
                super().add(request)

        def step(self) -> list[CaptionReply]:
            if self.held is not None and others_out.is_set():
                super().add(self.held)
                self.held = None
            return super().step()

    class CountsVideos(Stage):
        name = "counts_videos"
        seen = 0

        def process(self, task: VideoTask) -> Iterator[VideoTask]:
            CountsVideos.seen += task.data.num_clip_chunks > 0
            if CountsVideos.seen == len(videos) - 1:
                others_out.set()
            yield task

    done = run(videos, tmp_path, captioner(HoldsOne), CountsVideos())
    assert len([task for task in done if task.data.num_clip_chunks]) == len(videos)
    assert len(list(windows_of(tmp_path))) == 200


def test_windows_under_way_hold_no_more_memory_than_they_may(videos: list[Path], tmp_path: Path) -> None:
    held: list[int] = []

    class Measuring(ReadingEngine):
        def step(self) -> list[CaptionReply]:
            held.append(sum(r.frames.nbytes for r in self._asked if r.frames is not None))
            return super().step()

    one_task = 2 * WINDOW * 300_000  # two windows of at most 8 pictures of a little more than 128 * 28 * 28 pixels
    run(videos, tmp_path, captioner(Measuring, in_engine=1000, max_held_bytes=4 * one_task))
    assert 0 < max(held) <= 5 * 2 * one_task  # the last one that was taken may go beyond


def test_a_window_without_frames_is_an_error_with_a_reason(videos: list[Path]) -> None:
    clip = clips_of(videos[0])[0]
    clip.windows = [Window(0, 7)]
    stage = captioner(scripted([]))
    list(stage.process(VideoTask("t", "d", _video_with(clip))))
    stage.close()
    outcome = clip.windows[0].caption_outcomes["qwen"]
    assert outcome.status == "error"
    assert "CaptionPreparationStage" in outcome.reason


def test_engines_that_die_for_good_blame_no_video(videos: list[Path], tmp_path: Path) -> None:
    class Dying(ScriptedEngine):
        def step(self) -> list[CaptionReply]:
            raise EngineDiedError("the GPU is gone")

    with pytest.raises(StopRunError, match="the GPU is gone"):
        run(videos, tmp_path, captioner(lambda: Dying([])))
    assert not list(tmp_path.glob("processed_videos/*"))


def test_stages_alone_caption_a_clip_that_has_only_its_mp4(videos: list[Path]) -> None:
    clip = clips_of(videos[3])[0]
    clip.windows, clip.extracted_frames, clip.frame_times_s = [], {}, None
    task = VideoTask("t", "d", _video_with(clip))
    stage = captioner(ReadingEngine)
    done = (
        Pipeline("alone")
        .add_stage(CaptionPreparationStage(window_size=64, remainder_threshold=32, prompt_variant="av"))
        .add_stage(stage)
        .run([task])
    )
    captions = [window.caption["qwen"] for window in done[0].data.clips[0].windows]
    assert [caption.partition(":")[0] for caption in captions] == [
        f"{3000 + window.start_frame} to {3000 + window.end_frame}" for window in clip.windows
    ]
