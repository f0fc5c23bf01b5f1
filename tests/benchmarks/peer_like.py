"""The CPU part of a curation pipeline as NeMo Curator and Cosmos-Curate do it.

Their sequence of commands and decodes, written anew, for cuts that are given. Where there was a choice it costs them
less: one thread for each ffmpeg, the same fast encoder for clips and windows (they take ffmpeg's default for windows),
no ffprobe, no Ray, no object store, no statistics of motion vectors; the import of torch is left out by ``cpu_cost``.

``python -m tests.benchmarks.peer_like`` reads a job as JSON from the standard input and prints what it did as JSON.
"""

import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.cost_cases import CAPTION_FPS, EMBEDDING_FRAMES, EMBEDDING_SIDE, caption_size

_CLIPS_PER_PROCESS = 16
_WINDOW_SIZE, _REMAINDER_THRESHOLD, _MIN_WINDOW = 256, 128, 4
_MOTION_FPS, _MOTION_SHARE, _MIN_MOTION_FRAMES = 2.0, 0.5, 10


@dataclass(frozen=True)
class Job:
    """What to do.

    Attributes:
        spans: first and end frame of each clip.
        looks: whether a detector wants to see all frames small.
        encoding: ffmpeg's arguments for clips and windows.
    """

    ffmpeg: str
    path: str
    frames_per_s: float
    spans: list[tuple[int, int]]
    looks: bool
    encoding: list[str]


@dataclass
class Done:
    """What was done, by count, and where the CPU seconds went."""

    num_processes: int = 0
    num_temp_files: int = 0
    num_clip_frames: int = 0
    num_windows: int = 0
    num_caption_frames: int = 0
    num_motion_frames: int = 0
    clip_bytes: int = 0
    preview_bytes: int = 0
    torch_import_s: float = 0.0
    phases_s: dict[str, float] = field(default_factory=dict)


