"""How much moves in a clip: what is measured, of which frames, while they are decoded for other reasons.

The measure is that of NeMo Curator and Cosmos-Curate (``motion_vector_backend.decode_for_motion`` and
``check_if_small_motion`` of both), restated:

- Of a clip of ``T`` whole seconds at ``rate`` frames a second, every ``max(1, round(rate / target_fps))``-th frame
  counts, if it has motion vectors, until there are ``max(10, round(target_fps * T * ratio))``.
- A pixel's motion is the length of its block's vector, in pixels from one frame to another, divided by width + height;
  0 where a block has no vector.
- ``global_mean`` is the mean over pixels and frames.
- ``per_patch_min_256``: the mean over frames, read in the middle of each square of 256 x 256 (that is what OpenCV's
  bilinear resize to 1/256 does: the mean of four pixels; halves of a square at the right and below count as ``round``
  does); the least of them.

They measure their own clips, which refer from each frame to the one before. Sources do more, and so:

- Frames are counted from the source's first: it is not known yet where clips begin when they go by.
- The vectors of a P-frame are divided by the frames between it and the P- or I-frame before it, to which it refers.
- A B-frame refers to two, nobody tells how far away. The next P-frame stands for it; if none comes before the next one
  is due, it counts as it is.
- What refers to a frame before the clip is no motion of the clip.
- Where a frame that is due and the one after it have no vectors, because the codec is one whose decoder tells none
  (HEVC, VP8, VP9, AV1) or there are intra pictures only, the two are compared (``motion_flow``). An intra picture among
  others counts for nothing, as with them; but where the frame that was due before is one as well, because key frames
  are as far apart as what is looked at, the next P-frame stands for it.
- A picture with a side below 256 pixels, which they refuse, is one square along that side.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import numpy as np
from av.video.frame import PictureType
from numpy.typing import NDArray

from curation.video.frames import FrameRequest
from curation.video.motion_flow import FlowMeter
from curation.video.motion_vectors import MotionSample, has_vectors, sample_vectors, vectors_of

_MIN_SAMPLES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionLimits:
    """What a clip must reach, both, not to be still."""

    global_mean: float
    per_patch_min_256: float


@dataclass(frozen=True, slots=True)
class MotionScore:
    """How much moves in a clip.

    Attributes:
        global_mean: over pixels and frames, as a share of width + height for each frame.
        per_patch_min_256: of the square in which the least moves.
        source: where that is from: ``vectors`` of the decoder, ``flow`` between pictures, or both.
        num_samples: frames that were measured.
    """

    global_mean: float
    per_patch_min_256: float
    source: str
    num_samples: int


@dataclass(frozen=True, slots=True)
class MotionRequest(FrameRequest):
    """Asks that motion is measured; ``rate_hz`` frames a second are looked at, and no pictures are kept.

    Attributes:
        duration_ratio: how much of the clip is looked at, from its start on.
        drops_below: a clip below is let go of as soon as that is certain, without an mp4; None makes all of them.
    """

    duration_ratio: float = 0.5
    drops_below: MotionLimits | None = None

    def indices(self, times_s: NDArray[np.float64], end_s: float) -> NDArray[np.int64]:
        """None to keep."""
        del times_s, end_s
        return np.empty(0, np.int64)

    def step(self, rate: Fraction) -> int:
        """Frames from one that is looked at to the next, of a source of so many a second."""
        return max(1, round(float(rate) / self.rate_hz))

    def num_samples(self, duration_s: float) -> int:
        """How many frames a clip is measured at."""
        return max(_MIN_SAMPLES, round(self.rate_hz * int(duration_s) * self.duration_ratio))


def motion_request(
    target_fps: float = 2.0, target_duration_ratio: float = 0.5, *, drops_below: MotionLimits | None = None
) -> MotionRequest:
    """A request for the measure, see the head of this module."""
    return MotionRequest(
        key="motion",
        rate_hz=target_fps,
        height=None,
        pixel_format="rgb24",
        scope="clip",
        duration_ratio=target_duration_ratio,
        drops_below=drops_below,
    )


def one_of(requests: Sequence[MotionRequest]) -> MotionRequest | None:
    """A clip is measured once: as the first asks, and let go of where one of them says so."""
    limits = next((request.drops_below for request in requests if request.drops_below is not None), None)
    return replace(requests[0], drops_below=limits) if requests else None


def score(samples: Sequence[MotionSample]) -> MotionScore:
    """The measure of a clip from at least one sample."""
    sources = sorted({"flow" if sample.is_flow else "vectors" for sample in samples})
    patches = np.mean([sample.patches for sample in samples], axis=0)
    mean = float(np.mean([sample.mean for sample in samples]))
    return MotionScore(mean, float(patches.min()), " and ".join(sources), len(samples))


def is_still(found: MotionScore, limits: MotionLimits) -> bool:
    """Whether a clip reaches one of the limits only, or none."""
    return found.global_mean < limits.global_mean or found.per_patch_min_256 < limits.per_patch_min_256


@dataclass(frozen=True, slots=True)
class _Due:
    """A frame that is to be measured, while it is open by what."""

    index: int
    frame: av.VideoFrame
    has_vectors: bool
    takes_next: bool  # an intra picture for which the next P-frame stands


@dataclass(frozen=True, slots=True)
class _Found:
    """A sample, and the frames between which that motion is."""

    first: int
    last: int
    sample: MotionSample


class MotionTrack:
    """Measures a video while its frames go by, as the decoder gives them; its clips take the part that is theirs."""

    def __init__(
        self, request: MotionRequest, *, rate: Fraction, is_wanted: Callable[[int], bool] = lambda _: True
    ) -> None:
        """Begin before the first frame.

        Args:
            rate: frames a second of the video.
            is_wanted: whether the motion of a frame that is due is of any clip.
        """
        self.request = request
        self._step, self._is_wanted = request.step(rate), is_wanted
        self._found: deque[_Found] = deque()
        self._due: _Due | None = None
        self._was_intra = False  # the frame that was due before
        self._anchor: int | None = None  # the latest frame that is not a B-frame
        self._flow = FlowMeter()

    def add(self, index: int, frame: av.VideoFrame) -> None:
        """Look at a frame of the video; rising, and those that do not matter may be left out."""
        if index % self._step == 0:
            self.finish()
            if self._is_wanted(index):
                is_intra = not has_vectors(frame)
                self._due = _Due(index, frame, not is_intra, takes_next=is_intra and self._was_intra)
                self._was_intra = is_intra
        if self._due is not None:
            self._measure(self._due, index, frame)
        if frame.pict_type != PictureType.B:
            self._anchor = index

    def finish(self) -> None:
        """No further P-frame comes: a B-frame that was due counts as it is."""
        due, self._due = self._due, None
        if due is not None and due.has_vectors and due.index > 0:
            self._take_vectors(due.frame, first=due.index - 1, last=due.index)

    def samples_of(self, start: int, end: int) -> list[MotionSample]:
        """What was measured so far between the frames ``start <= i < end``."""
        return [found.sample for found in self._found if start <= found.first and found.last < end]

    def forget_before(self, index: int) -> None:
        """No clip begins before a frame any more."""
        while self._found and self._found[0].first < index:
            self._found.popleft()

    def _measure(self, due: _Due, index: int, frame: av.VideoFrame) -> None:
        """Measure the frame that is due with the help of this one, or leave it for later."""
        if due.has_vectors and frame.pict_type == PictureType.B:
            return
        is_intra = not has_vectors(frame)
        if not is_intra and (due.has_vectors or due.takes_next):
            if frame.pict_type == PictureType.B:
                return
            if self._anchor is not None:
                self._take_vectors(frame, first=self._anchor, last=index)
        elif is_intra and due.has_vectors:
            return  # before the P-frame that is waited for
        elif is_intra:
            if index == due.index:
                return
            if index == due.index + 1 and _size(frame) == _size(due.frame):
                self._found.append(_Found(due.index, index, self._flow.sample(due.frame, frame)))
        self._due = None

    def _take_vectors(self, frame: av.VideoFrame, *, first: int, last: int) -> None:
        vectors = vectors_of(frame)
        assert vectors is not None
        self._found.append(_Found(first, last, sample_vectors(vectors, _size(frame), distance=last - first)))


def _size(frame: av.VideoFrame) -> tuple[int, int]:
    return frame.width, frame.height
