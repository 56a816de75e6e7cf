"""Save an attached model as an ordinary Hugging Face folder, and load it again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fewer._files.disk import read_json
from fewer._files.manifest import check_files, write_manifest
from fewer.core.operating_points import list_numbers
from fewer.hf.attach import attach, attachment, parts
from fewer.hf.embedder_files import is_embedder
from fewer.hf.gliner import is_of_gliner
from fewer.hf.optimize import optimize
from fewer.hf.pretrained import (
    CONFIG,
    METHOD_TENSORS,
    load_pretrained,
    local_folder,
    name_weights,
    read_tensors,
    weight_files,
)
from fewer.hf.sentence_transformers import check_class, put_inside, transformer_of
from fewer.hf.side_file import MARK, SIDE_FILE, Settings, read_settings

__all__ = ["load", "local_folder", "save"]

Object = TypeVar("Object")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # of weights on a GPU, by precision


def save(model: nn.Module, folder: str | Path) -> None:
    """Save an attached model as an ordinary Hugging Face folder plus `fewer.json`.

    Plain transformers, or sentence-transformers for an object of it, still loads it. A manifest of
    file hashes, written last, lets `load` find damage. Raises `ValueError` for adapters that are
    not merged, since the folder would lack the base weights, and `OSError` with the file's name
    where a file cannot be written.
    """
    hf_model, _ = parts(model)
    attachment(hf_model)
    if is_of_gliner(model):
        raise ValueError(
            f"model must be a transformers model; got a {type(model).__name__}. Save it by "
            "model.save_pretrained(folder), load it by its own library, and attach it again."
        )
    if hf_model is not transformer_of(model) or _has_adapters(hf_model):
        raise ValueError(
            f"model must hold no adapters; got a {type(model).__name__}. Save the model returned "
            "by model.merge_and_unload(), or the adapters alone by model.save_pretrained."
        )
    saved: Any = model
    saved.save_pretrained(str(folder))
    write_manifest(Path(folder), [Path(folder) / name for name in _model_files(Path(folder))])


@overload
def load(
    name: str | Path,
    cls: None = None,
    *,
    precision: str | None = "fp32",
    device: str | torch.device | None = None,
    **kwargs: Any,
) -> PreTrainedModel: ...


@overload
def load(
    name: str | Path,
    cls: type[Object],
    *,
    precision: str | None = "fp32",
    device: str | torch.device | None = None,
    **kwargs: Any,
) -> Object: ...


def load(
    name: str | Path,
    cls: type[Any] | None = None,
    *,
    precision: str | None = "fp32",
    device: str | torch.device | None = None,
    **kwargs: Any,
) -> Any:
    """Load a folder (or hub id) that `save` wrote, attached and in eval mode.

    Without `cls` it is the transformers model; `cls` is a class of sentence-transformers, such as
    `SentenceTransformer` or `CrossEncoder`, whose object is returned with that model inside.
    A plain model gets no method. The model is optimized for inference on its device, by default a
    CPU, by `fewer.optimize(model, precision=precision)`, unless `precision` is `None`. On a CUDA
    device the weights are loaded in the precision. `kwargs` go to `from_pretrained` (`dtype`,
    `revision`, ...); code in the folder is never run. Raises `FileNotFoundError` for a missing file
    and `ValueError` for a file that is truncated, that was changed since it was saved, for a side
    file that cannot be parsed, for a device that this machine or its torch does not have, and for a
    `cls` of another library or that reads another class of model.

    >>> embedder = fewer.load("pruned", SentenceTransformer)  # doctest: +SKIP
    """
    if cls is not None:
        check_class(cls)
    target = None if device is None else _find_device(device)
    if target is not None and target.type == "cuda" and precision in _DTYPES:
        kwargs = {"dtype": _DTYPES[precision], **kwargs}
    folder = local_folder(name, kwargs.get("revision"))
    settings = read_settings(folder)
    tensors = _method_tensors(folder)
    model = _load_model(folder, kwargs)
    _attach_method(model, folder, settings, tensors)
    check_files(folder, _model_files(folder))
    model.eval()
    if target is not None:
        nn.Module.to(model, target)
    if precision is not None and (target is not None or model.device.type == "cpu"):
        optimize(model, precision=precision)
    return model if cls is None else put_inside(cls, folder, model)


def _has_adapters(model: nn.Module) -> bool:
    """Return whether adapters stand in a model itself, as `model.add_adapter` puts them there."""
    loaded = getattr(model, "_hf_peft_config_loaded", False)
    return bool(loaded) or any(".base_layer." in name for name, _ in model.named_parameters())


def _find_device(name: str | torch.device) -> torch.device:
    """Return a device that `fewer.optimize` can run on, if it is there."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be 'cpu' or 'cuda'; got {name!r}.") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu' or 'cuda'; got {str(device)!r}.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device must be one that torch {torch.__version__} finds, {torch.cuda.device_count()} "
            f"GPUs; got {str(device)!r}. Leave it out to run on the CPU."
        )
    return device


