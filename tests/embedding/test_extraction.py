"""Frames of clips by policy and rate, and what the embedding stages take of them."""

import pickle
from fractions import Fraction
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.embedding.cosmos_embed1 import CosmosEmbed1FrameCreationStage
from curation.embedding.extraction import (
    ClipFrameExtractionStage,
    FrameExtractionPolicy,
    FrameExtractionSignature,
    FramePurpose,
    PolicyFrameRequest,
)
from curation.model import Clip, Video, VideoTask
from curation.pipeline import Pipeline, Stage
from tests.splitting import one_clip, splitting, task_of
from tests.synthetic import make_video, read_number

SEQUENCE = "FrameExtractionPolicy.sequence-2000"


@pytest.fixture(scope="module")
def clip_mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Six seconds of numbered frames at 24 a second."""
    folder = tmp_path_factory.mktemp("clip")
    path = make_video(folder / "v.mp4", num_frames=144, rate=Fraction(24), width=320, height=180)
    return one_clip(path, preset="ultrafast")


def through(clip_mp4: bytes, *stages: Stage, duration_s: float = 6.0) -> Clip:
    """A clip that has only its mp4, after these stages."""
    clip = Clip(UUID(int=7), "v.mp4", (0.0, duration_s), buffer=clip_mp4)
    pipeline = Pipeline("frames")
    for stage in stages:
        pipeline.add_stage(stage)
    (task,) = pipeline.run([VideoTask("v", "test", Video(Path("v.mp4"), clips=[clip]))])
    assert task.data.failure is None
    return task.data.clips[0]


def numbers(clip: Clip, key: str) -> list[int]:
    return [read_number(frame) for frame in clip.extracted_frames[key]]


def test_keys_are_those_of_nemo_curator() -> None:
    policy = FrameExtractionPolicy.sequence
    assert FrameExtractionSignature(policy, 24.0).to_str() == "FrameExtractionPolicy.sequence-24000"
    assert FrameExtractionSignature(policy, 0.5).to_str() == "FrameExtractionPolicy.sequence-500"
    assert [each.name for each in FrameExtractionPolicy] == ["first", "middle", "last", "sequence"]
    assert (FramePurpose.AESTHETICS.value, FramePurpose.EMBEDDINGS.value) == (1, 2)


def test_without_settings_two_frames_a_second_come_in_the_pictures_own_size(clip_mp4: bytes) -> None:
    clip = through(clip_mp4, ClipFrameExtractionStage())
    assert list(clip.extracted_frames) == [SEQUENCE]
    assert numbers(clip, SEQUENCE) == list(range(0, 144, 12))
    assert clip.extracted_frame_indices[SEQUENCE].tolist() == list(range(0, 144, 12))
    assert clip.extracted_frames[SEQUENCE].shape == (12, 180, 320, 3)


def test_each_purpose_has_its_rate_and_each_policy_its_frames(clip_mp4: bytes) -> None:
    stage = ClipFrameExtractionStage(
        tuple(FrameExtractionPolicy), (FramePurpose.AESTHETICS, FramePurpose.EMBEDDINGS), target_res=(90, -1)
    )
    clip = through(clip_mp4, stage)
    expected = {"first": [0], "middle": [72], "last": [143]}
    for name, found in expected.items():
        for rate in (1000, 2000):
            assert numbers(clip, f"FrameExtractionPolicy.{name}-{rate}") == found
    assert numbers(clip, "FrameExtractionPolicy.sequence-1000") == list(range(0, 144, 24))
    assert numbers(clip, SEQUENCE) == list(range(0, 144, 12))
    assert clip.extracted_frames[SEQUENCE].shape[1:] == (90, 160, 3)


def test_target_res_is_height_and_width(clip_mp4: bytes) -> None:
    clip = through(clip_mp4, ClipFrameExtractionStage(target_res=(64, 48), target_fps=[1]))
    assert clip.extracted_frames["FrameExtractionPolicy.sequence-1000"].shape == (6, 64, 48, 3)


def test_frames_sampled_while_a_clip_is_made_are_those_that_it_gives_alone(tmp_path: Path, clip_mp4: bytes) -> None:
    source = make_video(tmp_path / "v.mp4", num_frames=144, rate=Fraction(24), width=320, height=180)
    stage = ClipFrameExtractionStage(tuple(FrameExtractionPolicy))
    (task,) = splitting(clip_len_s=1000.0, preset="ultrafast").add_stage(stage).run([task_of(source)])
    (made,) = task.data.clips
    alone = through(clip_mp4, ClipFrameExtractionStage(tuple(FrameExtractionPolicy)))
    assert made.extracted_frames.keys() == alone.extracted_frames.keys()
    assert {key: numbers(made, key) for key in made.extracted_frames} == {
        key: numbers(alone, key) for key in alone.extracted_frames
    }


@given(st.integers(2, 200), st.data(), st.sampled_from(list(FrameExtractionPolicy)))
def test_what_a_clip_of_any_length_wants_is_among_the_candidates(
    num_frames: int, data: st.DataObject, policy: FrameExtractionPolicy
) -> None:
    steps = data.draw(st.lists(st.integers(1, 90), min_size=num_frames, max_size=num_frames))
    times_s = np.cumsum([0, *steps]) / 90
    at_least = data.draw(st.integers(1, num_frames))
    end = data.draw(st.integers(at_least, num_frames))
    request = PolicyFrameRequest(key="k", rate_hz=2.0, height=None, policy=policy)
    candidates = request.candidates(times_s[:-1], float(times_s[-1]), at_least=at_least).tolist()
    assert set(request.indices(times_s[:end], float(times_s[end])).tolist()) <= {*candidates, end - 1}


def test_a_frame_creation_stage_takes_what_was_extracted_before(clip_mp4: bytes) -> None:
    creation = CosmosEmbed1FrameCreationStage("no such folder", "224p")
    clip = through(clip_mp4, ClipFrameExtractionStage(), creation)
    assert clip.cosmos_embed1_frames is not None
    assert clip.cosmos_embed1_frames.shape == (8, 224, 224, 3)
    found = [read_number(frame) for frame in clip.cosmos_embed1_frames]
    assert found == [read_number(frame) for frame in frames_alone(clip_mp4)]
    assert list(clip.extracted_frames) == [SEQUENCE]
    clip.extracted_frames[SEQUENCE][:] = 200  # nothing is decoded again
    clip.buffer = None
    (again,) = creation.process(VideoTask("v", "test", Video(Path("v"), clips=[clip])))
    assert again.data.clips[0].errors == {}


def frames_alone(clip_mp4: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    frames = through(clip_mp4, CosmosEmbed1FrameCreationStage("no such folder", "224p")).cosmos_embed1_frames
    assert frames is not None
    return frames


def test_where_the_extracted_frames_are_too_few_more_are_taken_from_the_clip(tmp_path: Path) -> None:
    short = one_clip(make_video(tmp_path / "v.mp4", num_frames=48, rate=Fraction(24)), preset="ultrafast")
    stages = ClipFrameExtractionStage(), CosmosEmbed1FrameCreationStage("no such folder", "224p")
    clip = through(short, *stages, duration_s=2.0)
    assert len(clip.extracted_frames[SEQUENCE]) == 4
    assert clip.cosmos_embed1_frames is not None
    assert [read_number(frame) for frame in clip.cosmos_embed1_frames] == [0, 6, 12, 18, 24, 30, 36, 42]
    assert clip.notes == {}


def test_a_clip_that_cannot_be_decoded_says_so_and_the_others_go_on(clip_mp4: bytes) -> None:
    clips = [Clip(UUID(int=k), "v", (0.0, 6.0), buffer=mp4) for k, mp4 in enumerate([b"no video", clip_mp4])]
    (task,) = ClipFrameExtractionStage().process(VideoTask("v", "test", Video(Path("v"), clips=clips)))
    bad, good = task.data.clips
    assert "frame_extraction" in bad.errors
    assert numbers(good, SEQUENCE) == list(range(0, 144, 12))


@pytest.mark.parametrize(
    "given",
    [{"target_res": (63, 48)}, {"target_res": (0, -1)}, {"target_fps": [0]}, {"target_fps": []}],
    ids=["odd", "nothing", "no rate", "no rates"],
)
def test_settings_out_of_range_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"target_res|rates"):
        ClipFrameExtractionStage(**given)  # type: ignore[arg-type]


def test_the_stage_can_go_into_a_decode_child() -> None:
    assert ClipFrameExtractionStage.in_child
    assert pickle.loads(pickle.dumps(ClipFrameExtractionStage())).frame_requests()
