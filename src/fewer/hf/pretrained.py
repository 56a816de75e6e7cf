"""Load configs, tokenizers and models from untrusted folders, without running their code.

Errors of transformers on a broken folder become one `ValueError` that names the file.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fewer._files.disk import read_json
from fewer._files.manifest import check_files
from fewer._pypi_models import model_folder

__all__ = [
    "CONFIG",
    "METHOD_TENSORS",
    "hiding_report",
    "load_config",
    "load_pretrained",
    "load_tokenizer",
    "local_folder",
    "name_weights",
    "read_tensors",
    "weight_files",
]

METHOD_TENSORS = ".fewer.policy."  # part of the names of a method's tensors
CONFIG = "config.json"
TOKENIZER_FILES = (
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model"]
_POOLER = "pooler."
_MAX_INTEGER = 2**31 - 1  # in a config
_MAX_LAYERS = 1000  # transformers would build 10**9 layers before it reads a weight
_MAX_LABELS = 1_000_000
_KERNEL = re.compile(r"[/:@]")  # org/repo@revision:function, which transformers downloads and runs
_LOG = logging.getLogger("fewer")


def local_folder(name: str | Path, revision: str | None = None) -> Path:
    """Return the folder of a model, or the downloaded snapshot of a hub id.

    Raises `FileNotFoundError` for a missing folder and `ValueError` for a folder that names code.
    """
    folder = Path(model_folder(str(name)))
    if not folder.is_dir():
        folder = _download(str(name), folder, revision)
    if not (folder / CONFIG).exists():
        if (folder / "model" / CONFIG).exists():
            raise FileNotFoundError(
                f"{folder / CONFIG} is missing; the model of this run is in {folder / 'model'}. "
                "Pass that folder."
            )
        if (folder / "fit.json").exists():
            raise FileNotFoundError(
                f"{folder / CONFIG} is missing; {folder} holds an unfinished run: resume it."
            )
        raise FileNotFoundError(f"{folder / CONFIG} is missing. Pass the folder of a model.")
    _check_config(folder)
    return folder


def load_config(name: str | Path) -> Any:
    """Load the config of a folder or hub id. Raises `ValueError` for an invalid config."""
    from transformers import AutoConfig

    folder = local_folder(name)
    with _name_broken_file(folder / CONFIG):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def load_tokenizer(name: str | Path) -> Any:
    """Load the tokenizer of a folder or hub id.

    Raises `ValueError` for a broken tokenizer, with the file, or one changed since it was saved.
    """
    from transformers import AutoTokenizer

    folder = local_folder(name)
    check_files(folder, TOKENIZER_FILES)
    for file in (folder / "tokenizer_config.json", folder / "special_tokens_map.json"):
        if file.exists():
            _refuse_code(read_json(file), file)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        tokenizer("a", "b", verbose=False)  # some broken files raise only here
        return tokenizer
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # panics of the tokenizers library are no Exception
        raise _unreadable_file(_find_broken_tokenizer_file(folder), error) from error


def load_pretrained(kind: Any, folder: Path, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Load a model of class `kind`; return it and the loading report of transformers.

    An encoder without a head whose weights have no pooler gets none: nothing else reads it.

    Raises `ValueError` for weights of a wrong shape or that are not finite. Missing weights, which
    are initialised, and unused weights are logged as a warning, without the tensors of a method.
    """
    if kwargs.pop("trust_remote_code", False):
        raise ValueError(
            f"trust_remote_code must be False; got True. fewer never runs code in {folder}."
        )
    files = weight_files(folder)
    with _name_broken_file(folder / CONFIG, files, kwargs), hiding_report():
        model, report = kind.from_pretrained(
            folder,
            output_loading_info=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # refused below, with shapes
            **kwargs,
        )
    weights = name_weights(folder)
    if report["mismatched_keys"]:
        mismatches = "; ".join(
            f"{key} must have the shape {tuple(expected)}; got {tuple(shape)}"
            for key, shape, expected in sorted(report["mismatched_keys"])
        )
        raise ValueError(
            f"{weights} must fit {folder / CONFIG} and the labels: {mismatches}. Change the number "
            "of labels, or copy the model again."
        )
    report["unexpected_keys"] = {
        key for key in report["unexpected_keys"] if METHOD_TENSORS not in "." + key
    }
    _leave_out_pooler(model, report)
    for key, parameter in model.named_parameters():
        if not _is_finite(parameter.detach()):
            raise ValueError(
                f"{weights} must hold finite weights; got NaN or infinity in {key}. Train or copy "
                "the model again."
            )
    _warn_of_weights(folder, report)
    return model, report


