"""What `attach` adds to an encoder: a method, its policy, and how the encoder runs."""

from __future__ import annotations

import copy
import logging
from collections.abc import Container
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fewer.backbones import bind
from fewer.backbones.prepacked.engine import Engine
from fewer.core.cost import Task
from fewer.core.phase import FINE_TUNING, INFERENCE, Phase
from fewer.core.policy import ExitingPolicy, Method
from fewer.core.replay import Graphs
from fewer.core.stack import list_policies
from fewer.hf.graphs import EncoderGraphs
from fewer.hf.side_file import Settings
from fewer.hf.task_heads import TaskHead
from fewer.kernels.cpu.batch_invariant import follow_layers
from fewer.kernels.cpu.library import Isa, available_isas

if TYPE_CHECKING:
    from fewer.backbones import Backbone
    from fewer.core.cost import ModelSpec

__all__ = ["PRECISION_OF", "Attachment"]

log = logging.getLogger("fewer")
PRECISION_OF = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int8: "int8",
}


class Attachment(nn.Module):
    """The submodule of an attached encoder: a method, its policy and how decisions are applied."""

    def __init__(self, settings: Settings, spec: ModelSpec, head: TaskHead) -> None:
        super().__init__()
        self.settings = settings
        self.spec = spec
        self.head = head
        self.policy = settings.method.build(spec)
        self.reads_every_token = False  # whether the user, or the head, reads all last states
        self.phase: Phase | None = None  # that `fit` is in; None: fine-tuning or inference
        self.apply_name: str | None = None  # of `APPLIES`, in place of the phase's
        self.isa: Isa | None = None  # the instruction set of the kernels; None: plain torch
        self._engine: Engine | None = None
        self._graphs: EncoderGraphs | None = None

    @property
    def method(self) -> Method:
        """The attached method."""
        return self.settings.method

    @property
    def has_exits(self) -> bool:
        """Whether heads of the policy may answer instead of the model's own."""
        return any(isinstance(policy, ExitingPolicy) for policy in list_policies(self.policy))

    @property
    def protects_first_text(self) -> bool:
        """Whether tokens may be pruned, but none of the question of a question-passage pair."""
        return self.spec.task is Task.SPAN and bool(self.policy.sites)

    def phase_of(self, *, training: bool) -> Phase:
        """Return the phase of a forward pass in this mode."""
        phase = self.phase or (FINE_TUNING if training else INFERENCE)
        return phase if self.apply_name is None else replace(phase, apply=self.apply_name)

    def backbone(self, encoder: nn.Module) -> Backbone:
        """View the encoder: prepacked where it is optimized and eligible, else plain."""
        if (
            self.isa is not None and self.isa not in available_isas()
        ):  # unpickled on another processor
            log.warning("this processor has no %s: plain torch runs the model", self.isa.name)
            self.set_isa(None)
        isa = self.isa  # read once: another thread may remove the engine
        if isa is None:
            return bind(encoder)
        return self._engine_for(isa, encoder).backbone(encoder) or bind(encoder)

    def engine(self, encoder: nn.Module) -> Engine:
        """Return the prepacked weights of an optimized encoder; prepack them at the first call."""
        assert self.isa is not None
        return self._engine_for(self.isa, encoder)

    def _engine_for(self, isa: Isa, encoder: nn.Module) -> Engine:
        engine = self._engine
        if engine is None or engine.isa is not isa:
            engine = self._engine = Engine(encoder, isa)
        return engine

    def set_isa(self, isa: Isa | None) -> None:
        """Run inference by the kernels of `isa` or plain torch; weights are prepacked lazily."""
        self.isa, self._engine = isa, None
        follow_layers(self.policy, isa)

    def without_kernels(self, shared: Container[int]) -> Attachment:
        """Return a copy that runs plain torch; modules whose ids are in `shared` do not change."""
        plain = copy.copy(self)
        plain.isa, plain._engine = None, None
        follow_layers(plain.policy, None, besides=shared)
        return plain

    def graphs(self, encoder: nn.Module) -> Graphs | None:
        """Return the CUDA graphs of an optimized encoder on a GPU, where they may run."""
        graphs = self._graphs
        return None if graphs is None else graphs.of(encoder)

    def set_graphs(self, encoder: nn.Module | None) -> None:
        """Run passes of few tokens by CUDA graphs from now on; `None`: no longer."""
        self._graphs = None if encoder is None else EncoderGraphs(encoder)

    def extra_repr(self) -> str:
        """Show the method, the precision and the kernels in `print(model)`."""
        precision = "of the weights" if self.isa is None else PRECISION_OF[self.isa.dtype]
        kernels = "plain torch" if self.isa is None else self.isa.name
        if self._graphs is not None:
            kernels = "CUDA graphs"
        certificate = self.settings.certificate
        return (
            f"method={self.method}, precision={precision}, kernels={kernels}, "
            f"attention={self.settings.kernel}"
            + ("" if certificate is None else f", certificate={certificate}")
        )

    def __getstate__(self) -> dict[str, Any]:
        """Drop engine and graphs, which hold addresses; a copy prepacks its own weights."""
        return self.__dict__ | {"_engine": None, "_graphs": None}
