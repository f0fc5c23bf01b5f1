"""A video of the pipeline as a source of frames: probed when somebody needs it, every decode counted."""

from collections.abc import Iterator

from curation.model import Video
from curation.source_profile import SourceProfile
from curation.timeline import FrameTimeline
from curation.video.clean_start import CleanStart
from curation.video.decode import MediaFrame, SeeFrame, SeePacket, decode_frames
from curation.video.probe import probe_video, source_of


def decode_video(
    video: Video,
    *,
    from_tick: int | None = None,
    with_audio: bool = False,
    see_packet: SeePacket | None = None,
    see_motion: SeeFrame | None = None,
    begin: CleanStart | None = None,
) -> Iterator[MediaFrame]:
    """Decode a video, see ``decode_frames``; counts in ``Video.decode_count``."""
    return decode_frames(
        source_of(video),
        profile_needed(video),
        timeline_needed(video),
        name=video.id,
        from_tick=from_tick,
        with_audio=with_audio,
        count=video.decode_count,
        see_packet=see_packet,
        see_motion=see_motion,
        begin=begin,
    )


def timeline_needed(video: Video) -> FrameTimeline:
    """The video's timeline; a stage that runs alone probes for it. Raises as ``probe_video``."""
    if video.timeline is None:
        probe_video(video)
    assert video.timeline is not None
    return video.timeline


def profile_needed(video: Video) -> SourceProfile:
    """The video's profile; a stage that runs alone probes for it. Raises as ``probe_video``."""
    if video.profile is None:
        probe_video(video)
    assert video.profile is not None
    return video.profile
