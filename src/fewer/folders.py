"""Save an attached model as an ordinary Hugging Face folder, and load it again."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging as hf_logging

from fewer.config import SIDE_FILE, read_settings
from fewer.inference import optimize
from fewer.models import attach, attachment, parts

__all__ = ["load", "local_folder", "save"]


def save(model: nn.Module, folder: str | Path) -> None:
    """Save an attached model as an ordinary Hugging Face folder plus `fewer.json`.

    Plain transformers still loads it. Raises `ValueError` for adapters that are not merged: such
    a folder would lack the weights under them.
    """
    whole, _ = parts(model)
    attachment(whole)
    if whole is not model:
        raise ValueError(
            f"this {type(model).__name__} holds adapters beside the weights; save what "
            "model.merge_and_unload() returns, or the adapters alone by model.save_pretrained"
        )
    whole.save_pretrained(folder)


def load(name: str | Path, *, precision: str | None = "fp32", **kwargs: Any) -> PreTrainedModel:
    """Load a folder (or hub id) that `save` wrote, attached and in eval mode.

    A plain model gets no method. On a CPU the model is optimized for inference, as
    `fewer.optimize(model, precision=precision)` does; `None` leaves that out. `kwargs` go to
    `from_pretrained` (`dtype`, `revision`, ...). Raises `FileNotFoundError` for a missing file and
    `ValueError` for one that is truncated, or whose side file is not understood.
    """
    folder = local_folder(name, kwargs.get("revision"))
    settings = read_settings(folder)
    tensors = _own_tensors(folder)
    model = _loaded(folder, kwargs)
    attach(model, settings.method, kernel=settings.kernel, protect=settings.protect)
    policy = attachment(model).policy
    held = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in policy.state_dict().items()}
    if held != wanted:
        raise ValueError(
            f"{folder} holds the tensors {held} of a method, wanted {wanted} for "
            f"{settings.method}; the checkpoint is incomplete or its {SIDE_FILE} is another's: "
            "save it again"
        )
    policy.load_state_dict(tensors)
    model.eval()
    if precision is not None and model.device.type == "cpu":
        optimize(model, precision=precision)
    return model


def local_folder(name: str | Path, revision: str | None = None) -> Path:
    """Return a model's folder, a hub id's as it was downloaded.

    Raises `FileNotFoundError` if there is none.
    """
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_absolute() or str(name).startswith(".") or str(name).count("/") > 1:
            raise FileNotFoundError(
                f"{folder} is not a folder; wanted one written by fewer.save, or a hub id"
            )
        from huggingface_hub import snapshot_download

        patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
        folder = Path(snapshot_download(str(name), revision=revision, allow_patterns=patterns))
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder / 'config.json'} is missing; wanted a model folder")
    return folder


def _loaded(folder: Path, kwargs: dict[str, Any]) -> PreTrainedModel:
    """Load the model of a folder in the class that its config names; no weight may be missing."""
    import transformers

    path = folder / "config.json"
    try:
        name = (json.loads(path.read_text(encoding="utf-8")).get("architectures") or ["AutoModel"])[
            0
        ]
    except ValueError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); copy or save the model again"
        ) from error
    if not hasattr(transformers, name):
        raise ValueError(
            f"{path} names the architecture {name!r}, which transformers "
            f"{transformers.__version__} does not have"
        )
    with _quiet():
        model, report = getattr(transformers, name).from_pretrained(
            folder, output_loading_info=True, **kwargs
        )
    if report["missing_keys"]:
        raise ValueError(
            f"{folder} holds no weights for {sorted(report['missing_keys'])}; the checkpoint is "
            "incomplete (for a new head, load it with transformers and call fewer.attach)"
        )
    return cast("PreTrainedModel", model)


def _own_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the policy's tensors from a model's safetensors file or shards.

    `ValueError` for a truncated one.
    """
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.exists():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    found: dict[str, Tensor] = {}
    for file in (folder / name for name in names):
        if not file.exists():
            raise FileNotFoundError(f"{file} is missing; wanted the weights beside config.json")
        try:
            with safe_open(file, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 (not a dict)
                    _, mark, own = ("." + key).rpartition(".fewer.policy.")
                    if mark:
                        found[own] = tensors.get_tensor(key)
        except SafetensorError as error:
            raise ValueError(
                f"{file} cannot be read ({error}); it is truncated or broken: copy or save it again"
            ) from error
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting our own tensors as unexpected.

    Its errors still come through.
    """
    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        hf_logging.set_verbosity(before)