def _leave_out_pooler(model: Any, report: dict[str, Any]) -> None:
    """Remove a pooler that is new from an encoder without a head."""
    missing = {key for key in report["missing_keys"] if key.startswith(_POOLER)}
    names = {key for key in model.state_dict() if key.startswith(_POOLER)}
    if missing and missing == names and model.base_model is model:
        model.pooler = None
        report["missing_keys"] = set(report["missing_keys"]) - missing


def _is_finite(weights: Any) -> bool:
    """Return whether no weight is NaN or infinite; min and max show it in one pass, uncopied."""
    if not weights.is_floating_point() or not weights.numel():
        return True
    low, high = weights.aminmax()
    return bool(low.isfinite() & high.isfinite())


def weight_files(folder: Path) -> list[Path]:
    """List the weight files of a folder: safetensors before pickles, one file or shards.

    Raises `FileNotFoundError` for a missing file.
    """
    for name in _WEIGHTS:
        index = folder / (name + ".index.json")
        if (folder / name).exists():
            return [folder / name]
        if index.exists():
            files = _list_shards(index)
            for file in files:
                if not file.is_file():
                    raise FileNotFoundError(f"{file} is missing; {index} names it. Copy the shard.")
            return files
    raise FileNotFoundError(
        f"{folder / _WEIGHTS[0]} is missing. Copy the weights to the folder of {CONFIG}."
    )


def name_weights(folder: Path) -> str:
    """Name the weight files of a folder, for a message."""
    first, *shards = weight_files(folder)
    return f"{first} and {len(shards)} more files" if shards else str(first)


def _list_shards(index: Path) -> list[Path]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in names.values()
    ):
        raise ValueError(
            f"{index} must map weights to files beside it (weight_map); got {names!r:.80}. Copy or "
            "save the model again."
        )
    return [index.parent / name for name in sorted(set(names.values()))]


def _download(name: str, folder: Path, revision: str | None) -> Path:
    """Download the snapshot of a hub id. Raises `FileNotFoundError`, with its name, on failure."""
    from huggingface_hub import snapshot_download

    if folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise FileNotFoundError(
            f"{folder} is not a folder. Pass a folder written by fewer.save, or a hub id."
        )
    try:
        snapshot = Path(snapshot_download(name, revision=revision, allow_patterns=_PATTERNS))
        if not any(snapshot.glob("*.safetensors")):  # published before safetensors
            patterns = [*_PATTERNS, "*.bin"]
            snapshot = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # no network, unknown id, no access
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileNotFoundError(
            f"{name} must be a folder or a hub id that can be reached; got no such folder, and "
            f"from the hub: {first}"
        ) from error
    return snapshot


def _check_config(folder: Path) -> None:
    """Raise `ValueError` for a config that names code, or with numbers that would fill memory."""
    path = folder / CONFIG
    config = read_json(path)
    _refuse_code(config, path)
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{folder} must hold a full model; got adapters (adapter_config.json). Merge them "
            "(model.merge_and_unload()) and save the model."
        )
    limits = {"num_labels": _MAX_LABELS}
    for key, value in _list_integers(config):
        limit = limits.get(key, _MAX_LAYERS if "layer" in key or "group" in key else _MAX_INTEGER)
        if abs(value) > limit:
            raise ValueError(f"{path}: {key} must be at most {limit}; got {value!r:.40}.")
        if key.endswith("_heads") and value < 1:
            raise ValueError(f"{path}: {key} must be at least 1; got {value!r:.40}.")


