"""YAML as runs are written in it: numbers are decimal, and what looks like a date is a text."""

import re

import yaml

_INT_TAG, _FLOAT_TAG, _TIME_TAG = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp"))
_INT = re.compile(r"[-+]?[0-9]+$")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")


class Loader(yaml.SafeLoader):
    """YAML whose numbers are decimal and whose dates are texts: a wall time of 12:00:00 is that text, not 43200."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in {_INT_TAG, _FLOAT_TAG, _TIME_TAG}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _decimal(loader: Loader, node: yaml.ScalarNode) -> int:
    """Source: YAML 1.2, core schema: 010 is ten, not the eight of YAML 1.1."""
    return int(loader.construct_scalar(node))


Loader.add_constructor(_INT_TAG, _decimal)


class Dumper(yaml.SafeDumper):
    """Quotes each text that this module or any other YAML reader would take for something else."""


def _text(dumper: Dumper, value: str) -> yaml.ScalarNode:
    """Texts with line breaks or control characters are escaped: in other styles U+0085 is read back as a space."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if value.isprintable() else '"')


Dumper.add_representer(str, _text)

for _yaml in (Loader, Dumper):  # YAML 1.2's core schema, which also reads 1e8 as a number
    _yaml.add_implicit_resolver(_INT_TAG, _INT, list("-+0123456789"))
    _yaml.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+.0123456789"))
