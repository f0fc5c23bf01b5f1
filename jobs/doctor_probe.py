"""Encodes and decodes a second of video: ``python -m jobs.doctor_probe ENCODER PRESET CRF`` prints one line of JSON.

A process of its own, because the driver behind a hardware encoder may hang or end whoever asks it.
"""

import io
import json
import sys
from fractions import Fraction

import av
import av.error
import numpy as np

from curation.video.encode import EncoderSettings, choose_encoder, encoder_options

_NUM_FRAMES = 25
_SIZE = 256
_MAX_ERROR = 8  # of 255: how far a flat picture's brightness may be from what was encoded


def levels() -> list[int]:
    """The brightness of each frame, 0..255, all different."""
    return [40 + 6 * index for index in range(_NUM_FRAMES)]


def encoded(settings: EncoderSettings) -> bytes:
    """An mp4 of a second: flat grey pictures whose brightness rises."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(settings.encoder, rate=_NUM_FRAMES, options=encoder_options(settings))
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = _SIZE, _SIZE, "yuv420p"
        stream.codec_context.thread_count = 1
        for index, level in enumerate(levels()):
            picture = np.full((_SIZE * 3 // 2, _SIZE), 128, np.uint8)  # packed yuv420p
            picture[:_SIZE] = level
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, _NUM_FRAMES)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def decoded_levels(mp4: bytes) -> list[float]:
    """The mean brightness of each frame, 0..255."""
    with av.open(io.BytesIO(mp4), "r") as container:
        return [float(frame.to_ndarray(format="gray").mean()) for frame in container.decode(video=0)]


def fault(found: list[float]) -> str | None:
    """What is wrong with frames that were encoded and decoded."""
    if len(found) != _NUM_FRAMES:
        return f"{len(found)} of {_NUM_FRAMES} frames came back"
    # a decoder may give brightness in the range 16..235 or stretched to 0..255
    given = levels()
    stretched = [(level - 16) * 255 / 219 for level in given]
    distance = min(max(abs(a - b) for a, b in zip(each, found, strict=True)) for each in (given, stretched))
    return f"frames came back with another brightness (by {distance:.0f} of 255)" if distance > _MAX_ERROR else None


def main() -> None:
    """Check and print."""
    name, preset, crf = sys.argv[1:]
    told: dict[str, object] = {}
    try:
        encoder = choose_encoder(name)
        told["encoder"] = encoder
        told["fault"] = fault(decoded_levels(encoded(EncoderSettings(encoder, preset, int(crf)))))
    except (av.error.FFmpegError, ValueError) as error:
        told["fault"] = str(error)
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
