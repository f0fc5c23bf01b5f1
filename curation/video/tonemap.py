"""HDR pictures (PQ, HLG) as an SDR display of BT.709 shows them.

The way of each colour: signal -> light of the display in cd/m2 (BT.2100) -> tone curve of BT.2390 down to the reference
white of BT.2408 -> primaries of BT.709 (BT.2087) -> signal of a BT.1886 display. It is computed once, for the nodes of
a lattice, through which FFmpeg sends the pixels.
"""

import functools

import av
import numpy as np
from av.filter import Graph
from av.filter.context import FilterContext
from numpy.typing import NDArray

from curation.source_profile import HdrSignal
from curation.video.filtering import add_source, new_graph, ready_frames

REFERENCE_WHITE = 203.0
"""cd/m2 of diffuse white, which SDR shows as its brightest. Source: ITU-R BT.2408 section 2.1."""

NOMINAL_PEAK = 1000.0
"""cd/m2 of the brightest pictures, where the source does not tell. Source: ITU-R BT.2100 table 5, BT.2408 section 2."""

_LEVEL = 8  # of the Hald picture: LEVEL ** 2 nodes along each axis
_PICTURE_SIDE = _LEVEL**3
_RGB = "gbrpf32le"  # in whole numbers haldclut takes the planes of the Hald picture for one another (FFmpeg 8.1)
_LUMINANCE_2020 = np.array([0.2627, 0.6780, 0.0593])  # BT.2020 table 4
_BT2020_TO_BT709 = np.array(  # BT.2087 annex 2, inverted; rows give R, G, B
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)
_DISPLAY_GAMMA = 2.4  # BT.1886
_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128  # ST 2084
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_A = 0.17883277  # BT.2100 table 5
_B, _C = 1 - 4 * _A, 0.5 - _A * np.log(4 * _A)
_HLG_SYSTEM_GAMMA = 1.2  # BT.2100 table 5, at the nominal peak


def pq_light(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signal 0..1 -> cd/m2. Source: SMPTE ST 2084, ITU-R BT.2100 table 4 (EOTF)."""
    root = signal ** (1 / _M2)
    return np.asarray(10_000 * (np.maximum(root - _C1, 0) / (_C2 - _C3 * root)) ** (1 / _M1))


def pq_signal(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """cd/m2 -> signal 0..1, the inverse of ``pq_light``."""
    power = (light / 10_000) ** _M1
    return np.asarray(((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2)


def hlg_light(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """R'G'B' signals 0..1, shape (..., 3) -> cd/m2 of a display of the nominal peak.

    Source:
        ITU-R BT.2100 table 5: inverse OETF, then OOTF.
    """
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - _C) / _A) + _B) / 12)
    luminance = (scene @ _LUMINANCE_2020)[..., None]
    return np.asarray(NOMINAL_PEAK * luminance ** (_HLG_SYSTEM_GAMMA - 1) * scene)


def compressed(light: NDArray[np.float64], *, peak: float) -> NDArray[np.float64]:
    """Bring 0..``peak`` cd/m2 down to 0..REFERENCE_WHITE; what is dark stays as it is.

    Source:
        ITU-R BT.2390 section 5.4.1 (EETF), for two displays whose black is 0.
    """
    brightest = float(pq_signal(np.array(peak)))
    highest = min(1.0, float(pq_signal(np.array(REFERENCE_WHITE))) / brightest)
    knee = 1.5 * highest - 0.5
    signal = np.minimum(pq_signal(light) / brightest, 1)
    t = np.maximum(signal - knee, 0) / max(1 - knee, 1e-9)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * highest
    return pq_light(np.where(signal < knee, signal, spline) * brightest)


def sdr_signal(signal: NDArray[np.float64], hdr: HdrSignal) -> NDArray[np.float64]:
    """R'G'B' of BT.2100, 0..1, shape (..., 3) -> R'G'B' of BT.709.

    The tone curve is applied to the brightest of R, G and B, and the others are scaled alike: hues stay, and nothing
    gets brighter than the display can show. Colours outside BT.709 are clipped.
    """
    light = pq_light(signal) if hdr.transfer == "pq" else hlg_light(signal)
    brightest = light.max(axis=-1, keepdims=True)
    light = light * compressed(brightest, peak=hdr.peak_cd_m2) / np.maximum(brightest, 1e-9)
    shown = np.clip(light @ _BT2020_TO_BT709.T / REFERENCE_WHITE, 0, 1)
    return np.asarray(shown ** (1 / _DISPLAY_GAMMA))


@functools.lru_cache(maxsize=4)
def _lattice(hdr: HdrSignal) -> NDArray[np.float32]:
    """A Hald picture: what the lattice's nodes become, red changing fastest, then green, then blue; RGB 0..1."""
    axis = np.linspace(0, 1, _LEVEL**2)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    nodes = sdr_signal(np.stack([red, green, blue], axis=-1), hdr)
    return nodes.astype(np.float32).reshape(_PICTURE_SIDE, _PICTURE_SIDE, 3)


class ToneMapper:
    """Makes frames of a PQ or HLG video 8-bit yuv420p of BT.709 and limited range, in their size."""

    def __init__(self, hdr: HdrSignal) -> None:
        self._hdr = hdr
        self._kind: tuple[object, ...] | None = None
        self._graph: Graph | None = None  # its filters do not keep it alive
        self._source: FilterContext | None = None
        self._sink: FilterContext | None = None
        self._num_pushed = 0

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The frame for an SDR display; timestamps kept."""
        kind = frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range
        if kind != self._kind:
            self._open(frame)
            self._kind = kind
        assert self._source is not None
        assert self._sink is not None
        kept = frame.pts
        frame.pts = self._num_pushed  # the graph joins two inputs by time, and wants it to rise
        self._num_pushed += 1
        try:
            self._source.push(frame)
        finally:
            frame.pts = kept
        (shown,) = ready_frames(self._sink)
        shown.pts, shown.time_base = kept, frame.time_base
        return shown

    def _open(self, frame: av.VideoFrame) -> None:
        self._graph = graph = new_graph()
        self._source, self._sink = add_source(graph, frame), graph.add("buffersink")
        lattice = av.VideoFrame.from_ndarray(_lattice(self._hdr), format=_RGB)
        lattice.pts, lattice.time_base = 0, frame.time_base
        nodes = add_source(graph, lattice)
        mapped = graph.add("haldclut", "clut=first:interp=tetrahedral")
        graph.link_nodes(self._source, graph.add("scale", _to_rgb(frame)), graph.add("format", _RGB), mapped)
        nodes.link_to(mapped, 0, 1)
        to_yuv = graph.add("scale", "out_color_matrix=bt709:out_range=limited:flags=bicubic")
        graph.link_nodes(mapped, to_yuv, graph.add("format", "yuv420p"), self._sink).configure()
        nodes.push(lattice)
        nodes.push(None)


def _to_rgb(frame: av.VideoFrame) -> str:
    """How the source's numbers are read; BT.2020's matrix where it does not say which, as BT.2100 has it."""
    matrix = {1: "bt709", 5: "bt601", 6: "bt601"}.get(frame.colorspace, "bt2020")  # ITU-T H.273
    source_range = "full" if frame.color_range == 2 else "limited"
    return f"in_color_matrix={matrix}:in_range={source_range}:out_range=full:flags=bicubic"
