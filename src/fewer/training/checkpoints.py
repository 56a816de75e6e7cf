"""Checkpoints that survive a kill.

A folder counts only with a manifest that matches every file in it.

The Trainer writes a checkpoint file by file. Killed in between, it leaves a folder that looks
newest and fails the resume, or resumes silently without its optimizer. A manifest, written last and
flushed to disk, says that the folder is whole.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from fewer._files.manifest import MANIFEST, is_whole, seal
from fewer.hf.attach import parts
from fewer.hf.pretrained import weight_files

__all__ = ["MANIFEST", "is_whole", "load_weights", "newest_whole", "seal", "weights_hash"]


def newest_whole(folder: Path) -> Path | None:
    """Return the newest `checkpoint-N` of a folder that is whole, or `None`."""
    numbered = [
        (int(path.name.rpartition("-")[2]), path)
        for path in folder.glob("checkpoint-*")
        if path.name[11:].isdigit()
    ]
    for _, path in sorted(numbered, reverse=True):
        if is_whole(path):
            return path
    return None


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load the weights of a checkpoint into a model, every one of them.

    Raises `ValueError` for weights that are missing, unknown or of another shape, by file and key.
    Weights that are tied to others are not in the files.
    """
    state: dict[str, torch.Tensor] = {}
    files = weight_files(folder)
    for file in files:
        try:
            state |= load_file(file, device="cpu")
        except SafetensorError as error:
            raise ValueError(f"{file} cannot be read ({error}); delete its checkpoint") from error
    expected = model.state_dict(keep_vars=True)
    tied = {id(expected[key]) for key in expected.keys() & state.keys()}
    missing = [key for key in expected if key not in state and id(expected[key]) not in tied]
    shapes = [
        key for key in state.keys() & expected.keys() if state[key].shape != expected[key].shape
    ]
    wrong = {
        "missing": missing,
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": sorted(shapes),
    }
    if any(wrong.values()):
        told = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in wrong.items() if keys)
        raise ValueError(
            f"{', '.join(map(str, files))} must hold the weights of this "
            f"{type(model).__name__}; got {told}. Delete the checkpoint, or resume the run that "
            "wrote it."
        )
    model.load_state_dict(state, strict=False)  # strict but for tied weights: checked above


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of an encoder's weights, without its pooler and what is attached.

    Head and pooler may be new, and drawn otherwise in each process.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(parts(model)[1].state_dict().items()):
        if name.startswith(("pooler", "fewer.")):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
