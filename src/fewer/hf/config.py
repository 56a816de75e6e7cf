"""Methods as plain data, and the side file of a saved model."""

from __future__ import annotations

import warnings
from dataclasses import MISSING, dataclass, fields, is_dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, get_type_hints

from fewer._files.disk import read_json, write_json
from fewer._validation.names import check_known
from fewer._validation.types import check_types
from fewer.core.policy import Dense, Method
from fewer.methods.registry import METHODS
from fewer.version import __version__

__all__ = [
    "MARK",
    "SCHEMA",
    "SIDE_FILE",
    "Settings",
    "check_settings",
    "mark_of",
    "method_from",
    "method_to",
    "read_settings",
    "write_settings",
]

SCHEMA = 1
SIDE_FILE = "fewer.json"
MARK = "fewer"  # the key of config.json which records that the folder has a side file
MAX_ID = 2**31 - 1  # of a token


@dataclass(frozen=True)
class Settings:
    """The arguments of `attach`, which `load` needs beside the model."""

    method: Method
    kernel: str = "auto"
    protect: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raise `ValueError` for a kernel that is no name and for ids that are no token ids."""
        if not isinstance(self.kernel, str):
            raise ValueError(f"kernel must be a name; got {self.kernel!r:.80}.")
        for token in self.protect:
            is_integer = isinstance(token, Integral) and not isinstance(token, bool)
            if not is_integer or not 0 <= token <= MAX_ID:
                raise ValueError(
                    f"protect must hold token ids from 0 to {MAX_ID}; got {token!r:.80}."
                )


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
    for key in args:
        check_known(key, [field.name for field in fields(cls)], f"method {name!r}: setting")
    defaults = {
        field.name: field.default_factory()
        for field in fields(cls)
        if field.default_factory is not MISSING
    }
    args = {key: _build(value, defaults.get(key)) for key, value in args.items()}
    check_types(args, get_type_hints(cls), f"method {name!r}")
    try:
        method: Method = cls(**args)
    except TypeError as error:
        raise ValueError(
            f"method {name!r} must have valid settings; got {args}: {error}"
        ) from error
    return method


def _build(value: Any, default: Any) -> Any:
    """Build methods nested in settings; one without a name is the default with changes."""
    if isinstance(value, list | tuple):
        return tuple(_build(item, None) for item in value)
    if isinstance(default, Method) and isinstance(value, dict) and "name" not in value:
        base = method_to(default)
        value = {"name": base["name"], "args": {**base["args"], **value.get("args", value)}}
    return method_from(value) if isinstance(value, dict) else value


def check_settings(method: Method) -> None:
    """Raise `ValueError` for a setting of another type than its field's, nested methods included.

    Methods that are not registered check themselves.
    """
    cls: Any = type(method)
    if cls not in METHODS.values():
        return
    values = {field.name: getattr(method, field.name) for field in fields(cls)}
    check_types(values, get_type_hints(cls), cls.__name__)
    for value in values.values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Method):
                check_settings(item)


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
    if "method" not in content:
        raise ValueError(
            f"{path} must hold the keys schema, version, method, kernel, protect; got no method. "
            "Save the model again."
        )
    schema = content.get("schema")
    if schema != SCHEMA or isinstance(schema, bool):
        raise ValueError(
            f"{path} must have schema {SCHEMA} for fewer {__version__}; got schema {schema!r:.80}, "
            f"written by fewer {content.get('version')!r:.80}. Install the version that wrote it."
        )
    unknown = sorted(set(content) - {"schema", "version", "method", "kernel", "protect"})
    if unknown:
        raise ValueError(
            f"{path} must hold only schema, version, method, kernel, protect; got the unknown keys "
            f"{unknown}. Remove them, or save the model again."
        )
    version, protect = content.get("version"), content.get("protect", [])
    if not isinstance(version, str):
        raise ValueError(
            f"{path}: version must be a string such as {__version__}; got {version!r:.80}. Save "
            "the model again."
        )
    if _is_newer(version, __version__):
        warnings.warn(
            f"{path} was written by fewer {version}; this is {__version__}.", stacklevel=2
        )
    if not isinstance(protect, list):
        raise ValueError(
            f"{path}: protect must be a list of token ids; got {protect!r:.80}. Save the model "
            "again."
        )
    try:
        method = method_from(content["method"])
        return Settings(method, content.get("kernel", "auto"), tuple(protect))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


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
