"""The aesthetic filter against plain transformers and a plain head, with random weights of the true architecture."""

import io
import json
import logging
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import av
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="needs torch: install the extra 'models'")
pytest.importorskip("transformers", reason="needs transformers: install the extra 'models'")
pytest.importorskip("PIL", reason="CLIP's own processor needs pillow")

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from curation.filtering.aesthetic import (
    CLIP,
    GPU_FRAMES,
    HEAD,
    ClipAestheticFilterStage,
    centre,
)
from curation.filtering.aesthetic_network import AestheticHead, AestheticScorer
from curation.model import Clip, Rejection, Video, VideoTask
from curation.pipeline import Pipeline
from curation.video.frames import sample_clip
from tests.footage import MEDIA, footage
from tests.splitting import clips_of, one_clip, splitting, task_of
from tests.synthetic import make_video

HEAD_SIZES = {0: (768, 1024), 2: (1024, 128), 4: (128, 64), 6: (64, 16), 7: (16, 1)}  # by place among its layers
NO_LIMIT = float("-inf")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP, saved whole as the published one is, and a head whose scores tell pictures apart."""
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("clip_aesthetic")
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 224,
        "patch_size": 56,
        "projection_dim": 768,
    }
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    text |= {"vocab_size": 32, "max_position_embeddings": 8, "projection_dim": 768}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=768))
        for parameter in clip.vision_model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        head = {
            name: tensor
            for place, (num_in, num_out) in HEAD_SIZES.items()
            for name, tensor in (
                (f"layers.{place}.weight", 1.7 * torch.randn(num_out, num_in) / num_in**0.5),
                (f"layers.{place}.bias", torch.randn(num_out) / 10),
            )
        }
    clip.save_pretrained(folder / CLIP.repository)
    (folder / HEAD.repository).mkdir(parents=True)
    save_file(head, folder / HEAD.repository / "model.safetensors")
    return folder


def processed(pictures: NDArray[np.uint8]) -> Tensor:
    """Pictures as CLIP's own processor gives them to it, with the settings of the published checkpoint."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}, resample=3)
    pixels: Tensor = processor(list(pictures), return_tensors="pt")["pixel_values"]
    return pixels


