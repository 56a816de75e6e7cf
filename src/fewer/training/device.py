"""The device that this machine trains on, whatever torch was compiled for."""

from __future__ import annotations

import os

import torch

__all__ = ["synchronize", "training_device"]

_USE_CPU = "ACCELERATE_USE_CPU"


def training_device() -> torch.device:
    """Return the accelerator if the machine has one, else the CPU: the choice of the Trainer.

    `current_accelerator` alone names what torch was compiled for; torch 2.6 has no
    `check_available`, and raises where there is none. ACCELERATE_USE_CPU, the environment variable
    of accelerate, selects the CPU. Raises `ValueError` if it is no truth value.
    """
    if _is_cpu_forced():
        return torch.device("cpu")
    available = torch.accelerator.is_available()
    accelerator = torch.accelerator.current_accelerator() if available else None
    return accelerator or torch.device("cpu")


def _is_cpu_forced() -> bool:
    from accelerate.utils import parse_flag_from_env

    try:
        return bool(parse_flag_from_env(_USE_CPU))
    except ValueError:
        raise ValueError(
            f"{_USE_CPU} must be 1, true, yes or on, or 0, false, no or off; got "
            f"{os.environ[_USE_CPU]!r}. Correct or unset the environment variable."
        ) from None


def synchronize(device: torch.device) -> None:
    """Wait until all queued work of the device is done; a CPU has no queue."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
