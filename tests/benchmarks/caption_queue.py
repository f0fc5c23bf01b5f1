"""What reading videos costs the captioner: a worker's output tokens a second, against the same engine with all at hand.

The worker decodes, cuts and samples real footage while the engine (vLLM, tiny random weights of Qwen2.5-VL's
architecture, in a process of its own) captions what is ready. Then an engine started alike is given the very same
requests at once, as one list. Both are measured from the first request that goes in to the last reply that comes out.

``python -m tests.benchmarks.caption_queue`` prints both and their ratio; it needs vLLM (``tests/vllm/install.sh``).
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from curation.captioning.engines.options import EngineOptions
from curation.captioning.engines.vllm_engine import VllmEngine
from curation.captioning.generation import CaptionGenerationStage
from curation.captioning.preparation import CaptionPreparationStage
from curation.captioning.queue import CaptionQueue
from curation.captioning.requests import CaptionReply, CaptionRequest, EngineSettings, SamplingRules
from curation.clipping.fixed_stride import FixedStrideExtractorStage
from curation.clipping.reader import VideoReaderStage
from curation.clipping.transcoding import ClipTranscodingStage
from curation.model import Video, VideoTask
from curation.pipeline import Pipeline
from curation.pipeline.sandbox import DecodeSandbox
from tests.benchmarks.harness import parse_size, verdict
from tests.captioning.tiny_models import write_qwen25_vl
from tests.footage import footage

GOAL = 0.95
WINDOW_FRAMES = 128
IN_ENGINE = 32


class Recorder:
    """An engine, what went into it, and when: from the first request to the last reply."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine
        self.requests: list[CaptionRequest] = []
        self.num_tokens = self.num_errors = 0
        self._began_s: float | None = None
        self._ended_s = 0.0

    def add(self, request: CaptionRequest) -> None:
        self._began_s = self._began_s or time.monotonic()
        self.requests.append(request)
        self._engine.add(request)

    def step(self) -> list[CaptionReply]:
        replies = self._engine.step()
        if replies:
            self._ended_s = time.monotonic()
            self.num_tokens += sum(reply.output_tokens for reply in replies)
            self.num_errors += sum(reply.status == "error" for reply in replies)
        return replies

    def kill(self) -> None:
        self._engine.kill()

    def close(self) -> None:
        self._engine.close()

    @property
    def seconds(self) -> float:
        return self._ended_s - (self._began_s or 0.0)

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.seconds


def settings_of(weights: Path) -> EngineSettings:
    return EngineSettings(
        weights=str(weights),
        family="qwen2.5-vl",
        sampling=SamplingRules(temperature=0.0, top_p=1.0),
        max_in_engine=IN_ENGINE,
        disable_mmcache=True,
        extra=(("dtype", "float32"), ("enforce_eager", True), ("enable_prefix_caching", False)),
    )


def worker(start: Callable[[], Recorder], paths: list[Path], *, end_s: float, max_output_tokens: int) -> None:
    """What a worker does, but the files that it writes."""
    pipeline = Pipeline("caption_queue", sandbox=DecodeSandbox(num_children=1)).add_stage(VideoReaderStage())
    pipeline.add_stage(FixedStrideExtractorStage(clip_len_s=20.0, min_clip_length_s=5.0))
    pipeline.add_stage(
        ClipTranscodingStage(clip_encoding="smart-copy", window_size=WINDOW_FRAMES, remainder_threshold=64)
    )
    pipeline.add_stage(CaptionPreparationStage())
    options = EngineOptions(start=start, max_in_engine=IN_ENGINE)
    pipeline.add_stage(CaptionGenerationStage(options=options, max_output_tokens=max_output_tokens))
    tasks = [VideoTask(path.name, "", Video(path, end_s=end_s)) for path in paths]
    for task in pipeline.stream(tasks):
        assert task.data.failure is None, task.data.failure


def all_at_once(start: Callable[[], Recorder], requests: list[CaptionRequest]) -> None:
    """The engine alone."""
    queue = CaptionQueue([start], max_in_engine=IN_ENGINE)
    queue.rest()
    futures = [queue.submit(request) for request in requests]
    queue.wake()
    for future in futures:
        future.result()
    queue.close()


def main() -> int:
    is_tiny = parse_size(__doc__) == "tiny"
    # one thread for the engine; the other core reads videos
    os.environ |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "4"}
    if is_tiny:  # in this process, which starts three times as fast
        os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    recorders: list[Recorder] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(write_qwen25_vl(Path(folder)))

        def start() -> Recorder:
            recorders.append(Recorder(VllmEngine(settings)))
            return recorders[-1]

        film = footage("bikes.mp4") if is_tiny else footage("bbb.mp4")
        worker(start, [film], end_s=10.0 if is_tiny else 340.0, max_output_tokens=16 if is_tiny else 256)
        (fed,) = recorders
        all_at_once(start, fed.requests)
        alone = recorders[1]
    for name, recorder in (("worker", fed), ("engine alone", alone)):
        print(
            f"{name}: {len(recorder.requests)} windows, {recorder.num_tokens} output tokens in "
            f"{recorder.seconds:.1f} s, {recorder.tokens_per_s:.1f} tokens/s, {recorder.num_errors} errors"
        )
    return verdict("caption_queue", fed.tokens_per_s / alone.tokens_per_s, GOAL, at_most=False)


if __name__ == "__main__":
    sys.exit(main())
