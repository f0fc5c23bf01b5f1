"""From spans to clips: one decode of the source cuts, encodes and samples everything that was asked for."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from curation.clipping.parts import check_recipe
from curation.clipping.recipe import ClipRecipe
from curation.clipping.sparse_cutting import cut_clips
from curation.model import Clip, Video, VideoTask
from curation.pipeline import Stage
from curation.pipeline.chunks import in_chunks
from curation.video.encode import EncoderSettings, choose_encoder
from curation.video.frames import FrameRequest
from curation.video.motion import MotionRequest, one_of


class ClipTranscodingStage(Stage):
    """Encodes the clips of each video and samples frames for the stages after it, all from one decode.

    A long video leaves in parts, so that memory does not grow with its length.
    """

    name = "transcoding"
    serves_frames = True
    in_child = True

    def __init__(
        self,
        encoder: str = "auto",
        preset: str = "superfast",
        crf: int = 23,
        encoder_threads: int = 1,
        keep_audio: bool = True,
        window_size: int = 256,
        remainder_threshold: int = 128,
        num_clips_per_chunk: int = 32,
        clip_encoding: Literal["transcode", "smart-copy"] = "transcode",
        keeps_whole: bool = False,
    ) -> None:
        """Settings as docs/rules.md (Clips; Windows and previews).

        Args:
            encoder: ``auto`` or one of ``curation.video.encode.ENCODERS``.
            encoder_threads: one gives the same bytes everywhere; clips are the unit of parallelism.
            keep_audio: re-encode the sound to AAC; False drops it.
            window_size: frames of a caption window; each window starts with a key frame.
            num_clips_per_chunk: clips that are listed together; they travel in parts of some 8 MiB.
            clip_encoding: ``smart-copy`` copies the packets of H.264 sources that allow it and encodes only the frames
                at a clip's ends that no IDR covers, with libx264; what can't be copied is transcoded and says why.
            keeps_whole: a source that already is the clip that would be made of it is taken byte for byte.
        """
        self._settings = EncoderSettings(encoder=encoder, preset=preset, crf=crf, threads=encoder_threads)
        self._keep_audio = keep_audio
        self._copies, self._keeps_whole = clip_encoding == "smart-copy", keeps_whole
        self._window_size, self._remainder_threshold = window_size, remainder_threshold
        self._num_clips_per_chunk = num_clips_per_chunk
        self._requests: list[FrameRequest] = []

    def setup(self) -> None:
        """Find the encoder that works on this machine.

        Raises:
            ValueError: there is none, or the chosen one does not work.
        """
        settings = self._settings
        self._settings = EncoderSettings(
            encoder=choose_encoder(settings.encoder), preset=settings.preset, crf=settings.crf, threads=settings.threads
        )

    def request_frames(self, requests: Sequence[FrameRequest]) -> None:
        """Remember what the stages after this one want to find on each clip."""
        self._requests = list(requests)

    def process(self, task: VideoTask) -> Iterable[VideoTask]:
        """Give the video in chunks of finished clips."""
        check_recipe(task.data, self.recipe)
        return self.in_chunks(task, self.finished_clips(task.data))

    def finished_clips(self, video: Video, *, seeks: bool = True) -> Iterator[Clip]:
        """Read forward, decode what has to be, hand each frame to its clips, and give each clip when it is complete.

        Args:
            seeks: as ``cut_clips``.
        """
        return cut_clips(self.recipe, video, seeks=seeks) if video.clips else iter(())

    @property
    def recipe(self) -> ClipRecipe:
        """How clips are made, with an encoder that works here."""
        if self._settings.encoder == "auto":
            self.setup()
        return ClipRecipe(
            encoder=self._settings,
            copies=self._copies,
            keeps_whole=self._keeps_whole,
            keep_audio=self._keep_audio,
            window_size=self._window_size,
            remainder_threshold=self._remainder_threshold,
            requests=tuple(request for request in self._requests if not isinstance(request, MotionRequest)),
            motion=one_of([request for request in self._requests if isinstance(request, MotionRequest)]),
        )

    def in_chunks(self, task: VideoTask, clips: Iterator[Clip]) -> Iterator[VideoTask]:
        """See ``curation.pipeline.chunks.in_chunks``."""
        return in_chunks(task, clips, clips_per_chunk=self._num_clips_per_chunk)
