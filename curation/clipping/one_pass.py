"""Shots and clips from one decode: decoded pictures wait in a delay line until it is known what they belong to."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

import av
import numpy as np

from curation.clipping.clips import new_clip
from curation.clipping.cutting import OpenClip, Packets, Sound
from curation.clipping.parts import check_recipe, check_splitter
from curation.clipping.recipe import ClipRecipe
from curation.clipping.shot_tracker import ClipPlanner
from curation.clipping.transcoding import ClipTranscodingStage
from curation.clipping.transnetv2 import ShotLook, TransNetV2ClipExtractionStage, wanted_pictures
from curation.model import Clip, Video, VideoTask
from curation.pipeline import Stage
from curation.timeline import FrameSpan
from curation.video.decode import AnyPacket, PictureNormalizer
from curation.video.frames import FrameRequest
from curation.video.motion import MotionTrack
from curation.video.profile import profile_at
from curation.video.source import profile_needed, timeline_needed

_LATENCY_FRAMES = 150  # a detector's window of 100 and the next step of 50, so many frames at most until one is judged
_MAX_LINE_BYTES = 768 * 2**20
_PATIENT_LINE_BYTES = 256 * 2**20
"""While the line holds less, a clip is begun only when its shot is certain to be long enough for one."""


class OnePassStage(Stage):
    """The detector and the transcoder together: each frame of the source is decoded once.

    Gives what the two give one after the other. A picture so large that the delay line would not fit in 768 MiB is
    decoded twice instead.
    """

    name = "one_pass"
    serves_frames = True
    in_child = True

    def __init__(self, splitter: TransNetV2ClipExtractionStage, transcoder: ClipTranscodingStage) -> None:
        self._splitter, self._transcoder = splitter, transcoder

    def setup(self) -> None:
        """Prepare both."""
        self._splitter.setup()
        self._transcoder.setup()

    def request_frames(self, requests: Sequence[FrameRequest]) -> None:
        """Remember what the stages after this one want to find on each clip."""
        self._transcoder.request_frames(requests)

    def process(self, task: VideoTask) -> Iterator[VideoTask]:
        """Give the video in chunks of finished clips."""
        check_splitter(task.data, limit_clips=self._splitter.limit_clips)
        check_recipe(task.data, self._transcoder.recipe)
        if _picture_bytes(task.data) * _LATENCY_FRAMES > _MAX_LINE_BYTES:
            for split in self._splitter.process(task):  # nor does the other way seek to its first clip
                yield from self._transcoder.in_chunks(split, self._transcoder.finished_clips(split.data, seeks=False))
            return
        clips = _Pass(self._splitter, self._transcoder.recipe, task).clips()
        yield from self._transcoder.in_chunks(task, clips)


def _picture_bytes(video: Video) -> int:
    """What the largest decoded picture takes, about."""
    profile = profile_needed(video)
    sizes = [profile.coded_size, *(shape.coded_size for shape in profile.later_shapes)]
    return max(width * height for width, height in sizes) * (3 if video.is_10_bit_color() else 2)


class _Pass:
    """One decode of one video."""

    def __init__(self, splitter: TransNetV2ClipExtractionStage, recipe: ClipRecipe, task: VideoTask) -> None:
        self._splitter, self._recipe, self._task = splitter, recipe, task
        self._video, self._timeline = task.data, timeline_needed(task.data)
        profile = profile_needed(task.data)
        self._look = ShotLook(splitter, task)
        self._planner = ClipPlanner(self._look.tracker, self._timeline, splitter.rules)
        self._normalize = PictureNormalizer(profile)
        self._line: deque[tuple[int, av.VideoFrame]] = deque()
        self._patient_frames = _PATIENT_LINE_BYTES // _picture_bytes(task.data)
        self._open: dict[int, OpenClip] = {}  # by first frame
        self._sound = Sound(self._timeline)
        self._packets = Packets(recipe, profile)
        rate = self._timeline.average_rate
        self._track = MotionTrack(recipe.motion, rate=rate) if recipe.motion is not None else None
        self._with_audio = recipe.keep_audio and profile.audio_stream is not None

    def clips(self) -> Iterator[Clip]:
        """Every clip as it is complete, at most as many as the splitter's limit.

        Raises:
            VideoError: DECODE_ERROR or NO_FRAMES.
        """
        return islice(self._all_clips(), self._splitter.limit_clips or None)

    def _all_clips(self) -> Iterator[Clip]:
        for frame in wanted_pictures(
            self._task,
            self._look.within,
            wanted=self._look.first_frame,
            with_audio=self._with_audio,
            see_packet=self._see_packet,
            see_motion=self._see_motion if self._track is not None else None,
        ):
            if isinstance(frame, av.AudioFrame):
                self._sound.hear(frame, list(self._open.values()))
            else:
                index = self._look.at(frame)
                if index >= self._look.known_from:
                    self._line.append((index, frame))
                yield from self._advance(now=frame.pts)
                if self._look.is_over and not self._open:
                    return
        self._look.finish()
        yield from self._advance(now=None)

    def _see_motion(self, frame: av.VideoFrame) -> None:
        assert self._track is not None
        assert frame.pts is not None
        self._track.add(int(np.searchsorted(self._timeline.ticks, frame.pts)), frame)

    def _see_packet(self, packet: AnyPacket) -> None:
        self._packets.see(packet, list(self._open.values()))

    def _advance(self, *, now: int | None) -> Iterator[Clip]:
        """Use what became certain; ``now`` is the latest picture's timestamp, None when the last one has come."""
        for clip in self._planner.update():
            if clip.start in self._open:
                self._open[clip.start].end_at(clip.end)
        until = self._planner.released_until(speculate=len(self._line) > self._patient_frames)
        while self._line and self._line[0][0] < until:
            self._release(*self._line.popleft())
        yield from self._close(until, now=now)

    def _release(self, index: int, frame: av.VideoFrame) -> None:
        """Give a frame to the clip that it belongs to."""
        self._sound.forget_before(self._timeline.tick(index))
        self._packets.forget_before(self._timeline.tick(index))
        if self._track is not None:
            self._track.forget_before(min([index, *self._open]))
        found = self._planner.clip_of(index)
        if found is None or self._planner.shot_start(index) not in self._look.own:
            return
        start, span = found
        opened = self._open.get(start) or self._begin(start, frame)
        if span is not None and opened.end is None:
            opened.end_at(span.end)
        opened.add_picture(index, opened.normalize(frame), is_scaled=not opened.normalize.fits(frame))

    def _begin(self, start: int, first: av.VideoFrame) -> OpenClip:
        furthest = FrameSpan(start, self._planner.furthest_end(start, self._look.within.end))
        self._normalize = self._normalize.of(profile_at(profile_needed(self._video), self._timeline, start, first))
        opened = OpenClip(
            self._recipe,
            self._video,
            furthest,
            nearest_end=min(self._planner.nearest_end(start), furthest.end),
            packets=self._packets,
            track=self._track,
            normalize=self._normalize,
        )
        self._sound.begin(opened)
        self._open[start] = opened
        return opened

    def _close(self, until: int, *, now: int | None) -> Iterator[Clip]:
        """Finish clips whose frames and sound have all come; drop those whose shot ended too early."""
        for start, opened in sorted(self._open.items(), key=lambda each: each[0]):
            if opened.end is None and self._planner.is_over(start):
                del self._open[start]
            elif opened.end is not None and opened.end <= until and self._has_sound(opened.end, now=now):
                del self._open[start]
                span = FrameSpan(start, opened.end)
                clip = new_clip(self._video, self._timeline, span, self._splitter.settings_hash)
                shot_start = self._planner.shot_start(start)
                clip.notes |= self._splitter.rules.notes(self._timeline, start, shot_start=shot_start)
                yield opened.finish(clip)

    def _has_sound(self, end: int, *, now: int | None) -> bool:
        return now is None or not self._with_audio or self._sound.has_come_to(self._timeline.tick(end), now=now)
