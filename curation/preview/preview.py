"""A preview of each window of each clip."""

import logging
import math
from collections.abc import Iterable

import av.error
import numpy as np

from curation.errors import VideoError
from curation.model import Clip, Video, VideoTask, Window
from curation.pipeline import Stage
from curation.preview.webp import encode_webp
from curation.timeline import FrameSpan, caption_windows
from curation.video.frames import FrameRequest, sample_clip
from curation.video.progress import alive

logger = logging.getLogger(__name__)


class PreviewStage(Stage):
    """Encodes an animated WebP for each window; works with or without captioning."""

    name = "preview"
    in_child = True

    def __init__(
        self,
        target_fps: float = 1.0,
        target_height: int = 240,
        compression_level: int = 6,
        quality: int = 50,
        num_cpus_per_worker: float = 4.0,
        verbose: bool = False,
    ) -> None:
        """Settings as docs/rules.md, Windows and previews.

        Args:
            target_fps: pictures a second, by timestamp.
            target_height: pixels; the width keeps the display aspect.
            compression_level: 0..6, effort, never lossless.
            quality: 0..100.
            num_cpus_per_worker: accepted for NeMo Curator's sake; a preview takes milliseconds of one thread.
            verbose: log each window.

        Raises:
            ValueError: a setting is out of its range.
        """
        if not 0 < target_fps < math.inf or target_height < 2:
            raise ValueError(f"need finite target_fps > 0, target_height >= 2, got {target_fps} and {target_height}")
        if not 0 <= compression_level <= 6 or not 0 <= quality <= 100:
            raise ValueError(f"need compression_level 0..6 and quality 0..100, got {compression_level} and {quality}")
        self._quality, self._compression_level = quality, compression_level
        self._target_height = target_height
        self._verbose = verbose
        del num_cpus_per_worker
        self._request = FrameRequest(
            key=f"preview-{target_fps:g}fps-{target_height}px",
            rate_hz=target_fps,
            height=target_height,
            pixel_format="yuv420p",
        )

    def frame_requests(self) -> list[FrameRequest]:
        """Frames at ``target_fps`` and ``target_height``, still in YUV: they are encoded again."""
        return [self._request]

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        """Put ``webp_bytes`` on every window; one that fails is noted on its clip and skipped."""
        video = task.data
        self._warn(video)
        for clip in video.clips:
            if clip.buffer is not None:
                self._preview_clip(clip)
        yield task

    def _warn(self, video: Video) -> None:
        rate, height = video.metadata.framerate, video.metadata.height
        if video.clip_chunk_index or video.clip_chunk_goes_on or rate is None or height is None:
            return
        if rate < self._request.rate_hz:
            logger.warning(
                "event=low_frame_rate video=%s rate=%.3f target_fps=%g", video.id, rate, self._request.rate_hz
            )
        if height < self._target_height:
            logger.warning(
                "event=low_height video=%s height=%d target_height=%d", video.id, height, self._target_height
            )

    def _preview_clip(self, clip: Clip) -> None:
        key = self._request.key
        try:
            if key not in clip.extracted_frames:
                self._sample_alone(clip)
        except VideoError as error:
            clip.errors["preview"] = f"{error.reason}: {error.message}"
            return
        for window in clip.windows:
            alive()
            try:
                window.webp_bytes = self._encode(clip, window)
            except (av.error.FFmpegError, ValueError) as error:
                clip.errors[f"preview_{window.start_frame}_{window.end_frame}"] = str(error)
                logger.warning("event=preview_failed clip=%s window=%s error=%s", clip.uuid, window.span, error)
        clip.extracted_frames.pop(key, None)
        clip.extracted_frame_indices.pop(key, None)

    def _sample_alone(self, clip: Clip) -> None:
        """Used outside a pipeline that samples: decode the clip here."""
        if not clip.windows:
            metadata = clip.extract_metadata() or {}
            clip.windows = [Window(w.start, w.end - 1) for w in caption_windows(metadata.get("num_frames", 0))]
        if clip.windows:
            sample_clip(clip, [self._request])

    def _encode(self, clip: Clip, window: Window) -> bytes:
        assert clip.frame_times_s is not None
        indices = clip.extracted_frame_indices[self._request.key]
        inside = (indices >= window.start_frame) & (indices <= window.end_frame)
        webp = encode_webp(
            clip.extracted_frames[self._request.key][inside],
            _durations_ms(clip, window.span, indices[inside].tolist()),
            quality=self._quality,
            compression_level=self._compression_level,
        )
        if self._verbose:
            logger.info("event=preview clip=%s window=%s bytes=%d", clip.uuid, window.span, len(webp))
        return webp


def _durations_ms(clip: Clip, window: FrameSpan, indices: list[int]) -> list[int]:
    """How long each sampled frame is shown: until the next one, the last until the window ends."""
    times_s = clip.frame_times_s
    assert times_s is not None
    end_s = float(times_s[window.end]) if window.end < len(times_s) else clip.duration
    starts_ms = [round(1000 * float(times_s[i])) for i in indices]
    return [max(1, int(d)) for d in np.diff([*starts_ms, round(1000 * end_s)])]
