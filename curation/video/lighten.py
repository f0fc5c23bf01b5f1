"""Pictures without the vectors that came with them, which weigh up to half a megabyte each."""

import av
from av.filter import Graph
from av.filter.context import FilterContext

from curation.video.filtering import add_source, new_graph, ready_frames


class WithoutMotion:
    """Takes the motion vectors off decoded pictures; their planes are shared, nothing is copied."""

    def __init__(self) -> None:
        self._graph: Graph | None = None  # its filters do not keep it alive
        self._source: FilterContext | None = None
        self._sink: FilterContext | None = None
        self._layout: tuple[int, int, str] | None = None

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The same picture."""
        layout = frame.width, frame.height, frame.format.name
        if layout != self._layout:
            self._open(frame)
            self._layout = layout
        assert self._source is not None
        assert self._sink is not None
        self._source.push(frame)
        (lighter,) = ready_frames(self._sink)
        lighter.pts, lighter.time_base = frame.pts, frame.time_base
        return lighter

    def _open(self, frame: av.VideoFrame) -> None:
        self._graph = graph = new_graph()
        self._source, self._sink = add_source(graph, frame), graph.add("buffersink")
        graph.link_nodes(self._source, graph.add("sidedata", "mode=delete:type=MOTION_VECTORS"), self._sink).configure()