def _model_files(folder: Path) -> list[str]:
    """List the files of a folder that `save` writes and `load` reads."""
    weights = weight_files(folder)
    indices = [path for path in folder.glob("*.index.json") if weights[1:]]
    configs = [folder / name for name in (CONFIG, SIDE_FILE)]
    return [file.name for file in (*configs, *indices, *weights) if file.exists()]


def _load_model(folder: Path, kwargs: dict[str, Any]) -> PreTrainedModel:
    """Load a folder's model in the class that its config names; no weight may be missing."""
    import transformers

    path = folder / CONFIG
    architectures = read_json(path).get("architectures")
    if is_embedder(folder):  # many name the class with the head that they were pretrained with
        architectures = ["AutoModel"]
    if architectures is None or architectures == []:
        if (folder / SIDE_FILE).exists():
            raise ValueError(
                f"{path} must name the architecture that was saved with {SIDE_FILE} beside it; got "
                f"{architectures!r}. Copy the folder again."
            )
        architectures = ["AutoModel"]
    name = architectures[0] if isinstance(architectures, list) else architectures
    cls = getattr(transformers, name, None) if isinstance(name, str) else None
    if name != "AutoModel" and not (isinstance(cls, type) and issubclass(cls, PreTrainedModel)):
        raise ValueError(
            f"{path} must name an architecture of transformers {transformers.__version__}; got "
            f"{name!r:.80}, which it does not have. Install a version that has it."
        )
    model, report = load_pretrained(cls, folder, **kwargs)
    if report["missing_keys"]:
        raise ValueError(
            f"{name_weights(folder)} must hold all weights; got no weights for "
            f"{sorted(report['missing_keys'])}. Copy the checkpoint again; for a new head, load it "
            "with transformers and call fewer.attach."
        )
    model.config.__dict__.pop(MARK, None)  # describes the folder, not the model
    loaded: PreTrainedModel = model
    return loaded


def _method_tensors(folder: Path) -> dict[str, tuple[Tensor, Path]]:
    """Read the tensors of a method, each with its file."""
    tensors: dict[str, tuple[Tensor, Path]] = {}
    for file in weight_files(folder):
        for key, tensor in read_tensors(file, lambda name: METHOD_TENSORS in "." + name).items():
            tensors[("." + key).rpartition(METHOD_TENSORS)[2]] = (tensor, file)
    return tensors


def _attach_method(
    model: PreTrainedModel,
    folder: Path,
    settings: Settings,
    tensors: dict[str, tuple[Tensor, Path]],
) -> None:
    """Attach the method of a folder with its trained tensors."""
    try:
        attach(model, settings.method, kernel=settings.kernel, protect=settings.protect)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{folder / SIDE_FILE} must fit the model of {folder / CONFIG}; got: {error}"
        ) from error
    attachment(model).settings = settings
    policy = attachment(model).policy
    expected = policy.state_dict()
    shapes = {name: tuple(tensor.shape) for name, (tensor, _) in tensors.items()}
    expected_shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    if shapes != expected_shapes:
        raise ValueError(
            f"{name_weights(folder)} must hold the tensors {expected_shapes} of {settings.method}; "
            f"got {shapes}. The checkpoint is incomplete, or its {SIDE_FILE} belongs to another "
            "model: save it again."
        )
    points = policy.operating_points()
    never = [] if points is None else list_numbers(points.never)
    for name, (tensor, file) in tensors.items():
        if _dtype_kind(tensor) != _dtype_kind(expected[name]):
            raise ValueError(
                f"{file}: {name} must be of type {expected[name].dtype}; got {tensor.dtype}. Save "
                "the model again."
            )
        may_be_infinite = tensor.ndim == 0 and any(map(math.isinf, never))
        if bool(tensor.isnan().any() if may_be_infinite else (~tensor.isfinite()).any()):
            raise ValueError(
                f"{file}: {name} must hold finite numbers; got NaN or infinity. Train or save the "
                "model again."
            )
    policy.load_state_dict({name: tensor for name, (tensor, _) in tensors.items()})


def _dtype_kind(tensor: Tensor) -> str:
    if tensor.dtype == torch.bool:
        return "bool"
    return "number" if tensor.is_floating_point() else "whole number"
