"""Checkpoints that survive a kill.

A folder is complete only if its manifest matches every file in it.

The Trainer writes a checkpoint file by file. If it is killed in between, the folder looks newest
and resuming fails, or resumes silently without the optimizer. The manifest is written last and
flushed to disk, so it marks a complete folder.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from fewer._files.manifest import MANIFEST, is_whole, write_manifest
from fewer.hf.attach import parts
from fewer.hf.pretrained import weight_files

__all__ = ["MANIFEST", "is_whole", "load_weights", "newest_whole", "weights_hash", "write_manifest"]


def newest_whole(folder: Path) -> Path | None:
    """Return the newest complete `checkpoint-N` of a folder, or `None`."""
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
    """Load all weights of a checkpoint into a model.

    Raises `ValueError`, by file and key, for weights that are missing, unexpected or of another
    shape. Tied weights are stored once.
    """
    state: dict[str, torch.Tensor] = {}
    files = weight_files(folder)
    for file in files:
        try:
            state |= load_file(file, device="cpu")
        except SafetensorError as error:
            raise ValueError(
                f"{file} must be a readable safetensors file; got {error}. Delete the checkpoint."
            ) from error
    expected = model.state_dict(keep_vars=True)
    tied = {id(expected[key]) for key in expected.keys() & state.keys()}
    missing = [key for key in expected if key not in state and id(expected[key]) not in tied]
    reshaped = [
        key for key in state.keys() & expected.keys() if state[key].shape != expected[key].shape
    ]
    mismatches = {
        "missing": missing,
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": sorted(reshaped),
    }
    if any(mismatches.values()):
        differences = "; ".join(
            f"{kind}: {', '.join(keys)}" for kind, keys in mismatches.items() if keys
        )
        raise ValueError(
            f"{', '.join(map(str, files))} must hold the weights of this "
            f"{type(model).__name__}; got {differences}. Delete the checkpoint, or resume the run "
            "that wrote it."
        )
    model.load_state_dict(state, strict=False)  # strict but for tied weights: checked above


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of an encoder's weights, without its pooler and its policy.

    Head and pooler may be new, with other random weights in each process.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(parts(model)[1].state_dict().items()):
        if name.startswith(("pooler", "fewer.")):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
