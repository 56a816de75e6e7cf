"""Values as users write them, on the command line and in recipes: YAML, with 1e-3 a number too."""

from __future__ import annotations

import re
from typing import Any

import yaml

__all__ = ["read_values"]


def read_values(text: str, origin: str) -> Any:
    """Read YAML. Raises `ValueError` for what is none, and says where it stands."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{origin} is not valid YAML: {error}") from error


class _Loader(yaml.SafeLoader):
    """YAML 1.1 wants a point and a sign: its 1e-3 is a word."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
