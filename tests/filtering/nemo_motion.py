"""The motion of a video as NeMo Curator and Cosmos-Curate define it, restated pixel by pixel from FFmpeg's vectors.

Source: ``motion_vector_backend.py`` of both: ``decode_for_motion`` chooses the frames, ``motion_vectors_to_flowfield``
and ``check_if_small_motion`` make two numbers of their vectors. The length of each, in pixels and divided by height +
width, is painted over its block, in the order of the vectors; OpenCV resizes the mean picture to 1/256, bilinear.
"""

import io
import math

import av
import cv2
import numpy as np
from av.sidedata.motionvectors import MotionVectors
from numpy.typing import NDArray


def nemo_motion(mp4: bytes, *, target_fps: float = 2.0, ratio: float = 0.5) -> tuple[float, float, int]:
    """Global mean, the least of the patches, and how many frames that is of."""
    pictures: list[NDArray[np.float64]] = []
    with av.open(io.BytesIO(mp4), "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.flags2 |= av.codec.context.Flags2.export_mvs
        assert stream.average_rate is not None
        assert container.duration is not None
        step = max(1, round(float(stream.average_rate) / target_fps))
        most = max(10, round(target_fps * int(container.duration / av.time_base) * ratio))
        for index, frame in enumerate(container.decode(video=0)):
            vectors = frame.side_data.get("MOTION_VECTORS")
            if index % step == 0 and isinstance(vectors, MotionVectors) and len(pictures) < most:
                pictures.append(_painted(vectors, frame.width, frame.height))
    mean = np.mean(pictures, axis=0).astype(np.float32)
    return float(np.mean(pictures)), float(cv2.resize(mean, None, fx=1 / 256, fy=1 / 256).min()), len(pictures)


def _painted(vectors: MotionVectors, width: int, height: int) -> NDArray[np.float64]:
    picture = np.zeros((height, width))
    for index in range(len(vectors)):
        vector = vectors[index]
        left, top = vector.dst_x - vector.w // 2, vector.dst_y - vector.h // 2
        length = math.hypot(vector.motion_x, vector.motion_y) / vector.motion_scale
        picture[max(top, 0) : top + vector.h, max(left, 0) : left + vector.w] = length / (height + width)
    return picture
