"""From a config to the pipeline that a worker runs: the same stages for everybody."""

from collections.abc import Callable, Iterator
from typing import Any

import curation
from curation.captioning.prompts import enhancement_prompt, prompt_hash, stage2_prompt
from curation.clipping.reader import VideoReaderStage
from curation.clipping.shot_model import WEIGHTS_SHA256
from curation.clipping.transcoding import ClipTranscodingStage
from curation.embedding.efficientnet_lite import MODEL_NAME as EFFICIENTNET
from curation.embedding.efficientnet_lite import WEIGHTS_SHA256 as EFFICIENTNET_SHA256
from curation.pipeline import Pipeline, Stage
from curation.pipeline.sandbox import DecodeSandbox
from curation.preview.preview import PreviewStage
from curation.registry import SPLITTERS, load_stage
from curation.video.probe import SourceLimits
from curation.weights import weights_revision
from curation.writing.clip_reader import ClipReaderStage
from curation.writing.clip_writer import ClipWriterStage
from jobs.annotation import annotations_of, is_annotation, made_version
from jobs.config import RunConfig
from jobs.model_stages import captioning_stages, embedding_names, frame_stages, measuring_stages, text_stages
from jobs.models_needed import needed_models
from jobs.settings import WorkerSettings
from jobs.staging import GiveBackStage


def build_pipeline(
    config: RunConfig,
    *,
    videos_at_once: int = 1,
    before_record: Callable[[], None] | None = None,
    parts_path: str | None = None,
    give_back: Callable[[str], None] | None = None,
) -> Pipeline:
    """Read, split, transcode, filter by motion, choose frames and preview in decode children; then the models; write.

    An annotation run reads clips that are there in place of the first three.

    Args:
        videos_at_once: decode children.
        before_record: as for ``ClipWriterStage``.
        parts_path: as for ``ClipWriterStage``.
        give_back: told of each task whose source is not read any more.
    """
    pipeline = Pipeline(
        "annotate" if is_annotation(config) else "split",
        "clips in, what is said of them out" if is_annotation(config) else "videos in, clips and all of them out",
        max_failure_rate=config.worker.max_failure_rate,
        sandbox=_sandbox(config.worker, num_children=videos_at_once),
    )
    for stage in (*clip_stages(config), *frame_stages(config)):
        pipeline.add_stage(stage)
    if config.previews.generate_previews:
        pipeline.add_stage(PreviewStage(**config.previews.model_dump(exclude={"generate_previews"})))
    for stage in measuring_stages(config):
        pipeline.add_stage(stage)
    of_text = text_stages(config)
    reserved_gpu_gb = sum(stage.gpu_memory_gb for stage in (*pipeline.stages, *of_text))
    for stage in (*captioning_stages(config, reserved_gpu_gb=reserved_gpu_gb), *of_text):
        pipeline.add_stage(stage)
    writer = ClipWriterStage(
        config.output_clip_path,
        annotation_version=made_version(config),
        annotations=annotations_of(config) if is_annotation(config) else None,
        provenance=provenance(config),
        before_record=before_record,
        embedding_names=embedding_names(config),
        writes_pickles=config.embeddings.write_embedding_pickles,
        parts_path=parts_path,
        num_clips_per_chunk=config.clips.num_clips_per_chunk,
        s3=config.output_s3,
    )
    pipeline.add_stage(writer)
    if give_back is not None:
        first_after = next(k for k, stage in enumerate(pipeline.stages) if not stage.in_child)
        pipeline.stages.insert(first_after, GiveBackStage(give_back))
    return pipeline


def clip_stages(config: RunConfig) -> list[Stage]:
    """Those that give clips: from videos, or from an output that has them."""
    if is_annotation(config):
        wanted = annotations_of(config)
        looks = bool(wanted.made - {"enhancement", "t5"})
        return [ClipReaderStage(config.output_clip_path, annotations=wanted, reads_clips=looks, s3=config.output_s3)]
    limits = SourceLimits(**config.limits.model_dump())
    reader = VideoReaderStage(allow_truncated=config.clips.allow_truncated, limits=limits)
    return [reader, _splitter(config), _transcoder(config)]


