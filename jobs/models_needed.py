"""Which models a config needs, and whether their weights are there."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from curation.captioning.models import CAPTION_MODELS, TEXT_MODELS, CaptionModel, caption_model, text_model
from curation.weights import find_weights_folder
from jobs.config import RunConfig
from jobs.settings import CaptionSettings


@dataclass(frozen=True, slots=True)
class NeededModel:
    """A model by the name that configs give it."""

    name: str
    model: CaptionModel

    def find(self, model_dir: str | Path) -> Path:
        """The folder of its weights.

        Raises:
            FileNotFoundError: with the command that mends it.
        """
        model = self.model
        return find_weights_folder(model_dir, model.repository, revision=model.revision, model_type=model.model_type)


_MODELS = {**CAPTION_MODELS, **TEXT_MODELS}


def known_models() -> list[NeededModel]:
    """Each model once, by its first name."""
    found: dict[str, NeededModel] = {}
    for name, model in _MODELS.items():
        found.setdefault(model.repository, NeededModel(name, model))
    return list(found.values())


def named_model(name: str) -> NeededModel:
    """A model by its name in configs, or by its repository on the hub.

    Raises:
        ValueError: there is none.
    """
    models = _MODELS | {model.repository: model for model in _MODELS.values()}
    if name not in models:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(_MODELS)}")
    return NeededModel(name, models[name])


def needed_models(config: RunConfig) -> list[NeededModel]:
    """The models that a run with this config loads."""
    return list(_needed(config.captions))


def _needed(captions: CaptionSettings) -> Iterator[NeededModel]:
    if captions.generate_captions:
        yield NeededModel(captions.captioning_algorithm, caption_model(captions.captioning_algorithm))
    if captions.generate_captions and captions.enhance_captions:
        yield NeededModel(captions.enhance_captions_algorithm, text_model(captions.enhance_captions_algorithm))


def missing_weights(config: RunConfig) -> list[str]:
    """A line for each model whose weights are not there, with the command that mends it."""
    problems = []
    for needed in needed_models(config):
        try:
            needed.find(config.models.model_dir)
        except FileNotFoundError as error:
            problems.append(str(error))
    return problems
