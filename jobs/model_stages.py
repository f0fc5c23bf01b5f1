"""From a config to the stages that look at clips: filters, embeddings, captions, and what is made of captions."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from curation.captioning.engines.options import EngineOptions
from curation.captioning.enhancement import CaptionEnhancementStage
from curation.captioning.generation import CaptionGenerationStage
from curation.captioning.preparation import CaptionPreparationStage
from curation.embedding.efficientnet_lite import FOLDER_NAME as EFFICIENTNET_FOLDER
from curation.embedding.efficientnet_lite import MODEL_NAME as EFFICIENTNET
from curation.embedding.models import embedding_model
from curation.filtering.aesthetic import ClipAestheticFilterStage
from curation.filtering.motion import MotionFilterStage, MotionVectorDecodeStage
from curation.pipeline import Stage
from curation.registry import EMBEDDERS, EMBEDDING_FRAMES, TEXT_ENCODERS, load_stage
from curation.writing.clip_files import ClipFilesStage
from jobs.annotation import enhances, is_annotation, made_version
from jobs.config import RunConfig


def frame_stages(config: RunConfig) -> list[Stage]:
    """Those that run where the source is decoded: the motion filter, and what chooses frames for models."""
    stages: list[Stage] = [*_motion(config)]
    if config.captions.generate_captions:
        stages.append(_preparation(config))
    if config.embeddings.generate_embeddings:
        name = config.embeddings.embedding_algorithm
        settings = {"target_fps": config.embeddings.embedding_target_fps, **_place(config)}
        stages.append(load_stage(EMBEDDING_FRAMES, name)(**settings))
    return stages


def _motion(config: RunConfig) -> list[Stage]:
    filters = config.filters
    if filters.motion_filter == "disable":
        return []
    return [
        MotionVectorDecodeStage(
            target_fps=filters.motion_decode_target_fps,
            target_duration_ratio=filters.motion_decode_target_duration_ratio,
        ),
        MotionFilterStage(
            score_only=filters.motion_filter == "score-only",
            global_mean_threshold=filters.motion_global_mean_threshold,
            per_patch_min_256_threshold=filters.motion_per_patch_min_256_threshold,
            encode_rejected=filters.motion_encode_rejected,
        ),
    ]


def measuring_stages(config: RunConfig) -> list[Stage]:
    """The aesthetic filter, and the model that embeds what it keeps."""
    stages: list[Stage] = []
    if config.filters.aesthetic_threshold is not None:
        stages.append(
            ClipAestheticFilterStage(
                model_dir=config.models.model_dir,
                score_threshold=-math.inf if is_annotation(config) else config.filters.aesthetic_threshold,
                reduction=config.filters.aesthetic_reduction,
                target_fps=config.filters.aesthetic_fps,
            )
        )
    if config.embeddings.generate_embeddings:
        embeddings = config.embeddings
        settings = {
            "gpu_memory_gb": embeddings.embedding_gpu_memory_gb,
            "texts_to_verify": embeddings.texts_to_verify or None,
            **_place(config),
        }
        stages.append(load_stage(EMBEDDERS, embeddings.embedding_algorithm)(**settings))
    return stages


def _place(config: RunConfig) -> dict[str, Any]:
    """What a model's stages are told of where its weights lie, and of its variant."""
    name = config.embeddings.embedding_algorithm
    if name == EFFICIENTNET:
        return {}
    place = {"model_dir": config.models.model_dir}
    return place | {"variant": name.rpartition("-")[2]} if name.startswith("cosmos-embed1-") else place


def embedding_names(config: RunConfig) -> Mapping[str, str]:
    """The field of a clip that has its vector, and the folder where it goes."""
    if not config.embeddings.generate_embeddings:
        return {}
    name = config.embeddings.embedding_algorithm
    stage = load_stage(EMBEDDERS, name)
    folder = EFFICIENTNET_FOLDER if name == EFFICIENTNET else embedding_model(name).folder_name
    return {stage.vector_field: folder}  # type: ignore[attr-defined]  # of every stage in this registry


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


def captioning_stages(config: RunConfig, *, reserved_gpu_gb: float) -> list[Stage]:
    """Those from frames to captions, and to enhanced captions."""
    captions = config.captions
    is_beside = captions.enhance_captions and captions.enhance_captions_gpu == "beside"
    share = captions.gpu_memory_utilization
    options = _engine_options(config, share=share, reserved_gpu_gb=reserved_gpu_gb)
    if not captions.generate_captions:  # an annotation run may tell captions anew that are there
        return [_enhancement(config, options, after=None)] if enhances(config) else []
    if not captions.enhance_captions:
        return [_captioner(config, options)]
    if is_beside:
        of_captioner, own = (
            replace(options, gpu_memory_utilization=share * part)
            for part in (1 - captions.enhance_captions_gpu_share, captions.enhance_captions_gpu_share)
        )
        return [_captioner(config, of_captioner), _enhancement(config, own, after=None)]
    # what waits for its turn is on disk, but for its text
    captioner = _captioner(config, options)
    files = ClipFilesStage(config.output_clip_path, annotation_version=made_version(config), s3=config.output_s3)
    return [captioner, files, _enhancement(config, options, after=captioner)]


def _engine_options(config: RunConfig, *, share: float, reserved_gpu_gb: float) -> EngineOptions:
    captions = config.captions
    return EngineOptions(
        engine=captions.engine,
        max_in_engine=captions.windows_in_engine,
        max_model_len=captions.max_model_len,
        gpu_memory_utilization=share,
        reserved_gpu_gb=reserved_gpu_gb,
        tensor_parallel_size=captions.tensor_parallel_size,
        copy_weights_to=config.models.copy_weights_to,
        stall_timeout_s=captions.engine_stall_timeout_s,
        preprocess_dtype=captions.captioning_preprocess_dtype,
        engine_arguments=captions.engine_arguments,
    )


def _captioner(config: RunConfig, options: EngineOptions) -> CaptionGenerationStage:
    captions = config.captions
    return CaptionGenerationStage(
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


def text_stages(config: RunConfig) -> list[Stage]:
    """The model that encodes captions."""
    t5 = config.t5
    if not t5.generate_t5:
        return []
    return [
        load_stage(TEXT_ENCODERS, t5.model)(
            model_dir=config.models.model_dir,
            model=t5.model,
            max_tokens=t5.max_tokens,
            tokens_per_batch=t5.tokens_per_batch,
            gpu_memory_gb=t5.gpu_memory_gb,
        )
    ]
