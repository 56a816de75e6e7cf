"""Methods as plain data, and the side file of a saved model."""

from __future__ import annotations

import warnings
from dataclasses import MISSING, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Lt
from pydantic import Strict

from fewer._files.disk import read_json, write_json
from fewer._validation.names import check_known
from fewer._validation.settings import build, settings
from fewer._validation.types import Whole
from fewer.core.policy import Dense, Method
from fewer.methods.registry import METHODS
from fewer.version import __version__

__all__ = [
    "MARK",
    "SCHEMA",
    "SIDE_FILE",
    "Settings",
    "mark_of",
    "method_from",
    "method_to",
    "read_settings",
    "write_settings",
]

SCHEMA = 1
SIDE_FILE = "fewer.json"
MARK = "fewer"  # the key of config.json which records that the folder has a side file
TokenIds = Annotated[tuple[Annotated[Whole, Ge(0), Lt(2**31)], ...], Strict(False)]


@settings
class Settings:
    """The arguments of `attach`, which `load` needs beside the model."""

    method: Method = field(kw_only=False)
    kernel: str = field(default="auto", kw_only=False)
    protect: TokenIds = field(default=(), kw_only=False)
    certificate: dict[str, Any] | None = None  # of `fewer.calibrate`


def method_to(method: Method) -> dict[str, Any]:
    """Describe a method as `{"name": ..., "args": {...}}`.

    Raises `ValueError` for a method that is not registered.
    """
    names = {cls: name for name, cls in METHODS.items()}
    if type(method) not in names or not is_dataclass(method):
        raise ValueError(
            f"method must be one of {', '.join(sorted(METHODS))}; got a {type(method).__name__}. "
            "Only registered methods can be saved."
        )
    args = {field.name: _describe(getattr(method, field.name)) for field in fields(method)}
    return {"name": names[type(method)], "args": args}


def _describe(value: Any) -> Any:
    """Describe methods nested in settings too; all other values are plain data."""
    if isinstance(value, Method):
        return method_to(value)
    if isinstance(value, tuple):
        return tuple(_describe(item) for item in value)
    return value


def method_from(description: dict[str, Any] | str) -> Method:
    """Build a method from its name or description.

    Raises `ValueError` for unknown names, keys or values.
    """
    if isinstance(description, str):
        description = {"name": description}
    if not isinstance(description, dict) or not {"name"} <= set(description) <= {"name", "args"}:
        raise ValueError(
            f"method must be a name or {{'name': ..., 'args': {{...}}}}; got {description!r}. "
            f"Choose one of {', '.join(sorted(METHODS))}."
        )
    name, args = description["name"], description.get("args", {})
    check_known(name, sorted(METHODS), "method")
    if not isinstance(args, dict):
        raise ValueError(
            f"args of method {name!r} must map settings to values; got {args!r}. Write "
            "{'SETTING': VALUE}."
        )
    cls: Any = METHODS[name]
    defaults = {
        field.name: field.default_factory()
        for field in fields(cls)
        if field.default_factory is not MISSING
    }
    values = {key: _build(value, defaults.get(key)) for key, value in args.items()}
    method: Method = build(cls, values, f"method {name!r}")
    return method


def _build(value: Any, default: Any) -> Any:
    """Build methods nested in settings; one without a name is the default with changes."""
    if isinstance(value, list | tuple):
        return tuple(_build(item, None) for item in value)
    if isinstance(default, Method) and isinstance(value, dict) and "name" not in value:
        base = method_to(default)
        value = {"name": base["name"], "args": {**base["args"], **value.get("args", value)}}
    return method_from(value) if isinstance(value, dict) else value


def mark_of(settings: Settings) -> dict[str, Any]:
    """Return the entry of config.json under `MARK`, by which a lost side file is detected."""
    return {"schema": SCHEMA, "method": method_to(settings.method)["name"]}


def write_settings(settings: Settings, folder: str | Path) -> None:
    """Write the side file into a model's folder."""
    content = {
        "schema": SCHEMA,
        "version": __version__,
        "method": method_to(settings.method),
        "kernel": settings.kernel,
        "protect": list(settings.protect),
        **({} if settings.certificate is None else {"certificate": settings.certificate}),
    }
    write_json(content, Path(folder) / SIDE_FILE)


def read_settings(folder: str | Path) -> Settings:
    """Read the side file of a folder; a folder without a side file is a plain model (`Dense`).

    Raises `ValueError` for a file that is broken, has unknown keys or another schema, and
    `FileNotFoundError` if config.json records a missing side file; warns for a file written by a
    newer version.
    """
    path = Path(folder) / SIDE_FILE
    if not path.exists():
        _check_unmarked(path)
        return Settings(Dense())
    content = read_json(path)
    schema = content.get("schema")
    if schema != SCHEMA or isinstance(schema, bool):
        raise ValueError(
            f"{path} must have schema {SCHEMA} for fewer {__version__}; got schema {schema!r:.80}, "
            f"written by fewer {content.get('version')!r:.80}. Install the version that wrote it."
        )
    try:
        side_file = _SideFile(**content)
        method = method_from(side_file.method)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
    if _is_newer(side_file.version, __version__):
        warnings.warn(
            f"{path} was written by fewer {side_file.version}; this is {__version__}.", stacklevel=2
        )
    return Settings(method, side_file.kernel, side_file.protect, certificate=side_file.certificate)


@settings
class _SideFile:
    method: Any
    schema: int
    version: str
    kernel: str = "auto"
    protect: TokenIds = ()
    certificate: dict[str, Any] | None = None


def _check_unmarked(path: Path) -> None:
    """Raise `FileNotFoundError` if config.json records that the folder has this side file."""
    config = path.with_name("config.json")
    if not config.exists() or (mark := read_json(config).get(MARK)) is None:
        return
    name = mark.get("method") if isinstance(mark, dict) else mark
    raise FileNotFoundError(
        f"{path} is missing, but {config} names the method {name!r:.80}. Restore it, or, for the "
        f"model without a method, delete the key {MARK!r} of {config}."
    )


def _is_newer(written: str, present: str) -> bool:
    def numbers(version: str) -> list[int]:
        return [
            int("".join(c for c in part if c.isdigit()) or 0) for part in version.split(".")[:3]
        ]

    return numbers(written) > numbers(present)
