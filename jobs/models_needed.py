"""Which models a config needs, and whether their weights are there."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from curation.captioning.models import CAPTION_MODELS, TEXT_MODELS, CaptionModel
from curation.embedding.efficientnet_lite import MODEL_NAME as EFFICIENTNET
from curation.embedding.efficientnet_lite import find_weights
from curation.embedding.models import EMBEDDING_MODELS
from curation.filtering.aesthetic import CLIP, HEAD
from curation.text.models import TEXT_ENCODERS
from curation.weights import Checkpoint, find_weights_folder
from jobs.annotation import enhances
from jobs.config import RunConfig


@dataclass(frozen=True, slots=True)
class NeededModel:
    """A model by the name that configs give it."""

    name: str
    model: CaptionModel | Checkpoint

    def find(self, model_dir: str | Path) -> Path:
        """The folder of its weights.

        Raises:
            FileNotFoundError: with the command that mends it.
        """
        model = self.model
        file = model.file if isinstance(model, Checkpoint) else ""
        return find_weights_folder(
            model_dir, model.repository, revision=model.revision, model_type=model.model_type or None, file=file
        )


_MODELS: Mapping[str, CaptionModel | Checkpoint] = {
    **CAPTION_MODELS,
    **TEXT_MODELS,
    **{name: model.checkpoint for name, model in EMBEDDING_MODELS.items()},
    **{f"{name}-text": model.text_checkpoint for name, model in EMBEDDING_MODELS.items() if model.text_checkpoint},
    "aesthetic-clip": CLIP,
    "aesthetic-head": HEAD,
    **TEXT_ENCODERS,
}


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
    models = {**_MODELS, **{model.repository: model for model in _MODELS.values()}}
    if name not in models:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(_MODELS)}")
    return NeededModel(name, models[name])


def needed_models(config: RunConfig) -> list[NeededModel]:
    """The models that a run with this config loads."""
    return [NeededModel(name, _MODELS[name]) for name in _needed(config)]


def _needed(config: RunConfig) -> Iterator[str]:
    captions, embeddings = config.captions, config.embeddings
    if config.filters.aesthetic_threshold is not None:
        yield "aesthetic-clip"
        yield "aesthetic-head"
    if embeddings.generate_embeddings and embeddings.embedding_algorithm in EMBEDDING_MODELS:
        yield embeddings.embedding_algorithm
        if embeddings.texts_to_verify and EMBEDDING_MODELS[embeddings.embedding_algorithm].text_checkpoint:
            yield f"{embeddings.embedding_algorithm}-text"
    if captions.generate_captions:
        yield captions.captioning_algorithm
    if enhances(config):
        yield captions.enhance_captions_algorithm
    if config.t5.generate_t5:
        yield config.t5.model


def missing_weights(config: RunConfig) -> list[str]:
    """A line for each model whose weights are not there, with the command that mends it."""
    problems = []
    for needed in needed_models(config):
        try:
            needed.find(config.models.model_dir)
        except FileNotFoundError as error:
            problems.append(str(error))
    if config.embeddings.generate_embeddings and config.embeddings.embedding_algorithm == EFFICIENTNET:
        try:
            find_weights(None)
        except FileNotFoundError as error:
            problems.append(str(error))
    return problems
