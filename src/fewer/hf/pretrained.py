"""Configs, tokenizers and models out of folders that others wrote: never their code.

What transformers raises of a broken folder becomes one `ValueError` that names the file.
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
    "OWN",
    "load_config",
    "load_pretrained",
    "load_tokenizer",
    "local_folder",
    "name_weights",
    "read_tensors",
    "weight_files",
]

OWN = ".fewer.policy."  # in the names of the tensors that a method holds
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
_DOWNLOADED = ["*.json", "*.safetensors", "*.txt", "*.model"]
_MOST = 2**31 - 1  # of a whole number in a config
_MOST_LAYERS = 1000  # transformers would build 10**9 before it looks at a weight
_MOST_LABELS = 1_000_000
_KERNEL = re.compile(r"[/:@]")  # org/repo@revision:function, which transformers downloads and runs
_LOG = logging.getLogger("fewer")


def local_folder(name: str | Path, revision: str | None = None) -> Path:
    """Return a model's folder, a hub id's as it was downloaded.

    Raises `FileNotFoundError` if there is none, and `ValueError` for one with code of its own.
    """
    folder = Path(model_folder(str(name)))
    if not folder.is_dir():
        folder = _downloaded(str(name), folder, revision)
    if not (folder / CONFIG).exists():
        if (folder / "model" / CONFIG).exists():
            raise FileNotFoundError(
                f"{folder / CONFIG} is missing; the model of this run is in {folder / 'model'}"
            )
        if (folder / "fit.json").exists():
            raise FileNotFoundError(
                f"{folder / CONFIG} is missing; {folder} holds a run that has not ended: resume it"
            )
        raise FileNotFoundError(f"{folder / CONFIG} is missing; wanted a model folder")
    _check_config(folder)
    return folder


def load_config(name: str | Path) -> Any:
    """Load the config of a folder or hub id. Raises `ValueError` for one that is not understood."""
    from transformers import AutoConfig

    folder = local_folder(name)
    with _blaming(folder / CONFIG):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def load_tokenizer(name: str | Path) -> Any:
    """Load the tokenizer of a folder or hub id.

    Raises `ValueError` for one that is broken, by file, or that was changed since it was saved.
    """
    from transformers import AutoTokenizer

    folder = local_folder(name)
    check_files(folder, TOKENIZER_FILES)
    for file in (folder / "tokenizer_config.json", folder / "special_tokens_map.json"):
        if file.exists():
            _refuse_code(read_json(file), file)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        tokenizer("a", "b", verbose=False)  # some broken files are noticed no earlier
        return tokenizer
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the tokenizers library is no Exception
        raise _unreadable(_broken_tokenizer_file(folder), error) from error


def load_pretrained(kind: Any, folder: Path, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Load a model of class `kind`; returns it, and what transformers reports of its weights.

    The weights must be of the right shape and finite, by `ValueError`; those that are missing (and
    drawn anew) or not used are told by a warning. Tensors of a method are not counted among them.
    """
    if kwargs.pop("trust_remote_code", False):
        raise ValueError(
            f"trust_remote_code must be False; got True. fewer runs no code of {folder}."
        )
    files = weight_files(folder)
    with _blaming(folder / CONFIG, files), _no_report():
        model, report = kind.from_pretrained(
            folder,
            output_loading_info=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # refused below, with shapes
            **kwargs,
        )
    where = name_weights(folder)
    if report["mismatched_keys"]:
        told = "; ".join(
            f"{key} has shape {tuple(held)}, wanted {tuple(wanted)}"
            for key, held, wanted in sorted(report["mismatched_keys"])
        )
        raise ValueError(f"{where} does not fit {folder / CONFIG} or its labels: {told}")
    report["unexpected_keys"] = {key for key in report["unexpected_keys"] if OWN not in "." + key}
    for key, parameter in model.named_parameters():
        if not _is_finite(parameter.detach()):
            raise ValueError(
                f"{where} must hold finite weights; got NaN or infinity in {key}. Train or copy "
                "the model again."
            )
    _tell(folder, report)
    return model, report


def _is_finite(weights: Any) -> bool:
    """Tell whether no weight is NaN or infinite; both ends say so in one pass without a copy."""
    if not weights.is_floating_point() or not weights.numel():
        return True
    low, high = weights.aminmax()
    return bool(low.isfinite() & high.isfinite())


def weight_files(folder: Path) -> list[Path]:
    """List the files that hold the weights of a folder: safetensors before pickles, shards.

    Raises `FileNotFoundError` for one that is missing.
    """
    for name in _WEIGHTS:
        index = folder / (name + ".index.json")
        if (folder / name).exists():
            return [folder / name]
        if index.exists():
            files = _shards(index)
            for file in files:
                if not file.is_file():
                    raise FileNotFoundError(f"{file} is missing; wanted the shards of {index}")
            return files
    raise FileNotFoundError(
        f"{folder / _WEIGHTS[0]} is missing; wanted the weights beside {CONFIG}"
    )


def name_weights(folder: Path) -> str:
    """Name the files that hold the weights of a folder, for a message."""
    first, *others = weight_files(folder)
    return f"{first} and {len(others)} more files" if others else str(first)


