"""From a config to the pipeline that a worker runs: the same stages for everybody."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import curation
from curation.captioning.engines.options import EngineOptions
from curation.captioning.enhancement import CaptionEnhancementStage
from curation.captioning.generation import CaptionGenerationStage
from curation.captioning.preparation import CaptionPreparationStage
from curation.captioning.prompts import enhancement_prompt, prompt_hash, stage2_prompt
from curation.clipping.reader import VideoReaderStage
from curation.clipping.shot_model import WEIGHTS_SHA256
from curation.clipping.transcoding import ClipTranscodingStage
from curation.pipeline import Pipeline, Stage
from curation.pipeline.sandbox import DecodeSandbox
from curation.preview.preview import PreviewStage
from curation.registry import SPLITTERS, load_stage
from curation.video.probe import SourceLimits
from curation.weights import weights_revision
from curation.writing.clip_files import ClipFilesStage
from curation.writing.clip_writer import ClipWriterStage
from jobs.config import RunConfig
from jobs.models_needed import needed_models
from jobs.settings import WorkerSettings


def build_pipeline(
    config: RunConfig, *, videos_at_once: int = 1, before_record: Callable[[], None] | None = None
) -> Pipeline:
    """Read, split, transcode, prepare captions and preview in decode children; then caption and write.

    Args:
        videos_at_once: decode children.
        before_record: as for ``ClipWriterStage``.
    """
    pipeline = Pipeline(
        "split",
        "videos in; clips, previews, metas and records out",
        max_failure_rate=config.worker.max_failure_rate,
        sandbox=_sandbox(config.worker, num_children=videos_at_once),
    )
    limits = SourceLimits(**config.limits.model_dump())
    pipeline.add_stage(VideoReaderStage(allow_truncated=config.clips.allow_truncated, limits=limits))
    pipeline.add_stage(_splitter(config))
    pipeline.add_stage(
        ClipTranscodingStage(
            encoder=config.clips.encoder,
            clip_encoding=config.clips.clip_encoding,
            preset=config.clips.preset,
            crf=config.clips.crf,
            encoder_threads=config.clips.encoder_threads,
            keep_audio=config.clips.keep_audio,
            window_size=config.windows.window_size,
            remainder_threshold=config.windows.remainder_threshold,
            num_clips_per_chunk=config.clips.num_clips_per_chunk,
        )
    )
    if config.captions.generate_captions:
        pipeline.add_stage(_preparation(config))
    if config.previews.generate_previews:
        pipeline.add_stage(PreviewStage(**config.previews.model_dump(exclude={"generate_previews"})))
    if config.captions.generate_captions:
        for stage in _captioning(config, reserved_gpu_gb=sum(stage.gpu_memory_gb for stage in pipeline.stages)):
            pipeline.add_stage(stage)
    writer = ClipWriterStage(config.output_clip_path, provenance=provenance(config), before_record=before_record)
    return pipeline.add_stage(writer)


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


def _preparation(config: RunConfig) -> Stage:
    captions = config.captions
    return CaptionPreparationStage(
        model_variant=captions.captioning_algorithm,
        prompt_text=captions.prompt,
        sampling_fps=captions.captioning_sampling_fps,
        window_size=config.windows.window_size,
        remainder_threshold=config.windows.remainder_threshold,
        model_does_preprocess=captions.captioning_model_does_preprocess,
        preprocess_dtype=captions.captioning_preprocess_dtype,
        generate_previews=config.previews.generate_previews,
    )


def _captioning(config: RunConfig, *, reserved_gpu_gb: float) -> list[Stage]:
    """The stages from frames to captions, and to enhanced captions."""
    captions = config.captions
    is_beside = captions.enhance_captions and captions.enhance_captions_gpu == "beside"
    share = captions.gpu_memory_utilization
    options = EngineOptions(
        engine=captions.engine,
        max_in_engine=captions.windows_in_engine,
        max_model_len=captions.max_model_len,
        gpu_memory_utilization=share * (1 - captions.enhance_captions_gpu_share) if is_beside else share,
        reserved_gpu_gb=reserved_gpu_gb,
        tensor_parallel_size=captions.tensor_parallel_size,
        copy_weights_to=config.models.copy_weights_to,
        stall_timeout_s=captions.engine_stall_timeout_s,
        preprocess_dtype=captions.captioning_preprocess_dtype,
        engine_arguments=captions.engine_arguments,
    )
    captioner = CaptionGenerationStage(
        model_dir=config.models.model_dir,
        model_variant=captions.captioning_algorithm,
        caption_batch_size=captions.captioning_batch_size,
        fp8=captions.captioning_use_fp8_weights,
        max_output_tokens=captions.captioning_max_output_tokens,
        model_does_preprocess=captions.captioning_model_does_preprocess,
        disable_mmcache=captions.disable_mmcache,
        generate_stage2_caption=captions.generate_stage2_caption,
        stage2_prompt_text=captions.stage2_prompt_text,
        options=options,
        max_held_bytes=round(captions.max_held_gb * 2**30),
    )
    if not captions.enhance_captions:
        return [captioner]
    if is_beside:
        own = replace(options, gpu_memory_utilization=share * captions.enhance_captions_gpu_share)
        return [captioner, _enhancement(config, own, after=None)]
    # what waits for its turn is on disk, but for its text
    return [captioner, ClipFilesStage(config.output_clip_path), _enhancement(config, options, after=captioner)]


def _enhancement(config: RunConfig, options: EngineOptions, *, after: CaptionGenerationStage | None) -> Stage:
    captions = config.captions
    return CaptionEnhancementStage(
        model_dir=config.models.model_dir,
        model_variant=captions.enhance_captions_algorithm,
        prompt_variant=captions.enhance_captions_prompt_variant,
        prompt_text=captions.enhance_captions_prompt_text,
        model_batch_size=captions.enhance_captions_batch_size,
        fp8=captions.enhance_captions_use_fp8_weights,
        max_output_tokens=captions.enhance_captions_max_output_tokens,
        options=options,
        after=after,
        round_windows=captions.enhance_captions_round_windows,
    )


def provenance(config: RunConfig) -> dict[str, Any]:
    """What every document says of how it came to be; the same for the same settings, wherever they are run."""
    models = {} if config.split.is_fixed_stride else {"transnetv2": f"sha256:{WEIGHTS_SHA256}"}
    described = {
        "code_version": curation.__version__,
        "config_hash": config.content_hash,
        "splitting_algorithm": config.split.splitting_algorithm,
        "models": models,
    }
    if config.captions.generate_captions:
        models |= {
            needed.name: f"{needed.model.repository}@{weights_revision(needed.find(config.models.model_dir))}"
            for needed in needed_models(config)
        }
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
