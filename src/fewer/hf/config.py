"""A method as plain data, and back: what the side file of a saved model holds."""

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
MARK = "fewer"  # the key of config.json that tells that a side file belongs beside it
MOST_ID = 2**31 - 1  # of a token


@dataclass(frozen=True)
class Settings:
    """What `attach` was told: all that `load` needs beside the model itself."""

    method: Method
    kernel: str = "auto"
    protect: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what can be no kernel and no token id."""
        if not isinstance(self.kernel, str):
            raise ValueError(f"kernel must be a name; got {self.kernel!r:.80}.")
        for token in self.protect:
            whole = isinstance(token, Integral) and not isinstance(token, bool)
            if not whole or not 0 <= token <= MOST_ID:
                raise ValueError(
                    f"protect must hold token ids from 0 to {MOST_ID}; got {token!r:.80}."
                )


def method_to(method: Method) -> dict[str, Any]:
    """Describe a method as `{"name": ..., "args": {...}}`.

    Raises `ValueError` for one that is not in the table.
    """
    names = {kind: name for name, kind in METHODS.items()}
    if type(method) not in names or not is_dataclass(method):
        raise ValueError(
            f"{type(method).__name__} is not in the table of methods; known: "
            f"{', '.join(sorted(METHODS))}"
        )
    args = {field.name: _plain(getattr(method, field.name)) for field in fields(method)}
    return {"name": names[type(method)], "args": args}


def _plain(value: Any) -> Any:
    """Describe methods inside settings too; everything else is plain already."""
    if isinstance(value, Method):
        return method_to(value)
    if isinstance(value, tuple):
        return tuple(_plain(one) for one in value)
    return value


def method_from(description: dict[str, Any] | str) -> Method:
    """Build a method from its name or description.

    Raises `ValueError` for unknown names, keys or values.
    """
    if isinstance(description, str):
        description = {"name": description}
    if not isinstance(description, dict) or not {"name"} <= set(description) <= {"name", "args"}:
        raise ValueError(
            f"got {description!r}, wanted the name of a method or {{'name': ..., 'args': {{...}}}}"
        )
    name, args = description["name"], description.get("args", {})
    check_known(name, sorted(METHODS), "method")
    if not isinstance(args, dict):
        raise ValueError(f"method {name!r} has the args {args!r}, wanted settings and their values")
    kind: Any = METHODS[name]
    for key in args:
        check_known(key, [field.name for field in fields(kind)], f"method {name!r}: setting")
    defaults = {
        field.name: field.default_factory()
        for field in fields(kind)
        if field.default_factory is not MISSING
    }
    args = {key: _built(value, defaults.get(key)) for key, value in args.items()}
    check_types(args, get_type_hints(kind), f"method {name!r}")
    try:
        method: Method = kind(**args)
    except TypeError as error:
        raise ValueError(f"method {name!r} cannot have the settings {args}: {error}") from error
    return method


def _built(value: Any, default: Any) -> Any:
    """Build the methods inside settings; one without a name is the default with changes."""
    if isinstance(value, list | tuple):
        return tuple(_built(one, None) for one in value)
    if isinstance(default, Method) and isinstance(value, dict) and "name" not in value:
        own = method_to(default)
        value = {"name": own["name"], "args": {**own["args"], **value.get("args", value)}}
    return method_from(value) if isinstance(value, dict) else value


def check_settings(method: Method) -> None:
    """Raise `ValueError` for a setting of another type than its field's, in methods inside too.

    Methods that are not in the table check their own.
    """
    kind: Any = type(method)
    if kind not in METHODS.values():
        return
    values = {field.name: getattr(method, field.name) for field in fields(kind)}
    check_types(values, get_type_hints(kind), kind.__name__)
    for value in values.values():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Method):
                check_settings(one)


def mark_of(settings: Settings) -> dict[str, Any]:
    """Return what config.json holds under `MARK`, for a lost side file to be missed."""
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
    """Read the side file of a folder; a folder without one is a plain model (`Dense`).

    Raises `ValueError` for a file that is broken, has unknown keys or another schema, and
    `FileNotFoundError` if config.json tells of a file that is not there; warns when a newer version
    wrote it.
    """
    path = Path(folder) / SIDE_FILE
    if not path.exists():
        _check_unmarked(path)
        return Settings(Dense())
    content = read_json(path)
    if "method" not in content:
        raise ValueError(
            f"{path} holds no method; wanted the keys schema, version, method, kernel, protect"
        )
    schema = content.get("schema")
    if schema != SCHEMA or isinstance(schema, bool):
        raise ValueError(
            f"{path} has schema {schema!r:.80}, written by fewer {content.get('version')!r:.80}; "
            f"this is fewer {__version__}, which "
            f"reads schema {SCHEMA}: install the version that wrote it"
        )
    unknown = sorted(set(content) - {"schema", "version", "method", "kernel", "protect"})
    if unknown:
        raise ValueError(
            f"{path} has unknown keys {unknown}; wanted schema, version, method, kernel, protect"
        )
    version, protect = content.get("version"), content.get("protect", [])
    if not isinstance(version, str):
        raise ValueError(f"{path} has version {version!r:.80}, wanted a text such as {__version__}")
    if _newer(version, __version__):
        warnings.warn(f"{path} was written by fewer {version}, this is {__version__}", stacklevel=2)
    if not isinstance(protect, list):
        raise ValueError(f"{path} has protect {protect!r:.80}, wanted a list of token ids")
    try:
        method = method_from(content["method"])
        return Settings(method, content.get("kernel", "auto"), tuple(protect))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def _check_unmarked(path: Path) -> None:
    """Raise `FileNotFoundError` if the config beside tells that this side file was there."""
    config = path.with_name("config.json")
    if not config.exists() or (mark := read_json(config).get(MARK)) is None:
        return
    name = mark.get("method") if isinstance(mark, dict) else mark
    raise FileNotFoundError(
        f"{path} is missing, but {config} tells of the method {name!r:.80}; restore it, or, for "
        f"the model without a method, delete the key {MARK!r} of {config}"
    )


def _newer(written: str, present: str) -> bool:
    def parts(version: str) -> list[int]:
        return [
            int("".join(c for c in part if c.isdigit()) or 0) for part in version.split(".")[:3]
        ]

    return parts(written) > parts(present)