def reference_scores(model_dir: Path, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Plain transformers, then the layers one after the other."""
    from transformers import CLIPModel

    clip = CLIPModel.from_pretrained(model_dir / CLIP.repository).eval()
    head = load_file(model_dir / HEAD.repository / "model.safetensors")
    with torch.no_grad():
        pooled = clip.vision_model(pixel_values=processed(pictures)).pooler_output
        rows = clip.visual_projection(pooled)
        rows = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        for place in HEAD_SIZES:
            rows = rows @ head[f"layers.{place}.weight"].T + head[f"layers.{place}.bias"]
    return np.asarray(rows[:, 0].numpy(), dtype=np.float32)


def ready(model_dir: Path, **settings: Any) -> ClipAestheticFilterStage:
    stage = ClipAestheticFilterStage(model_dir, device="cpu", **({"score_threshold": NO_LIMIT} | settings))
    stage.setup()
    return stage


def sampled_clip(number: int, pictures: NDArray[np.uint8], stage: ClipAestheticFilterStage) -> Clip:
    """A clip whose frames were sampled for the stage."""
    clip = Clip(UUID(int=number), "v", (0.0, 1.0))
    clip.extracted_frames[stage.frame_requests()[0].key] = pictures
    return clip


def task_with(*clips: Clip) -> VideoTask:
    return VideoTask("v", "test", Video(Path("v"), clips=list(clips)))


def source_of(name: str) -> Path:
    return MEDIA / name if (MEDIA / name).exists() else footage(name)


def pictures_of(video: Path | io.BytesIO) -> Iterator[NDArray[np.uint8]]:
    """All frames as they are, uint8 RGB."""
    with av.open(video, "r") as container:
        for frame in container.decode(video=0):
            yield np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)


@cache
def squares() -> NDArray[np.uint8]:
    """Seven pictures that are 224 x 224 already: the middles of frames of five shots in streets."""
    return np.stack(list(pictures_of(footage("bikes.mp4")))[::40])[:, 24:248, 208:432]


def scored(stage: ClipAestheticFilterStage, *clips: Clip) -> list[float | None]:
    stage.process_batch([task_with(*clips)])
    return [clip.aesthetic_score for clip in clips]


def test_scores_are_those_of_plain_transformers_and_a_plain_head(model_dir: Path) -> None:
    pictures, stage = squares(), ready(model_dir)
    expected = reference_scores(model_dir, pictures)
    assert np.ptp(expected) > 0.1  # the weights tell these pictures apart
    ours = scored(stage, *(sampled_clip(k, picture[None], stage) for k, picture in enumerate(pictures)))
    np.testing.assert_allclose(np.array(ours, np.float64), expected, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_published_size_stays_within_what_the_stage_says_it_takes_of_a_gpu() -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    config = CLIPVisionConfig(**sizes, image_size=224, patch_size=14, projection_dim=768)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    scorer = AestheticScorer(CLIPVisionModelWithProjection(config).eval(), AestheticHead(), "cuda")
    scorer(torch.zeros(GPU_FRAMES, 224, 224, 3, dtype=torch.uint8))
    assert torch.cuda.max_memory_reserved() - before <= ClipAestheticFilterStage.gpu_memory_gb * 1e9


@pytest.mark.parametrize(("reduction", "reduce"), [("min", np.min), ("mean", np.mean)])
def test_the_clips_score_is_the_least_or_the_mean_of_its_frames(model_dir: Path, reduction: str, reduce: Any) -> None:
    pictures, stage = squares(), ready(model_dir, reduction=reduction)
    (ours,) = scored(stage, sampled_clip(1, pictures, stage))
    assert ours == pytest.approx(reduce(reference_scores(model_dir, pictures)), abs=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("bikes.mp4", id="wide, made smaller a little"),
        pytest.param("big_buck_bunny_1.mp4", id="720p"),
        pytest.param("cityCC0.mpg", id="4:3"),
        pytest.param("carphone_pristine.mp4", id="made larger"),
    ],
)
def test_pictures_are_what_clips_own_processor_makes_of_full_frames(name: str) -> None:
    """The frames come small from the decoder, whose bicubic filter and colours round a little differently."""
    mp4 = one_clip(source_of(name))
    clip = Clip(UUID(int=1), "v", (0.0, 1.0), buffer=mp4)
    (request,) = ClipAestheticFilterStage().frame_requests()
    sample_clip(clip, [request])
    indices = clip.extracted_frame_indices[request.key].tolist()
    ours = centre(clip.extracted_frames[request.key])
    mean, scale = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    full = processed(np.stack([picture for k, picture in enumerate(pictures_of(io.BytesIO(mp4))) if k in indices]))
    theirs = ((full.permute(0, 2, 3, 1) * scale + mean) * 255).numpy()
    assert ours.shape == theirs.shape
    difference = np.abs(ours.astype(np.float32) - theirs)
    assert difference.mean() <= 2  # of 255
    assert np.percentile(difference, 99) <= 12


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1920, 1080), (398, 224)), ((640, 272), (527, 224)), ((1080, 1920), (224, 398)), ((100, 100), (224, 224))],
)
def test_the_shorter_side_is_224_and_the_longer_in_proportion(size: tuple[int, int], expected: tuple[int, int]) -> None:
    (request,) = ClipAestheticFilterStage().frame_requests()
    assert request.size(*size, 1) == expected


def test_the_frames_are_those_seen_at_each_second_of_the_clip(tmp_path: Path) -> None:
    (clip,) = clips_of(make_video(tmp_path / "v.mp4", num_frames=105, width=96, height=64), clip_len_s=1000.0)
    requests = ClipAestheticFilterStage().frame_requests()
    sample_clip(clip, requests)
    assert clip.extracted_frame_indices[requests[0].key].tolist() == [0, 30, 60, 90]


def test_a_low_score_moves_the_clip_with_filter_measure_and_limit(model_dir: Path) -> None:
    pictures = squares()
    scores = reference_scores(model_dir, pictures)
    limit = float(np.sort(scores)[2:4].mean())
    stage = ready(model_dir, score_threshold=limit)
    clips = [sampled_clip(k, picture[None], stage) for k, picture in enumerate(pictures)]
    (task,) = stage.process_batch([task_with(*clips)])
    low = [clip for clip, score in zip(clips, scores, strict=True) if score < limit]
    assert task.data.filtered_clips == low
    assert task.data.clips == [clip for clip in clips if clip not in low]
    assert [clip.rejection for clip in low] == [
        Rejection("aesthetic", clip.aesthetic_score or 0, limit) for clip in low
    ]
    assert {clip.rejection for clip in task.data.clips} == {None}


def test_a_score_at_the_limit_is_enough(model_dir: Path) -> None:
    pictures = squares()[:1]
    (score,) = scored(stage := ready(model_dir), sampled_clip(1, pictures, stage))
    stage = ready(model_dir, score_threshold=score)
    (task,) = stage.process_batch([task_with(sampled_clip(1, pictures, stage))])
    assert task.data.filtered_clips == []


def test_what_cannot_be_scored_is_an_error_and_no_rejection(model_dir: Path) -> None:
    stage = ready(model_dir, score_threshold=1e9)
    damaged, empty = (Clip(UUID(int=k), "v", (0.0, 1.0), buffer=buffer) for k, buffer in ((1, b"noise"), (2, None)))
    fine = sampled_clip(3, squares()[:1], stage)
    (task,) = stage.process_batch([task_with(damaged, fine, empty)])
    assert task.data.clips == [damaged, empty]
    assert task.data.filtered_clips == [fine]
    assert [clip.aesthetic_score for clip in (damaged, empty)] == [None, None]
    assert damaged.errors["aesthetic"].startswith("unreadable: ")
    assert "neither sampled frames nor a buffer" in empty.errors["aesthetic"]
    assert fine.errors == {}


def test_clips_of_several_videos_get_the_scores_that_each_gets_alone(model_dir: Path) -> None:
    pictures, stage = squares(), ready(model_dir)
    parts = [pictures[:3], pictures[3:4], pictures[4:]]
    alone = [scored(stage, sampled_clip(k, part, stage))[0] for k, part in enumerate(parts)]
    tasks = [task_with(sampled_clip(k, part, stage)) for k, part in enumerate(parts)]
    stage.process_batch(tasks)
    assert [task.data.clips[0].aesthetic_score for task in tasks] == alone


def test_clips_are_scored_while_they_are_cut_and_alone_from_their_mp4(model_dir: Path) -> None:
    source = footage("bikes.mp4")
    pipeline = splitting(clip_len_s=3.0, preset="ultrafast").add_stage(stage := ready(model_dir))
    clips = [clip for task in pipeline.run([task_of(source)]) for clip in task.data.clips]
    bare = [Clip(clip.uuid, clip.source_video, clip.span, buffer=clip.buffer) for clip in clips]
    Pipeline("scores").add_stage(stage).run([task_with(*bare)])
    assert len(clips) == 4
    assert all(clip.errors == {} and clip.extracted_frames == {} for clip in (*clips, *bare))
    np.testing.assert_allclose(
        [clip.aesthetic_score or 0 for clip in clips],
        [clip.aesthetic_score or 0 for clip in bare],
        atol=0.1,  # what was lost when the clip was encoded
    )


def test_missing_weights_are_named_with_the_command_that_mends_it(tmp_path: Path, model_dir: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"clipmill models pull --model {CLIP.repository}"):
        ready(tmp_path)
    (tmp_path / "openai").symlink_to(model_dir / "openai")
    with pytest.raises(FileNotFoundError, match=f"clipmill models pull --model {HEAD.repository}"):
        ready(tmp_path)


def test_a_clip_that_lacks_weights_is_refused(tmp_path: Path, model_dir: Path) -> None:
    shutil.copytree(model_dir, tmp_path / "models")
    file = tmp_path / "models" / CLIP.repository / "model.safetensors"
    tensors = load_file(file)
    del tensors["visual_projection.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"not the weights of CLIP: there is no visual_projection\.weight"):
        ready(tmp_path / "models")


def test_loading_is_silent(model_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("transformers").addHandler(caplog.handler)
    try:
        ready(model_dir)
    finally:
        logging.getLogger("transformers").removeHandler(caplog.handler)
    assert caplog.messages == []


def test_another_head_is_refused_by_name(tmp_path: Path, model_dir: Path) -> None:
    (tmp_path / "openai").symlink_to(model_dir / "openai")
    head = tmp_path / HEAD.repository / "model.safetensors"
    head.parent.mkdir(parents=True)
    save_file({"layers.0.weight": torch.zeros(1, 768)}, head)
    with pytest.raises(ValueError, match=f"{head}: not the weights of the aesthetic head"):
        ready(tmp_path)
    head.write_bytes(json.dumps({}).encode())
    with pytest.raises(ValueError, match=f"{head}: not the weights of the aesthetic head"):
        ready(tmp_path)


@pytest.mark.parametrize(
    "settings", [{"reduction": "max"}, {"target_fps": 0.0}, {"score_threshold": float("nan")}], ids=str
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"reduction|need a score_threshold"):
        ClipAestheticFilterStage(**settings)
