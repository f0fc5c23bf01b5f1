"""A model's own chat template around a text and, for most models, a video."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from curation.captioning.requests import EngineSettings, EngineStartError, RequestRefusedError
from curation.loading import loading_alone

# what a family's template writes where the frames go; the engine puts a token for each part of a picture in its place
VIDEO_PLACEHOLDERS: Mapping[str, str] = MappingProxyType(
    {
        "qwen2.5-vl": "<|vision_start|><|video_pad|><|vision_end|>",
        "qwen3-vl": "<|vision_start|><|video_pad|><|vision_end|>",
        "nemotron-vl": "<video>",
    }
)
# words that an engine searches prompts for, whether the tokenizer knows them as special or not
_ENGINE_WORDS = ("<video>", "<image>", "<|video_pad|>", "<|image_pad|>")


class ChatTemplate:
    """What a checkpoint's chat template makes of a text, with the checkpoint's own tokenizer.

    Attributes:
        tokenizer: the Hugging Face tokenizer of the checkpoint.
        placeholder: stands once in each prompt with frames; None for a text model.
    """

    def __init__(self, settings: EngineSettings) -> None:
        """Load the tokenizer and see what its template does with a video.

        Raises:
            EngineStartError: the folder has no usable tokenizer, or its template has no place for a video.
        """
        self.placeholder = VIDEO_PLACEHOLDERS.get(settings.family) if settings.family else None
        self._system = [{"role": "system", "content": settings.system_text}] if settings.system_text else []
        self._video_as_text = False
        self.tokenizer = _tokenizer(settings)
        self._template = _template_file(Path(settings.weights))
        self._special = _special_words(self.tokenizer)
        try:
            self._choose_form()
        except Exception as error:  # a template is code of the checkpoint
            raise EngineStartError(f"{settings.weights}: its chat template can't be used: {error}") from error

    def prompt(self, text: str, *, with_frames: bool) -> str:
        """The whole prompt, with the placeholder in it where there are frames.

        Special tokens that are spelled out in ``text`` become plain text: a space after their first letter.

        Raises:
            RequestRefusedError: the model takes no frames, or the template lost them.
        """
        if with_frames and self.placeholder is None:
            raise RequestRefusedError("frames were given to a model for text")
        prompt = self._render(self.plain(text), with_frames=with_frames)
        found = prompt.count(self.placeholder) if self.placeholder else 0
        if found != int(with_frames):
            raise RequestRefusedError(f"the prompt has {found} of {self.placeholder}, not {int(with_frames)}")
        return prompt

    def plain(self, text: str) -> str:
        """``text`` without anything that the tokenizer or the engine would take for a special token."""
        for word in self._special:
            text = text.replace(word, f"{word[0]} {word[1:]}")
        return text

    def _choose_form(self) -> None:
        """Some templates write a video as the placeholder; to others it must come as part of the text."""
        if self.placeholder and self._render("x", with_frames=True).count(self.placeholder) != 1:
            self._video_as_text = True
        self.prompt("x", with_frames=self.placeholder is not None)

    def _render(self, text: str, *, with_frames: bool) -> str:
        content: str | list[dict[str, str]] = text
        if with_frames and self._video_as_text:
            content = f"{self.placeholder}\n{text}"
        elif with_frames:
            content = [{"type": "video"}, {"type": "text", "text": text}]
        messages = [*self._system, {"role": "user", "content": content}]
        return str(
            self.tokenizer.apply_chat_template(
                messages, chat_template=self._template, tokenize=False, add_generation_prompt=True
            )
        )


def _tokenizer(settings: EngineSettings) -> Any:
    with loading_alone():
        from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            settings.weights, local_files_only=True, trust_remote_code=settings.trust_remote_code
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise EngineStartError(f"{settings.weights}: its tokenizer can't be loaded: {error}") from error


def _template_file(folder: Path) -> str | None:
    """Checkpoints of Qwen keep the template of the whole processor in a file that tokenizers don't read."""
    path = folder / "chat_template.json"
    return str(json.loads(path.read_text())["chat_template"]) if path.is_file() else None


def _special_words(tokenizer: Any) -> list[str]:
    """The longest first, so that none is left over inside another one that was broken up."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted({*special, *_ENGINE_WORDS}, key=lambda word: (-len(word), word))
