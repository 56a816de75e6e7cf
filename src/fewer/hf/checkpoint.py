"""Save an attached model as an ordinary Hugging Face folder, and load it again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fewer._files.disk import read_json
from fewer._files.manifest import check_files, write_manifest
from fewer.hf.attach import attach, attachment, parts
from fewer.hf.config import MARK, SIDE_FILE, Settings, read_settings
from fewer.hf.optimize import optimize
from fewer.hf.pretrained import (
    CONFIG,
    OWN,
    load_pretrained,
    local_folder,
    name_weights,
    read_tensors,
    weight_files,
)

__all__ = ["load", "local_folder", "save"]


def save(model: nn.Module, folder: str | Path) -> None:
    """Save an attached model as an ordinary Hugging Face folder plus `fewer.json`.

    Plain transformers still loads it. A manifest, written last, holds the hashes of the files, for
    `load` to find damage. Raises `ValueError` for adapters that are not merged: such a folder would
    lack the weights under them; and `OSError`, by name, where a file cannot be written.
    """
    whole, _ = parts(model)
    attachment(whole)
    if whole is not model:
        raise ValueError(
            f"this {type(model).__name__} holds adapters beside the weights; save what "
            "model.merge_and_unload() returns, or the adapters alone by model.save_pretrained"
        )
    whole.save_pretrained(folder)
    write_manifest(Path(folder), [Path(folder) / name for name in _model_files(Path(folder))])


def load(name: str | Path, *, precision: str | None = "fp32", **kwargs: Any) -> PreTrainedModel:
    """Load a folder (or hub id) that `save` wrote, attached and in eval mode.

    A plain model gets no method. On a CPU the model is optimized for inference, as
    `fewer.optimize(model, precision=precision)` does; `None` leaves that out. `kwargs` go to
    `from_pretrained` (`dtype`, `revision`, ...); code of the folder is never run. Raises
    `FileNotFoundError` for a missing file and `ValueError` for one that is truncated, changed since
    it was saved, or whose side file is not understood.
    """
    folder = local_folder(name, kwargs.get("revision"))
    settings = read_settings(folder)
    tensors = _method_tensors(folder)
    model = _load_whole(folder, kwargs)
    _put_method(model, folder, settings, tensors)
    check_files(folder, _model_files(folder))
    model.eval()
    if precision is not None and model.device.type == "cpu":
        optimize(model, precision=precision)
    return model


def _model_files(folder: Path) -> list[str]:
    """List what `save` writes, and `load` reads, of what is in a folder."""
    weights = weight_files(folder)
    indices = [path for path in folder.glob("*.index.json") if weights[1:]]
    others = [folder / name for name in (CONFIG, SIDE_FILE)]
    return [file.name for file in (*others, *indices, *weights) if file.exists()]


def _load_whole(folder: Path, kwargs: dict[str, Any]) -> PreTrainedModel:
    """Load the model of a folder in the class that its config names; no weight may be missing."""
    import transformers

    path = folder / CONFIG
    kinds = read_json(path).get("architectures")
    if kinds is None or kinds == []:
        kinds = ["AutoModel"]
    name = kinds[0] if isinstance(kinds, list) else kinds
    kind = getattr(transformers, name, None) if isinstance(name, str) else None
    if name != "AutoModel" and not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
        raise ValueError(
            f"{path} names the architecture {name!r:.80}, which transformers "
            f"{transformers.__version__} does not have"
        )
    model, report = load_pretrained(kind, folder, **kwargs)
    if report["missing_keys"]:
        raise ValueError(
            f"{name_weights(folder)} holds no weights for {sorted(report['missing_keys'])}; the "
            "checkpoint is incomplete (for a new head, load it with transformers and call "
            "fewer.attach)"
        )
    model.config.__dict__.pop(MARK, None)  # of the folder, not of the model
    whole: PreTrainedModel = model
    return whole


def _method_tensors(folder: Path) -> dict[str, tuple[Tensor, Path]]:
    """Read the tensors of a method, each with its file."""
    held: dict[str, tuple[Tensor, Path]] = {}
    for file in weight_files(folder):
        for key, tensor in read_tensors(file, lambda name: OWN in "." + name).items():
            held[("." + key).rpartition(OWN)[2]] = (tensor, file)
    return held


def _put_method(
    model: PreTrainedModel, folder: Path, settings: Settings, held: dict[str, tuple[Tensor, Path]]
) -> None:
    """Attach the method of a folder with what it has learned."""
    try:
        attach(model, settings.method, kernel=settings.kernel, protect=settings.protect)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{folder / SIDE_FILE} must fit the model of {folder / CONFIG}; got: {error}"
        ) from error
    policy = attachment(model).policy
    expected = policy.state_dict()
    shapes = {name: tuple(tensor.shape) for name, (tensor, _) in held.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    if shapes != wanted:
        raise ValueError(
            f"{name_weights(folder)} holds the tensors {shapes} of a method, wanted {wanted} for "
            f"{settings.method}; the checkpoint is incomplete or its {SIDE_FILE} is another's: "
            "save it again"
        )
    dial = policy.dial()
    for name, (tensor, file) in held.items():
        if _kind(tensor) != _kind(expected[name]):
            raise ValueError(
                f"{file}: {name} must be of type {expected[name].dtype}; got {tensor.dtype}. Save "
                "the model again."
            )
        turned = dial is not None and tensor.ndim == 0 and math.isinf(dial.never)
        if bool(tensor.isnan().any() if turned else (~tensor.isfinite()).any()):
            raise ValueError(
                f"{file}: {name} must hold finite numbers; got NaN or infinity. Train or save the "
                "model again."
            )
    policy.load_state_dict({name: tensor for name, (tensor, _) in held.items()})


def _kind(tensor: Tensor) -> str:
    if tensor.dtype == torch.bool:
        return "bool"
    return "number" if tensor.is_floating_point() else "whole number"
