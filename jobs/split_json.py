"""The JSON of a split pipeline, ``{"pipeline": "split", "args": {...}}``, as the settings of a run.

Source:
    the arguments of Cosmos-Curate's split pipeline; what they mean there they mean here. What a document does not say
    has clipmill's default, but for what is generated: embeddings and captions are, previews are not.
"""

import difflib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_GENERATED = {"generate_embeddings": True, "generate_captions": True, "generate_previews": False}

ARGUMENTS: Mapping[str, str] = {
    **{
        name: name
        for name in (
            *("input_video_path", "output_clip_path", "limit", "limit_clips"),
            *("input_s3_profile_name", "output_s3_profile_name"),
        )
    },
    "input_video_list_json_path": "manifest",
    "model_weights_path": "models.model_dir",
    "copy_weights_to": "models.copy_weights_to",
    "generate_embeddings": "embeddings.generate_embeddings",
    "generate_captions": "captions.generate_captions",
    "generate_previews": "previews.generate_previews",
    **{
        name: f"split.{name}"
        for name in (
            *("splitting_algorithm", "fixed_stride_split_duration", "fixed_stride_min_clip_length_s"),
            *("transnetv2_threshold", "transnetv2_min_length_s", "transnetv2_max_length_s"),
            *("transnetv2_max_length_mode", "transnetv2_crop_s"),
        )
    },
    "transcode_encoder": "clips.encoder",
    "transcode_encoder_threads": "clips.encoder_threads",
    "clip_re_chunk_size": "clips.num_clips_per_chunk",
    **{
        name: f"filters.{name}"
        for name in (
            *("motion_filter", "motion_global_mean_threshold", "motion_per_patch_min_256_threshold"),
            *("motion_decode_target_fps", "motion_decode_target_duration_ratio"),
            *("aesthetic_threshold", "aesthetic_reduction"),
        )
    },
    "embedding_algorithm": "embeddings.embedding_algorithm",
    "captioning_window_size": "windows.window_size",
    "captioning_remainder_threshold": "windows.remainder_threshold",
    **{
        name: f"captions.{name}"
        for name in (
            *("captioning_algorithm", "captioning_prompt_variant", "captioning_prompt_text"),
            *("captioning_sampling_fps", "captioning_max_output_tokens"),
            *("enhance_captions", "enhance_captions_prompt_variant", "enhance_captions_prompt_text"),
        )
    },
    "qwen_preprocess_dtype": "captions.captioning_preprocess_dtype",
    "qwen_model_does_preprocess": "captions.captioning_model_does_preprocess",
    "qwen_stage2_caption": "captions.generate_stage2_caption",
    "qwen_stage2_prompt_text": "captions.stage2_prompt_text",
    "qwen_batch_size": "captions.captioning_batch_size",
    "qwen_use_fp8_weights": "captions.captioning_use_fp8_weights",
    "enhance_captions_lm_variant": "captions.enhance_captions_algorithm",
}
"""Arguments that are settings, by their dotted keys."""

_OFF: Mapping[str, tuple[object, ...]] = {
    "super_resolution": (False, None),
    "transcode_use_input_video_bit_rate": (False, None),
    "transcode_max_output_frames": (None,),
    **dict.fromkeys(("artificial_text_filter", "vlm_filter", "video_classifier"), ("disable", None)),
    "generate_cosmos_predict_dataset": ("disable", None),
    **dict.fromkeys(("upload_clip_info_in_lance", "upload_clip_info_in_chunks", "upload_cds_parquet"), (False, None)),
    **dict.fromkeys(("upload_clips", "write_all_caption_json"), (True, None)),
}
"""Arguments for what clipmill does not do, with the values that ask for nothing of it."""

_WITHOUT_EFFECT = {
    *("verbose", "perf_profile", "execution_mode", "input_video_list_s3_profile_name", "transnetv2_min_length_frames"),
    *("transnetv2_frame_decoder_mode", "transnetv2_frame_decode_raise_on_pynvc_error", "transcode_ffmpeg_batch_size"),
    *("transcode_use_hwaccel", "motion_score_batch_size", "clip_extraction_target_res", "embedding_batch_size"),
    *("api_caption_batch_size", "qwen_use_vllm_mmcache", "qwen_use_async_engine", "vllm_performance_mode"),
    *("vllm_use_inflight_batching", "vllm_max_retries", "enhance_captions_openai_model"),
}
_WITHOUT_EFFECT_BEGIN = ("sr_", "artificial_text_", "vlm_filter_", "video_classifier_", "gemini_", "openai_", "profile")
_WITHOUT_EFFECT_END = ("_per_worker",)
_DEFAULT_PROFILE = "default"  # of Cosmos-Curate: the credentials that boto3 finds by itself


def is_split_pipeline(document: object) -> bool:
    """Whether a document asks for a split pipeline."""
    return isinstance(document, dict) and document.get("pipeline") == "split"


def split_settings(document: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], list[str], list[str]]:
    """The settings that a document asks for, as a YAML has them; what is wrong with it, and what has no effect.

    It says nothing of a run folder: ``runs/`` in the current one has one for each document.
    """
    arguments = document.get("args")
    if not isinstance(arguments, dict):
        return {}, [f'{path}: expected {{"pipeline": "split", "args": {{...}}}}'], []
    problems = [f"{path}: {key}: unknown key" for key in document if key not in ("pipeline", "args")]
    digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()[:8]
    settings: dict[str, Any] = {"run_dir": os.path.join("runs", f"{path.stem}-{digest}"), "cluster": "local"}
    notes = []
    for key, value in {**_GENERATED, **arguments}.items():
        if key in ARGUMENTS:
            _put(
                settings, ARGUMENTS[key], None if key.endswith("_profile_name") and value == _DEFAULT_PROFILE else value
            )
        elif key in _OFF:
            if value not in _OFF[key]:
                problems.append(f"{path}: args.{key}: clipmill does not do this; found {value!r}")
        elif _has_no_effect(key):
            notes.append(f"{path}: args.{key} has no effect here")
        else:
            nearest = difflib.get_close_matches(key, [*ARGUMENTS, *_OFF, *_WITHOUT_EFFECT], n=1)
            mean = f"; did you mean {nearest[0]!r}?" if nearest else ""
            problems.append(f"{path}: args.{key}: unknown argument{mean}")
    return settings, problems, notes


def _has_no_effect(key: str) -> bool:
    return key in _WITHOUT_EFFECT or key.startswith(_WITHOUT_EFFECT_BEGIN) or key.endswith(_WITHOUT_EFFECT_END)


def _put(settings: dict[str, Any], key: str, value: object) -> None:
    group, _, name = key.rpartition(".")
    (settings.setdefault(group, {}) if group else settings)[name] = value
