"""Read values of the command line and of recipes: YAML that reads 1e-3 as a number."""

from __future__ import annotations

import re
from typing import Any

import yaml

__all__ = ["read_values"]


def read_values(text: str, origin: str) -> Any:
    """Parse YAML. Raises `ValueError` for invalid YAML, with its origin."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{origin} is not valid YAML: {error}") from error


class _Loader(yaml.SafeLoader):
    """Loader that reads 1e-3 as a number; YAML 1.1 requires a point and a sign."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
