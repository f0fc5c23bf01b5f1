"""What is found while the frames come is what is found from all of them at once."""

from dataclasses import asdict
from fractions import Fraction
from typing import Literal

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.clipping.shot_tracker import ClipPlanner, ClipRules, ShotTracker
from curation.timeline import FrameSpan, FrameTimeline, clips_from_shots
from tests.whole_shots import shots_between_cuts

Sequence = tuple[list[bool], list[float], list[float], list[int]]


@st.composite
def sequences(draw: st.DrawFn) -> Sequence:
    """For each frame whether it is looked at, its change, for those looked at a probability; frames of forced cuts."""
    num_frames = draw(st.integers(1, 60))
    looked_at = [
        True,
        *draw(st.lists(st.sampled_from([True, True, False]), min_size=num_frames - 1, max_size=num_frames - 1)),
    ]
    change = draw(st.lists(st.floats(0, 9, width=32), min_size=num_frames, max_size=num_frames))
    odds = st.sampled_from([0.0, 0.1, 0.1, 0.2, 0.9])
    probabilities = draw(st.lists(odds, min_size=sum(looked_at), max_size=sum(looked_at)))
    forced = draw(st.sets(st.integers(1, 59), max_size=4))
    return looked_at, change, probabilities, sorted(cut for cut in forced if cut < num_frames)


def all_at_once(sequence: Sequence, first: int) -> list[FrameSpan]:
    looked_at, change, probabilities, forced = sequence
    shots = shots_between_cuts(looked_at, change, probabilities, threshold=0.4, forced_cuts=forced)
    return [FrameSpan(first + shot.start, first + shot.end) for shot in shots]


@settings(deadline=None)
@given(sequences(), st.integers(0, 5), st.randoms(use_true_random=False))
def test_shots_found_on_the_way_are_those_of_the_whole(
    sequence: Sequence, first: int, random: "np.random.Generator"
) -> None:
    looked_at, change, probabilities, forced = sequence
    tracker = ShotTracker(first, threshold=0.4, forced_cuts=[first + cut for cut in forced])
    waiting = list(probabilities)
    num_waiting = 0
    for frame, (is_looked_at, amount) in enumerate(zip(looked_at, change, strict=True), start=first):
        tracker.look(frame, amount, is_looked_at=is_looked_at)
        num_waiting += is_looked_at
        if random.random() < 0.3:  # the detector gives several at once, some time later
            count = random.randint(0, num_waiting)  # type: ignore[attr-defined]
            before = tracker.certain_until
            tracker.know(waiting[:count])
            waiting, num_waiting = waiting[count:], num_waiting - count
            assert before <= tracker.certain_until <= frame + 1
    tracker.know(waiting)
    tracker.finish(first + len(looked_at))
    assert tracker.finished == all_at_once(sequence, first)
    assert {first + cut for cut in forced} <= {shot.start for shot in tracker.finished}
    assert {first + cut for cut in forced} <= {shot.end for shot in tracker.finished}


@settings(deadline=None)
@given(
    sequences(),
    st.sampled_from([0.0, 0.1, 0.35]),
    st.sampled_from([0.0, 0.4, 1.0]),
    st.sampled_from([None, 0.3, 1.0]),
    st.sampled_from(["stride", "truncate"]),
    st.booleans(),
    st.integers(1, 9),
    st.none() | st.sets(st.integers(0, 59)),
)
def test_every_released_frame_is_in_the_clip_that_the_whole_gives_it(
    sequence: Sequence,
    crop_s: float,
    min_length_s: float,
    max_length_s: float | None,
    mode: Literal["stride", "truncate"],
    speculate: bool,
    lag: int,
    idr_frames: set[int] | None,
) -> None:
    looked_at, change, probabilities, forced = sequence
    num_frames = len(looked_at)
    restarts = np.array(sorted(frame for frame in idr_frames or () if frame < num_frames), dtype=np.int64)
    timeline = FrameTimeline(np.arange(num_frames, dtype=np.int64), Fraction(1, 10), num_frames, restarts)
    tracker = ShotTracker(0, threshold=0.4, forced_cuts=forced)
    rules = ClipRules(min_length_s, max_length_s, mode, crop_s, snap_to_idr=idr_frames is not None)
    planner = ClipPlanner(tracker, timeline, rules)
    members: dict[int, list[int]] = {}
    certain: dict[int, FrameSpan] = {}
    released, waiting = 0, list(probabilities)

    def release() -> None:
        nonlocal released
        planner.update()
        until = planner.released_until(speculate=speculate)
        for frame in range(released, until):
            clip = planner.clip_of(frame)
            if clip is not None:
                members.setdefault(clip[0], []).append(frame)
                if clip[1] is not None:
                    certain[clip[0]] = clip[1]
        released = max(released, until)

    looked = 0
    for frame in range(num_frames):
        tracker.look(frame, change[frame], is_looked_at=looked_at[frame])
        looked += looked_at[frame]
        if frame % lag == 0:
            tracker.know(waiting[: max(0, looked - 2)])
            known = max(0, looked - 2)
            waiting, looked = waiting[known:], looked - known
            release()
    tracker.know(waiting)
    tracker.finish(num_frames)
    release()
    shots = all_at_once(sequence, 0)
    expected = clips_from_shots(timeline, shots, **asdict(rules))
    assert released == num_frames
    assert planner.clips == expected
    for clip in expected:
        assert members.pop(clip.start) == list(range(clip.start, clip.end))
        assert certain.get(clip.start, clip) == clip
        shot_start = max(shot.start for shot in shots if shot.start <= clip.start)
        assert planner.shot_start(clip.start) == shot_start
    # what is left was begun in vain: its shot ended before it was long enough
    assert all(len(frames) / 10 < min_length_s + 0.1 for frames in members.values())
