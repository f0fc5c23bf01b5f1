"""Why a video or a clip could not be processed: a closed set, decided by type and never by text."""

from dataclasses import dataclass
from enum import StrEnum


class FailureReason(StrEnum):
    """The classes of failure that a record can carry."""

    NOT_FOUND = "not_found"  # the manifest names a file that is not there
    EMPTY_FILE = "empty_file"  # zero bytes
    UNREADABLE = "unreadable"  # not a media container, or its header is missing (no moov)
    NO_VIDEO_STREAM = "no_video_stream"  # audio only, subtitles only, cover art only
    NO_FRAMES = "no_frames"  # a video stream that yields no frame
    TRUNCATED = "truncated"  # the file ends before its container says it does
    DECODE_ERROR = "decode_error"  # the decoder refused part of the stream
    ENCODE_ERROR = "encode_error"  # the encoder refused the frames
    EMPTY_RANGE = "empty_range"  # the manifest's start_s and end_s hold no frame
    LIMITS = "limits"  # more pixels, seconds, frames or streams than the config allows
    CRASHED = "crashed"  # its processing ended the process that did it, every time it was tried
    STALLED = "stalled"  # its decoder made no progress for worker.stall_timeout_s
    TIMEOUT = "timeout"  # it took longer than worker.video_timeout_s
    MEMORY = "memory"  # it needs more memory than worker.child_memory_gb
    INTERNAL = "internal"  # a defect of clipmill: please report it
    NOT_IN_PARTS = "not_in_parts"  # of a part of a video only, which is then processed whole: no record says so


@dataclass(frozen=True, slots=True)
class Failure:
    """What a record says of a video that could not be processed."""

    reason: FailureReason
    message: str


class VideoError(Exception):
    """One video (or one clip) can't be processed; the others go on."""

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type["VideoError"], tuple[FailureReason, str]]:
        return type(self), (self.reason, self.message)


class StopRunError(Exception):
    """Nothing more can be processed here: the run stops, and no video is blamed for it."""


class StorageError(StopRunError):
    """Storage failed: disk full, quota, stale handle, no permission."""


class UnreachableError(StorageError):
    """Storage gave no answer: it is away, or the way to it from this machine is."""


class BusyError(UnreachableError):
    """Storage said that it can't answer for now, at each try."""