def _shards(index: Path) -> list[Path]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in names.values()
    ):
        raise ValueError(
            f"{index} must map weights to files beside it (weight_map); got {names!r:.80}. Copy or "
            "save the model again."
        )
    return [index.parent / name for name in sorted(set(names.values()))]


def _downloaded(name: str, folder: Path, revision: str | None) -> Path:
    """Return the snapshot of a hub id. Raises `FileNotFoundError`, with its name, if none is."""
    from huggingface_hub import snapshot_download

    if folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise FileNotFoundError(
            f"{folder} is not a folder; wanted one written by fewer.save, or a hub id"
        )
    try:
        place = Path(snapshot_download(name, revision=revision, allow_patterns=_DOWNLOADED))
        if not any(place.glob("*.safetensors")):  # published before safetensors
            patterns = [*_DOWNLOADED, "*.bin"]
            place = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # no network, no such id, no right to it
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileNotFoundError(
            f"{name} must be a folder or a hub id that can be reached; got no such folder, and "
            f"from the hub: {first}"
        ) from error
    return place


def _check_config(folder: Path) -> None:
    """Refuse a config with code of its own, and numbers that would take all memory."""
    path = folder / CONFIG
    config = read_json(path)
    _refuse_code(config, path)
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{folder} must hold a whole model; got adapters (adapter_config.json). Merge them "
            "(model.merge_and_unload()) and save the model."
        )
    limits = {"num_labels": _MOST_LABELS}
    for key, value in _numbers(config):
        most = limits.get(key, _MOST_LAYERS if "layer" in key or "group" in key else _MOST)
        if abs(value) > most:
            raise ValueError(f"{path}: {key} must be at most {most}; got {value!r:.40}.")


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """List the whole numbers of a config by their keys, those of lists and configs inside too."""
    if isinstance(value, dict):
        for inner, one in value.items():
            yield from _numbers(one, inner)
    elif isinstance(value, list):
        for one in value:
            yield from _numbers(one, key)
    elif isinstance(value, int):
        yield key, value


def _refuse_code(content: dict[str, Any], path: Path) -> None:
    """Raise `ValueError` for a file that names code beside it or on the hub."""
    if content.get("auto_map"):
        raise ValueError(
            f"{path} must name no code of its own (auto_map); got some in {path.parent}. fewer "
            "runs only classes of transformers: choose a model that has one."
        )
    for key, value in content.items():
        names = value.values() if isinstance(value, dict) else (value,)
        if key.endswith(("attn_implementation", "attn_implementation_internal")) and any(
            isinstance(name, str) and _KERNEL.search(name) for name in names
        ):
            raise ValueError(
                f"{path}: {key} must name no kernel of the hub, which is code; got {value!r}. "
                "Remove the key."
            )
        if isinstance(value, dict):
            _refuse_code(value, path)


@contextmanager
def _blaming(path: Path, weights: Iterable[Path] = ()) -> Iterator[None]:
    """Turn whatever transformers raises into a `ValueError` that names the file at fault."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        if isinstance(error, ValueError | OSError) and str(path) in str(error):
            raise
        raise _unreadable(_first_broken(weights) or path, error) from error


def _unreadable(path: Path, error: BaseException) -> ValueError:
    first = (str(error).strip().splitlines() or [""])[0]
    return ValueError(
        f"{path} cannot be read by transformers ({type(error).__name__}: {first}); it is truncated "
        "or broken, or of another version: copy or save it again"
    )


def _first_broken(files: Iterable[Path]) -> Path | None:
    """Find the first file of weights that cannot be opened."""
    for file in files:
        try:
            read_tensors(file, lambda name: False)
        except ValueError:
            return file
    return None


def read_tensors(file: Path, wanted: Callable[[str], bool]) -> dict[str, Any]:
    """Read the tensors whose names are `wanted` from safetensors or a pickle of tensors alone.

    Raises `ValueError` for a file that is truncated, or holds more than tensors.
    """
    import torch
    from safetensors import safe_open

    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                names = tensors.keys()
                return {name: tensors.get_tensor(name) for name in names if wanted(name)}
        state = torch.load(file, map_location="cpu", weights_only=True)
        return {name: tensor for name, tensor in state.items() if wanted(name)}
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{file} cannot be read ({first}); it is truncated or broken: copy or save it again"
        ) from error


def _broken_tokenizer_file(folder: Path) -> Path:
    """Find the file that a tokenizer could not be read for."""
    from tokenizers import Tokenizer

    for name in TOKENIZER_FILES:
        if name.endswith(".json") and (folder / name).exists():
            read_json(folder / name)  # names it
    if not (folder / "tokenizer.json").exists():
        return folder
    try:
        Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a", "b")
    except BaseException:  # a panic is no Exception
        return folder / "tokenizer.json"
    return folder / "tokenizer_config.json"


@contextmanager
def _no_report() -> Iterator[None]:
    """Keep transformers' table of weights away; `_tell` says the same without our tensors."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def _tell(folder: Path, report: dict[str, Any]) -> None:
    """Warn of weights that are drawn anew, and of weights that the model has no use for."""
    kinds = {"new, not in the checkpoint": "missing_keys", "not used": "unexpected_keys"}
    for kind, name in kinds.items():
        if keys := sorted(report[name]):
            more = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
            _LOG.warning("%s: weights %s: %s%s", folder, kind, ", ".join(keys[:8]), more)
