"""Read and write JSON files; every error is one line that names the file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["read_json", "read_json_list", "write_json", "writing"]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises `ValueError` for all other content: broken or too deeply nested JSON, NaN, infinities.
    """
    content: dict[str, Any] = _read(path, dict, "object")
    return content


def read_json_list(path: Path) -> list[Any]:
    """Read a JSON list. Raises `ValueError` as `read_json` does."""
    content: list[Any] = _read(path, list, "list")
    return content


def _read(path: Path, kind: type, name: str) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}). Restore the file or save the model again."
        ) from error
    if not isinstance(content, kind):
        raise ValueError(
            f"{path} must hold a JSON {name}; got a {type(content).__name__}. Restore the file or "
            "save the model again."
        )
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def write_json(content: Any, path: Path, indent: int = 2) -> None:
    """Write a JSON file atomically, flushed to disk; a failure leaves the old file or none."""
    temporary = path.with_name(path.name + ".tmp")
    with writing(path):
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(content, indent=indent) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise an `OSError` that names `path` when a library cannot write there.

    On a full disk safetensors, tokenizers and torch raise exceptions of different classes, and the
    error of Python does not name the file.
    """
    try:
        yield
    except Exception as error:
        classes = {Exception, RuntimeError, OSError}
        is_named = isinstance(error, OSError) and str(path) in str(error)
        if is_named or not (type(error) in classes or type(error).__name__ == "SafetensorError"):
            raise
        raise OSError(
            f"{path} must be written in full; got {_first_line(error)}. Free space on the disk or "
            "choose another folder."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
