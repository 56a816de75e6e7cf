"""The device that this machine trains on, whatever torch was compiled for."""

from __future__ import annotations

import torch

__all__ = ["synchronize", "training_device"]


def training_device() -> torch.device:
    """Return the accelerator if the machine has one, else the CPU: the choice of the Trainer.

    `current_accelerator` alone names what torch was compiled for; torch 2.6 has no
    `check_available`, and raises where there is none.
    """
    available = torch.accelerator.is_available()
    accelerator = torch.accelerator.current_accelerator() if available else None
    return accelerator or torch.device("cpu")


def synchronize(device: torch.device) -> None:
    """Wait until all queued work of the device is done; a CPU has no queue."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
