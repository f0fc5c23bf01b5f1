"""A source that is already what would be made of it, such as a clip that is captioned anew, is taken as it is."""

import io
from collections.abc import Sequence
from pathlib import Path

import av

from curation.clipping.recipe import ClipRecipe
from curation.model import Clip, Video, Window
from curation.source_files import Source
from curation.timeline import FrameSpan
from curation.video.container import opened
from curation.video.copyplan import why_not_copyable
from curation.video.frames import sample_clip
from curation.video.probe import source_of
from curation.video.source import profile_needed, timeline_needed

_MAX_BYTES = 256 * 2**20  # of a clip that is held in memory as a whole
_H264_ENCODERS = {"h264_nvenc", "libx264", "libopenh264"}
_BOX_HEADER_BYTES = 16


def clip_as_it_is(recipe: ClipRecipe, video: Video) -> Clip | None:
    """The only clip of a video, with the bytes of its source; None where something has to be made anew.

    The source must be all of the clip, and as docs/rules.md (Clips) says: an mp4 that begins with its index, H.264 of 8
    bits, upright, progressive, with square pixels and even sizes, from 0 s on, an IDR at the start of each window, and
    no other stream than one of AAC. The video lets go of the clip.

    Raises:
        VideoError: it can't be decoded, where it is sampled.
        StorageError: the file could not be read.
    """
    mp4 = _bytes_to_keep(recipe, video)
    if mp4 is None:
        return None
    (clip,), video.clips = video.clips, []
    clip.buffer = mp4
    clip.windows = [Window(span.start, span.end - 1) for span in recipe.windows(timeline_needed(video).num_frames)]
    clip.notes["clip_encoding"] = "as it is"
    if recipe.requests:
        sample_clip(clip, recipe.requests)
        video.decode_count.num_frames += timeline_needed(video).num_frames
    return clip


def _bytes_to_keep(recipe: ClipRecipe, video: Video) -> bytes | None:
    timeline, profile = timeline_needed(video), profile_needed(video)
    whole = FrameSpan(0, timeline.num_frames)
    if [clip.frame_span for clip in video.clips] != [whole] or profile.later_shapes:
        return None
    if recipe.encoder.encoder not in _H264_ENCODERS or timeline.boundary(0) != 0:
        return None
    begins = {span.start for span in recipe.windows(timeline.num_frames)} | {0}
    if not begins <= set(timeline.idr_frames.tolist()):
        return None
    source = source_of(video)
    with opened(source, name=video.id) as container:
        stream = container.streams[profile.video_stream]
        others = [each for each in container.streams if each.index != stream.index]
        if not isinstance(stream, av.VideoStream) or why_not_copyable(stream, profile) is not None:
            return None
        if stream.frames != timeline.num_frames or stream.start_time:  # frames that nobody sees lie in front
            return None
        if not _are_kept(others, keep_audio=recipe.keep_audio) or not 0 < container.size <= _MAX_BYTES:
            return None
    mp4 = _read(source)
    return mp4 if _begins_with_index(mp4) else None


def _are_kept(streams: Sequence[object], *, keep_audio: bool) -> bool:
    """Whether what is beside the pictures would be there in a clip as well."""
    is_sound = [isinstance(each, av.AudioStream) and each.codec_context.name == "aac" for each in streams]
    return not streams or (keep_audio and is_sound == [True])


def _read(source: Source) -> bytes:
    if isinstance(source, bytes):
        return source
    if isinstance(source, Path):
        return source.read_bytes()
    with source.reading() as stream:
        return stream.read()


def _begins_with_index(mp4: bytes) -> bool:
    """Whether an mp4's ``moov`` box lies before its ``mdat``.

    Source:
        ISO/IEC 14496-12, 4.2: a box is its length in 32 bits, its type, and where that length is 1 another in 64 bits.
    """
    stream, names = io.BytesIO(mp4), []
    while len(header := stream.read(_BOX_HEADER_BYTES)) >= _BOX_HEADER_BYTES // 2 and "mdat" not in names:
        length = int.from_bytes(header[:4])
        if length == 1:
            length = int.from_bytes(header[8:])
        names.append(header[4:8].decode("latin-1"))
        if length < _BOX_HEADER_BYTES // 2:
            break
        stream.seek(length - len(header), io.SEEK_CUR)
    return names[:1] == ["ftyp"] and "moov" in names and "mdat" in names[names.index("moov") :]
