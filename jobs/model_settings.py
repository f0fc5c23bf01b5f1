"""The groups of settings of the models: captions, their T5 vectors, embeddings, and where weights lie."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from curation.captioning.models import CAPTION_MODELS, TEXT_MODELS, caption_model, text_model
from curation.captioning.prompts import CAPTION_PROMPTS, ENHANCEMENT_PROMPTS, caption_prompt, enhancement_prompt
from curation.registry import EMBEDDERS, TEXT_ENCODERS
from curation.text.models import T5_11B
from jobs.setting_words import one_of
from jobs.settings import NonNegativeInt, PositiveFloat, PositiveInt, Settings

CAPTION_RESOURCES = {
    "captioning_batch_size",
    "disable_mmcache",
    "engine",
    "windows_in_engine",
    "max_held_gb",
    "gpu_memory_utilization",
    "tensor_parallel_size",
    "engine_stall_timeout_s",
    "enhance_captions_batch_size",
    "enhance_captions_gpu",
    "enhance_captions_gpu_share",
    "enhance_captions_round_windows",
}
"""Settings of captions that only decide where and how fast it goes."""
T5_RESOURCES = {"tokens_per_batch", "gpu_memory_gb"}
"""Those of T5 vectors."""


class ModelSettings(Settings):
    """Where the weights of captioners and text models lie."""

    model_dir: str = Field("models", description="folder of all models, on the file system that the nodes share")
    copy_weights_to: str | None = Field(
        None, description="folder on each node's own disk; weights are copied there once and read from there"
    )


def _caption_model(name: str) -> str:
    caption_model(name)
    return name


def _text_model(name: str) -> str:
    text_model(name)
    return name


def _prompt_variant(name: str) -> str:
    caption_prompt(name)
    return name


def _enhancement_variant(name: str) -> str:
    enhancement_prompt(name)
    return name


def _prompt_file(path: str) -> str:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"can't be read: {error}") from None
    if not text.strip():
        raise ValueError("the file is empty")
    return path


class CaptionSettings(Settings):
    """Captions of windows; writing this group turns them on."""

    generate_captions: bool = Field(True, description="true where this group is written, unless it says false")
    captioning_algorithm: Annotated[str, AfterValidator(_caption_model), one_of(list(CAPTION_MODELS))] = Field(
        "qwen", description=f"one of {', '.join(CAPTION_MODELS)}"
    )
    captioning_prompt_variant: Annotated[str, AfterValidator(_prompt_variant), one_of(list(CAPTION_PROMPTS))] = Field(
        "default", description="a built-in prompt: default, av or av-surveillance"
    )
    captioning_prompt_text: str | None = Field(None, description="your own prompt instead")
    captioning_prompt_file: Annotated[str, AfterValidator(_prompt_file)] | None = Field(
        None, description="a file that holds your own prompt; the run keeps its text"
    )
    captioning_sampling_fps: PositiveFloat = Field(2.0, description="frames a second of each window, by timestamp")
    captioning_model_does_preprocess: bool = Field(
        False, description="frames keep their size, and the model's own processor resizes them"
    )
    captioning_preprocess_dtype: Literal["float32", "float16", "bfloat16", "uint8"] = Field(
        "float32", description="of pixel values that are made outside vLLM"
    )
    captioning_batch_size: PositiveInt = Field(8, description="windows at once in transformers, not in vLLM")
    captioning_max_output_tokens: PositiveInt = Field(512, description="a longer caption is cut off: truncated")
    captioning_use_fp8_weights: bool = Field(False, description="quantize weights to FP8 while they are loaded")
    generate_stage2_caption: bool = Field(False, description="ask again, with the frames and the first caption")
    stage2_prompt_text: str | None = Field(None, description="what is then asked; null: a built-in text")
    disable_mmcache: bool = Field(True, description="vLLM keeps no processed frames; windows hardly come twice")
    engine: Literal["auto", "vllm", "transformers"] = Field("auto", description="auto: vLLM where it is installed")
    engine_arguments: dict[str, Any] = Field({}, description="further arguments of the engine, by its own names")
    windows_in_engine: PositiveInt = Field(64, description="windows that one engine works on at once")
    max_held_gb: PositiveFloat = Field(4.0, description="GiB that clips on their way through the captioner may hold")
    max_model_len: PositiveInt = Field(32_768, description="tokens of a prompt and its answer")
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = Field(
        0.85, description="share of each GPU for all models of a worker"
    )
    tensor_parallel_size: NonNegativeInt = Field(
        0, description="GPUs that share a copy of the model; 0: as few as hold it, and more copies on the others"
    )
    engine_stall_timeout_s: PositiveFloat = Field(600.0, description="an engine without a sign of life is replaced")
    enhance_captions: bool = Field(False, description="a language model tells each caption anew, in more detail")
    enhance_captions_algorithm: Annotated[str, AfterValidator(_text_model), one_of(list(TEXT_MODELS))] = Field(
        "qwen_lm", description=f"one of {', '.join(TEXT_MODELS)}"
    )
    enhance_captions_prompt_variant: Annotated[
        str, AfterValidator(_enhancement_variant), one_of(list(ENHANCEMENT_PROMPTS))
    ] = Field("default", description="a built-in prompt: default, av or av-surveillance")
    enhance_captions_prompt_text: str | None = Field(None, description="your own prompt instead")
    enhance_captions_batch_size: PositiveInt = Field(128, description="captions at once")
    enhance_captions_max_output_tokens: PositiveInt = Field(512, description="a longer text is cut off: truncated")
    enhance_captions_use_fp8_weights: bool = Field(False, description="quantize weights to FP8 while they are loaded")
    enhance_captions_gpu: Literal["after", "beside"] = Field(
        "after", description="after: takes turns with the captioner; beside: both share the GPU all the time"
    )
    enhance_captions_gpu_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.4, description="its part of gpu_memory_utilization, beside"
    )
    enhance_captions_round_windows: PositiveInt = Field(
        4096, description="captions that wait for a turn, after; each turn loads both models anew"
    )

    @field_validator("captioning_prompt_file")
    @classmethod
    def _one_prompt(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("captioning_prompt_text") is not None:
            raise ValueError("give captioning_prompt_text or captioning_prompt_file, not both")
        return value

    @property
    def prompt(self) -> str:
        """What the captioner is asked."""
        return caption_prompt(self.captioning_prompt_variant, self.captioning_prompt_text)

    def with_file_read(self) -> "CaptionSettings":
        """The text of the prompt file in its place: a run does not change when the file does."""
        if self.captioning_prompt_file is None:
            return self
        text = Path(self.captioning_prompt_file).expanduser().read_text(encoding="utf-8").strip()
        return self.model_copy(update={"captioning_prompt_text": text, "captioning_prompt_file": None})


def _embedder(name: str) -> str:
    if name not in EMBEDDERS:
        raise ValueError(f"unknown model that embeds: {name!r}; known: {', '.join(EMBEDDERS)}")
    return name


class EmbeddingSettings(Settings):
    """Embeddings of clips; writing this group turns them on."""

    generate_embeddings: bool = Field(True, description="true where this group is written, unless it says false")
    embedding_algorithm: Annotated[str, AfterValidator(_embedder), one_of(list(EMBEDDERS))] = Field(
        "cosmos-embed1-224p", description=f"one of {', '.join(EMBEDDERS)}"
    )
    embedding_target_fps: PositiveFloat = Field(2.0, description="frames a second among which the model's are chosen")
    embedding_gpu_memory_gb: PositiveFloat = Field(20.0, description="of each GPU, for the model and its batches")
    texts_to_verify: list[str] = Field([], description="of these texts the one that fits best stands in each meta")
    write_embedding_pickles: bool = Field(False, description="a pickle of each clip's vector, beside the tables")


def _text_encoder(name: str) -> str:
    if name not in TEXT_ENCODERS:
        raise ValueError(f"unknown model that encodes captions: {name!r}; known: {', '.join(TEXT_ENCODERS)}")
    return name


class T5Settings(Settings):
    """T5 vectors of captions, for training."""

    generate_t5: bool = Field(False, description="make them; they need captions")
    model: Annotated[str, AfterValidator(_text_encoder), one_of(list(TEXT_ENCODERS))] = Field(
        T5_11B, description=f"one of {', '.join(TEXT_ENCODERS)}"
    )
    max_tokens: Annotated[int, Field(ge=2, le=512)] = Field(512, description="a longer caption is cut off: truncated")
    tokens_per_batch: PositiveInt = Field(
        1024, description="that go through the model together on a GPU, padding among them"
    )
    gpu_memory_gb: PositiveFloat = Field(14.0, description="of each GPU, for the model and its batches")
