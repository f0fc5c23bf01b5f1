"""What a shell offers when Tab is pressed: keys of settings, classes of failures, names of models."""

from curation.errors import FailureReason
from jobs.config import RunConfig
from jobs.models_needed import known_models
from jobs.setting_words import choices_of, group_model


def setting(begun: str) -> list[str]:
    """For ``--set``: keys, and after the '=' what a key can be where that is one of a few."""
    key, equals, _ = begun.partition("=")
    group, dot, name = key.partition(".")
    below = group_model(RunConfig.model_fields.get(group))
    fields = RunConfig.model_fields if below is None else below.model_fields
    if equals:
        field = fields.get(name if dot else group)
        choices = choices_of(field.annotation, field.metadata) if field is not None else []
        offers = [f"{key}={choice}" for choice in choices]
    elif below is not None and dot:
        offers = [f"{group}.{each}=" for each in fields]
    else:
        offers = [f"{name}{'=' if group_model(each) is None else '.'}" for name, each in RunConfig.model_fields.items()]
    return [offer for offer in offers if offer.startswith(begun)]


def failure(begun: str) -> list[str]:
    """For ``--failed``."""
    return [name for name in ("all", *map(str, FailureReason)) if name.startswith(begun)]


def model(begun: str) -> list[str]:
    """For ``--model``."""
    return [each.name for each in known_models() if each.name.startswith(begun)]
