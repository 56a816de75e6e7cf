"""Training in several processes, one for each device, as `torchrun` and `accelerate` start them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

__all__ = ["Processes"]


class Processes:
    """The processes that train one model together; mostly one."""

    def __init__(self, device: torch.device) -> None:
        """Join the others, if the environment says that there are any."""
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.is_main = True
        if self.count > 1:
            from accelerate import PartialState

            self.is_main = PartialState(cpu=device.type == "cpu").is_main_process

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            torch.distributed.barrier()

    def only_main(self, context: AbstractContextManager[object]) -> AbstractContextManager[object]:
        """Enter a context in the main process only."""
        return context if self.is_main else nullcontext()

    @contextmanager
    def main_writes(self) -> Iterator[bool]:
        """Say whether to write inside the block; all others wait until it is written."""
        yield self.is_main
        self.wait()

    def share(self, module: nn.Module) -> None:
        """Give all processes the parameters and buffers of the main one."""
        if self.count > 1:
            for tensor in module.state_dict().values():
                torch.distributed.broadcast(tensor, 0)