def _list_integers(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """List the integers of a config by their keys, in nested lists and configs too."""
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from _list_integers(item, inner)
    elif isinstance(value, list):
        for item in value:
            yield from _list_integers(item, key)
    elif isinstance(value, int):
        yield key, value


def _refuse_code(content: dict[str, Any], path: Path) -> None:
    """Raise `ValueError` for a file that names code in its folder or on the hub."""
    if content.get("auto_map"):
        raise ValueError(
            f"{path} must name no code (auto_map); got code in {path.parent}. fewer runs only "
            "classes of transformers: choose a model of such a class."
        )
    for key, value in content.items():
        names = value.values() if isinstance(value, dict) else (value,)
        if key.endswith(("attn_implementation", "attn_implementation_internal")) and any(
            isinstance(name, str) and _KERNEL.search(name) for name in names
        ):
            raise ValueError(
                f"{path}: {key} must name no kernel on the hub, which is code; got {value!r}. "
                "Remove the key."
            )
        if isinstance(value, dict):
            _refuse_code(value, path)


@contextmanager
def _name_broken_file(
    path: Path, weights: Iterable[Path] = (), arguments: Iterable[str] = ()
) -> Iterator[None]:
    """Turn all exceptions of transformers into a `ValueError` that names the broken file.

    One about an argument of the caller stays a `TypeError`.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        if isinstance(error, ValueError | OSError) and str(path) in str(error):
            raise
        unknown = [name for name in arguments if f"argument '{name}'" in str(error)]
        if isinstance(error, TypeError) and unknown:
            raise TypeError(
                f"{unknown[0]} must be an argument of transformers' from_pretrained; got {error}. "
                "Leave it out, or set it on the model."
            ) from error
        raise _unreadable_file(_find_broken_weights(weights) or path, error) from error


def _unreadable_file(path: Path, error: BaseException) -> ValueError:
    first = (str(error).strip().splitlines() or [""])[0]
    return ValueError(
        f"{path} cannot be read by transformers ({type(error).__name__}: {first}); it is truncated "
        "or broken, or of another version. Copy or save it again."
    )


def _find_broken_weights(files: Iterable[Path]) -> Path | None:
    """Find the first weight file that cannot be opened."""
    for file in files:
        try:
            read_tensors(file, lambda name: False)
        except ValueError:
            return file
    return None


def read_tensors(file: Path, select: Callable[[str], bool]) -> dict[str, Any]:
    """Read the tensors whose names `select` accepts, from safetensors or a pickle of tensors.

    Raises `ValueError` for a file that is truncated or that holds anything but tensors.
    """
    import torch
    from safetensors import safe_open

    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                names = tensors.keys()
                return {name: tensors.get_tensor(name) for name in names if select(name)}
        state = torch.load(file, map_location="cpu", weights_only=True)
        return {name: tensor for name, tensor in state.items() if select(name)}
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{file} cannot be read ({first}); it is truncated or broken. Copy or save it again."
        ) from error


def _find_broken_tokenizer_file(folder: Path) -> Path:
    """Find the file of a tokenizer that cannot be read."""
    from tokenizers import Tokenizer

    for name in TOKENIZER_FILES:
        if name.endswith(".json") and (folder / name).exists():
            read_json(folder / name)  # the error names the file
    if not (folder / "tokenizer.json").exists():
        return folder
    try:
        Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a", "b")
    except BaseException:  # panics are no Exception
        return folder / "tokenizer.json"
    return folder / "tokenizer_config.json"


@contextmanager
def hiding_report() -> Iterator[None]:
    """Hide the loading report of transformers, whose content the caller logs."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_not_report(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(is_not_report)
    try:
        yield
    finally:
        logger.removeFilter(is_not_report)


def _warn_of_weights(folder: Path, report: dict[str, Any]) -> None:
    """Warn of initialised weights, and of weights that the model does not use."""
    kinds = {"new, not in the checkpoint": "missing_keys", "not used": "unexpected_keys"}
    for kind, name in kinds.items():
        if keys := sorted(report[name]):
            more = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
            _LOG.warning("%s: weights %s: %s%s", folder, kind, ", ".join(keys[:8]), more)