class PeerLike:
    """One video, step by step, each step from files or bytes as their stages hand them on."""

    def __init__(self, job: Job, folder: Path) -> None:
        before = time.process_time()
        import torch

        torch.set_num_threads(1)
        self._job, self._folder = job, folder
        self.done = Done(torch_import_s=time.process_time() - before)

    def run(self) -> None:
        """All steps."""
        source = Path(self._job.path).read_bytes()
        if self._job.looks:
            with self._phase("frames for the detector"):
                self._small_frames(source)
        with self._phase("clips"):
            clips = self._cut(source)
        for clip in clips:
            self._use(clip)

    def _use(self, clip: bytes) -> None:
        """Everything that is made of a clip, each from a decode of its own."""
        self.done.clip_bytes += len(clip)
        with self._phase("embedding frames"):
            _embedding_frames(clip, self._job.frames_per_s)
        with self._phase("motion"):
            self.done.num_motion_frames += len(_motion(clip))
        num_frames = _num_frames(clip)
        self.done.num_clip_frames += num_frames
        windows = peer_windows(num_frames)
        clip_file = self._temp_file("window-input.mp4", clip)
        with self._phase("caption frames"):
            frames = _caption_frames(clip_file.read_bytes(), windows, self._job.frames_per_s)
            self.done.num_caption_frames += len(frames)
        with self._phase("windows"):
            window_clips = [clip] if len(windows) == 1 else [self._cut_window(clip_file, *w) for w in windows]
        with self._phase("previews"):
            for window_clip in window_clips:
                self.done.preview_bytes += len(self._preview(window_clip))
        self.done.num_windows += len(windows)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        before = _spent_s()
        yield
        phases_s = self.done.phases_s
        phases_s[name] = phases_s.get(name, 0.0) + _spent_s() - before

    def _temp_file(self, name: str, contents: bytes = b"") -> Path:
        path = self._folder / name
        if contents:
            path.write_bytes(contents)
        self.done.num_temp_files += 1
        return path

    def _ffmpeg(self, *arguments: str | Path) -> bytes:
        self.done.num_processes += 1
        command = [self._job.ffmpeg, "-hide_banner", "-loglevel", "error", *map(str, arguments)]
        return subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=True).stdout

    def _small_frames(self, source: bytes) -> NDArray[np.uint8]:
        """All frames of the source, uint8 RGB, shape (num_frames, 27, 48, 3)."""
        video = self._temp_file("detector-input.mp4", source)
        raw = self._ffmpeg("-threads", "1", "-i", video, "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "48x27", "-")
        return np.frombuffer(raw, np.uint8).reshape(-1, 27, 48, 3)

    def _cut(self, source: bytes) -> list[bytes]:
        """The clips, several by one process, each with an input of its own."""
        video = self._temp_file("input.mp4", source)
        clips: list[bytes] = []
        for begin in range(0, len(self._job.spans), _CLIPS_PER_PROCESS):
            arguments: list[str | Path] = []
            files = []
            for index, (start, end) in enumerate(self._job.spans[begin : begin + _CLIPS_PER_PROCESS]):
                files.append(self._temp_file(f"clip-{begin + index}.mp4"))
                start_s, end_s = start / self._job.frames_per_s, end / self._job.frames_per_s
                arguments += ["-threads", "1", "-ss", str(start_s), "-to", str(end_s), "-i", video]
                arguments += ["-map", f"{index}:v:0", *self._job.encoding, "-threads", "1"]
                arguments += ["-map", f"{index}:a:0?", "-c:a", "copy", files[-1]]
            self._ffmpeg("-y", *arguments)
            clips += [file.read_bytes() for file in files]
        return clips

    def _cut_window(self, clip: Path, first: int, end: int) -> bytes:
        """A window as a clip of its own: ffmpeg decodes the whole clip for each."""
        window = self._temp_file("window.mp4")
        select = f"select='between(n\\,{first}\\,{end - 1})',setpts=PTS-STARTPTS"
        arguments = ["-threads", "1", "-y", "-i", str(clip), "-vf", select, *self._job.encoding, "-threads", "1", "-an"]
        self._ffmpeg(*arguments, "-f", "mp4", window)
        return window.read_bytes()

    def _preview(self, window: bytes) -> bytes:
        """An animated WebP of a window."""
        source, preview = self._temp_file("preview-input.mp4", window), self._temp_file("preview.webp")
        effort = ["-c:v", "libwebp", "-lossless", "0", "-compression_level", "6", "-q:v", "50", "-loop", "0"]
        self._ffmpeg(
            "-threads", "1", "-y", "-i", source, "-vf", "fps=1,scale=-1:240", *effort, "-threads", "1", preview
        )
        return preview.read_bytes()


def peer_windows(num_frames: int) -> list[tuple[int, int]]:
    """Caption windows of a clip, first and end frame, as docs/rules.md."""
    if num_frames < _MIN_WINDOW:
        return []
    starts = list(range(0, max(1, num_frames - _WINDOW_SIZE + 1), _WINDOW_SIZE))
    rest_start = starts[-1] + _WINDOW_SIZE
    if num_frames - rest_start >= _REMAINDER_THRESHOLD:
        starts.append(rest_start)
    return list(zip(starts, [*starts[1:], num_frames], strict=True))


def _num_frames(clip: bytes) -> int:
    with av.open(io.BytesIO(clip)) as container:
        return container.streams.video[0].frames


def _full_frames(clip: bytes, indices: Sequence[int]) -> NDArray[np.uint8]:
    """The frames, uint8 RGB of full size, shape (num_frames, height, width, 3); decodes until the last of them."""
    with av.open(io.BytesIO(clip), "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = np.empty((len(indices), stream.height, stream.width, 3), np.uint8)
        wanted = {index: place for place, index in enumerate(indices)}
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                frames[wanted[index]] = frame.to_ndarray(format="rgb24")
            if index == indices[-1]:
                break
    return frames


def _resized(frames: NDArray[np.uint8], *, width: int, height: int) -> NDArray[np.uint8]:
    import torch
    from torch.nn.functional import interpolate

    planes = torch.from_numpy(frames).permute(0, 3, 1, 2)
    resized: NDArray[np.uint8] = interpolate(planes, (height, width), mode="bicubic", antialias=True).numpy()
    return resized


def _embedding_frames(clip: bytes, frames_per_s: float) -> NDArray[np.uint8]:
    frames = _full_frames(clip, range(0, _num_frames(clip), round(frames_per_s / CAPTION_FPS)))
    chosen = np.linspace(0, len(frames) - 1, EMBEDDING_FRAMES).round().astype(int)
    return _resized(frames[chosen], width=EMBEDDING_SIDE, height=EMBEDDING_SIDE)


def _caption_frames(
    clip: bytes, windows: Sequence[tuple[int, int]], frames_per_s: float
) -> NDArray[np.uint8] | Sequence[int]:
    indices: list[int] = []
    for first, end in windows:
        count = max(_MIN_WINDOW, round((end - first) / frames_per_s * CAPTION_FPS / 2) * 2)
        indices += np.linspace(first, end - 1, min(count, end - first)).round().astype(int).tolist()
    if not indices:
        return []
    frames = _full_frames(clip, indices)
    width, height = caption_size(frames.shape[2], frames.shape[1])
    return _resized(frames, width=width, height=height)


def _motion(clip: bytes) -> list[NDArray[Any]]:
    """The motion vectors of some frames of the first half."""
    with av.open(io.BytesIO(clip), "r") as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        context.flags2 |= av.codec.context.Flags2.export_mvs
        context.thread_count = 1
        rate = float(stream.average_rate or 30)
        duration_s = float((stream.duration or 0) * (stream.time_base or 0))
        wanted = max(_MIN_MOTION_FRAMES, round(_MOTION_FPS * duration_s * _MOTION_SHARE))
        vectors: list[NDArray[Any]] = []
        for index, frame in enumerate(container.decode(stream)):
            if index % round(rate / _MOTION_FPS) == 0:
                found = frame.side_data.get("MOTION_VECTORS")
                vectors += [found.to_ndarray()] if found is not None else []
            if len(vectors) == wanted:
                break
    return vectors


def _spent_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> int:
    job = Job(**json.load(sys.stdin))
    with tempfile.TemporaryDirectory(prefix="peer-like-") as folder:
        peers = PeerLike(job, Path(folder))
        peers.run()
    print(json.dumps(asdict(peers.done)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
