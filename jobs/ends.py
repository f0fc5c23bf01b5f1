"""Each video's one end that counts, out of all that the logs of a run tell."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.again import Voids, read_voids
from jobs.ledger import read_events
from jobs.roll_up import COLUMNS, RollUp, roll_up
from jobs.rundir import RunDir


def video_ends(run: RunDir) -> pa.Table:
    """A row for each video that is done or failed, with the columns of ``roll_up.COLUMNS``."""
    return once(counted_ends(run, roll_up(run), read_voids(run)))


def counted_ends(run: RunDir, rolled: RollUp, voids: Voids) -> pa.Table:
    """The ends that count; two of a video when two workers were at it."""
    found = [{name: event.get(name) for name in COLUMNS.names} for event in read_events(run.found_path)]
    ends = pa.concat_tables([rolled.ends, pa.Table.from_pylist(found, schema=COLUMNS)]) if found else rolled.ends
    if voids.everything:
        ends = ends.filter(pc.greater_equal(ends["shard"], voids.everything))
    if voids.by_video:
        ends = ends.filter(pc.invert(_is_void(ends, voids)))
    return ends


def _is_void(ends: pa.Table, voids: Voids) -> pa.Array:
    places = pc.index_in(ends["video"], pa.array(voids.by_video, pa.string()))
    first = pc.take(pa.array(voids.by_video.values(), pa.int32()), places)
    return pc.fill_null(pc.less(ends["shard"], first), False)


def once(ends: pa.Table, *, columns: Sequence[str] = COLUMNS.names) -> pa.Table:
    """The first end of each video; of large tables it costs less without the columns of texts."""
    videos = pc.dictionary_encode(ends["video"]).combine_chunks()
    if not len(ends) or len(videos.dictionary) == len(ends):
        return ends.select(columns)
    ids, times = videos.indices.to_numpy(), ends["time"].to_numpy()
    order = np.lexsort((times, ids))
    is_first = np.diff(ids[order], prepend=-1) != 0
    chosen = np.zeros(len(ids), bool)
    chosen[order[is_first]] = True
    return ends.select(columns).filter(pa.array(chosen))