def _sandbox(worker: WorkerSettings, *, num_children: int) -> DecodeSandbox:
    return DecodeSandbox(
        num_children=num_children,
        memory_bytes=round(worker.child_memory_gb * 2**30),
        stall_timeout_s=worker.stall_timeout_s,
        video_timeout_s=worker.video_timeout_s,
        max_attempts=worker.max_attempts,
    )


def _splitter(config: RunConfig) -> Stage:
    split = config.split
    stage = load_stage(SPLITTERS, split.splitting_algorithm)
    settings: dict[str, Any]
    if split.is_fixed_stride:
        settings = {
            "clip_len_s": split.fixed_stride_split_duration,
            "min_clip_length_s": split.fixed_stride_min_clip_length_s,
        }
    else:
        settings = {
            "model_dir": split.transnetv2_model_dir,
            "threshold": split.transnetv2_threshold,
            "min_length_s": split.transnetv2_min_length_s,
            "max_length_s": split.transnetv2_max_length_s,
            "max_length_mode": split.transnetv2_max_length_mode,
            "crop_s": split.transnetv2_crop_s,
            "snap_to_idr": split.transnetv2_snap_to_idr,
            "batch_size": split.transnetv2_batch_size,
            "skip_static": split.transnetv2_skip_static,
        }
    return stage(**settings, limit_clips=config.limit_clips)


def _transcoder(config: RunConfig) -> Stage:
    return ClipTranscodingStage(
        encoder=config.clips.encoder,
        clip_encoding=config.clips.clip_encoding,
        preset=config.clips.preset,
        crf=config.clips.crf,
        encoder_threads=config.clips.encoder_threads,
        keep_audio=config.clips.keep_audio,
        window_size=config.windows.window_size,
        remainder_threshold=config.windows.remainder_threshold,
        num_clips_per_chunk=config.clips.num_clips_per_chunk,
        # videos are clips by intention, as where those of another output are captioned anew
        keeps_whole=config.split.is_fixed_stride
        and config.split.fixed_stride_split_duration >= config.limits.max_duration_s
        and config.filters.motion_filter == "disable",
    )


def provenance(config: RunConfig) -> dict[str, Any]:
    """What every document says of how it came to be; the same for the same settings, wherever they are run."""
    models = {}
    described: dict[str, Any] = {"code_version": curation.__version__, "config_hash": config.content_hash}
    if not is_annotation(config):
        described["splitting_algorithm"] = config.split.splitting_algorithm
        models = {} if config.split.is_fixed_stride else {"transnetv2": f"sha256:{WEIGHTS_SHA256}"}
    described["models"] = models
    models |= {
        needed.name: f"{needed.model.repository}@{weights_revision(needed.find(config.models.model_dir))}"
        for needed in needed_models(config)
    }
    if config.embeddings.generate_embeddings and config.embeddings.embedding_algorithm == EFFICIENTNET:
        models[EFFICIENTNET] = f"sha256:{EFFICIENTNET_SHA256}"
    if config.captions.generate_captions:
        described["prompts"] = {name: {"text": text, "hash": prompt_hash(text)} for name, text in _prompts(config)}
    return described


def _prompts(config: RunConfig) -> Iterator[tuple[str, str]]:
    """What models are asked, by whom or what it is for."""
    captions = config.captions
    yield captions.captioning_algorithm, captions.prompt
    if captions.generate_stage2_caption:
        yield "stage2", stage2_prompt(captions.stage2_prompt_text, "{caption}")
    if captions.enhance_captions:
        variant, text = captions.enhance_captions_prompt_variant, captions.enhance_captions_prompt_text
        yield captions.enhance_captions_algorithm, enhancement_prompt(variant, text)
